"""Fits that take turns of some steps in one process: what a callback costs by the clock, to a tenth of a percent.

Two fits one after the other differ by three percent on a machine that does nothing else, whatever the callbacks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl


class Turn(pl.Callback):
    """Lets the other fits act after every ``steps`` batches, and keeps the seconds of its own turns.

    Args:
        table: Where the fits wait for each other.
        place: Whose turn it is when this one acts.
        steps: Batches a turn.
        paused: Told how long this fit waited, so that its own clock can leave that out.
    """

    def __init__(self, table: _Table, place: int, steps: int, paused: Callable[[float], None] | None) -> None:
        self.seconds: list[float] = []
        self._table, self._place, self._steps, self._paused = table, place, steps, paused
        self._batches, self._started = 0, 0.0

    def begin(self) -> None:
        """Waits for the first turn."""
        self._table.wait(self._place)
        self._started = time.perf_counter()

    def on_train_batch_start(self, *arguments: Any) -> None:
        self._batches += 1
        if self._batches % self._steps:
            return
        ended = time.perf_counter()
        self.seconds.append(ended - self._started)
        self._table.hand_over(self._place)
        self._table.wait(self._place)
        self._started = time.perf_counter()
        if self._paused is not None:
            self._paused(self._started - ended)

    def end(self) -> None:
        """Leaves, with the last turn booked up to the end of the fit."""
        self.seconds.append(time.perf_counter() - self._started)
        self._table.leave(self._place)


class _Table:
    """Who acts: the places in a circle, less those that have left."""

    def __init__(self, places: int) -> None:
        self._present = list(range(places))
        self._acting = 0
        self._changed = threading.Condition()

    def wait(self, place: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._acting == place)

    def hand_over(self, place: int) -> None:
        with self._changed:
            self._acting = self._present[(self._present.index(place) + 1) % len(self._present)]
            self._changed.notify_all()

    def leave(self, place: int) -> None:
        with self._changed:
            self._acting = self._present[(self._present.index(place) + 1) % len(self._present)]
            self._present.remove(place)
            self._changed.notify_all()


def fits_in_turns(
    fits: dict[str, Callable[[Turn], None]],
    *,
    steps: int = 50,
    paused: dict[str, Callable[[float], None]] | None = None,
) -> dict[str, list[float]]:
    """Runs the fits, one at a time, and gives the seconds of each one's turns.

    Args:
        fits: Each trains with the callback that it is given, first in its list.
        steps: Batches a turn.
        paused: Of the fits that hold a clock of their own: told how long they waited.
    """
    table = _Table(len(fits))
    turns = {name: Turn(table, place, steps, (paused or {}).get(name)) for place, name in enumerate(fits)}
    failures: list[BaseException] = []

    def run(name: str) -> None:
        turns[name].begin()
        try:
            fits[name](turns[name])
        except BaseException as failure:
            failures.append(failure)
        finally:
            turns[name].end()

    threads = [threading.Thread(target=run, args=(name,)) for name in fits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return {name: turn.seconds for name, turn in turns.items()}
