"""The state that a module holds, put aside and back: buffers, attributes, containers, helper objects."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape_callbacks.training.plain_data import (
    ARRAYS,
    CODE,
    GENERATORS,
    LONG,
    MOST_BYTES,
    NOT_OF_THE_STEP,
    VALUES,
    attributes_of,
    copy_of,
    is_array,
    is_data,
    is_iterator,
    is_writable,
    package_of,
)

_CONTAINER_DEPTH = 4
# In a longer container, zero-dimensional tensors are taken for a history of losses, which nobody edits in place.
_SHORT = 64


class ModuleState:
    """The state of a module at the moment of construction.

    ``with state.isolated():`` runs a block in which buffers and other plain tensors and arrays are clones, and
    afterwards puts the original objects back. Restoring batch-norm statistics in place instead would bump their version
    and kill a graph that was retained inside the block.

    Helper objects (a meter, a moving average of weights) are restored if all that they hold is data: values, tensors,
    containers and further ones of their kind. An object with a lock or a thread in it is left alone.

    Args:
        module: The module.
        beside: Objects of which the attributes alone are restored (a trainer, a schedule), and lists of dicts (the
            parameter groups of an optimizer).

    Attributes:
        parameters: All parameters found, by ``id``, those of modules in plain lists and dicts among them.
        iterators: Where iterators are held that can be neither copied nor put back: generators, those of loaders.
    """

    def __init__(self, module: torch.nn.Module, beside: Iterable[Any] = ()) -> None:
        self._attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._generators: list[tuple[Any, Any]] = []
        self._arrays: list[tuple[Any, Any, Any]] = []
        self._slots: list[tuple[Any, dict[str, Any]]] = []
        self._in_place: list[tuple[Any, Any]] = []
        self.parameters: dict[int, torch.nn.Parameter] = {}
        self.iterators: list[str] = []
        self._unnamed_iterators = 0
        self._seen: set[int] = set()
        self._of_buffers: set[int] = set()
        self._bytes = 0
        for submodule in module.modules():
            self._remember_module(submodule)
        for value in beside:
            if isinstance(value, list):
                self._remember_container(value, 2)
            else:
                self._attributes.append((value.__dict__, dict(value.__dict__)))
        self._classes = [
            (kind, dict(vars(kind))) for kind in type(module).__mro__[:-1] if package_of(kind) not in NOT_OF_THE_STEP
        ]

    def _remember_module(self, module: torch.nn.Module) -> None:
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        live, saved = module.__dict__, dict(module.__dict__)
        self._attributes.append((live, saved))
        self.parameters |= {id(p): p for p in (saved.get("_parameters") or {}).values() if p is not None}
        buffers = saved.get("_buffers") or {}
        for holder, entries in ((live, saved), (buffers, buffers)):
            self._arrays += [(holder, name, value) for name, value in entries.items() if is_array(value)]
        self._of_buffers.add(id(buffers))
        for name, value in saved.items():
            self._remember(value, _CONTAINER_DEPTH)
            if self._unnamed_iterators:
                self.iterators.append(f"{type(module).__name__}.{name}")
                self._unnamed_iterators = 0

    def _remember(self, value: Any, depth: int) -> None:
        if isinstance(value, (*VALUES, *ARRAYS, *CODE)):
            return
        if isinstance(value, (dict, list, set, deque, tuple)):
            if depth > 0 and id(value) not in self._seen:
                self._seen.add(id(value))
                self._remember_container(value, depth)
        elif isinstance(value, torch.nn.Module):
            # A module kept in a plain list (an ensemble, a teacher) is no submodule, but a step moves its buffers all
            # the same.
            self._remember_module(value)
        elif isinstance(value, GENERATORS):
            self._generators.append((value, _generator_state(value)))
        elif is_iterator(value):
            self._unnamed_iterators += 1
        elif depth > 0 and id(value) not in self._seen and is_data(value, depth):
            self._seen.add(id(value))
            self._remember_object(value, depth)

    def _remember_object(self, value: Any, depth: int) -> None:
        saved = attributes_of(value)
        live = getattr(value, "__dict__", None)
        if live is None:
            self._slots.append((value, saved))
        else:
            self._attributes.append((live, saved))
        self._remember_arrays(live, saved.items(), len(saved))
        for entry in saved.values():
            self._remember(entry, depth - 1)

    def _remember_container(self, value: Any, depth: int) -> None:
        contents = dict(value) if isinstance(value, dict) else list(value)
        if not isinstance(value, tuple):
            self._containers.append((value, contents))
        if len(contents) > LONG:
            return
        if not isinstance(value, set) and id(value) not in self._of_buffers:
            entries = contents.items() if isinstance(contents, dict) else enumerate(contents)
            self._remember_arrays(None if isinstance(value, tuple) else value, entries, len(contents))
        for entry in contents.values() if isinstance(contents, dict) else contents:
            self._remember(entry, depth - 1)

    def _remember_arrays(self, holder: Any, entries: Iterable[tuple[Any, Any]], count: int) -> None:
        """Arrays to be cloned in their holder, or restored in place where it takes no other objects (``None``)."""
        for key, entry in entries:
            if is_array(entry) and (count <= _SHORT or getattr(entry, "ndim", 1) > 0):
                self._bytes += getattr(entry, "nbytes", 0)
                if self._bytes > MOST_BYTES:
                    return
                if holder is not None:
                    self._arrays.append((holder, key, entry))
                elif is_writable(entry):
                    self._in_place.append((entry, copy_of(entry)))

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Runs the block on clones and restores everything afterwards."""
        self.put_clones()
        try:
            yield
        finally:
            self.restore()

    def put_clones(self) -> None:
        """Puts clones in place of buffers and other plain tensors and arrays, until :meth:`restore`."""
        clones: dict[int, Any] = {}
        for holder, name, array in self._arrays:
            # One clone a tensor, because metrics of a collection share their states by identity.
            if id(array) not in clones:
                clones[id(array)] = copy_of(array)
            holder[name] = clones[id(array)]

    def restore(self) -> None:
        """Puts every attribute, container and generator back."""
        for live, saved in self._attributes:
            if not same_entries(live, saved):
                live.clear()
                live.update(saved)
        for kind, saved in self._classes:
            _restore_class(kind, saved)
        for value, saved in self._slots:
            for name, entry in saved.items():
                if getattr(value, name, None) is not entry:
                    object.__setattr__(value, name, entry)
        for array, before in self._in_place:
            # Through ``.data``, which leaves its version alone.
            (array.data.copy_ if isinstance(array, Tensor) else partial(np.copyto, array))(before)
        for container, contents in self._containers:
            _restore_container(container, contents)
        for generator, state in self._generators:
            _set_generator_state(generator, state)


def _restore_class(kind: type, saved: dict[str, Any]) -> None:
    """Counters that a step keeps on its class."""
    live = vars(kind)
    if same_entries(dict(live), saved):
        return
    for name in [name for name in live if name not in saved]:
        delattr(kind, name)
    for name, value in saved.items():
        if live.get(name) is not value:
            setattr(kind, name, value)


def same_entries(live: dict[str, Any], saved: dict[str, Any]) -> bool:
    """Whether two dicts hold the very same objects under the same names."""
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
