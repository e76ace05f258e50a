"""The training loss as a monitor follows it: its trend, its level and noise, and whether it blows up."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from landscape_callbacks.diagnosis.slope import slope_in_white_noise
from landscape_callbacks.diagnosis.trend import LossTrend
from landscape_callbacks.training.loss_history import LossHistory

BLOCK = 16  # losses that are brought over at once
LONGEST_WAIT = 64  # losses that wait at most until the trend is told of them
CAREFUL_STEPS = 64  # after a start or a change of the learning rate every loss is looked at: it can blow up in a few
_SUDDEN = 4  # losses in the level while that is so
_LEAST_LOSSES = 12  # before they tell the noise
_WAITING_SHARE = 8  # no more losses wait than one in so many since the last restart
_NOISES = 4.0  # standard deviations of the loss of a step by which a level is above another beyond noise


class LossWatch:
    """Takes the loss of every step and says how it goes.

    Whether it blows up is looked at in every block of 16 losses. The trend moves slowly, and working on it costs more
    than the few lines say, since what it reads has left the caches: it is told of several blocks at a time.

    Args:
        horizon: Of the trend, in losses.

    Attributes:
        trend: The trend so far.
        initial: The first loss; NaN before it.
        lowest_ever: The lowest loss of any step so far, the noise of a single batch included; NaN before it.
        level: Mean of the latest losses: 16 of them, 4 soon after a restart, the latest at the very start.
        noise: How far the level can be above another by noise alone (loss units); infinity before it is known.
        blew_up: Whether the level is no number, or above the lowest one since the last restart by more than noise.
    """

    def __init__(self, horizon: float) -> None:
        self.trend = LossTrend(horizon=horizon)
        self.initial = math.nan
        self.lowest_ever = math.nan
        self.level = math.nan
        self.noise = math.inf
        self.blew_up = False
        self._history = LossHistory(block=1)
        self._untold: list[float] = []
        self._since_restart = 0
        self._lowest = math.inf
        self._latest: list[float] = []
        self._calm: list[float] = []

    def add(self, loss: Tensor, *, steps: bool) -> None:
        """Takes the loss of a batch; see :meth:`LossHistory.add`."""
        self._history.add(loss, steps=steps)

    def is_full(self) -> bool:
        """Whether a block is complete, so that :meth:`update` has something to do."""
        return self._history.is_full()

    def update(self, trainer: Any = None) -> bool:
        """Brings over a complete block, if there is one; says whether there is anything new to act on: the trend was
        told of it, or the loss blew up.
        """
        if not self._history.is_full():
            return False
        losses = self._history.take(trainer)
        self._untold += losses
        if math.isnan(self.initial):
            self.initial = losses[0]
        self.lowest_ever = min((loss for loss in [*losses, self.lowest_ever] if not math.isnan(loss)), default=math.nan)
        careful = self._since_restart < CAREFUL_STEPS
        self._since_restart += len(losses)
        self._history.block = 1 if self._since_restart < CAREFUL_STEPS else BLOCK
        self._latest = (self._latest + losses)[-BLOCK:]
        known = math.isfinite(self.noise)
        considered = self._latest[-_SUDDEN if known else -1 :] if careful else self._latest
        self.level = math.fsum(considered) / len(considered)
        # Before the noise is known: a loss twice as large as all before is no noise.
        bound = self._lowest + self.noise if known else 2.0 * max(map(abs, self._calm), default=math.inf)
        self.blew_up = not self.level <= bound
        if not self.blew_up:
            self._calm = (self._calm + losses)[-CAREFUL_STEPS:]
            self._lowest = min(self._lowest, math.fsum(self._latest) / len(self._latest))
            if not careful and len(self._untold) < min(LONGEST_WAIT, self._since_restart // _WAITING_SHARE):
                return False
        self.trend.update_many(self._untold)
        self._untold = []
        if not self.blew_up:
            self.noise = self._measured_noise()
        return True

    def _measured_noise(self) -> float:
        if len(self._calm) < _LEAST_LOSSES:
            return math.inf
        report = self.trend.report()
        around = report.noise if math.isfinite(report.noise) else 0.0
        floor = report.floor if math.isfinite(report.floor) else 0.0
        return _NOISES * max(slope_in_white_noise(self._calm).noise, around) + floor

    def restart(self) -> None:
        """Forgets what belongs to the learning rate so far, as after a change of it."""
        self.trend.restart()
        self._history.clear()
        self._untold = []
        self._history.block = 1
        self._since_restart = 0
        self.settle()

    def settle(self) -> None:
        """Takes the level now as the one to compare with, as after a look at why it rose."""
        self.blew_up = False
        if math.isfinite(self.level):
            self._lowest = self.level
            self._calm = (self._calm + [loss for loss in self._latest if math.isfinite(loss)])[-CAREFUL_STEPS:]

    def state_dict(self) -> dict[str, Any]:
        """Plain values; see :meth:`load_state_dict`."""
        return {
            "trend": self.trend.state_dict(),
            "initial": self.initial,
            "lowest_ever": self.lowest_ever,
            "level": self.level,
            "noise": self.noise,
            "blew_up": self.blew_up,
            "waiting": self._history.state_dict(),
            "block": self._history.block,
            "untold": list(self._untold),
            "since_restart": self._since_restart,
            "lowest": self._lowest,
            "latest": list(self._latest),
            "calm": list(self._calm),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues an interrupted run."""
        self.trend.load_state_dict(state["trend"])
        self.initial, self.level = state["initial"], state["level"]
        self.lowest_ever = state.get("lowest_ever", math.nan)  # not in checkpoints of before it was kept
        self.noise, self.blew_up = state["noise"], state["blew_up"]
        self._history.load_state_dict(state["waiting"])
        self._history.block = state["block"]
        self._untold = list(state["untold"])
        self._since_restart, self._lowest = state["since_restart"], state["lowest"]
        self._latest, self._calm = list(state["latest"]), list(state["calm"])
