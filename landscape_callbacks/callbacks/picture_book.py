"""The records of a run that its figures are drawn from, in bounded memory, and when to draw."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Any

from landscape_callbacks.records import Record, decode, encode

_COLUMNS = 128
_FIRST = 4
_SECONDS_A_FIGURE = 0.3
_SECONDS_TO_LOAD = 0.5


class PictureBook:
    """Keeps the latest records of every name, and draws at the 4th, 8th, 16th, … measurement and at the end.

    Drawing takes a quarter of a second a figure and TensorBoard keeps ten images a tag, so pictures are rare and each
    shows the whole run. When 128 records of a name are reached, every second one is dropped; the first and the latest
    stay.
    """

    def __init__(self) -> None:
        self.records: dict[str, list[Record]] = {}
        self.measurements = 0
        self._drawn = 0

    def add(self, records: Sequence[Record]) -> None:
        """Takes in the records of one measurement."""
        for record in records:
            own = self.records.setdefault(record.name, [])
            if len(own) >= _COLUMNS:
                own[1:-1] = own[2:-1:2]
            own.append(record)
        self.measurements += bool(records)

    def is_due(self) -> bool:
        """Whether this is the 4th, 8th, 16th, … measurement."""
        return (
            self.measurements > self._drawn
            and self.measurements >= _FIRST
            and self.measurements & (self.measurements - 1) == 0
        )

    def is_behind(self) -> bool:
        """Whether something was measured since the last drawing."""
        return self.measurements > self._drawn

    def drawn(self) -> None:
        """Takes down that all was drawn."""
        self._drawn = self.measurements

    def state_dict(self) -> dict[str, Any]:
        """Plain values; see :meth:`load_state_dict`."""
        lines = {name: [encode(record) for record in records] for name, records in self.records.items()}
        return {"records": lines, "measurements": self.measurements}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the pictures of a run that was interrupted."""
        self.records = {name: [decode(line) for line in lines] for name, lines in state["records"].items()}
        self.measurements = self._drawn = int(state["measurements"])


def has_matplotlib() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def can_draw(name: str, warn: Callable[[str, str], None]) -> bool:
    """Whether figures can be drawn; ``warn`` is told once by the monitor of that name when they cannot."""
    if has_matplotlib():
        return True
    warn(
        f"{name} figures",
        f"{name} draws no figures: matplotlib is not installed (pip install 'landscape-callbacks[figures]'). Set "
        "figures=False to leave them out.",
    )
    return False


def seconds_to_draw(figures: int) -> float:
    """About what figures cost to draw and to hand to the loggers; the first one of a process loads matplotlib."""
    return _SECONDS_A_FIGURE * figures + (0.0 if "matplotlib.pyplot" in sys.modules else _SECONDS_TO_LOAD)
