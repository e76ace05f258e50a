"""The line and the plane between checkpoints: known barriers, batch norm, and the module left as it was."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from landscape_callbacks.interpolate import interpolate_line, interpolate_plane, load_weights


class Wells(nn.Module):
    """Minima at (±1, 0), a hill of height 1 between them, and a valley across."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(2, dtype=torch.float64))


def at(x: float, y: float) -> dict[str, torch.Tensor]:
    return {"place": torch.tensor([x, y], dtype=torch.float64)}


def wells(module: Any, batch: torch.Tensor) -> torch.Tensor:
    x, y = module.place
    return (x**2 - 1) ** 2 + y**2 + batch.mean()


BATCHES = [torch.zeros(4, dtype=torch.float64), torch.full((2,), 0.3, dtype=torch.float64)]


def test_line_between_two_minima_has_their_barrier() -> None:
    result = interpolate_line(Wells(), [at(-1, 0), at(1, 0)], BATCHES, wells)
    assert result.barrier == pytest.approx(1.0, abs=2e-3)
    ends = result.curve([0.0, 1.0])
    assert ends.tolist() == pytest.approx([0.1, 0.1])
    assert result.alphas[0] == -0.25
    assert result.alphas[-1] == 1.25
    assert result.batch_losses.shape[0] == 2


def test_a_fixed_grid_holds_both_checkpoints_exactly() -> None:
    result = interpolate_line(Wells(), [at(-1, 0), at(1, 0)], BATCHES, wells, points=12)
    assert {0.0, 1.0} <= set(result.alphas.tolist())


def test_plane_has_the_checkpoints_at_right_angles() -> None:
    result = interpolate_plane(Wells(), [at(-1, 0), at(1, 0), at(0.5, -2)], BATCHES, wells, points=9)
    assert result.x == pytest.approx((0.0, 2.0, 1.5))
    assert result.y == pytest.approx((0.0, 0.0, 2.0))
    x, y = -1 + result.plane.x[None, :], -result.plane.y[:, None]
    torch.testing.assert_close(result.plane.losses, (x**2 - 1) ** 2 + y**2 + 0.1)


def test_the_module_is_left_as_it_was_and_frozen_parameters_move_too() -> None:
    module = Wells().train()
    module.place.requires_grad_(False)
    module.place.data.fill_(7.0)
    result = interpolate_line(module, [at(-1, 0), at(1, 0)], BATCHES, wells)
    assert result.barrier == pytest.approx(1.0, abs=2e-3)
    assert module.place.tolist() == [7.0, 7.0]
    assert not module.place.requires_grad
    assert module.training

    def fails(module: Any, batch: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        interpolate_line(module, [at(-1, 0), at(1, 0)], BATCHES, fails)
    assert module.place.tolist() == [7.0, 7.0]


def normalised_net(seed: int) -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    inputs = torch.randn(96, 5) * 2 + 1
    labels = (inputs.sum(dim=1) > 5).long()
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    return net, [(inputs[:64], labels[:64]), (inputs[64:], labels[64:])]


def cross_entropy(module: Any, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


def test_recalibrated_statistics_fit_at_both_ends_and_frozen_ones_at_the_first_only() -> None:
    (first, batches), (second, _) = normalised_net(1), normalised_net(2)
    states = [copy.deepcopy(net.state_dict()) for net in (first, second)]
    ends = {}
    for policy in ("recalibrated", "batch", "frozen"):
        result = interpolate_line(first, states, batches, cross_entropy, batch_norm=policy, points=5)
        ends[policy] = result.curve([0.0, 1.0]).tolist()
    own = []
    for net in (first, second):
        net[1].momentum = None
        net[1].reset_running_stats()
        net.train()
        for inputs, _ in batches:
            net(inputs)
        net.eval()
        losses = [float(cross_entropy(net, batch).detach()) for batch in batches]
        own.append(float(np.average(losses, weights=[64, 32])))
    assert ends["recalibrated"] == pytest.approx(own, rel=1e-5)
    assert ends["batch"] == pytest.approx(own, rel=0.1)
    assert ends["frozen"][1] > 1.5 * own[1]


def test_every_form_of_a_checkpoint(tmp_path: Path) -> None:
    state = at(1.0, 2.0)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "lightning.ckpt")
    torch.save(state, tmp_path / "plain.pt")
    for source in (tmp_path / "lightning.ckpt", str(tmp_path / "plain.pt"), {"state_dict": state}, state):
        assert torch.equal(load_weights(source)["place"], state["place"])


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"state_dict": Payload()}))
    with pytest.raises(ValueError, match="weights_only=True"):
        load_weights(tmp_path / "evil.ckpt")
    assert not (tmp_path / "executed").exists()


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected 2 checkpoints, got 3"):
        interpolate_line(Wells(), [at(0, 0)] * 3, BATCHES, wells)
    with pytest.raises(ValueError, match="same weights"):
        interpolate_line(Wells(), [at(0, 0)] * 2, BATCHES, wells)
    with pytest.raises(ValueError, match="no batches"):
        interpolate_line(Wells(), [at(0, 0), at(1, 0)], [], wells)
    with pytest.raises(ValueError, match="lie on a line"):
        interpolate_plane(Wells(), [at(0, 0), at(1, 0), at(2, 0)], BATCHES, wells)
    with pytest.raises(ValueError, match="does not fit the module"):
        interpolate_line(Wells(), [{"other": torch.zeros(2)}] * 2, BATCHES, wells)
    with pytest.raises(ValueError, match="holds no weights"):
        load_weights({"epoch": 3})
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "missing.ckpt")
