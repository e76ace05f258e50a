from __future__ import annotations

from typing import Any

import pytest
import torch

from landscape_callbacks import CriticalLearningRateMonitor
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from tests.callbacks.test_saddle_point_monitor import Problem
from tests.hard_module import RowLogger, loaders, train
from tests.training.test_harmless import SETUPS


def run(module: Any, monitor: Any, steps: int) -> list[tuple[int | None, dict[str, float]]]:
    import lightning.pytorch as pl

    rows = RowLogger()
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=rows, callbacks=[monitor], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, max_epochs=-1,
    )  # fmt: skip
    trainer.fit(module, loaders()[0])
    return rows.our_rows()


def valley(weights: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    return 0.5 * (8.0 * weights[0] ** 2 + 1.0 * weights[1] ** 2)


@pytest.mark.parametrize(("start", "limit"), [([1.0, 0.0], 2 / 8), ([0.0, 1.0], 2 / 1)])
def test_along_an_eigenvector_the_critical_rate_is_the_stability_limit(start: list[float], limit: float) -> None:
    rows = run(Problem(valley, start, 0.01), CriticalLearningRateMonitor(every_n_steps=1, max_overhead=None), 5)
    values = [row["stability/critical_learning_rate"] for _, row in rows if "stability/critical_learning_rate" in row]
    assert values == pytest.approx([limit] * 4, rel=0.02)
    assert [step for step, row in rows if "stability/critical_learning_rate" in row] == [1, 2, 3, 4]
    assert rows[-1][1]["stability/critical_ratio"] == pytest.approx(0.01 / limit, rel=0.02)


def test_between_eigenvectors_it_is_the_closed_form_of_a_quadratic() -> None:
    module = Problem(valley, [1.0, 1.0], 0.05)
    rows = run(module, CriticalLearningRateMonitor(every_n_steps=1, max_overhead=None), 3)
    weights, curvature = torch.tensor([1.0, 1.0]), torch.tensor([8.0, 1.0])
    expected = []
    for _ in range(2):
        gradient = curvature * weights
        expected.append(float(2 * (gradient**2).sum() / (curvature * gradient**2).sum()))
        weights = weights - 0.05 * gradient
    values = [row["stability/critical_learning_rate"] for _, row in rows if "stability/critical_learning_rate" in row]
    assert values == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("setup", ["fp32", "adamw", "bf16-mixed", "accumulation and clipping"])
def test_training_is_bit_identical(setup: str) -> None:
    monitor = CriticalLearningRateMonitor(every_n_steps=1, max_overhead=None)
    assert train([monitor], **SETUPS[setup]) == train([], **SETUPS[setup])
    assert monitor.coordinator.failed == 0


def test_too_few_forwards_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="forwards has to be an integer of at least 3, got 2"):
        CriticalLearningRateMonitor(forwards=2)
