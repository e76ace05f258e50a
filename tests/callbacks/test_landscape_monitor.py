from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from landscape_callbacks import LandscapeMonitor, read_records
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from tests.hard_module import HardModule, loaders, train
from tests.training.test_harmless import SETUPS

EVERY_STEP: dict[str, Any] = {
    "max_overhead": None,
    "every_n_steps": 1,
    "gradient_norms": {"every_n_steps": 1},
    "critical_learning_rate": {"every_n_steps": 1},
    "diagnosis": {"every_n_steps": 2, "batches": 4},
    "plane": {"points": 5},
    "figures": False,
}


@pytest.mark.parametrize("setup", SETUPS)
def test_everything_at_every_step_leaves_no_trace(setup: str, capsys: pytest.CaptureFixture[str]) -> None:
    untouched = train([], epochs=1, **SETUPS[setup])
    monitor = LandscapeMonitor(**EVERY_STEP)
    assert train([monitor], epochs=1, **SETUPS[setup]) == untouched
    part = next(iter(monitor.parts.values()))
    assert part.coordinator.failed == 0
    assert "Loss landscape\n  measured: gradient norms" in capsys.readouterr().out
    tags = {tag for _, row in train.last_rows.our_rows() for tag in row}  # type: ignore[attr-defined]
    assert {"gradient/norm", "hessian/largest_eigenvalue", "stability/ratio", "landscape/overhead"} <= tags
    if "manual" not in setup:
        assert {"slice/update/best_step", "stability/critical_learning_rate", "diagnosis/saddle_score"} <= tags


def fit(monitor: LandscapeMonitor, path: Path, epochs: int = 2, **arguments: Any) -> pl.Trainer:
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False} | arguments
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=TensorBoardLogger(path), callbacks=monitor, **options
    )
    trainer.fit(HardModule(), *loaders())
    return trainer


def test_parts_share_eigenvectors_and_the_record_holds_every_kind(tmp_path: Path) -> None:
    monitor = LandscapeMonitor(**EVERY_STEP)
    trainer = fit(monitor, tmp_path)
    assert monitor.parts["slices"].cadence is monitor.parts["eigenvalues"].cadence
    records = list(read_records(trainer.log_dir))
    assert {"eigenvalues", "slice", "plane", "verdict"} <= {record.kind for record in records}
    eigenvalues = {record.step: record for record in records if record.kind == "eigenvalues"}
    slices = [record for record in records if record.name == "largest_eigenvector"]
    assert slices
    for record in slices:
        assert record.info["curvature"] == eigenvalues[record.step].arrays["largest"][0]


def test_parts_can_be_left_out(tmp_path: Path) -> None:
    monitor = LandscapeMonitor(slices=False, plane=False, diagnosis=False, critical_learning_rate=False, summary=False)
    fit(monitor, tmp_path)
    assert list(monitor.parts) == ["gradient_norms", "eigenvalues"]
    with pytest.raises(MisconfigurationException, match="every part is off"):
        LandscapeMonitor(
            gradient_norms=False,
            eigenvalues=False,
            slices=False,
            plane=False,
            diagnosis=False,
            critical_learning_rate=False,
        )


def test_the_shares_of_the_budget_add_up_to_less_than_the_budget() -> None:
    monitor = LandscapeMonitor(max_overhead=0.1)
    cadences = {id(part.cadence): part.cadence for part in monitor.parts.values()}
    assert sum(cadence.max_overhead or 0.0 for cadence in cadences.values()) == pytest.approx(0.09)


def test_the_summary_says_what_was_measured_and_where_to_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = fit(LandscapeMonitor(), tmp_path)
    printed = capsys.readouterr().out
    assert "eigenvalues 1x" in printed
    assert "last seen: largest eigenvalue" in printed
    assert "verdict: none yet. A look costs about 640 training steps" in printed
    assert f"tensorboard --logdir {trainer.log_dir}" in printed


def test_a_resumed_run_goes_on_with_every_part(tmp_path: Path) -> None:
    first, second = LandscapeMonitor(**EVERY_STEP), LandscapeMonitor(**EVERY_STEP)
    trainer = fit(first, tmp_path, epochs=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    again = pl.Trainer(max_epochs=2, accelerator="cpu", logger=TensorBoardLogger(tmp_path), callbacks=second, enable_checkpointing=False,
                       enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    again.fit(HardModule(), *loaders(), ckpt_path=tmp_path / "run.ckpt")
    for name, part in second.parts.items():
        assert part.cadence.measurements > first.parts[name].cadence.measurements or name == "plane"


@pytest.mark.parametrize("arguments", [{"slices": "yes"}, {"eigenvalues": {"bigest": 3}}, {"max_overhead": 3.0}])
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match="LandscapeMonitor"):
        LandscapeMonitor(**arguments)
