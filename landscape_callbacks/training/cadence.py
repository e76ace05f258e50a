"""When to measure: every n steps, and never more than a share of the training time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

FIRST_STEP = 1
_FORGETTING = 0.5


@dataclass
class Cadence:
    """Decides at which steps a monitor measures.

    The first measurement comes at step 1 whatever it costs, so that a short run shows something and the cost becomes
    known. From then on measurements fall on multiples of ``every_n_steps``, and with a budget only where the time spent
    so far plus the expected cost of the next measurement is at most ``max_overhead`` of the training time. So the
    overhead of a run is within the budget from the step on at which the first measurement is paid back: its cost
    divided by ``max_overhead``.

    The next step is fixed when a measurement ends. All ranks then agree on it, and no step in between needs a word
    between ranks.

    Args:
        every_n_steps: Smallest distance of two measurements (optimizer steps).
        max_overhead: Share of the training time that measurements may take; ``None``: no budget, measure exactly every
            n steps.

    Attributes:
        next_step: Step of the next measurement.
        spent: Seconds spent on measurements.
        expected: Seconds that the next measurement is expected to take.
        measurements: Measurements so far.
        last_step: Step of the last one; ``None`` before the first.
    """

    every_n_steps: int
    max_overhead: float | None
    next_step: int = field(default=FIRST_STEP)
    spent: float = 0.0
    expected: float = 0.0
    measurements: int = 0
    last_step: int | None = None

    def __post_init__(self) -> None:
        if self.max_overhead is None:
            self.next_step = 0

    def start_over(self) -> None:
        """Forgets a run, as before a fit by another trainer."""
        for entry in fields(self):
            if entry.name in self.state_dict():
                setattr(self, entry.name, entry.default)
        self.__post_init__()

    @property
    def earliest(self) -> int:
        """First step at which :meth:`is_due` can be true, if nothing is asked for before."""
        return self.next_step

    def is_due(self, step: int) -> bool:
        """Whether the step has come. At a due step :meth:`affords` has the last word."""
        return step >= self.next_step

    def affords(self, step: int, training_seconds: float) -> bool:
        """Whether the budget allows a measurement now.

        Args:
            step: The step at hand.
            training_seconds: Time of the run so far without measurements.
        """
        if self.max_overhead is None or self.spent == 0.0:
            return True
        return self.spent + self.expected <= self.max_overhead * training_seconds

    def measured(self, step: int, seconds: float, rare: float = 0.0) -> None:
        """Takes down the cost of a measurement at ``step``. Call :meth:`plan` next.

        Args:
            step: The step at hand.
            seconds: What it took.
            rare: The part of it that the next one will hardly take again, such as drawing figures.
        """
        self.spent += seconds
        self.measurements += 1
        self.last_step = step
        again = seconds - rare
        self.expected = again if self.expected == 0.0 else max(again, _FORGETTING * (self.expected + again))

    def plan(self, step: int, training_seconds: float, seconds_per_step: float) -> None:
        """Fixes the next step from what was spent and from how fast training goes.

        Args:
            step: The step at hand.
            training_seconds: Time of the run so far without measurements.
            seconds_per_step: Training time of one step without measurements.
        """
        wait = 1
        if self.max_overhead is not None and seconds_per_step > 0.0:
            shortfall = (self.spent + self.expected) / self.max_overhead - training_seconds
            wait = max(1, math.ceil(shortfall / seconds_per_step))
        self.next_step = self.every_n_steps * math.ceil((step + wait) / self.every_n_steps)

    def state_dict(self) -> dict[str, Any]:
        """Plain values; see :meth:`load_state_dict`."""
        return {
            "next_step": self.next_step,
            "spent": self.spent,
            "expected": self.expected,
            "measurements": self.measurements,
            "last_step": self.last_step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the cadence of a run that was interrupted."""
        for name in self.state_dict():
            setattr(self, name, state.get(name, getattr(self, name)))


class Clock:
    """The time of a run, with the time of measurements taken out."""

    def __init__(self, now: float, training_seconds: float = 0.0, steps: int = 0) -> None:
        self._started = now
        self._carried = training_seconds
        self._measuring = 0.0
        self.steps = steps

    def paused(self, seconds: float) -> None:
        """Takes out time that a measurement took."""
        self._measuring += seconds

    def training_seconds(self, now: float) -> float:
        """Time of the run so far without measurements."""
        return max(0.0, self._carried + now - self._started - self._measuring)

    def seconds_per_step(self, now: float) -> float:
        """Mean training time of one step so far."""
        return self.training_seconds(now) / max(1, self.steps)
