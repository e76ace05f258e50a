"""Times of contenders that take turns, so that a machine whose speed drifts slows all of them alike."""

from __future__ import annotations

from collections.abc import Callable


def in_turns(
    contenders: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each contender by ``clock``; in every round each runs once, after one run that is not counted."""
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    return seconds
