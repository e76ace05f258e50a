"""Verdicts as a user gets them: from :class:`SaddlePointMonitor` while a Trainer trains the runs of known truth."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Container, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from benchmarks import _diagnosis_states as truth
from landscape_callbacks import SaddlePointMonitor
from landscape_callbacks.training.reporting import current_step


class _Batches(IterableDataset):
    """The batches of a run, drawn as :func:`truth.advance` draws them."""

    def __init__(self, run: truth.Run) -> None:
        self.run = run

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        case, generator = self.run.case, torch.Generator().manual_seed(self.run.seed)
        while True:
            rows: Any = slice(None)
            if self.run.batch_size is not None:
                rows = torch.randint(case.samples, (1, self.run.batch_size), generator=generator)[0]
            yield tuple(column[rows] for column in case.data)


class _Module(pl.LightningModule):
    def __init__(self, run: truth.Run) -> None:
        super().__init__()
        self.run_of_truth = run
        self.theta = torch.nn.Parameter(run.case.start.clone())

    def training_step(self, batch: tuple[torch.Tensor, ...], batch_idx: int) -> torch.Tensor:
        return self.run_of_truth.case.sample_losses(self.theta, *batch).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.theta], lr=self.run_of_truth.rate, momentum=self.run_of_truth.momentum)


class Asks(pl.Callback):
    """Asks the monitor for a look at chosen steps."""

    def __init__(self, monitor: SaddlePointMonitor, steps: Container[int]) -> None:
        self.monitor, self.steps = monitor, steps

    def on_train_batch_start(self, trainer: Any, *arguments: Any) -> None:
        if current_step(trainer) in self.steps:
            self.monitor.cadence.request(at_once=True)


class _Takes(pl.Callback):
    """Takes down the weights and the verdict of every look, and ends the run after the last."""

    def __init__(self, monitor: SaddlePointMonitor, steps: tuple[int, ...]) -> None:
        self.monitor, self.steps = monitor, steps
        self.taken: dict[int, tuple[torch.Tensor, str]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
        step = current_step(trainer)
        if step in self.steps:
            look, self.monitor.look = self.monitor.look, None
            label = "undetermined" if look is None else look.verdict.label
            self.taken[step] = pl_module.theta.detach().clone(), label

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        trainer.should_stop = current_step(trainer) > max(self.steps)


def verdicts(run: truth.Run) -> dict[int, tuple[torch.Tensor, str]]:
    """Weights and verdict at each of the run's steps, by a Trainer with the monitor at its defaults."""
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # No look but those asked for at once.
    monitor = SaddlePointMonitor(every_n_steps=10**9, max_overhead=None, full_batch=run.batch_size is None)
    takes = _Takes(monitor, run.steps)
    trainer = pl.Trainer(
        max_steps=max(run.steps) + truth.HORIZON, max_epochs=-1, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Asks(monitor, run.steps), monitor, takes],
    )  # fmt: skip
    trainer.fit(_Module(run), DataLoader(_Batches(run), batch_size=None))
    return takes.taken
