"""Batches that user code may edit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from landscape_callbacks.training.handed_batch import HandedBatch, batch_state


class Graph:
    def __init__(self) -> None:
        self.x = torch.ones(3)
        self.store = {"y": torch.zeros(2)}


MAKE: dict[str, Callable[[], Any]] = {
    "a tensor": lambda: torch.ones(3),
    "a tuple": lambda: (torch.ones(3), ["a", "b"]),
    "a dict": lambda: {"x": torch.ones(3), "more": [torch.zeros(2)]},
    "an object": Graph,
    "an array": lambda: [np.ones(3)],
}


def first(batch: Any) -> Any:
    if isinstance(batch, Graph):
        return batch.x
    if isinstance(batch, dict):
        return batch["x"]
    return batch[0] if isinstance(batch, (list, tuple)) else batch


@pytest.mark.parametrize("name", MAKE)
def test_every_call_gives_the_batch_as_it_came(name: str) -> None:
    batch = MAKE[name]()
    handed = HandedBatch(batch)
    for _ in range(3):
        given = handed.hand_out()
        assert first(given) is not first(batch)
        assert first(given).tolist() == [1.0] * 3
        first(given).__imul__(2.0)
    assert first(batch).tolist() == [1.0] * 3


def test_a_batch_that_is_not_edited_is_copied_once() -> None:
    handed = HandedBatch((torch.ones(3), "name"))
    assert handed.hand_out() is handed.hand_out()


def test_entries_that_are_replaced_added_or_dropped_are_seen() -> None:
    handed = HandedBatch({"x": torch.ones(3)})
    handed.hand_out()["x"] = torch.zeros(3)
    assert handed.hand_out()["x"].tolist() == [1.0] * 3
    handed.hand_out()["y"] = "more"
    assert list(handed.hand_out()) == ["x"]
    handed.hand_out().pop("x")
    assert list(handed.hand_out()) == ["x"]


def test_what_cannot_be_copied_is_handed_out_itself() -> None:
    generator = (n for n in range(3))
    batch = [generator]
    assert HandedBatch(batch).hand_out() is batch
    assert next(generator) == 0


def test_states() -> None:
    batch = {"x": torch.ones(2), "n": 3, "s": "s"}
    state = batch_state(batch)
    assert state == batch_state(batch)
    batch["x"].add_(1)
    assert state != batch_state(batch)
    assert batch_state([np.ones(2)]) is None
    assert batch_state(["a"] * 100, most=64) is None
    assert batch_state(["a"] * 100) is not None
    with torch.inference_mode():
        inferred = torch.ones(2)
    assert batch_state(inferred) == (id(inferred), 0)
