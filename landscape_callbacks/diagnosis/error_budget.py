"""How much error each look at a window may spend so that a run of any length keeps to one error rate (Bonferroni)."""

from __future__ import annotations

import math

# Σ i^(-3/2)
_ZETA_THREE_HALVES = 2.6123753486854883
_LEVELS = 200  # summed one by one; the rest is below the integral of 1/d²


class ErrorBudget:
    """The error rate of a run, shared out over window lengths and over the looks at each.

    Look i at a window length with share w may err with probability rate · w · i^(-3/2)/2.612; the shares sum to one at
    most. They are largest for lengths about ``center``, where the test has its power, and fall slowly to both sides
    (as 1/(1 + d²), d doublings away), so that a window of any length may still decide.

    Args:
        rate: Of the whole run, in (0, 1).
        shortest: Length of level 0; each level doubles it.
        center: Length with the largest share.

    Example:
        >>> budget = ErrorBudget(0.05, shortest=60, center=4000)
        >>> first, second = budget.spend(6), budget.spend(6)
        >>> round(first, 4), round(first / second, 3)
        (0.0064, 2.828)
    """

    def __init__(self, rate: float, shortest: float, center: float) -> None:
        self.rate = rate
        self._center = math.log2(center / shortest)
        self._sum = sum(self._weight(level) for level in range(_LEVELS)) + 1 / (_LEVELS - 1 - self._center)
        self.looks: list[int] = []

    def share(self, level: int) -> float:
        """Share of the error rate of all looks at one window length."""
        return self._weight(level) / self._sum

    def spend(self, level: int) -> float:
        """Counts one look at a window length and returns the probability with which it may err."""
        self.looks += [0] * (level + 1 - len(self.looks))
        self.looks[level] += 1
        return self.rate * self.share(level) * math.pow(self.looks[level], -1.5) / _ZETA_THREE_HALVES

    def _weight(self, level: int) -> float:
        return 1 / (1 + (level - self._center) ** 2)
