"""Promise 1: with monitors on, training is bit-identical to training without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.reporting import Report
from tests.hard_module import train

SETUPS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "adamw": {"optimizer": "adamw"},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "fp64": {"precision": "64-true"},
    "accumulation and clipping": {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5},
    "clipping by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "manual optimization": {"manual": True},
}


class EveryQuantity(Monitor):
    """Touches everything that a snapshot can give: loss, gradient, products, other weights."""

    def __init__(self, fails: bool = False, **arguments: Any) -> None:
        super().__init__(every_n_steps=1, max_overhead=None, **arguments)
        self.fails = fails
        self.measured = 0
        self.centre_losses: list[float] = []

    def measure(self, trainer: Any, pl_module: Any, snapshot: Any) -> Report:
        gradient = snapshot.gradient()
        snapshot.surface.hessian_vector_product(gradient)
        if pl_module.automatic_optimization:
            losses = snapshot.surface.losses_along(gradient, [-0.1, 0.0, 0.1])
            self.centre_losses.append(float(losses[1]))
            assert float(losses[1]) == snapshot.loss()
            assert losses[0] != losses[1] != losses[2]
            with snapshot.surface.displaced() as move_to:
                move_to((gradient, 0.3))
                if self.fails:
                    raise RuntimeError("on purpose, at displaced weights")
        elif self.fails:
            raise RuntimeError("on purpose")
        self.measured += 1
        return Report({"landscape/probe": float(gradient.norm())})


@pytest.fixture(scope="module")
def untouched() -> dict[str, dict[str, str]]:
    return {name: train([], **arguments) for name, arguments in SETUPS.items()}


@pytest.mark.parametrize("setup", SETUPS)
def test_measuring_at_every_step_leaves_no_trace(setup: str, untouched: dict[str, dict[str, str]]) -> None:
    monitor = EveryQuantity()
    assert train([monitor], **SETUPS[setup]) == untouched[setup]
    assert monitor.measured == 16 // SETUPS[setup].get("accumulate_grad_batches", 1) + (
        0 if "accum" not in setup else 1
    )


@pytest.mark.parametrize("setup", SETUPS)
def test_an_exception_inside_a_measurement_leaves_no_trace(setup: str, untouched: dict[str, dict[str, str]]) -> None:
    monitor = EveryQuantity(fails=True)
    with pytest.warns(RuntimeWarning, match="on purpose"):
        assert train([monitor], **SETUPS[setup]) == untouched[setup]
    assert monitor.measured == 0
    assert monitor.coordinator.failed > 0


def test_the_fingerprint_sees_what_a_careless_monitor_does(untouched: dict[str, dict[str, str]]) -> None:
    class Careless(Monitor):
        def measure(self, trainer: Any, pl_module: Any, snapshot: Any) -> Report:
            return Report()

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            pl_module.training_step(batch, batch_idx)

    run = train([Careless(every_n_steps=1, max_overhead=None)])
    assert all(run[kind] != untouched["fp32"][kind] for kind in run)


def test_the_replayed_loss_is_the_training_loss_to_the_bit() -> None:
    monitor = EveryQuantity()
    train([monitor])
    logged = [row["train/loss_step"] for _, row in train.last_rows.their_rows() if "train/loss_step" in row]  # type: ignore[attr-defined]
    assert [torch.tensor(loss, dtype=torch.float32).item() for loss in monitor.centre_losses] == logged
