"""What of a step's objects can be put back: values, tensors, arrays, containers, and objects that hold only such."""

from __future__ import annotations

import copy
import io
import itertools
import random
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The entries of a longer container are not looked into: it is a data set.
LONG = 10_000
# Tensors in containers and helper objects beyond this are not cloned: kept outputs, caches.
MOST_BYTES = 64 * 1024 * 1024
_COPIED_ITERATORS: tuple[type, ...] = (
    type(iter([0])),
    type(iter((0,))),
    type(iter(range(1))),
    itertools.count,
    itertools.cycle,
)
GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, partial)
ARRAYS = (Tensor, np.ndarray)
VALUES = (int, float, complex, str, bytes, type(None), np.generic, torch.dtype, torch.device, torch.Size)
# Lightning, ourselves and torch's own classes move while a step is replayed.
NOT_OF_THE_STEP = {
    "torch",
    "lightning",
    "lightning_fabric",
    "pytorch_lightning",
    "torchmetrics",
    "landscape_callbacks",
}


def is_array(value: Any) -> bool:
    """Whether it can be cloned: a tensor that is no parameter and has no graph, a NumPy array that is no data set, or
    an iterator whose copies go on by themselves.
    """
    if isinstance(value, Tensor):
        return not isinstance(value, torch.nn.Parameter) and not value.requires_grad
    if isinstance(value, np.ndarray):
        return not isinstance(value, np.memmap) and value.nbytes <= MOST_BYTES
    return isinstance(value, _COPIED_ITERATORS)


def is_iterator(value: Any) -> bool:
    """Whether items that are taken from it are lost, and it is no file."""
    return isinstance(value, Iterator) and not isinstance(value, (torch.nn.Module, io.IOBase, *_COPIED_ITERATORS))


def is_writable(array: Any) -> bool:
    """Whether values can be copied into it."""
    if isinstance(array, Tensor):
        return not array.is_inference()
    return isinstance(array, np.ndarray) and array.flags.writeable


def is_data(value: Any, depth: int) -> bool:
    """Whether an object holds nothing but data, so that its attributes can be put back."""
    if isinstance(value, (*VALUES, *ARRAYS, *GENERATORS, *CODE, torch.nn.Module, Iterator)):
        return True
    if isinstance(value, (dict, list, set, frozenset, deque, tuple)):
        entries = value.values() if isinstance(value, dict) else value
        return depth == 0 or len(value) > LONG or all(is_data(entry, depth - 1) for entry in entries)
    if any(package_of(base) in NOT_OF_THE_STEP for base in type(value).__mro__):
        return False
    held = attributes_of(value)
    if not held:
        # Nothing to restore, unless it is an extension's object, whose state nobody sees.
        return hasattr(value, "__dict__")
    return depth > 0 and all(is_data(entry, depth - 1) for entry in held.values())


def attributes_of(value: Any) -> dict[str, Any]:
    """What an object holds, in its ``__dict__`` or, where it has none, in its slots."""
    held = getattr(value, "__dict__", None)
    if isinstance(held, dict):
        return dict(held)
    slots = [name for base in type(value).__mro__ for name in _names(base.__dict__.get("__slots__", ()))]
    return {name: getattr(value, name) for name in slots if hasattr(value, name)}


def package_of(kind: type) -> str:
    """The top-level package that a class is from."""
    return kind.__module__.partition(".")[0]


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def copy_of(array: Any) -> Any:
    """A copy of what :func:`is_array` holds for one."""
    if isinstance(array, Tensor):
        return array.clone()
    return array.copy() if isinstance(array, np.ndarray) else copy.copy(array)
