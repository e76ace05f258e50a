"""LossPlaneMonitor: harmless, its planes hold the loss and the path, its memory and its budget hold."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from landscape_callbacks import LossPlaneMonitor, LossSliceMonitor, read_records
from landscape_callbacks.callbacks.plane_views import PLANES, grid_around
from landscape_callbacks.records import Record
from landscape_callbacks.training import bookkeeping
from landscape_callbacks.training.cadence import Clock
from landscape_callbacks.training.coordinator import Coordinator
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from tests.callbacks.test_loss_slice_monitor import Linear, loaders, loss_at, our_loss
from tests.hard_module import train
from tests.training.test_harmless import SETUPS

EXACT: dict[str, Any] = {"max_overhead": None, "figures": False}


def fit(callbacks: list[Any], root: Path, epochs: int = 3, module: Any = None, **more: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(root),
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module or Linear(), *loaders(), **more)
    return trainer


def planes(trainer: pl.Trainer) -> list[Record]:
    return [record for record in read_records(str(trainer.log_dir)) if record.kind == "plane"]


@pytest.mark.parametrize("setup", SETUPS)
def test_training_is_bit_identical_with_every_plane(setup: str) -> None:
    wanted = [name for name in PLANES if "bf16" not in setup or name != "eigenvectors"]
    more = {"loss_fn": our_loss} if "manual" in setup else {}
    monitor = LossPlaneMonitor(planes=wanted, points=3, **EXACT, **more)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not measure.*")
        assert train([monitor], **SETUPS[setup]) == train([], **SETUPS[setup])
    assert len(monitor.trajectory) >= 6


def test_planes_come_at_the_end_of_epochs_and_hold_the_loss_and_the_path(tmp_path: Path) -> None:
    module = Linear()
    trainer = fit([LossPlaneMonitor(planes=["random", "trajectory"], points=7, **EXACT)], tmp_path, module=module)
    records = planes(trainer)
    assert [(record.step, record.name) for record in records] == [
        (step, name) for step in (5, 10, 15) for name in ("random", "trajectory")
    ]
    final = module.layer.weight.detach().flatten()
    for record in records[-2:]:
        x, y = record.arrays["x"], record.arrays["y"]
        center = record.arrays["loss"][np.flatnonzero(y == 0.0)[0], np.flatnonzero(x == 0.0)[0]]
        assert center == loss_at(final, module.batches[-1])
        assert record.arrays["trajectory_step"].tolist() == list(range(16))
        assert record.arrays["trajectory_x"][-1] == pytest.approx(0.0, abs=1e-9)
    variance = records[-1].info["variance_explained"]
    assert 0.9 < sum(variance) <= 1.0
    weights = torch.stack([*module.weights_before, final])
    centered = weights - weights.mean(dim=0)
    singular = torch.linalg.svdvals(centered) ** 2
    assert variance == pytest.approx((singular / singular.sum())[:2].tolist())


def test_the_plane_of_eigenvectors(tmp_path: Path) -> None:
    module = Linear()
    trainer = fit([LossPlaneMonitor(planes=["eigenvectors"], points=9, **EXACT)], tmp_path, module=module)
    record = planes(trainer)[-1]
    x, y = module.batches[-1]
    values = torch.linalg.eigvalsh(torch.kron(torch.eye(2, dtype=torch.float64), x.T @ x) / y.numel()).flip(0)
    row = record.arrays["loss"][np.flatnonzero(record.arrays["y"] == 0.0)[0]]
    curvature = 2 * np.polyfit(record.arrays["x"], row, 2)[0]
    assert curvature == pytest.approx(float(values[0]), rel=1e-2)


def test_a_short_run_pays_for_one_plane_at_the_end_only(tmp_path: Path) -> None:
    monitor = LossPlaneMonitor(planes=["random"], points=9, max_overhead=0.05, figures=False)
    trainer = fit([monitor], tmp_path)
    assert [record.step for record in planes(trainer)] == [15]


def test_every_other_epoch_and_the_end(tmp_path: Path) -> None:
    monitor = LossPlaneMonitor(planes=["random"], points=3, every_n_epochs=2, **EXACT)
    assert [record.step for record in planes(fit([monitor], tmp_path / "a"))] == [10, 15]
    monitor = LossPlaneMonitor(planes=["random"], points=3, every_n_epochs=0, **EXACT)
    assert [record.step for record in planes(fit([monitor], tmp_path / "b"))] == [15]


def test_other_monitors_beside_it_keep_their_records(tmp_path: Path) -> None:
    slices = LossSliceMonitor(directions=["random"], every_n_steps=1, **EXACT)
    trainer = fit([slices, LossPlaneMonitor(planes=["random"], points=3, every_n_epochs=0, **EXACT)], tmp_path)
    kinds = [record.kind for record in read_records(str(trainer.log_dir))]
    assert kinds == ["slice"] * 15 + ["plane"]


def test_the_path_goes_on_in_a_resumed_run_when_it_is_saved(tmp_path: Path) -> None:
    for saved, steps in ((True, list(range(21))), (False, list(range(10, 21)))):
        arguments = {"planes": ["trajectory"], "points": 3, "path_in_checkpoint": saved, **EXACT}
        trainer = fit([LossPlaneMonitor(**arguments)], tmp_path, epochs=2)
        trainer.save_checkpoint(tmp_path / "half.ckpt")
        resumed = LossPlaneMonitor(**arguments)
        fit([resumed], tmp_path, epochs=4, ckpt_path=tmp_path / "half.ckpt")
        assert resumed.trajectory.steps == steps


def test_memory_is_bounded_and_too_little_is_named(tmp_path: Path) -> None:
    monitor = LossPlaneMonitor(planes=["random"], points=3, every_n_epochs=0, max_snapshots=4, **EXACT)
    fit([monitor], tmp_path)
    assert monitor.trajectory.steps == [0, 8]

    class Large(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.zeros(300_000))

    with pytest.raises(MisconfigurationException, match="max_megabytes"):
        fit([LossPlaneMonitor(max_megabytes=1)], tmp_path, module=Large())


def test_figures_and_tsne(tmp_path: Path) -> None:
    monitor = LossPlaneMonitor(points=5, every_n_epochs=0, max_overhead=None, tsne=True)
    trainer = fit([monitor], tmp_path)
    names = {path.name for path in (Path(str(trainer.log_dir)) / "landscape").iterdir()}
    assert names == {
        "plane_random_contour.npz",
        "plane_random_contour.png",
        "plane_random_surface.png",
        "plane_trajectory_contour.npz",
        "plane_trajectory_contour.png",
        "plane_trajectory_surface.png",
        "trajectory_tsne.npz",
        "trajectory_tsne.png",
    }


@pytest.mark.parametrize(
    ("seconds", "points", "figures"), [(-1.0, None, 0), (1e-9, None, 0), (0.5, 25, 0), (100.0, 25, 2)]
)
def test_the_last_plane_takes_what_the_budgets_have_left_and_records_come_before_figures(
    seconds: float, points: int | None, figures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Coordinator, "seconds_left", lambda self: seconds)
    monkeypatch.setattr(Coordinator, "seconds_per_step", lambda self: 1e-3)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # as if nobody had drawn yet
    monitor = LossPlaneMonitor(planes=["random"], every_n_epochs=0, last_within_budget=True)
    drawn: list[str] = []
    monkeypatch.setattr(bookkeeping, "log_figure", lambda trainer, tag, *arguments: drawn.append(tag))
    trainer = fit([monitor], tmp_path)
    records = Path(str(trainer.log_dir)) / "landscape.jsonl"
    assert [len(record.arrays["x"]) for record in planes(trainer)] == [points] if points else not records.exists()
    assert len(drawn) == figures


def test_what_is_left_is_of_all_budgets_and_without_what_had_none(tmp_path: Path) -> None:
    left: list[tuple[float, float]] = []

    class Look(pl.Callback):
        def on_train_end(self, *arguments: Any) -> None:
            coordinator = slices.coordinator
            coordinator.clock = Clock(time.perf_counter() - 1000.0)
            slices.cadence.spent, free.cadence.spent = 2.0, 50.0
            coordinator.spent = 2.0 + 50.0 + 1.0  # one second of hooks
            left.append((coordinator.seconds_left(), 1000.0 * (0.02 + 0.01) - 2.0 - 1.0))

    slices = LossSliceMonitor(max_overhead=0.02, figures=False)
    free = LossSliceMonitor(max_overhead=None, every_n_steps=10**6, directions=["gradient"], figures=False)
    fit([Look(), slices, free, LossPlaneMonitor(max_overhead=0.01, figures=False, last_within_budget=True)], tmp_path)
    assert left[0][0] == pytest.approx(left[0][1], abs=0.1)


def test_projections_draw_the_path_within_their_error(tmp_path: Path) -> None:
    arguments = {"planes": ["random"], "points": 3, "every_n_epochs": 0, **EXACT}
    exact = planes(fit([LossPlaneMonitor(**arguments)], tmp_path / "a"))[0]
    estimated = planes(fit([LossPlaneMonitor(**arguments, projection=4096, tsne=True)], tmp_path / "b"))[0]
    error = estimated.info["trajectory_error"]
    for axis, bound in zip("xy", error, strict=True):
        difference = estimated.arrays[f"trajectory_{axis}"] - exact.arrays[f"trajectory_{axis}"]
        assert np.abs(difference).max() <= 4 * bound
    assert exact.info["trajectory_error"] is None
    with pytest.raises(MisconfigurationException, match="needs copies of the weights"):
        LossPlaneMonitor(planes=["trajectory"], projection=4096)


@pytest.mark.parametrize(
    ("low", "high", "points"), [(-1.0, 1.0, 25), (-0.3, 1.7, 25), (0.0, 1.0, 9), (-5.0, 0.0, 8), (-1e-8, 3.0, 11)]
)
def test_grids_cover_their_range_evenly_and_hold_zero(low: float, high: float, points: int) -> None:
    grid = grid_around(low, high, points)
    assert 0.0 in grid
    assert grid[0] <= low + 1e-9
    assert grid[-1] >= high - 1e-9
    assert points <= len(grid) <= points + 1
    np.testing.assert_allclose(np.diff(grid), grid[1] - grid[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"planes": "random"}, "has to be a list"),
        ({"planes": ["gradient"]}, "got 'gradient'"),
        ({"points": 2}, "at least 3"),
        ({"max_snapshots": 3}, "at least 4"),
        ({"every_n_epochs": -1}, "at least 0"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        LossPlaneMonitor(**arguments)
