"""Windows of doubling length over a series, at constant memory and constant cost a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BLOCKS = 60
_LOOKS_PER_WINDOW = 4


class DoublingWindows:
    """The last 60, 120, 240, … values of a series, each window kept as 60 block means.

    Level l has blocks of 2**l values. Two blocks of a level make one of the next, so a value costs two merges
    on average.

    Attributes:
        means: One list a level: the means of its last blocks, oldest first.
        squares: The sums of squares about those means.

    Example:
        >>> windows = DoublingWindows()
        >>> [windows.push(float(value)) for value in range(120)][-1]
        [0, 1]
        >>> windows.means[1][-1], windows.squares[1][-1]
        (118.5, 0.5)
    """

    def __init__(self) -> None:
        self.means: list[list[float]] = []
        self.squares: list[list[float]] = []
        self._counts: list[int] = []

    def push(self, value: float) -> list[int]:
        """Adds a value; returns the levels whose window is full and has moved by a quarter since it was last named."""
        due: list[int] = []
        level, mean, squares = 0, value, 0.0
        while True:
            if level == len(self.means):
                self.means.append([])
                self.squares.append([])
                self._counts.append(0)
            means, within = self.means[level], self.squares[level]
            means.append(mean)
            within.append(squares)
            self._counts[level] += 1
            if len(means) > BLOCKS:
                del means[0], within[0]
            if len(means) == BLOCKS and self._counts[level] % (BLOCKS // _LOOKS_PER_WINDOW) == 0:
                due.append(level)
            if self._counts[level] % 2:
                return due
            squares = within[-2] + within[-1] + 2**level * 0.5 * (means[-2] - means[-1]) ** 2
            mean = 0.5 * (means[-2] + means[-1])
            level += 1

    def clear(self) -> None:
        """Forgets all values."""
        self.means, self.squares, self._counts = [], [], []

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "means": [list(means) for means in self.means],
            "squares": [list(squares) for squares in self.squares],
            "counts": list(self._counts),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state_dict`."""
        self.means = [[float(mean) for mean in means] for means in state["means"]]
        self.squares = [[float(square) for square in squares] for squares in state["squares"]]
        self._counts = [int(count) for count in state["counts"]]
