"""When to measure what is measured between batches: when a hook asks, and the budget allows it."""

from __future__ import annotations

from dataclasses import dataclass

from landscape_callbacks.training.cadence import Cadence


@dataclass
class RequestedCadence(Cadence):
    """A cadence that is due only while it is asked.

    Other than with :class:`Cadence` the first measurement has to fit the budget too, by an estimate of its cost,
    because what is measured between batches (planes) may cost more than all of a short run.

    Attributes:
        asked: Whether a hook asks.
    """

    asked: bool = False

    def is_due(self, step: int) -> bool:
        """Whether a hook asks. :meth:`affords` has the last word."""
        return self.asked and super().is_due(step)

    def affords(self, step: int, training_seconds: float) -> bool:
        """Whether the budget allows a measurement of the expected cost now."""
        if self.max_overhead is None:
            return True
        return self.spent + self.expected <= self.max_overhead * training_seconds

    def plan(self, step: int, training_seconds: float, seconds_per_step: float) -> None:
        """Nothing to plan: the next hook that asks decides by :meth:`affords`."""
        self.next_step = 0
