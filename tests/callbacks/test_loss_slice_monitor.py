"""LossSliceMonitor: harmless with every direction, its numbers are those of the definition, its records complete."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import LossSliceMonitor, read_records
from landscape_callbacks.callbacks.lines import DIRECTIONS, Reach
from landscape_callbacks.records import Record
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from tests.hard_module import HardModule, train
from tests.training.test_harmless import SETUPS

EVERY_STEP: dict[str, Any] = {"every_n_steps": 1, "max_overhead": None, "figures": False}


def our_loss(module: Any, batch: Any) -> torch.Tensor:
    x, y = batch
    return nn.functional.cross_entropy(module.net(x), y)


EIGENVECTORS = ["largest_eigenvector", "smallest_eigenvector"]


def bit_identical(setup: str, **arguments: Any) -> LossSliceMonitor:
    monitor = LossSliceMonitor(**EVERY_STEP, **arguments, loss_fn=our_loss if "manual" in setup else None)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not measure.*")
        assert train([monitor], **SETUPS[setup]) == train([], **SETUPS[setup])
    return monitor


@pytest.mark.parametrize("setup", SETUPS)
def test_training_is_bit_identical_with_every_direction_and_validation(setup: str) -> None:
    directions = [name for name in DIRECTIONS if name not in EIGENVECTORS]
    monitor = bit_identical(setup, directions=directions)
    assert monitor.book.measurements >= 6
    assert set(monitor.book.records) == set(directions)
    assert all("validation_loss" in own[-1].arrays for own in monitor.book.records.values())


@pytest.mark.slow
@pytest.mark.parametrize("setup", [setup for setup in SETUPS if "bf16" not in setup])
def test_training_is_bit_identical_along_eigenvectors_of_several_batches(setup: str) -> None:
    monitor = bit_identical(setup, directions=EIGENVECTORS, batches=1 if "manual" in setup else 2)
    assert set(monitor.book.records) == set(EIGENVECTORS)


class Linear(pl.LightningModule):
    """A quadratic loss: everything about its lines is known in closed form."""

    def __init__(self, rate: float = 0.05, optimizer: str = "sgd", decay: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2, bias=False).double()
        self.rate, self.optimizer, self.decay = rate, optimizer, decay
        self.weights_before: list[torch.Tensor] = []
        self.batches: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return 0.5 * ((self.layer(x) - y) ** 2).mean()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.weights_before.append(self.layer.weight.detach().clone().flatten())
        self.batches.append(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))
        self.log("val_accuracy", 0.5)

    def configure_optimizers(self) -> Any:
        if self.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), lr=self.rate)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=self.decay)
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9, weight_decay=self.decay)


def loaders() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    data = TensorDataset(x, y)
    return DataLoader(data, batch_size=8), DataLoader(TensorDataset(x[:10] + 1, y[:10]), batch_size=10)


def fit(monitor: LossSliceMonitor, module: pl.LightningModule, root: Path, epochs: int = 2, **more: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(root),
        callbacks=[monitor],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **more,
    )
    trainer.fit(module, *loaders())
    return trainer


def records_of(trainer: pl.Trainer, name: str) -> dict[int, Record]:
    return {record.step: record for record in read_records(str(trainer.log_dir)) if record.name == name}


def loss_at(weights: torch.Tensor, batch: Any) -> float:
    x, y = batch
    return float(0.5 * ((x @ weights.view(2, 3).T - y) ** 2).mean())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_update_is_the_optimizers_own_last_step_and_best_step_its_scale(optimizer: str, tmp_path: Path) -> None:
    module = Linear(optimizer=optimizer)
    trainer = fit(LossSliceMonitor(directions=["update"], **EVERY_STEP), module, tmp_path)
    records = records_of(trainer, "update")
    assert sorted(records) == list(range(1, 10)), "there is no last step before the first"
    for step, record in records.items():
        before, now = module.weights_before[step - 1], module.weights_before[step]
        alphas, losses = record.arrays["alpha"], record.arrays["loss"]
        expected = [loss_at(now + alpha * (now - before), module.batches[step]) for alpha in alphas]
        np.testing.assert_allclose(losses, expected, rtol=1e-9)
        assert record.info["direction_norm"] == pytest.approx(float((now - before).norm()))
        # The exact minimum of the parabola along the step, from where the step began.
        x, y = module.batches[step]
        moved, residual = x @ (now - before).view(2, 3).T, x @ now.view(2, 3).T - y
        exact = -float((moved * residual).sum() / (moved**2).sum())
        if alphas[0] < exact < alphas[-1]:
            assert record.info["best_step"] == pytest.approx(exact, abs=1e-6)
    if alphas[0] < exact < alphas[-1]:
        assert float(trainer.callback_metrics["slice/update/best_step"]) == pytest.approx(exact + 1, abs=1e-5)


def test_gradient_points_downhill_and_its_curvature_is_that_of_the_hessian(tmp_path: Path) -> None:
    module = Linear()
    trainer = fit(LossSliceMonitor(directions=["gradient"], **EVERY_STEP), module, tmp_path)
    x, y = module.batches[-1]
    weight = module.weights_before[-1].view(2, 3)
    gradient = (x @ weight.T - y).T @ x / y.numel()
    image = x @ gradient.T
    rayleigh = float((image**2).sum() / y.numel() / (gradient**2).sum())
    assert float(trainer.callback_metrics["slice/gradient/curvature"]) == pytest.approx(rayleigh, rel=1e-6)
    record = records_of(trainer, "gradient")[9]
    center = int(np.flatnonzero(record.arrays["alpha"] == 0.0)[0])
    assert record.arrays["loss"][center] > record.arrays["loss"][center + 1]
    assert record.info["unit"] == "lengths of the last step"
    assert records_of(trainer, "gradient")[0].info["unit"] == "steps of gradient descent"


def test_eigenvector_slices_carry_the_eigenvalue(tmp_path: Path) -> None:
    module = Linear()
    monitor = LossSliceMonitor(directions=["largest_eigenvector", "smallest_eigenvector"], **EVERY_STEP)
    trainer = fit(monitor, module, tmp_path)
    x, y = module.batches[-1]
    values = torch.linalg.eigvalsh(x.T @ x) / y.numel()
    metrics = trainer.callback_metrics
    assert float(metrics["slice/largest_eigenvector/curvature"]) == pytest.approx(float(values[-1]), rel=1e-3)
    assert float(metrics["slice/smallest_eigenvector/curvature"]) == pytest.approx(
        float(values[0]), abs=1e-3 * float(values[-1])
    )
    record = records_of(trainer, "largest_eigenvector")[9]
    alphas, losses = record.arrays["alpha"], record.arrays["loss"]
    fitted = np.polyfit(alphas, losses, 2)
    assert 2 * fitted[0] == pytest.approx(float(values[-1]), rel=1e-3)


def test_initial_and_checkpoint_lead_from_earlier_weights(tmp_path: Path) -> None:
    module = Linear()
    trainer = fit(LossSliceMonitor(directions=["initial", "checkpoint"], **EVERY_STEP), module, tmp_path, epochs=3)
    for name, anchor, last in (("initial", 0, 14), ("checkpoint", 10, 14)):
        record = records_of(trainer, name)[last]
        start, now = module.weights_before[anchor], module.weights_before[last]
        assert record.info["direction_norm"] == pytest.approx(float((now - start).norm()))
        assert record.arrays["alpha"][0] == -1.0
        assert record.arrays["loss"][0] == pytest.approx(loss_at(start, module.batches[last]))
        between = [loss_at(now + a * (now - start), module.batches[last]) for a in np.linspace(-1, 0, 101)]
        assert record.info["barrier"] == pytest.approx(max(between) - (between[0] + between[-1]) / 2, abs=1e-6)
    assert 0 not in records_of(trainer, "initial"), "at the start there is no way yet"
    assert min(records_of(trainer, "checkpoint")) == 6


def test_validation_loss_runs_along_the_same_line(tmp_path: Path) -> None:
    module = Linear()
    trainer = fit(LossSliceMonitor(directions=["update"], **EVERY_STEP), module, tmp_path)
    record = records_of(trainer, "update")[9]
    (batch,) = loaders()[1]
    now, before = module.weights_before[9], module.weights_before[8]
    expected = [loss_at(now + alpha * (now - before), batch) for alpha in record.arrays["alpha"]]
    np.testing.assert_allclose(record.arrays["validation_loss"], expected)


def test_a_validation_step_without_a_loss_is_left_out_with_one_warning(tmp_path: Path) -> None:
    class Silent(Linear):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_accuracy", 0.5)

    with pytest.warns(RuntimeWarning, match=r"leaves the validation loss out.*logged val_accuracy") as caught:
        trainer = fit(LossSliceMonitor(directions=["random"], **EVERY_STEP), Silent(), tmp_path)
    assert sum("validation loss" in str(warning.message) for warning in caught) == 1
    assert all("validation_loss" not in record.arrays for record in records_of(trainer, "random").values())


def test_weight_decay_is_shown_beside_the_loss(tmp_path: Path) -> None:
    module = Linear(decay=0.1)
    trainer = fit(LossSliceMonitor(directions=["random"], **EVERY_STEP), module, tmp_path)
    record = records_of(trainer, "random")[0]
    share = record.arrays["regularized_loss"] - record.arrays["loss"]
    center = record.arrays["alpha"] == 0.0
    assert float(share[center][0]) == pytest.approx(0.05 * float((module.weights_before[0] ** 2).sum()))


def test_weight_decay_that_is_no_part_of_the_loss_is_not_shown(tmp_path: Path) -> None:
    module = Linear(optimizer="adamw", decay=0.1)
    trainer = fit(LossSliceMonitor(directions=["random"], **EVERY_STEP), module, tmp_path)
    assert all("regularized_loss" not in record.arrays for record in records_of(trainer, "random").values())


def test_errors_over_batches(tmp_path: Path) -> None:
    module = Linear()
    trainer = fit(LossSliceMonitor(directions=["random"], batches=4, **EVERY_STEP), module, tmp_path)
    record = records_of(trainer, "random")[9]
    losses = [loss_at(module.weights_before[9], batch) for batch in module.batches[6:10]]
    center = record.arrays["alpha"] == 0.0
    assert float(record.arrays["loss"][center][0]) == pytest.approx(np.mean(losses))
    assert float(record.arrays["loss_error"][center][0]) == pytest.approx(np.std(losses, ddof=1) / 2)
    assert "loss_error" not in records_of(trainer, "random")[0].arrays


def test_own_directions_random_lines_and_a_fixed_grid(tmp_path: Path) -> None:
    monitor = LossSliceMonitor(
        directions=["random"],
        random_lines=3,
        points=11,
        own_directions={"first_row": lambda module, space: {"layer.weight": torch.eye(2, 3, dtype=torch.float64)}},
        **EVERY_STEP,
    )
    trainer = fit(monitor, Linear(), tmp_path)
    names = {record.name for record in read_records(str(trainer.log_dir))}
    assert names == {"random", "random_2", "random_3", "first_row"}
    record = records_of(trainer, "first_row")[3]
    np.testing.assert_allclose(record.arrays["alpha"], np.linspace(-1, 1, 11))
    assert record.info["direction_norm"] == pytest.approx(math.sqrt(2))
    assert "slice/random_2/curvature" in trainer.callback_metrics


def test_one_bad_direction_does_not_take_the_others_along(tmp_path: Path) -> None:
    monitor = LossSliceMonitor(
        directions=["random"], own_directions={"bad": lambda module, space: torch.zeros(7)}, **EVERY_STEP
    )
    with pytest.warns(RuntimeWarning, match=r"LossSliceMonitor \(bad\) could not measure"):
        trainer = fit(monitor, Linear(), tmp_path)
    assert len(records_of(trainer, "random")) == 10


def test_reach_follows_the_minimum() -> None:
    reach = Reach()
    reach.learn("update", 2.0)
    assert reach["update"] == 4.0
    reach.learn("update", 0.4)
    assert reach["update"] == 2.0
    reach.learn("update", -1.0)
    assert reach["update"] == 2.0
    for _ in range(20):
        reach.learn("update", 1e9)
    assert reach["update"] == 4096.0


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    arguments = {"directions": ["update", "initial", "checkpoint"], **EVERY_STEP}
    whole = LossSliceMonitor(**arguments)
    fit(whole, Linear(), tmp_path / "whole", epochs=4)
    half, module = LossSliceMonitor(**arguments), Linear()
    trainer = fit(half, module, tmp_path / "half", epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = LossSliceMonitor(**arguments)
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=CSVLogger(tmp_path / "resumed"),
        callbacks=[resumed],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Linear(), *loaders(), ckpt_path=tmp_path / "half.ckpt")
    assert resumed.reach.of == whole.reach.of
    for name in ("initial", "checkpoint"):
        expected, found = whole.book.records[name][-1], resumed.book.records[name][-1]
        assert found.step == expected.step
        np.testing.assert_allclose(found.arrays["loss"], expected.arrays["loss"])
    assert [r.step for r in resumed.book.records["initial"]] == [r.step for r in whole.book.records["initial"]]


def test_figures_go_beside_the_logs_at_the_end(tmp_path: Path) -> None:
    monitor = LossSliceMonitor(directions=["random", "update"], random_lines=2, every_n_steps=1, max_overhead=None)
    trainer = fit(monitor, Linear(), tmp_path)
    folder = Path(str(trainer.log_dir)) / "landscape"
    assert {path.name for path in folder.iterdir()} == {
        "slices.png",
        "slice_random.png",
        "slice_random.npz",
        "slice_update.png",
        "slice_update.npz",
    }
    with np.load(folder / "slice_update.npz") as data:
        assert data["step"].tolist() == list(range(1, 10))
        assert data["loss"].shape == data["alpha"].shape


def test_without_matplotlib_one_warning_and_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape_callbacks.callbacks.picture_book.has_matplotlib", lambda: False)
    with pytest.warns(RuntimeWarning, match="matplotlib is not installed"):
        trainer = fit(LossSliceMonitor(directions=["random"], **{**EVERY_STEP, "figures": True}), Linear(), tmp_path)
    assert not (Path(str(trainer.log_dir)) / "landscape").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"directions": "gradient"}, "has to be a list"),
        ({"directions": []}, "at least one name"),
        ({"directions": ["hessian"]}, "got 'hessian'"),
        ({"points": 10}, "has to be odd"),
        ({"points": 1}, "at least 3"),
        ({"max_points": 5}, "at least 9"),
        ({"theme": "blue"}, "got 'blue'"),
        ({"random_lines": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        LossSliceMonitor(**arguments)


def test_manual_optimization_needs_a_loss(tmp_path: Path) -> None:
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, callbacks=[LossSliceMonitor()])
    with pytest.raises(MisconfigurationException, match="loss_fn"):
        trainer.fit(HardModule(manual=True), *loaders())


def test_the_state_survives_a_copy() -> None:
    monitor = LossSliceMonitor()
    other = LossSliceMonitor()
    other.load_state_dict(copy.deepcopy(monitor.state_dict()))
    assert other.state_dict() == monitor.state_dict()
