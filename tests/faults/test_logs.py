"""Loggers and disks that fail: training goes on, the other logs are kept, and one warning says what is missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from landscape_callbacks import HessianEigenvalueMonitor, LossSliceMonitor, read_records
from landscape_callbacks.training.coordinator import Coordinator
from tests.hard_module import HardModule, RowLogger, fingerprint, loaders

EVERY_STEP: dict[str, Any] = {"every_n_steps": 1, "max_overhead": None}


def monitors() -> list[Any]:
    return [
        HessianEigenvalueMonitor(**EVERY_STEP),
        LossSliceMonitor(directions=["gradient"], figures=False, **EVERY_STEP),
    ]


def fit(callbacks: list[Any], loggers: list[Any]) -> str:
    pl.seed_everything(11, verbose=False)
    module = HardModule()
    options: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_checkpointing": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    trainer = pl.Trainer(callbacks=callbacks, logger=loggers, **options)
    trainer.fit(module, *loaders())
    return fingerprint([module.state_dict(), module.seen, [optimizer.state_dict() for optimizer in trainer.optimizers]])


@pytest.fixture(scope="module")
def untouched() -> str:
    return fit([], [RowLogger()])


class RefusesOurs(RowLogger):
    """A service that raises at our values; the user's own get through."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if any(key.startswith("landscape/") for key in metrics):
            raise ConnectionError("the service is away")
        super().log_metrics(metrics, step)


def test_a_logger_that_raises_keeps_nothing_from_the_others(untouched: str, tmp_path: Path) -> None:
    rows, disk = RowLogger(), CSVLogger(tmp_path, name="kept")
    with pytest.warns(RuntimeWarning, match="the service is away") as caught:
        assert fit(monitors(), [disk, RefusesOurs(), rows]) == untouched
    assert len([w for w in caught if "the service is away" in str(w.message)]) == 1
    assert [step for step, row in rows.our_rows() if "hessian/largest_eigenvalue" in row] == list(range(8))
    values = [
        row for row in csv.DictReader((Path(disk.log_dir) / "metrics.csv").open()) if row["hessian/largest_eigenvalue"]
    ]
    assert [int(row["step"]) for row in values] == list(range(8))
    assert [record.step for record in read_records(disk.log_dir) if record.kind == "eigenvalues"] == list(range(8))


def test_an_experiment_that_raises_on_figures_and_texts(
    untouched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no pictures today")

    board, rows = TensorBoardLogger(tmp_path, name="board"), RowLogger()
    monkeypatch.setattr(board.experiment, "add_figure", broken)
    drawing = LossSliceMonitor(directions=["gradient"], **EVERY_STEP)
    with pytest.warns(RuntimeWarning, match="no pictures today"):
        assert fit([drawing], [board, rows]) == untouched
    assert [step for step, row in rows.our_rows() if "slice/gradient/curvature" in row] == list(range(8))
    assert len(list(read_records(board.log_dir))) == 8


def test_a_log_directory_that_cannot_be_written(untouched: str, tmp_path: Path) -> None:
    """A file stands where the directory should be: as with a read-only directory, nothing can be made in it, also not
    by root.
    """
    (tmp_path / "taken").write_text("a file")

    class Placed(RowLogger):
        save_dir = str(tmp_path / "taken" / "logs")
        log_dir = save_dir

    rows = Placed()
    with pytest.warns(RuntimeWarning, match="records are no longer written"):
        assert fit(monitors(), [rows]) == untouched
    assert [step for step, row in rows.our_rows() if "hessian/largest_eigenvalue" in row] == list(range(8))


def test_records_before_the_disk_is_full_are_kept(
    untouched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = CSVLogger(tmp_path, name="kept")
    monitor = HessianEigenvalueMonitor(**EVERY_STEP)
    real, count = Coordinator.log, [0]

    def log(self: Coordinator, trainer: Any, report: Any, step: int) -> None:
        count[0] += 1
        if count[0] == 4:

            class Full:
                """Takes half of what it is given, as a disk does when it runs full."""

                def __init__(self, file: Any) -> None:
                    self.file = file

                def write(self, line: bytes) -> int:
                    return int(self.file.write(line[: len(line) // 2]))

                def __getattr__(self, name: str) -> Any:
                    return getattr(self.file, name)

            assert self._writer is not None
            self._writer._file = Full(self._writer._file)
        real(self, trainer, report, step)

    monkeypatch.setattr(Coordinator, "log", log)
    with pytest.warns(RuntimeWarning, match="no space left for the whole record"):
        assert fit([monitor], [disk]) == untouched
    lines = next(tmp_path.rglob("landscape.jsonl")).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]
