"""What the learning-rate controller is told, what it remembers and what it answers: plain numbers and sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

POLICIES = ("diagnose", "trend")


@dataclass(frozen=True)
class LearningRatePolicy:
    """When to change the learning rate, by how much at most, and how often.

    ``"trend"`` cuts when the loss has stopped falling or rises, by the statistical test alone. ``"diagnose"`` acts on
    what the place is: it cuts at a noise floor (only when the cut wins more than going on could), raises toward the
    stable limit at a saddle and where steps are too small, and cuts below the limit when training is unstable. Cutting
    too early is the main danger of any such rule, and at a saddle a cut makes things worse, so without evidence nothing
    happens.

    Attributes:
        policy: ``"diagnose"`` or ``"trend"``.
        factor: What a cut multiplies by, in (0, 1).
        cooldown: Steps after an action in which no other is taken (a revert excepted).
        min_lr: No group's rate is cut below this.
        max_lr: No group's rate is raised above this, now or later in its schedule. ``None``: the stable limit alone
            bounds it.
        max_actions: Most actions in a run. Reverts do not count: they are what makes an action safe.
        stable_share: Share of the largest stable rate that raises and cuts aim at; ½ is 1/λ for gradient descent.
        max_raise: Largest factor of one raise, but where steps are too small to show.
        min_raise: Raises by less than this are not worth their risk.

    Raises:
        ValueError: When a number is out of its range.
    """

    policy: str = "diagnose"
    factor: float = 0.5
    cooldown: int = 100
    min_lr: float = 0.0
    max_lr: float | None = None
    max_actions: int = 10
    stable_share: float = 0.5
    max_raise: float = 10.0
    min_raise: float = 1.25

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy has to be one of {', '.join(map(repr, POLICIES))}, got {self.policy!r}.")
        if not 0.0 < self.factor < 1.0:
            raise ValueError(f"factor is what a cut multiplies by and has to be in (0, 1), got {self.factor}.")
        if self.cooldown < 0:
            raise ValueError(f"cooldown is a number of steps and has to be at least 0, got {self.cooldown}.")
        if not (math.isfinite(self.min_lr) and self.min_lr >= 0.0):
            raise ValueError(f"min_lr has to be finite and at least 0, got {self.min_lr}.")
        if self.max_lr is not None and not self.max_lr > self.min_lr:
            raise ValueError(f"max_lr has to be above min_lr={self.min_lr}, got {self.max_lr}.")
        if self.max_actions < 0:
            raise ValueError(f"max_actions has to be at least 0, got {self.max_actions}.")
        if not 0.0 < self.stable_share < 1.0:
            raise ValueError(f"stable_share is a share of the largest stable rate, in (0, 1), got {self.stable_share}.")
        if not self.max_raise >= self.min_raise > 1.0:
            raise ValueError(
                f"Raises need max_raise >= min_raise > 1, got max_raise={self.max_raise}, min_raise={self.min_raise}."
            )


class PolicyState(NamedTuple):
    """What the controller remembers: plain numbers, so that a checkpoint can hold it."""

    scale: float = 1.0  # product of all factors so far; 1 / scale undoes them
    actions: int = 0  # cuts and raises taken
    last_step: int | None = None  # step of the last action or revert
    trial: float = 1.0  # factor of the raise that can still be reverted; 1 when there is none
    trial_loss: float = math.inf  # the loss that this raise must not end above
    ceiling: float = math.inf  # largest scale that raises may reach, after one of them had to be reverted


@dataclass(frozen=True)
class PolicyEvidence:
    """What is known at one look.

    Attributes:
        step: Optimizer step.
        trend: ``"progressing"``, ``"plateau"``, ``"undetermined"``, … of the loss series.
        learning_rates: The rate of every group now.
        peak_learning_rates: The largest rate that each group's schedule returns to; the rates now when left out.
        verdict: What the place is, if it was looked at; ``None`` otherwise.
        loss: Loss level now (mean of the latest steps, loss units). NaN or infinity is a run that blew up; ``None`` is
            not known.
        loss_noise: A rise of the loss level up to this is noise (loss units).
        largest_stable_rate: The rate at which steps stop contracting, for the largest group; ``None`` when not known,
            infinity when no positive curvature bounds it.
        decrease_bound: Upper confidence bound of the coming decrease of the loss at this rate (loss units).
        cut_gain: What cutting the rate to zero would win (loss units).
    """

    step: int
    trend: str
    learning_rates: tuple[float, ...]
    peak_learning_rates: tuple[float, ...] = ()
    verdict: str | None = None
    loss: float | None = None
    loss_noise: float = math.inf
    largest_stable_rate: float | None = None
    decrease_bound: float | None = None
    cut_gain: float | None = None


@dataclass(frozen=True)
class PolicyDecision:
    """What to do, and why.

    Attributes:
        action: ``"cut"``, ``"raise"``, ``"revert"``, ``"warn"`` or ``"hold"``.
        factor: What to multiply every learning rate by; 1 for ``"warn"`` and ``"hold"``.
        reason: A sentence.
        info: The numbers that it rests on.
    """

    action: str
    factor: float
    reason: str
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        """Whether the learning rate changes."""
        return self.factor != 1.0
