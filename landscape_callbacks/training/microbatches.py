"""Splitting a batch along its samples, where it can be split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


class NotSplittableError(RuntimeError):
    """The loss of a batch is not the mean of the losses of its parts."""


def split_batch(batch: Any, samples: int, parts: int) -> list[tuple[Any, int]] | None:
    """The batch in pieces, each with its number of samples; ``None`` when it cannot be split.

    Split are tensors whose first length is ``samples``, and lists of that length, in mappings, lists, tuples and
    dataclasses. Everything else goes into each piece as it is.

    Example:
        >>> import torch
        >>> split_batch({"x": torch.arange(3), "name": "a"}, samples=3, parts=2)
        [({'x': tensor([0, 1]), 'name': 'a'}, 2), ({'x': tensor([2]), 'name': 'a'}, 1)]
    """
    if samples < parts or not _has_samples(batch, samples):
        return None
    edges = [round(samples * part / parts) for part in range(parts + 1)]
    return [(_piece(batch, samples, a, b), b - a) for a, b in pairwise(edges)]


def couples_samples(module: torch.nn.Module, eval_mode: bool) -> bool:
    """Whether the module's loss at a sample depends on the others: batch norm with the statistics of the batch."""
    return any(
        isinstance(part, torch.nn.modules.batchnorm._BatchNorm)
        and ((part.training and not eval_mode) or part.running_mean is None)
        for part in module.modules()
    )


def _has_samples(batch: Any, samples: int) -> bool:
    if isinstance(batch, Tensor):
        return batch.ndim > 0 and batch.shape[0] == samples
    if isinstance(batch, Mapping):
        return any(_has_samples(value, samples) for value in batch.values())
    if isinstance(batch, (list, tuple)):
        return any(_has_samples(value, samples) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        return any(_has_samples(getattr(batch, part.name), samples) for part in fields(batch))
    return False


def _piece(batch: Any, samples: int, a: int, b: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[a:b] if batch.ndim and batch.shape[0] == samples else batch
    if isinstance(batch, Mapping):
        return {key: _piece(value, samples, a, b) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_piece(value, samples, a, b) for value in batch))
    if isinstance(batch, (list, tuple)):
        if len(batch) == samples and not _has_samples(batch, samples):
            return batch[a:b]
        return type(batch)(_piece(value, samples, a, b) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        changed = {part.name: _piece(getattr(batch, part.name), samples, a, b) for part in fields(batch) if part.init}
        return replace(batch, **changed)
    return batch
