"""Batches that passed by in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class SeenBatch:
    """A batch that passed by in training, with its index in the epoch and its number of samples."""

    batch: Any
    index: int
    samples: int


def samples_in(batch: Any) -> int:
    """Samples in a batch: the first length of its first tensor, in tensors, mappings, lists, tuples and dataclasses;
    else 1.

    Other iterables are left alone: going through a generator would take its items away from training.
    """
    pending = [batch]
    while pending:
        entry = pending.pop()
        if isinstance(entry, Tensor):
            return int(entry.shape[0]) if entry.ndim else 1
        if isinstance(entry, Mapping):
            pending += reversed(list(entry.values()))
        elif isinstance(entry, (list, tuple)):
            pending += reversed(entry)
        elif is_dataclass(entry):
            pending += reversed([getattr(entry, part.name) for part in fields(entry)])
    return 1
