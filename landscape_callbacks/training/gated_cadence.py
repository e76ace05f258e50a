"""When to take an expensive look: when something asks for it, and otherwise ever more rarely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from landscape_callbacks.training.cadence import Cadence

_LONGEST_WAIT = 32


@dataclass
class GatedCadence(Cadence):
    """A cadence whose measurements are asked for, and come by themselves ever more rarely.

    Unasked, measurements come ``every_n_steps`` after the start, then after twice that, four times, … (at most 32
    times): what did not need attention so far is looked at less. :meth:`request` asks for the next one,
    ``every_n_steps`` after the last or at once. After :meth:`reset`, as after an action, the waits begin anew.

    Attributes:
        waits: Multiple of ``every_n_steps`` to the next measurement that nobody asks for.
        requested: Whether one was asked for.
        last_step: Step of the last measurement or reset.
        unasked_from: First step at which a measurement that nobody asks for may come.
        estimate: What the first measurement will cost, in training steps, as far as known beforehand.
        first_is_free: Whether the first one that is asked for comes whatever it costs; else it has to fit the budget
            too.
    """

    waits: int = 1
    requested: bool = False
    last_step: int = 0
    unasked_from: int = 0
    estimate: float = 0.0
    first_is_free: bool = True

    def __post_init__(self) -> None:
        self.next_step = 0

    def request(self, *, at_once: bool = False) -> None:
        """Asks for a measurement."""
        self.requested = True
        if self.spent == 0.0 and self.first_is_free:
            self.next_step = 0
        if at_once:
            self.last_step -= self.every_n_steps

    def reset(self, step: int) -> None:
        """Begins the waits anew at ``step``."""
        self.waits, self.requested, self.last_step = 1, False, step

    @property
    def earliest(self) -> int:
        """First step at which a measurement was asked for, or waited for, long enough."""
        wait = self.every_n_steps * (1 if self.requested else self.waits)
        return max(self.next_step, self.last_step + wait, 0 if self.requested else self.unasked_from)

    def is_due(self, step: int) -> bool:
        """Whether that step has come. :meth:`affords` has the last word."""
        return step >= self.earliest

    def affords(self, step: int, training_seconds: float) -> bool:
        """Whether the budget allows a measurement now."""
        if self.max_overhead is not None and self.spent == 0.0 and not (self.requested and self.first_is_free):
            return self.estimate <= self.max_overhead * step
        return super().affords(step, training_seconds)

    def measured(self, step: int, seconds: float, rare: float = 0.0) -> None:
        """Takes down the cost of a measurement at ``step``."""
        super().measured(step, seconds, rare)
        self.waits = min(2 * self.waits, _LONGEST_WAIT)
        self.requested, self.last_step = False, step

    def plan(self, step: int, training_seconds: float, seconds_per_step: float) -> None:
        """Fixes the first step that the budget allows, at no particular multiple."""
        unrounded = Cadence(1, self.max_overhead, spent=self.spent, expected=self.expected)
        unrounded.plan(step, training_seconds, seconds_per_step)
        self.next_step = unrounded.next_step
        if self.max_overhead is not None and self.spent == 0.0:
            self.next_step = max(self.next_step, math.ceil(self.estimate / self.max_overhead))

    def state_dict(self) -> dict[str, Any]:
        """Plain values; see :meth:`load_state_dict`."""
        return {
            **super().state_dict(),
            "waits": self.waits,
            "requested": self.requested,
            "last_step": self.last_step,
            "unasked_from": self.unasked_from,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the cadence of a run that was interrupted."""
        super().load_state_dict(state)
        self.waits, self.requested = state["waits"], state["requested"]
        self.last_step, self.unasked_from = state["last_step"], state["unasked_from"]
