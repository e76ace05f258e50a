"""Run user code in the middle of training and leave no trace.

A replayed training step moves random streams, batch-norm statistics, counters, metrics and logs. Three context managers
undo that, each for one kind of state, and all of them also after an exception:

- :func:`preserved_random_state` - torch, the module's device, numpy, python;
- :class:`ModuleState` - buffers, attributes, containers, train/eval flags of every submodule;
- :func:`muted_logging` - Lightning's result collection, hook names and loggers.

Not covered, because nothing in Python can see it: writes to files or services from inside the step, in-place edits of
tensors that no submodule holds directly or that require a gradient, and state inside plain helper objects.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape_callbacks.training.lightning_namespace import module_of

_CONTAINER_DEPTH = 4


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


class ModuleState:
    """All state that the submodules of a module hold, at the moment of construction.

    ``with state.isolated():`` runs a block in which buffers and other plain tensors are clones, and afterwards puts the
    original objects back. Restoring batch-norm statistics in place instead would bump their version and kill a graph
    that was retained inside the block.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._modules: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._generators: list[tuple[Any, Any]] = []
        self._tensors: list[tuple[dict[str, Any], str, Tensor]] = []
        self._seen: set[int] = set()
        for submodule in module.modules():
            self._remember_module(submodule)

    def _remember_module(self, module: torch.nn.Module) -> None:
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        live, saved = module.__dict__, dict(module.__dict__)
        self._modules.append((live, saved))
        buffers = saved.get("_buffers") or {}
        for holder, entries in ((live, saved), (buffers, buffers)):
            self._tensors += [(holder, name, value) for name, value in entries.items() if _is_plain_tensor(value)]
        for value in saved.values():
            self._remember(value, _CONTAINER_DEPTH)

    def _remember(self, value: Any, depth: int) -> None:
        if isinstance(value, (dict, list, set, deque)):
            if depth == 0 or id(value) in self._seen:
                return
            self._seen.add(id(value))
            contents = dict(value) if isinstance(value, dict) else list(value)
            self._containers.append((value, contents))
            for entry in contents.values() if isinstance(contents, dict) else contents:
                self._remember(entry, depth - 1)
        elif isinstance(value, torch.nn.Module):
            # A module kept in a plain list (an ensemble, a teacher) is no submodule, but a step moves its buffers all
            # the same.
            self._remember_module(value)
        elif isinstance(value, (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)):
            self._generators.append((value, _generator_state(value)))

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Runs the block on clones and restores everything afterwards."""
        self.put_clones()
        try:
            yield
        finally:
            self.restore()

    def put_clones(self) -> None:
        """Puts clones in place of buffers and other plain tensors, until :meth:`restore`."""
        clones: dict[int, Tensor] = {}
        for holder, name, tensor in self._tensors:
            # One clone a tensor, because metrics of a collection share their states by identity.
            if id(tensor) not in clones:
                clones[id(tensor)] = tensor.clone()
            holder[name] = clones[id(tensor)]

    def restore(self) -> None:
        """Puts every attribute, container and generator back."""
        for live, saved in self._modules:
            if not _same_entries(live, saved):
                live.clear()
                live.update(saved)
        for container, contents in self._containers:
            _restore_container(container, contents)
        for generator, state in self._generators:
            _set_generator_state(generator, state)


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


def _is_plain_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter) and not value.requires_grad


def _same_entries(live: dict[str, Any], saved: dict[str, Any]) -> bool:
    return len(live) == len(saved) and live.keys() == saved.keys() and all(map(is_, live.values(), saved.values()))


def _restore_container(container: Any, contents: Any) -> None:
    if isinstance(container, dict):
        if not (list(container) == list(contents) and all(map(is_, container.values(), contents.values()))):
            container.clear()
            container.update(contents)
    elif not (len(container) == len(contents) and all(map(is_, container, contents))):
        container.clear()
        if isinstance(container, set):
            container.update(contents)
        else:
            container.extend(contents)


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set_generator_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
