"""Counts the bytes of all tensors that are alive while a block runs, on the CPU as well."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryCounter(TorchDispatchMode):
    """Bytes of the storages that were made inside the block and are still referenced.

    Attributes:
        held: Bytes now.
        peak: Most bytes at any moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._known.add(tensor.untyped_storage()._cdata)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._take(tensor.untyped_storage())
        return result

    def _take(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


@contextmanager
def counted() -> Iterator[MemoryCounter]:
    with MemoryCounter() as counter:
        yield counter


def test() -> None:
    with counted() as counter:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second.view(10, 100)[2:4]
        del second
        assert counter.held == 4000
        del third
        assert counter.held == 0
    assert counter.peak == 8000
