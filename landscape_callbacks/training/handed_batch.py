"""Batches for steps that may edit them: normalise in place, mix samples, put other tensors into a dict."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_DEPTH = 6
_FIXED = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device, torch.Size)


class HandedBatch:
    """Hands out a copy of a batch, and another one as soon as the last was edited.

    Args:
        batch: The batch; it is never handed out itself, unless it cannot be copied.
    """

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self._copy: Any = None
        self._state: tuple[Any, ...] | None = None

    def hand_out(self) -> Any:
        """The batch as it came, in every call."""
        if self._state is None or batch_state(self._copy) != self._state:
            self._copy = _copied(self._batch)
            self._state = batch_state(self._copy)
        return self._copy


def batch_state(batch: Any, most: int = 1_000_000) -> tuple[Any, ...] | None:
    """Which tensors a batch holds, where, and how often they were written to: equal as long as it was not edited.

    Args:
        batch: The batch.
        most: Most entries to look at.

    Returns:
        The state, or ``None`` when it holds more, or anything whose edits cannot be seen, such as a NumPy array. Writes
        through ``.data`` are not seen.
    """
    state: list[Any] = []
    for count, entry in enumerate(_leaves(batch, _DEPTH)):
        if count >= most:
            return None
        if isinstance(entry, Tensor):
            state += (id(entry), 0 if entry.is_inference() else entry._version)
        elif isinstance(entry, _FIXED):
            state.append(id(entry))
        else:
            return None
    return tuple(state)


def _leaves(value: Any, depth: int) -> Iterator[Any]:
    if isinstance(value, (Tensor, *_FIXED)) or depth == 0:
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield key if isinstance(key, _FIXED) else id(key)
            yield from _leaves(entry, depth - 1)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _leaves(entry, depth - 1)
    elif isinstance(held := getattr(value, "__dict__", None), dict) and held:
        yield from _leaves(held, depth - 1)
    else:
        yield value


def _copied(batch: Any) -> Any:
    try:
        return copy.deepcopy(batch)
    except Exception:
        # A tensor with a graph, a generator, an extension's object.
        return batch
