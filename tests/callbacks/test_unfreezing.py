"""Layers that are frozen or unfrozen while training: measured is what is trained at the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from landscape_callbacks import CriticalLearningRateMonitor, LossPlaneMonitor, LossSliceMonitor, read_records
from landscape_callbacks.records import Record
from tests.hard_module import RowLogger
from tests.setups.harness import Setup, classification

EXACT: dict[str, Any] = {"max_overhead": None, "figures": False}
LINES = ["gradient", "update", "initial", "checkpoint", "random", "largest_eigenvector"]
SMALL, ALL = 18, 43


class Switch(pl.Callback):
    """Trains the first layer up to an epoch only, or from it on."""

    def __init__(self, epoch: int, trains: bool) -> None:
        self.epoch, self.trains = epoch, trains

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net[0].requires_grad_(not self.trains)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch >= self.epoch:
            pl_module.net[0].requires_grad_(self.trains)


class Everything(Setup):
    """The optimizer holds all parameters from the start."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(callbacks: list[Any], root: Path, epochs: int = 4, **more: Any) -> tuple[pl.Trainer, RowLogger]:
    rows = RowLogger()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=[CSVLogger(root), rows],
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    pl.seed_everything(1, verbose=False)
    trainer.fit(Everything(), classification(), **more)
    return trainer, rows


def paths(trainer: pl.Trainer) -> list[Record]:
    return [record for record in read_records(str(trainer.log_dir)) if record.kind == "plane"]


@pytest.mark.parametrize("trains", [True, False], ids=["unfrozen", "frozen"])
def test_lines_and_planes_go_on_with_what_is_trained_now(
    trains: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slices = LossSliceMonitor(directions=LINES, every_n_steps=1, **EXACT)
    plane = LossPlaneMonitor(planes=["trajectory", "random"], points=3, **EXACT)
    critical = CriticalLearningRateMonitor(every_n_steps=1, max_overhead=None)
    with pytest.warns(RuntimeWarning, match="leaves out the line to the initial weights from step 6 on"):
        trainer, rows = fit([Switch(2, trains), slices, plane, critical], tmp_path)
    assert slices.coordinator.failed == 0
    logged = dict.fromkeys(LINES, ())
    for line in LINES:
        logged[line] = tuple(step for step, row in rows.our_rows() if f"slice/{line}/curvature" in row)
    assert max(logged["initial"]) == 5
    assert all(set(range(7, 12)) <= set(logged[line]) for line in LINES if line not in ("initial", "checkpoint"))
    assert {4, 5, 10, 11} == set(logged["checkpoint"])
    # Planes at the ends of epochs, at steps 3, 6, 9, 12: their path is that of the parameters of the time.
    found = {(record.step, record.name): record.arrays["trajectory_step"].tolist() for record in paths(trainer)}
    assert found[6, "trajectory"] == list(range(7))
    assert found[12, "random"] == found[12, "trajectory"] == list(range(7, 13))
    assert plane.trajectory.space.dimension == (ALL if trains else SMALL)
    said = f"{ALL if trains else SMALL} parameters are trained now instead of {SMALL if trains else ALL}"
    assert caplog.text.count(said) == 1
    assert {step for step, row in rows.our_rows() if "stability/critical_ratio" in row} >= {8, 11}


def test_a_path_of_other_parameters_in_a_checkpoint_is_left(tmp_path: Path) -> None:
    options: dict[str, Any] = {"planes": ["trajectory"], "path_in_checkpoint": True, "points": 3, **EXACT}
    trainer, _ = fit([LossPlaneMonitor(**options), Switch(9, trains=True)], tmp_path, epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = LossPlaneMonitor(**options)
    fit([resumed], tmp_path, ckpt_path=tmp_path / "half.ckpt")
    assert resumed.trajectory.steps == list(range(6, 13))
    assert resumed.coordinator.failed == 0


def test_a_critical_rate_is_left_out_at_the_step_of_a_change(tmp_path: Path) -> None:
    class Midway(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            pl_module.net[0].requires_grad_(trainer.global_step < 4)

    critical = CriticalLearningRateMonitor(every_n_steps=1, max_overhead=None)
    slices = LossSliceMonitor(directions=["gradient", "update"], every_n_steps=1, **EXACT)
    _, rows = fit([critical, slices, Midway()], tmp_path, epochs=3)
    assert critical.coordinator.failed == 0
    steps = {step for step, row in rows.our_rows() if "stability/critical_ratio" in row}
    assert 4 not in steps
    assert {2, 6, 8} <= steps


def test_training_goes_on_where_all_that_is_watched_is_frozen(tmp_path: Path) -> None:
    watched: dict[str, Any] = {"parameters": "net.0"}
    slices = LossSliceMonitor(directions=LINES, every_n_steps=1, **EXACT, **watched)
    plane = LossPlaneMonitor(planes=["trajectory"], points=3, **EXACT, **watched)
    critical = CriticalLearningRateMonitor(every_n_steps=1, max_overhead=None, **watched)
    with pytest.warns(RuntimeWarning, match="could not measure at step 6"):
        trainer, rows = fit([Switch(2, trains=False), slices, plane, critical], tmp_path)
    assert trainer.global_step == 12
    assert slices.coordinator.failed > 0
    assert max(step for step, row in rows.our_rows() if "slice/gradient/curvature" in row) == 5
    assert plane.trajectory.steps == list(range(7))
