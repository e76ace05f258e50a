"""Rows of the support table: what comes in and what ``training_step`` gives back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, IterableDataset

from tests.setups.harness import Case, Setup, check, check_values, classification


def pairs(count: int = 24) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    return [(row, row[:3].argmax()) for row in x]


class Stream(IterableDataset):
    """Samples without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from pairs(16)


@dataclass
class Labelled:
    inputs: Tensor
    labels: Tensor


class FromDict(Setup):
    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch["inputs"]), batch["labels"])


class FromDataclass(Setup):
    def loss(self, batch: Labelled) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch.inputs), batch.labels)


class FromNested(Setup):
    """A tuple of a dict and a list, with text in it."""

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]["inputs"]), batch[1][0])


class Ragged(Setup):
    """Sequences of different lengths, as a list."""

    def __init__(self) -> None:
        super().__init__(nn.GRU(2, 3))
        self.head = nn.Linear(3, 3)

    def loss(self, batch: Any) -> Tensor:
        _, last = self.net(pack_sequence(batch[0], enforce_sorted=False))
        return nn.functional.cross_entropy(self.head(last[0]), batch[1])


class Combined(Setup):
    """Batches of two loaders; the second may have run out."""

    def loss(self, batch: Any) -> Tensor:
        parts = [part for part in batch.values() if part is not None]
        return torch.stack([nn.functional.cross_entropy(self.net(x), y) for x, y in parts]).mean()


class ReturnsDict(Setup):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "more": "of anything"}


class SkipsSome(Setup):
    """A step that returns None skips its batch: nothing is measured there, and that is no failure."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


class WithoutIndex(Setup):
    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        return self.loss(batch)


def as_dict(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {"inputs": torch.stack([x for x, _ in samples]), "labels": torch.stack([y for _, y in samples])}


def as_dataclass(samples: list[tuple[Tensor, Tensor]]) -> Labelled:
    return Labelled(**as_dict(samples))


def as_nested(samples: list[tuple[Tensor, Tensor]]) -> tuple[Any, Any]:
    batch = as_dict(samples)
    return {"name": ["text"] * len(samples), "inputs": batch["inputs"]}, [batch["labels"], None]


def as_ragged(samples: list[tuple[Tensor, Tensor]]) -> tuple[Any, Any]:
    return [x.view(2, 2)[: 1 + i % 2] for i, (x, _) in enumerate(samples)], torch.stack([y for _, y in samples])


def loader(collate: Any) -> DataLoader:
    return DataLoader(pairs(), batch_size=8, collate_fn=collate)


def combined(mode: str) -> CombinedLoader:
    return CombinedLoader({"long": classification(24), "short": classification(8, batch_size=4)}, mode)


def over_all(module: Any, batches: Any) -> Tensor:
    """The mean loss over batches of equal size."""
    return torch.stack([module.loss(batch) for batch in batches]).mean()


CASES = {
    "iterable data set": Case(data=lambda: DataLoader(Stream(), batch_size=8)),
    "dict": Case(FromDict, lambda: loader(as_dict)),
    "dataclass": Case(FromDataclass, lambda: loader(as_dataclass)),
    "nested tuple": Case(FromNested, lambda: loader(as_nested)),
    "ragged": Case(Ragged, lambda: loader(as_ragged)),
    "combined loader, cycling": Case(Combined, lambda: combined("max_size_cycle")),
    "combined loader, to the longest": Case(Combined, lambda: combined("max_size")),
    "several batches": Case(monitor={"batches": 2}, reference=over_all),
    "step returns a dict": Case(ReturnsDict),
    "step returns None": Case(SkipsSome),
    "step without batch_idx": Case(WithoutIndex),
}


@pytest.mark.parametrize("name", CASES)
def test_batches(name: str) -> None:
    case = CASES[name]
    watched = check(case)
    seen = watched.recorder.seen
    if name == "step returns None":
        # Nothing is measured on the second batch of each epoch, and that is no failure.
        del seen[1], seen[4]
    if name == "several batches":
        last = {step: [seen[max(step - 1, 0)][1], seen[step][1]] for step in seen}
        seen.update({step: (state, last[step]) for step, (state, _) in seen.items()})
    check_values(case, watched)
