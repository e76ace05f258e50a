"""The training loss as a monitor follows it: its trend, its level and noise, and whether it blows up."""

from __future__ import annotations

import math
import statistics
from typing import Any

from torch import Tensor

from landscape_callbacks.diagnosis.trend import LossTrend
from landscape_callbacks.training.loss_history import LossHistory

BLOCK = 16  # losses that are brought over at once
CAREFUL_STEPS = 64  # after a start or a change of the learning rate every loss is looked at: it can blow up in a few
_SUDDEN = 4  # losses in the level while that is so
_LEAST_DIFFERENCES = 12  # before they tell the noise
_NOISES = 4.0  # standard deviations of the loss of a step by which a level is above another beyond noise


class LossWatch:
    """Takes the loss of every step and says how it goes, a block at a time.

    Args:
        horizon: Of the trend, in losses.

    Attributes:
        trend: The trend so far.
        initial: The first loss; NaN before it.
        level: Mean of the latest losses: 16 of them, 4 soon after a restart, the latest at the very start.
    """

    def __init__(self, horizon: float) -> None:
        self.trend = LossTrend(horizon=horizon)
        self.initial = math.nan
        self.level = math.nan
        self._history = LossHistory(block=1)
        self._since_restart = 0
        self._lowest = math.inf
        self._highest = 0.0
        self._latest: list[float] = []
        self._differences: list[float] = []

    def add(self, loss: Tensor, *, steps: bool) -> None:
        """Takes the loss of a batch; see :meth:`LossHistory.add`."""
        self._history.add(loss, steps=steps)

    def update(self, trainer: Any = None) -> bool:
        """Brings over a complete block, if there is one; says whether there was."""
        if not self._history.is_full():
            return False
        losses = self._history.take(trainer)
        self.trend.update_many(losses)
        if math.isnan(self.initial):
            self.initial = losses[0]
        careful = self._since_restart < CAREFUL_STEPS
        self._since_restart += len(losses)
        self._history.block = 1 if self._since_restart < CAREFUL_STEPS else BLOCK
        before, self._latest = self._latest[-1:], (self._latest + losses)[-BLOCK:]
        knows_noise = len(self._differences) >= _LEAST_DIFFERENCES
        considered = self._latest[-_SUDDEN if knows_noise else -1 :] if careful else self._latest
        self.level = math.fsum(considered) / len(considered)
        if not self.blew_up:
            steps = zip([*before, *losses], losses if before else losses[1:], strict=False)
            self._differences = (self._differences + [later - earlier for earlier, later in steps])[-CAREFUL_STEPS:]
            self._highest = max(self._highest, *map(abs, losses))
            self._lowest = min(self._lowest, math.fsum(self._latest) / len(self._latest))
        return True

    @property
    def noise(self) -> float:
        """How far the level can be above another by noise alone (loss units)."""
        # The spread of differences does not see a trend; for white noise it is √2 times that of the loss.
        apart = statistics.pstdev(self._differences) / math.sqrt(2.0) if self._differences else 0.0
        report = self.trend.report()
        around = report.noise if math.isfinite(report.noise) else 0.0
        floor = report.floor if math.isfinite(report.floor) else 0.0
        return _NOISES * max(apart, around) + floor

    @property
    def blew_up(self) -> bool:
        """Whether the level is no number, or above the lowest one since the last restart by more than noise."""
        if not self._latest:
            return False
        if len(self._differences) < _LEAST_DIFFERENCES:
            # The noise is not known yet; a loss twice as high as all before is no noise.
            return not self.level <= (2.0 * self._highest or math.inf)
        return not self.level <= self._lowest + self.noise

    def restart(self) -> None:
        """Forgets what belongs to the learning rate so far, as after a change of it."""
        self.trend.restart()
        self._history.clear()
        self._history.block = 1
        self._since_restart = 0
        self.settle()

    def settle(self) -> None:
        """Takes the level now as the one to compare with, as after a look at why it rose."""
        if math.isfinite(self.level):
            self._lowest, self._highest = self.level, max(self._highest, abs(self.level))

    def state_dict(self) -> dict[str, Any]:
        """Plain values; see :meth:`load_state_dict`."""
        return {
            "trend": self.trend.state_dict(),
            "initial": self.initial,
            "level": self.level,
            "waiting": self._history.state_dict(),
            "block": self._history.block,
            "since_restart": self._since_restart,
            "lowest": self._lowest,
            "highest": self._highest,
            "latest": list(self._latest),
            "differences": list(self._differences),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues an interrupted run."""
        self.trend.load_state_dict(state["trend"])
        self.initial, self.level = state["initial"], state["level"]
        self._history.load_state_dict(state["waiting"])
        self._history.block = state["block"]
        self._since_restart = state["since_restart"]
        self._lowest, self._highest = state["lowest"], state["highest"]
        self._latest, self._differences = list(state["latest"]), list(state["differences"])
