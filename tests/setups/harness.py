"""Trains a setup with and without monitors at every step: training has to be bit-identical, and the values those of a
dense reference.

The reference shares nothing with the library: it loads the weights of a step into a fresh module in float64 and takes
fourth-order differences of plain gradients, so it needs no second derivative of anything. Attention runs in its MATH
kernel there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import GradientNormMonitor, HessianEigenvalueMonitor, LossSliceMonitor
from tests.hard_module import OURS, RowLogger, fingerprint, random_streams

EVERY_STEP: dict[str, Any] = {"every_n_steps": 1, "max_overhead": None}


class Setup(pl.LightningModule):
    """A small module; a row of the support table overrides what is particular about it."""

    def __init__(self, net: nn.Module | None = None, rate: float = 0.05) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)) if net is None else net
        self.rate = rate

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(parameters, lr=self.rate, momentum=0.9)


def classification(samples: int = 24, batch_size: int = 8, shape: tuple[int, ...] = (4,)) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, *shape, generator=generator)
    return DataLoader(TensorDataset(x, x.flatten(1)[:, :3].argmax(1)), batch_size=batch_size)


def tokens(samples: int = 16, length: int = 5, vocabulary: int = 6, batch_size: int = 8) -> DataLoader:
    drawn = torch.randint(0, vocabulary, (samples, length), generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(drawn, drawn[:, 0] % 3), batch_size=batch_size)


@dataclass
class Case:
    """One row of the support table.

    Attributes:
        module: Makes the module; called after seeding.
        data: Makes what ``fit`` takes.
        trainer: Arguments of the Trainer.
        monitor: Keywords of every monitor.
        parameters: Which parameters the reference differentiates; those that the monitors are told.
        tolerance: Relative error allowed to eigenvalues and norms.
        slices: Whether slices can be measured.
        reference: ``(module, batch) -> loss`` of the reference; the module's own ``loss`` by default.
        wrap: What is done to the module before ``fit`` (``torch.compile``).
        warning: What the monitors say about this setup; ``None``: nothing.
        callbacks: Makes further callbacks of the user.
        check: Looks at the trainer and the module after the run with monitors.
    """

    module: Callable[[], pl.LightningModule] = Setup
    data: Callable[[], Any] = classification
    trainer: dict[str, Any] = field(default_factory=dict)
    monitor: dict[str, Any] = field(default_factory=dict)
    parameters: Callable[[str], bool] = lambda name: True
    tolerance: float = 2e-3
    slices: bool = True
    reference: Callable[[Any, Any], Tensor] = lambda module, batch: module.loss(batch)
    wrap: Callable[[Any], Any] = lambda module: module
    warning: str | None = None
    callbacks: Callable[[], list[Any]] = list
    check: Callable[[pl.Trainer, Any], None] = lambda trainer, module: None


class Recorder(pl.Callback):
    """Takes down weights, buffers and the batch of every step, before the monitors look at it."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[dict[str, Tensor], Any]] = {}
        self.prints: list[str] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        if batch_idx % trainer.accumulate_grad_batches == 0:
            state = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
            self.seen[step] = (state, batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        gradients = [None if p.grad is None else p.grad.clone() for p in pl_module.parameters()]
        self.prints.append(
            fingerprint([_dense(gradients), [m.training for m in pl_module.modules()], random_streams()])
        )


def _dense(gradients: list[Tensor | None]) -> list[Tensor | None]:
    return [None if g is None else g.to_dense() for g in gradients]


@dataclass
class Run:
    """What a run left behind."""

    prints: dict[str, str]
    rows: RowLogger
    recorder: Recorder
    module: Any
    trainer: pl.Trainer
    monitors: list[Any]


def run(case: Case, *, measured: bool) -> Run:
    """Trains the case for two epochs."""
    pl.seed_everything(7, verbose=False)
    module = case.module()
    rows, recorder = RowLogger(), Recorder()
    monitors: list[Any] = []
    if measured:
        monitors = [HessianEigenvalueMonitor(**{"largest": 2, "tolerance": 1e-4, **EVERY_STEP, **case.monitor})]
        common = {name: value for name, value in case.monitor.items() if name != "tolerance"}
        norm_only = {name: value for name, value in common.items() if name == "parameters"}
        monitors.append(GradientNormMonitor(**EVERY_STEP, **norm_only))
        if case.slices:
            monitors.append(LossSliceMonitor(directions=["gradient"], figures=False, **EVERY_STEP, **common))
    options: dict[str, Any] = {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(logger=rows, callbacks=[recorder, *monitors, *case.callbacks()], **(options | case.trainer))
    data = case.data()
    arguments = data if isinstance(data, dict) else {"train_dataloaders": data}
    trainer.fit(case.wrap(module), **arguments)
    prints = {
        "weights and buffers": fingerprint(module.state_dict()),
        "optimizer": fingerprint([optimizer.state_dict() for optimizer in trainer.optimizers]),
        "random streams": fingerprint(random_streams()),
        "logged rows": fingerprint(rows.their_rows()),
        "callback_metrics": fingerprint({k: v for k, v in trainer.callback_metrics.items() if not k.startswith(OURS)}),
        "every batch end": fingerprint(recorder.prints),
    }
    return Run(prints, rows, recorder, module, trainer, monitors)


def check(case: Case) -> Run:
    """Asserts the two promises for a case, and gives the run with monitors."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        untouched, watched = run(case, measured=False), run(case, measured=True)
    assert watched.prints == untouched.prints
    said = [str(w.message) for w in caught if "Monitor" in str(w.message)]
    if case.warning is None:
        assert not said
        assert watched.monitors[0].coordinator.failed == 0
    else:
        assert said
        assert all(case.warning in message for message in said), said
    case.check(watched.trainer, watched.module)
    return watched


def check_values(case: Case, watched: Run, steps: tuple[int, ...] | None = None) -> None:
    """Holds the logged values of the first and the last measured step against the dense reference."""
    measured = {step: row for step, row in watched.rows.our_rows() if "hessian/largest_eigenvalue" in row}
    slices = {step: row for step, row in watched.rows.our_rows() if "slice/gradient/curvature" in row}
    assert sorted(measured) == sorted(watched.recorder.seen)
    for step in steps or (min(measured), max(measured)):
        state, batch = watched.recorder.seen[step]
        gradient, hessian = dense_reference(case, state, batch)
        values = np.linalg.eigvalsh(hessian)
        allowed = case.tolerance * np.abs(values).max()
        row = measured[step]
        assert row["hessian/largest_eigenvalue"] == pytest.approx(values[-1], abs=allowed)
        assert row["hessian/largest_eigenvalue_2"] == pytest.approx(values[-2], abs=allowed)
        assert row["hessian/smallest_eigenvalue"] == pytest.approx(values[0], abs=0.05 * abs(values[0]) + allowed)
        if case.slices:
            along = gradient @ hessian @ gradient / (gradient @ gradient)
            error = slices[step]["slice/gradient/curvature_error"]
            assert slices[step]["slice/gradient/curvature"] == pytest.approx(along, abs=5 * error)


def dense_reference(case: Case, state: dict[str, Tensor], batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (n,) and Hessian (n, n) of the loss at the weights of a step."""
    with torch.random.fork_rng():
        module = case.module()
        batch = as_double(batch)
        with torch.no_grad():
            # Lazy parameters get their shape from a batch.
            module.to(torch.float64)
            case.reference(module, batch)
        module.to(torch.float64)
        module.load_state_dict(state)
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad and case.parameters(n)]
        parameters = [parameter for _, parameter in named]
        start = nn.utils.parameters_to_vector(parameters).detach()
        buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        size = 1e-5

        def gradient(at: Tensor) -> Tensor:
            nn.utils.vector_to_parameters(at, parameters)
            for buffer, kept in buffers:
                # Spectral norm moves its vectors in every forward pass.
                buffer.copy_(kept)
            with sdpa_kernel(SDPBackend.MATH):
                case.reference(module, batch).backward()
            pieces = [parameter.grad for parameter in parameters]
            module.zero_grad()
            filled = [
                torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(parameters, pieces, strict=True)
            ]
            return torch.cat([piece.reshape(-1) for piece in filled])

        rows = []
        for unit in size * torch.eye(len(start), dtype=torch.float64):
            near = gradient(start + unit) - gradient(start - unit)
            far = gradient(start + 2 * unit) - gradient(start - 2 * unit)
            rows.append((8 * near - far) / (12 * size))
        hessian = torch.stack(rows)
        return gradient(start).numpy(), ((hessian + hessian.T) / 2).numpy()


def as_double(batch: Any) -> Any:
    """The batch with its floating-point tensors in float64."""
    if isinstance(batch, Tensor):
        return batch.double() if batch.is_floating_point() else batch
    if isinstance(batch, dict):
        return {key: as_double(value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(as_double(value) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{part.name: as_double(getattr(batch, part.name)) for part in fields(batch)})
    return batch
