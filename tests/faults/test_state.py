"""Faults inside of a measurement: training goes on, or stops, with the state that it would have without monitors."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from landscape_callbacks import GradientNormMonitor, HessianEigenvalueMonitor, LossSliceMonitor
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.training.replay import Replay
from tests.hard_module import HardModule, RowLogger, fingerprint, loaders, random_streams, train

EVERY_STEP: dict[str, Any] = {"every_n_steps": 1, "max_overhead": None}
PLACES = {
    "the replayed step": (Replay, "_training_step_loss"),
    "a product": (LossSurface, "hessian_vector_product"),
    "losses at other weights": (LossSurface, "_forward"),
}


def monitors() -> list[Any]:
    slices = LossSliceMonitor(directions=["gradient", "largest_eigenvector"], figures=False, **EVERY_STEP)
    return [HessianEigenvalueMonitor(**EVERY_STEP), GradientNormMonitor(**EVERY_STEP), slices]


def fail(monkeypatch: pytest.MonkeyPatch, place: str, act: Callable[[], None], calls: int = 4) -> None:
    """Lets a function of the library act out a fault each time it is called, from the given call on."""
    owner, name = PLACES[place]
    real, count = getattr(owner, name), [0]

    def faulty(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        result = real(*args, **kwargs)
        if count[0] >= calls:
            act()
        return result

    monkeypatch.setattr(owner, name, faulty)


@pytest.fixture(scope="module")
def untouched() -> dict[str, str]:
    return train([], epochs=1)


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("place", PLACES)
def test_exceptions(place: str, monkeypatch: pytest.MonkeyPatch, untouched: dict[str, str]) -> None:
    fail(monkeypatch, place, raising(ValueError("on purpose")))
    with pytest.warns(RuntimeWarning, match="on purpose"):
        assert train(monitors(), epochs=1) == untouched
    rows = train.last_rows.our_rows()  # type: ignore[attr-defined]
    assert any(row.get("landscape/failed_measurements", 0.0) > 0.0 for _, row in rows)
    # The monitors that do not fail go on.
    assert [step for step, row in rows if "gradient/norm" in row] == list(range(8))


class Interrupted(pl.Callback):
    """Says how the module was found when a run was interrupted."""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.exception = exception
        self.print = state_of(trainer, pl_module)


class FirstStates(pl.Callback):
    """The state before each step."""

    def __init__(self) -> None:
        self.prints: list[str] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.prints.append(state_of(trainer, pl_module))


def state_of(trainer: Any, module: Any) -> str:
    attributes = [module.seen, module.calls, module.table, module.loss_average, module.own_generator]
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    mode = [part.training for part in module.modules()]
    loggers = [type(logger).__name__ for logger in trainer.loggers]
    return fingerprint([module.state_dict(), attributes, optimizers, mode, loggers, random_streams()])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["SIGINT", "KeyboardInterrupt"])
def test_interrupts(kind: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever moment a user picks to stop: weights, optimizer, statistics and random streams are those between two
    steps.
    """
    act = raising(KeyboardInterrupt()) if kind == "KeyboardInterrupt" else lambda: os.kill(os.getpid(), signal.SIGINT)
    found, before = Interrupted(), FirstStates()
    options: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_checkpointing": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "logger": RowLogger()}
    pl.seed_everything(11, verbose=False)
    pl.Trainer(callbacks=[before], **options).fit(HardModule(), *loaders())
    pl.seed_everything(11, verbose=False)
    fail(monkeypatch, place, act, calls=30)
    # Python's own, which a run started in the background does not have.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            pl.Trainer(callbacks=[*monitors(), found], **options).fit(HardModule(), *loaders())
    finally:
        signal.signal(signal.SIGINT, handler)
    assert isinstance(found.exception, KeyboardInterrupt)
    assert found.print in before.prints


class Diverges(HardModule):
    """From the third batch on the loss is no number."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        if batch_idx >= 2:
            output["loss"] = output["loss"] * torch.nan
        return output


class Flat(HardModule):
    """From the third batch on the gradient is zero."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        if batch_idx >= 2:
            output["loss"] = output["loss"] * 0.0
        return output


def run_of(module: type[HardModule], callbacks: list[Any]) -> tuple[str, RowLogger]:
    pl.seed_everything(11, verbose=False)
    rows, trained = RowLogger(), module()
    options: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_checkpointing": False}
    trainer = pl.Trainer(
        callbacks=callbacks,
        logger=rows,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(trained, *loaders())
    return state_of(trainer, trained), rows


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("module", [Diverges, Flat])
def test_loss_without_use(module: type[HardModule]) -> None:
    untouched, _ = run_of(module, [])
    watched, rows = run_of(module, monitors())
    assert watched == untouched
    values = {
        step: row["hessian/largest_eigenvalue"] for step, row in rows.our_rows() if "hessian/largest_eigenvalue" in row
    }
    assert sorted(values) == list(range(8))
    assert values[1] > 0.0
    if module is Flat:
        assert [values[step] for step in range(2, 8)] == pytest.approx([0.0] * 6, abs=1e-6)
    else:
        assert all(not torch.isfinite(torch.tensor(values[step])) for step in range(2, 8))


def test_a_filter_can_leave_only_parameters_without_gradient() -> None:
    """Nothing depends on what is measured: zero curvature, no failure."""

    class Spare(HardModule):
        def __init__(self) -> None:
            super().__init__()
            self.spare = torch.nn.Linear(3, 3)

    untouched, _ = run_of(Spare, [])
    monitor = HessianEigenvalueMonitor(parameters="spare", **EVERY_STEP)
    watched, rows = run_of(Spare, [monitor])
    assert watched == untouched
    assert [row["hessian/largest_eigenvalue"] for _, row in rows.our_rows()] == [0.0] * 8
    assert monitor.coordinator.failed == 0
