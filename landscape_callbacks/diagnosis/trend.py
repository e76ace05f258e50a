"""The trend of a loss from its values alone: does it fall, has it reached a plateau, or can that not be told yet.

How it differs from a patience counter, and why:

1. A plateau is claimed only when the *upper* confidence bound of the decrease is below a floor. "No significant
   decrease" is not evidence of a plateau; it is what every short or noisy window shows.
2. Windows double in length (60, 120, 240, ... steps), each kept as 60 block means, so that a fast change is seen in a
   short window and a slow one in a long window, at constant cost a step.
3. Losses are correlated in time. The error of the slope comes from the slow part of the residual spectrum, which
   holds the correlation (`slope.py`); a white-noise error would not.
4. A look at a window is a test. The looks of a run of any length share one error rate (`error_budget.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from landscape_callbacks.diagnosis import student
from landscape_callbacks.diagnosis.error_budget import ErrorBudget
from landscape_callbacks.diagnosis.slope import FREQUENCIES, slope_in_white_noise, slope_of_blocks
from landscape_callbacks.diagnosis.windows import BLOCKS, DoublingWindows

_FIRST_LOSSES = 8
_EARLY_LOOKS = (16, 32)  # losses
_EARLY_CHANCE = 1e-3
_NORMAL_TAIL_AT_ONE = 0.158655
_LARGEST_LOSS = 1e100  # squares of anything larger overflow; such a loss is as good as infinite


@dataclass(frozen=True)
class Trend:
    """What the loss does now.

    Attributes:
        state: ``"progressing"`` (falls), ``"plateau"`` (falls by less than the floor), ``"rising"``, or
            ``"undetermined"``: the losses do not tell yet.
        since: Count of losses at which the window behind the state begins; ``steps`` when undetermined.
        steps: Losses seen so far, non-finite ones included.
        window: Losses in the window that decided (the longest one when undetermined; 0 before the first).
        decrease: Decrease of the loss over one horizon, loss units; negative when it rises.
        standard_error: Of ``decrease``.
        floor: Decrease over one horizon that would count as progress, loss units.
        horizon: In steps.
        noise: Standard deviation of the loss around its trend line.
        correlation_time: Integrated correlation time of that noise, in steps; 1 when it is white.
        nonfinite: Losses that were NaN or infinite so far; they are left out of everything else.
    """

    state: str
    since: int
    steps: int
    window: int
    decrease: float
    standard_error: float
    floor: float
    horizon: float
    noise: float
    correlation_time: float
    nonfinite: int

    def upper(self, confidence: float = 0.95) -> float:
        """Upper confidence bound of the decrease over one horizon, loss units."""
        return self.decrease + student.quantile(1 - confidence, FREQUENCIES) * self.standard_error

    @property
    def plateau_score(self) -> float:
        """From 0 (falls for sure) to 1 (has stopped for sure): the chance that the decrease is below the floor."""
        if math.isnan(self.standard_error):
            return 0.0
        if self.standard_error == 0:
            return float(self.decrease <= self.floor)
        return student.tail((self.decrease - self.floor) / self.standard_error, FREQUENCIES)

    def lower(self, confidence: float = 0.95) -> float:
        """Lower confidence bound of the decrease over one horizon, loss units."""
        return self.decrease - student.quantile(1 - confidence, FREQUENCIES) * self.standard_error


@dataclass(frozen=True)
class _Look:
    """The outcome of one look at one window."""

    state: str
    end: int
    window: int
    slope: float
    slope_error: float
    noise: float
    correlation_time: float


class LossTrend:
    """Follows a loss and tells its trend, with a bounded chance of a false plateau in a whole run.

    While the loss truly falls by the floor or more a horizon, a run of any length has at most ``false_alarm_rate``
    chance of being called a plateau at some point, also when the noise is correlated in time. Cost: a few
    microseconds a step.

    The floor is the largest of ``noise_floor`` standard deviations of the noise, ``drop_floor`` of the drop since the
    start and a tenth of ``drop_floor`` of the loss at the start; so nothing changes when the loss is rescaled. The
    horizon grows with the run, to ``horizon_share`` of the steps so far: late in a long run progress is slow and
    still progress. Before the first window of 60 losses is full, a loss that falls clearly is told by its line.

    Args:
        horizon: Steps over which a decrease has to be worth the wait.
        horizon_share: The horizon is at least this share of the steps so far.
        noise_floor: Smallest decrease a horizon that counts, in standard deviations of the loss around its trend.
        drop_floor: The same, as a share of the drop since the start.
        false_alarm_rate: For a whole run.

    Raises:
        ValueError: When a number is out of its range.

    Example:
        >>> trend = LossTrend()
        >>> trend.update_many([1.0 / (1 + step / 20) for step in range(300)])
        'progressing'
        >>> trend.update_many([0.06] * 200)
        'plateau'
        >>> trend.report().since >= 240
        True
    """

    def __init__(
        self,
        *,
        horizon: float = 1000,
        horizon_share: float = 0.1,
        noise_floor: float = 0.3,
        drop_floor: float = 0.01,
        false_alarm_rate: float = 0.05,
    ) -> None:
        if not (horizon > 0 and horizon_share >= 0):
            raise ValueError(f"horizon has to be above 0 and horizon_share at least 0, got {horizon}, {horizon_share}.")
        if not (noise_floor > 0 and drop_floor >= 0):
            raise ValueError(
                f"noise_floor has to be above 0 and drop_floor at least 0, got {noise_floor}, {drop_floor}."
            )
        if not 0 < false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate has to be inside (0, 1), got {false_alarm_rate}.")
        self.horizon = float(horizon)
        self.horizon_share = float(horizon_share)
        self.noise_floor = float(noise_floor)
        self.drop_floor = float(drop_floor)
        self.false_alarm_rate = float(false_alarm_rate)
        self._steps = 0
        self._nonfinite = 0
        self._first: list[float] = []
        self._lowest = math.inf
        self._windows = DoublingWindows()
        self._budget = ErrorBudget(self.false_alarm_rate, shortest=BLOCKS, center=4 * self.horizon)
        # One entry a window length: the last look at it.
        self._looks: list[_Look | None] = []
        self._opening: list[float] = []
        self._early: _Look | None = None
        self._decided = -1
        self._state = "undetermined"
        self._since = 0

    def update(self, loss: float) -> str:
        """Takes one loss and returns the state."""
        return self.update_many((loss,))

    def update_many(self, losses: Iterable[float]) -> str:
        """Takes the losses of consecutive steps, such as a block copied from the device, and returns the state.

        The result is the same as from one :meth:`update` each.
        """
        for loss in losses:
            value = float(loss)
            self._steps += 1
            if not abs(value) < _LARGEST_LOSS:  # NaN is not
                self._nonfinite += 1
                continue
            if len(self._first) < _FIRST_LOSSES:
                self._first.append(value)
            if len(self._opening) < _EARLY_LOOKS[-1]:
                self._opening.append(value)
                if len(self._opening) in _EARLY_LOOKS:
                    self._look_early()
            for level in self._windows.push(value):
                self._look(level)
        return self.state

    @property
    def state(self) -> str:
        """``"progressing"``, ``"plateau"``, ``"rising"`` or ``"undetermined"``."""
        return self._state

    def report(self) -> Trend:
        """The state with the figures that it rests on."""
        known = [look for look in self._looks if look is not None]
        look = self._looks[self._decided] if self._decided >= 0 else (known[-1] if known else self._early)
        if look is None:
            look = _Look("undetermined", self._steps, 0, math.nan, math.nan, math.nan, math.nan)
        horizon = self._current_horizon()
        return Trend(
            state=self.state,
            since=self._since if self._decided >= 0 or look is self._early else self._steps,
            steps=self._steps,
            window=look.window,
            decrease=-look.slope * horizon,
            standard_error=look.slope_error * horizon,
            floor=self._floor(look.noise),
            horizon=horizon,
            noise=look.noise,
            correlation_time=look.correlation_time,
            nonfinite=self._nonfinite,
        )

    def restart(self) -> None:
        """Forgets the windows, as after a change of the learning rate; the drop and the looks spent so far stay."""
        self._windows.clear()
        self._opening, self._early = [], None
        self._looks = [None for _ in self._looks]
        self._decided = -1
        self._state = "undetermined"

    def state_dict(self) -> dict[str, Any]:
        """Everything that was learned from the losses, in plain values."""
        return {
            "steps": self._steps,
            "nonfinite": self._nonfinite,
            "first": list(self._first),
            "lowest": self._lowest,
            "windows": self._windows.state_dict(),
            "spent": list(self._budget.looks),
            "looks": [None if look is None else list(vars(look).values()) for look in self._looks],
            "opening": list(self._opening),
            "early": None if self._early is None else list(vars(self._early).values()),
            "decided": self._decided,
            "state": self._state,
            "since": self._since,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state_dict`."""
        self._steps = int(state["steps"])
        self._nonfinite = int(state["nonfinite"])
        self._first = [float(loss) for loss in state["first"]]
        self._lowest = float(state["lowest"])
        self._windows.load_state_dict(state["windows"])
        self._budget.looks = [int(count) for count in state["spent"]]
        self._looks = [None if look is None else _Look(*look) for look in state["looks"]]
        self._opening = [float(loss) for loss in state["opening"]]
        self._early = None if state["early"] is None else _Look(*state["early"])
        self._decided = int(state["decided"])
        self._state = str(state["state"])
        self._since = int(state["since"])

    def _look_early(self) -> None:
        """Before the first window is full: whether the losses so far fall for sure, their noise taken as white."""
        count, line = len(self._opening), slope_in_white_noise(self._opening)
        matters = -line.value > self._floor(line.noise) / self._current_horizon()
        falls = matters and (line.error == 0 or student.tail(-line.value / line.error, count - 2) < _EARLY_CHANCE)
        self._state = "progressing" if falls else "undetermined"
        self._since = self._steps - count
        self._early = _Look(self._state, self._steps, count, *line) if falls else None

    def _look(self, level: int) -> None:
        """Tests the window of one length, and lets the shortest window that is sure decide."""
        block = 2**level
        window = BLOCKS * block
        means, squares = self._windows.means[level], self._windows.squares[level]
        slope, slope_error, noise, correlation_time = slope_of_blocks(means, squares, block)
        # The lowest level so far, of means over eight losses at least, so that noise does not pass for a drop.
        merge = max(_FIRST_LOSSES // block, 1)
        groups = [means[i : i + merge] for i in range(len(means) % merge, len(means), merge)]
        self._lowest = min(self._lowest, min(math.fsum(group) / merge for group in groups))
        self._looks += [None] * (level + 1 - len(self._looks))
        allowed = self._budget.spend(level)
        floor = self._floor(noise) / self._current_horizon()
        if _surely_below(slope, slope_error, 0.0, allowed) and not _surely_below(-slope, slope_error, floor, allowed):
            state = "progressing"
        elif _surely_below(-slope, slope_error, 0.0, allowed):
            state = "rising"
        elif _surely_below(-slope, slope_error, floor, allowed) or slope == slope_error == 0:
            state = "plateau"
        else:
            state = "undetermined"
        self._looks[level] = _Look(state, self._steps, window, slope, slope_error, noise, correlation_time)
        if state in ("progressing", "rising"):
            # Longer windows were looked at before this change; what they said about a plateau has to be seen anew.
            for longer in range(level + 1, len(self._looks)):
                look = self._looks[longer]
                if look is not None and look.state == "plateau":
                    self._looks[longer] = None
        self._decide()

    def _decide(self) -> None:
        before, self._state, self._decided = self._state, "undetermined", -1
        for level, look in enumerate(self._looks):
            if look is not None and look.state != "undetermined":
                start = max(look.end - look.window, 0)
                self._since = min(self._since, start) if look.state == before else start
                self._state, self._decided = look.state, level
                return

    def _current_horizon(self) -> float:
        return max(self.horizon, self.horizon_share * self._steps)

    def _floor(self, noise: float) -> float:
        if not self._first:
            return math.nan
        start = sum(self._first) / len(self._first)
        drop = max(start - self._lowest, 0.0) if math.isfinite(self._lowest) else 0.0
        floor = max(self.drop_floor * drop, 0.1 * self.drop_floor * abs(start))
        return floor if math.isnan(noise) else max(floor, self.noise_floor * noise)


def _surely_below(value: float, error: float, bound: float, allowed: float) -> bool:
    """Whether a value with this standard error is below a bound, at this chance of being wrong."""
    if error == 0:
        return value < bound
    t = (bound - value) / error
    # The tail beyond 1 is at least that of a normal distribution; most looks end here, cheaply.
    return not (t < 1.0 and allowed <= _NORMAL_TAIL_AT_ONE) and student.tail(t, FREQUENCIES) < allowed
