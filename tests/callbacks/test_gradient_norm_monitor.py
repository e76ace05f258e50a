from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from landscape_callbacks import GradientNormMonitor, HessianEigenvalueMonitor
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from tests.hard_module import RowLogger, train
from tests.training.test_harmless import SETUPS


class Norms(pl.Callback):
    """The norms by the plain definition, one read a parameter."""

    def __init__(self) -> None:
        self.before: list[float] = []
        self.after: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.before.append(_norm(pl_module.parameters()))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if len(self.after) < len(self.before):
            self.after.append(_norm(pl_module.parameters()))


def _norm(parameters: Any) -> float:
    return math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in parameters if p.grad is not None))


def values(rows: RowLogger, tag: str) -> list[float]:
    return [row[tag] for _, row in rows.our_rows() if tag in row]


@pytest.mark.parametrize("setup", SETUPS)
def test_norms_before_and_after_clipping_are_those_of_the_definition(setup: str) -> None:
    reference = Norms()
    train([reference, GradientNormMonitor(every_n_steps=1, max_overhead=None)], **SETUPS[setup])
    rows = train.last_rows  # type: ignore[attr-defined]
    tolerance = 3e-3 if "bf16" in setup else 1e-5
    assert values(rows, "gradient/norm") == pytest.approx(reference.before, rel=tolerance)
    clipped = values(rows, "gradient/norm_clipped")
    assert clipped == (pytest.approx(reference.after, rel=tolerance) if "clip" in setup else [])
    assert [step for step, row in rows.our_rows() if "gradient/norm" in row] == list(range(len(reference.before)))


def test_norms_are_measured_beside_the_noise_scale_also_behind_another_monitor() -> None:
    train(
        [
            HessianEigenvalueMonitor(every_n_steps=5),
            GradientNormMonitor(every_n_steps=1, max_overhead=None, noise_scale_batches=3),
        ]
    )
    rows = train.last_rows.our_rows()  # type: ignore[attr-defined]
    assert [step for step, row in rows if "gradient/norm" in row] == list(range(16))
    assert [step for step, row in rows if "gradient/noise_scale" in row] == list(range(2, 16))


@pytest.mark.parametrize("setup", SETUPS)
def test_training_is_bit_identical(setup: str) -> None:
    monitor = GradientNormMonitor(
        every_n_steps=1, max_overhead=None, per_module=2, noise_scale_batches=0 if "manual" in setup else 3
    )
    assert train([monitor], **SETUPS[setup]) == train([], **SETUPS[setup])


def test_norms_by_module_add_up_to_the_total() -> None:
    train([GradientNormMonitor(every_n_steps=1, max_overhead=None, per_module=2)])
    rows = train.last_rows.our_rows()  # type: ignore[attr-defined]
    for _, row in rows:
        assert row["gradient/norm/net"] == pytest.approx(row["gradient/norm"], rel=1e-6)
        layers = [value for tag, value in row.items() if tag.startswith("gradient/norm/net.")]
        assert len(layers) == 4
        assert math.hypot(*layers) == pytest.approx(row["gradient/norm"], rel=1e-6)


def test_a_filter_measures_the_parameters_it_names() -> None:
    train([GradientNormMonitor(every_n_steps=1, max_overhead=None, parameters=r"net\.0\.", per_module=2)])
    for _, row in train.last_rows.our_rows():  # type: ignore[attr-defined]
        assert row["gradient/norm/net.0"] == pytest.approx(row["gradient/norm"], rel=1e-12)


class Explodes(pl.Callback):
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 2:
            next(pl_module.parameters()).grad[0, 0] = torch.inf


def test_a_non_finite_gradient_is_logged_as_it_is_and_counted() -> None:
    train([Explodes(), GradientNormMonitor(every_n_steps=1, max_overhead=None)], epochs=1)
    rows = train.last_rows  # type: ignore[attr-defined]
    norms = values(rows, "gradient/norm")
    assert math.isinf(norms[2])
    counts = values(rows, "gradient/nonfinite_steps")
    assert counts[0] == 1.0
    assert "gradient/nonfinite_steps" not in rows.our_rows()[1][1]


class TwoOptimizers(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = nn.Linear(6, 1), nn.Linear(6, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer, module in zip(self.optimizers(), (self.first, self.second), strict=True):
            optimizer.zero_grad()
            self.manual_backward(module(batch[0]).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.first.parameters(), 0.1), torch.optim.Adam(self.second.parameters(), 0.1)]


def test_each_of_several_optimizers_has_its_norm() -> None:
    from tests.hard_module import loaders

    rows = RowLogger()
    trainer = pl.Trainer(
        max_epochs=1, logger=rows, callbacks=[GradientNormMonitor(every_n_steps=1, max_overhead=None)], enable_checkpointing=False,
        enable_progress_bar=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(TwoOptimizers(), loaders()[0])
    assert [step for step, _ in rows.our_rows()] == list(range(8))
    for _, row in rows.our_rows():
        own = [row["gradient/norm/optimizer_0"], row["gradient/norm/optimizer_1"]]
        assert min(own) > 0.0
        assert math.hypot(*own) == pytest.approx(row["gradient/norm"], rel=1e-12)


class FarFromItsGoal(pl.LightningModule):
    """A regression whose gradient stands out of its noise."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(4, 1).double()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return (self.line(batch).squeeze(1) - 3.0 * batch.sum(1)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def test_noise_scale_is_logged_with_its_error() -> None:
    rows = RowLogger()
    trainer = pl.Trainer(
        max_epochs=2, logger=rows, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        callbacks=[GradientNormMonitor(every_n_steps=1, max_overhead=None, noise_scale_batches=8)],
    )  # fmt: skip
    data = torch.randn(8 * 32, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    trainer.fit(FarFromItsGoal(), torch.utils.data.DataLoader(data, batch_size=32))
    scales, errors = values(rows, "gradient/noise_scale"), values(rows, "gradient/noise_scale_error")
    assert len(scales) == len(errors) == 16 - 7
    resolved = [(s, e) for s, e in zip(scales, errors, strict=True) if math.isfinite(s)]
    assert resolved
    assert all(scale > 0 and error >= 0 for scale, error in resolved)


@pytest.mark.parametrize(
    "arguments",
    [
        {"every_n_steps": 0},
        {"every_n_steps": 2.5},
        {"max_overhead": 0.0},
        {"max_overhead": 2},
        {"per_module": -1},
        {"parameters": "("},
        {"noise_scale_batches": 2},
        {"loss_fn": 3},
    ],
)
def test_wrong_arguments_are_refused_with_what_was_received(arguments: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match=repr(next(iter(arguments.values()))).replace("(", r"\(")):
        GradientNormMonitor(**arguments)


def test_the_count_survives_a_checkpoint() -> None:
    monitor, other = GradientNormMonitor(), GradientNormMonitor()
    monitor.nonfinite_steps = 3
    other.load_state_dict(monitor.state_dict())
    assert other.nonfinite_steps == 3
    assert other.state_key == monitor.state_key != GradientNormMonitor(every_n_steps=7).state_key
