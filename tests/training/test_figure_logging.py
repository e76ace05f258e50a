"""Every logger gets a figure by its own call; the rest by files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from landscape_callbacks.training.figure_logging import Drawing, log_figure


def a_figure() -> Figure:
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.add_subplot().plot([0, 1])
    return figure


def trainer_with(*loggers: Any, **more: Any) -> Any:
    attributes = {"is_global_zero": True, "fast_dev_run": False, "default_root_dir": ".", **more}
    return SimpleNamespace(loggers=list(loggers), **attributes)


DRAWING = Drawing(a_figure, {"alpha": np.arange(3.0)})


class Calls:
    """Takes down the calls of every method."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


class WandbLogger(Calls):
    pass


class MLFlowLogger:
    run_id = "run 7"

    def __init__(self) -> None:
        self.experiment = Calls()


class CometLogger:
    def __init__(self) -> None:
        self.experiment = Calls()


def test_tensorboard_shows_the_figure(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    assert log_figure(trainer_with(logger), "landscape/slices", DRAWING, 12) == []
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    (image,) = events.Images("landscape/slices")
    assert (image.step, image.width, image.height) == (12, 100, 50)


def test_wandb_mlflow_and_comet_get_their_own_calls() -> None:
    wandb, mlflow, comet = WandbLogger(), MLFlowLogger(), CometLogger()
    assert log_figure(trainer_with(wandb, mlflow, comet), "landscape/slices", DRAWING, 12) == []
    ((name, _, arguments),) = wandb.calls
    assert name == "log_image"
    assert (arguments["key"], arguments["step"], arguments["images"][0].shape) == ("landscape/slices", 12, (50, 100, 4))
    ((name, arguments_of_mlflow, _),) = mlflow.experiment.calls
    assert (name, arguments_of_mlflow[0], arguments_of_mlflow[2]) == (
        "log_figure",
        "run 7",
        "landscape/slices_00000012.png",
    )
    ((name, _, arguments),) = comet.experiment.calls
    assert (name, arguments["figure_name"], arguments["step"]) == ("log_figure", "landscape/slices", 12)


def test_other_loggers_get_files(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    files = log_figure(trainer_with(logger), "landscape/slice/random", DRAWING, 12)
    folder = Path(logger.log_dir) / "landscape"
    assert files == [folder / "slice_random.png", folder / "slice_random.npz"]
    assert files[0].read_bytes()[1:4] == b"PNG"
    with np.load(files[1]) as data:
        assert data["alpha"].tolist() == [0.0, 1.0, 2.0]
        assert int(data["logged_at"]) == 12


@pytest.mark.parametrize("state", [{"is_global_zero": False}, {"fast_dev_run": True}])
def test_nothing_is_drawn_where_nothing_is_logged(state: dict[str, bool], tmp_path: Path) -> None:
    def must_not_draw() -> Figure:
        raise AssertionError("drawn")

    assert log_figure(trainer_with(CSVLogger(tmp_path), **state), "x", Drawing(must_not_draw), 0) == []
    assert log_figure(trainer_with(), "x", Drawing(must_not_draw), 0) == []
