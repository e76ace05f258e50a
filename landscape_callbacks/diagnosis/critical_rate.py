"""The critical learning rate along an update: where one step begins to raise the loss, by a line search."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class CriticalLearningRate:
    """Where the loss along one update stops being lower than at its start.

    Attributes:
        value: The learning rate at which the loss is back at its start. Extrapolated while the bracket is open on one
            side: infinity when the loss fell at every rate tried and points nowhere, 0 when it rose at every one.
        lower: Largest rate tried at which the loss was lower than at the start (0 if none).
        upper: Smallest rate tried above it at which it was not (infinity if none).
        forwards: Evaluations of the loss, the one at the start included.
    """

    value: float
    lower: float
    upper: float
    forwards: int


def critical_learning_rate(
    loss_at: Callable[[float], float],
    initial: float,
    *,
    forwards: int = 6,
    loss_at_zero: float | None = None,
    tolerance: float = 0.02,
) -> CriticalLearningRate:
    """The critical learning rate along an update, by a line search of about six forwards.

    It is the rate η at which one step begins to raise the loss: L(θ - ηu) = L(θ) (Kalra & Barkeshli, arXiv
    2406.09405). On a quadratic it is 2gᵀu/uᵀHu; for plain gradient descent that lies at or above 2/λmax.

    The textbook search doubles η until the loss rises, then bisects. Here the mean slope (L(η) - L(0))/η is searched
    for its zero: it is a straight line in η where the loss is a parabola, so that one secant step hits. Doubling and
    bisection stay as the safeguard.

    Args:
        loss_at: Gives the loss after a step of learning rate η along a fixed update. Non-finite counts as raised.
        initial: The rate tried first: the last result, or the rate in use.
        forwards: Most evaluations, at least 3, the one at zero included.
        loss_at_zero: The loss at η = 0 if it is known; saves one evaluation.
        tolerance: The search ends when the zero is known to this relative accuracy.

    Returns:
        The rate with its bracket and cost.

    Raises:
        ValueError: When ``initial`` is not positive and finite or ``forwards`` is below 3.

    Example:
        >>> loss_at = lambda rate: 0.5 * 4.0 * (1.0 - rate * 4.0) ** 2  # gradient descent at weight 1, curvature 4
        >>> critical_learning_rate(loss_at, initial=0.01).value  # 2 / 4
        0.5
    """
    if not (initial > 0 and math.isfinite(initial)):
        raise ValueError(f"The first learning rate to try has to be positive and finite, got {initial}.")
    if forwards < 3:
        raise ValueError(f"A line search needs at least 3 forwards, got {forwards}.")
    used = 0
    if loss_at_zero is None:
        loss_at_zero = float(loss_at(0.0))
        used = 1
    lower: tuple[float, float] | None = None  # (rate, mean slope) with the slope below zero
    upper: tuple[float, float] | None = None
    newest: tuple[float, float] | None = None
    rate = estimate = float(initial)
    while used < forwards:
        loss = float(loss_at(rate))
        used += 1
        slope = (loss - loss_at_zero) / rate if math.isfinite(loss) else math.inf
        before, newest = newest, (rate, slope)
        if slope < 0:
            lower = newest
        else:
            upper = newest
        # The secant through the two newest points is the better guess while it stays in the bracket.
        guess = _zero_of_line(before, newest)
        low, high = (lower[0] if lower else 0.0), (upper[0] if upper else math.inf)
        if guess is None or not low < guess <= high:
            guess = _zero_of_line(lower, upper)
            if guess is None and lower and upper:
                guess = math.sqrt(low * high)
        estimate = guess if guess is not None else (math.inf if lower else 0.0)
        closed = upper is not None and high - low <= tolerance * high
        if closed or (guess is not None and abs(guess - rate) <= tolerance * rate):
            break
        # With one side open a secant may point anywhere; it moves the search by a factor of 4 to 100.
        if upper is None:
            rate = min(estimate, 100 * rate) if estimate > 4 * rate and guess is not None else 4 * rate
        elif lower is None:
            rate = estimate if rate / 100 < estimate < rate else rate / 4 if math.isfinite(slope) else rate / 10
        else:
            rate = estimate
    return CriticalLearningRate(
        value=estimate, lower=lower[0] if lower else 0.0, upper=upper[0] if upper else math.inf, forwards=used
    )


def _zero_of_line(first: tuple[float, float] | None, second: tuple[float, float] | None) -> float | None:
    """Where the straight line through two points is zero; ``None`` when that is nowhere or not known."""
    if first is None or second is None:
        return None
    rise = second[1] - first[1]
    if not math.isfinite(rise) or rise == 0 or first[0] == second[0]:
        return None
    return second[0] - second[1] * (second[0] - first[0]) / rise
