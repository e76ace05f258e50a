"""Run user code in the middle of training and leave no trace.

A replayed training step moves random streams, batch-norm statistics, counters, metrics and logs. These undo that, each
for one kind of state, and all of them also after an exception:

- :func:`preserved_random_state` - torch, the module's device, numpy, python;
- :class:`ModuleState` - buffers, attributes, containers, helper objects, train/eval flags of every submodule;
- :class:`HeldParameters` - parameters, which a step writes to in some models;
- :func:`muted_logging` - Lightning's result collection, hook names and loggers.

Not covered, because nothing in Python can see it: writes to files or services from inside the step, in-place edits of
tensors in containers longer or larger than :class:`ModuleState` clones, and objects that hold more than data.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape_callbacks.training.lightning_namespace import module_of


class RandomState:
    """The state of every global random stream that a training step can draw from, at the moment of construction."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._python = random.getstate()
        self._numpy = np.random.get_state()  # noqa: NPY002 - the global stream is what is kept
        self._torch = torch.get_rng_state()
        self._accelerator: Tensor | None = None
        if device.type == "cuda":
            self._accelerator = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            self._accelerator = torch.mps.get_rng_state()

    def restore(self) -> None:
        """Puts every stream back to where it was."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._torch)
        if self._accelerator is not None:
            if self._device.type == "cuda":
                torch.cuda.set_rng_state(self._accelerator, self._device)
            else:
                torch.mps.set_rng_state(self._accelerator)


@contextmanager
def preserved_random_state(device: torch.device) -> Iterator[RandomState]:
    """Random streams continue after the block as if it had not run.

    Lightning's ``isolate_rng`` does not after an exception.
    """
    state = RandomState(device)
    try:
        yield state
    finally:
        state.restore()


@contextmanager
def muted_logging(trainer: Any, pl_module: Any) -> Iterator[None]:
    """``self.log``, ``trainer.logger`` and direct writes to ``self.logger.experiment`` go nowhere inside the block."""
    epoch_loop = trainer.fit_loop.epoch_loop
    connector = trainer._logger_connector
    results, loggers = epoch_loop._results, trainer._loggers
    current_fx, first_loop_iter = connector._current_fx, connector._first_loop_iter
    module_fx, metric_attributes = pl_module._current_fx_name, pl_module._metric_attributes
    scratch = module_of(trainer, "trainer.connectors.logger_connector.result")._ResultCollection(training=True)
    scratch.batch, scratch.batch_size = results.batch, results.batch_size
    dummy = module_of(trainer, "loggers.logger").DummyLogger
    try:
        epoch_loop._results = scratch
        trainer._loggers = [dummy() for _ in loggers]
        pl_module._current_fx_name = "training_step"
        yield
    finally:
        epoch_loop._results, trainer._loggers = results, loggers
        connector._current_fx, connector._first_loop_iter = current_fx, first_loop_iter
        pl_module._current_fx_name, pl_module._metric_attributes = module_fx, metric_attributes
