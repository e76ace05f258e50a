"""Lines and planes with batch norm in a stated mode: harmless, and the losses of the definition."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import LossPlaneMonitor, LossSliceMonitor, read_records
from landscape_callbacks.surface.batch_norm import POLICIES
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from tests.hard_module import train
from tests.training.test_harmless import SETUPS

REPLAYED = [setup for setup in SETUPS if "manual" not in setup]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("setup", REPLAYED[:3])
def test_training_is_bit_identical(setup: str, policy: str) -> None:
    exact: dict[str, Any] = {"max_overhead": None, "figures": False, "batches": 2, "batch_norm": policy}
    lines = LossSliceMonitor(directions=["gradient", "random"], every_n_steps=1, **exact)
    plane = LossPlaneMonitor(planes=["random"], points=3, **exact)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not measure.*")
        assert train([lines, plane], **SETUPS[setup]) == train([], **SETUPS[setup])
    assert lines.book.records["random"][-1].info["batch_norm"] == policy


class Normalised(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)).double()
        self.seen: list[Any] = []
        self.before: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return (self.net(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return (self.net(batch[0]) - batch[1]).abs().mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loaders() -> tuple[DataLoader, DataLoader]:
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    data = TensorDataset(x, x.sum(1, keepdim=True).sin())
    return DataLoader(data, batch_size=12), DataLoader(data, batch_size=16)


def normalised_loss(net: nn.Sequential, policy: str, batches: list[Any]) -> float:
    """The mean loss of batches, by torch's own means."""
    net = copy.deepcopy(net)
    norm = net[1]
    if policy == "recalibrated":
        norm.reset_running_stats()
        norm.momentum = None
        for x, _ in batches:
            net.train()(x)
    net.train(policy == "batch")
    with torch.no_grad():
        return sum(float((net(x) - y).square().mean()) for x, y in batches) / len(batches)


@pytest.mark.parametrize("policy", POLICIES)
def test_losses_and_curvature_are_those_of_the_policy(policy: str, tmp_path: Path) -> None:
    module = Normalised()
    start = copy.deepcopy(module.net)
    monitor = LossSliceMonitor(
        directions=["random", "largest_eigenvector"], batches=2, every_n_steps=3, max_overhead=None, figures=False,
        batch_norm=policy, points=5, own_directions={"along": lambda module, space: torch.ones(space.dimension)},
    )  # fmt: skip

    class Keep(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 3:
                nonlocal start
                start = copy.deepcopy(pl_module.net)
                batches.append(batch)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 3:
                batches.append(batch)

    batches: list[Any] = []
    trainer = pl.Trainer(
        max_steps=4, accelerator="cpu", logger=CSVLogger(tmp_path), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Keep(), monitor],
    )  # fmt: skip
    trainer.fit(module, *loaders())
    records = {record.name: record for record in read_records(str(trainer.log_dir)) if record.step == 3}
    along = records["along"]
    for alpha, loss in zip(along.arrays["alpha"], along.arrays["loss"], strict=True):
        moved = copy.deepcopy(start)
        with torch.no_grad():
            for parameter in moved.parameters():
                parameter.add_(alpha)
        assert loss == pytest.approx(normalised_loss(moved, policy, batches), rel=1e-12)
    # Along an eigenvector of the training loss the curvature is that of the losses drawn, not the eigenvalue.
    eigenvector = records["largest_eigenvector"]
    h = eigenvector.arrays["alpha"][3] - eigenvector.arrays["alpha"][2]
    assert eigenvector.info["curvature"] == pytest.approx(
        (eigenvector.arrays["loss"][[1, 3]].sum() - 2 * eigenvector.arrays["loss"][2]) / h**2, rel=0.5
    )
    if policy == "batch":
        assert "loss_error" in along.arrays
    assert "validation_loss" in along.arrays


def test_recalibrated_statistics_serve_the_validation_loss(tmp_path: Path) -> None:
    module = Normalised()
    with torch.no_grad():
        module.net[1].running_var.fill_(1e6)  # far from any data

    def validation_loss(policy: str | None) -> float:
        monitor = LossSliceMonitor(
            directions=["random"], every_n_steps=1, max_overhead=None, figures=False, batch_norm=policy, batches=4
        )
        trainer = pl.Trainer(
            max_steps=1, accelerator="cpu", logger=CSVLogger(tmp_path), enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[monitor],
        )  # fmt: skip
        trainer.fit(copy.deepcopy(module), *loaders())
        (record,) = read_records(str(trainer.log_dir))
        return float(record.arrays["validation_loss"][record.arrays["alpha"] == 0.0][0])

    net = copy.deepcopy(module.net)
    train, validation = loaders()
    (x, _), (vx, vy) = next(iter(train)), next(iter(validation))
    net[1].reset_running_stats()
    net[1].momentum = None
    net.train()(x)
    net.eval()
    expected = float((net(vx) - vy).abs().mean())
    assert validation_loss("recalibrated") == pytest.approx(expected, rel=1e-12)
    assert validation_loss(None) != pytest.approx(expected, rel=1e-3)


def test_an_unknown_policy_is_named() -> None:
    for monitor in (LossSliceMonitor, LossPlaneMonitor):
        with pytest.raises(MisconfigurationException, match=r"batch_norm.*'running'"):
            monitor(batch_norm="running")
