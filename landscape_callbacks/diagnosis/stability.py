"""Stability limits: the curvature at which plain steps stop contracting, and the learning rate at which they do.

On a quadratic of curvature h every optimizer below is a linear recursion with real coefficients. As h grows, its
first root to leave the unit circle leaves at -1: the iterate flips its sign each step. Putting x' = -x into the
recursion gives the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

OPTIMIZER_KINDS = (
    "gradient_descent",
    "heavy_ball",
    "nesterov",
    "moving_average",
    "adam",
    "adamw",
    "adamax",
    "nadam",
    "rmsprop",
    "adagrad",
)
PRECONDITIONED_KINDS = ("adam", "adamw", "adamax", "nadam", "rmsprop", "adagrad")


def curvature_limit(
    kind: str,
    learning_rate: float,
    *,
    momentum: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    dampening: float = 0.0,
    decoupled_weight_decay: float = 0.0,
) -> float:
    r"""The curvature above which steps of this optimizer stop contracting.

    With :math:`β` the momentum, :math:`s` the weight of a new gradient in the buffer, :math:`w` the decoupled decay:

    ==================  =====================================================  =====================================
    kind                torch form                                             limit
    ==================  =====================================================  =====================================
    gradient_descent    ``SGD``                                                :math:`(2 - ηw)/η`
    heavy_ball          ``SGD(momentum=β, dampening=1-s)``                     :math:`(1+β)(2 - ηw)/(sη)`
    nesterov            ``SGD(momentum=β, nesterov=True)``                     :math:`(1+β)(2 - ηw)/((1+2β)η)`
    moving_average      a gradient averaged with β: ``dampening=β``            :math:`(1+β)(2 - ηw)/((1-β)η)`
    adam, adamw,        on the preconditioned Hessian, β = ``betas[0]``        as moving_average: 38/η at β = 0.9
    adamax
    nadam               on the preconditioned Hessian, β = ``betas[0]``        :math:`(1+β)(2 - ηw)/((1+2β)(1-β)η)`
    rmsprop, adagrad    on the preconditioned Hessian, momentum β              :math:`(1+β)(2 - ηw)/η`
    ==================  =====================================================  =====================================

    Sources: Cohen et al. 2021 (arXiv 2103.00065) for the plain forms, Cohen et al. 2022 (arXiv 2207.14484) for the
    adaptive ones. The curvature is the one that the optimizer sees: with coupled weight decay (L2, all but ``AdamW``)
    that is the loss's plus the decay, before preconditioning. Bias correction and ε belong into the preconditioner.

    Full-batch training hovers at the limit (the edge of stability). That is not divergence.

    Args:
        kind: One of :data:`OPTIMIZER_KINDS`.
        learning_rate: η > 0.
        momentum: β of ``heavy_ball``, ``nesterov``, ``moving_average`` and ``rmsprop``, in [0, 1).
        betas: Of ``adam``, ``adamw``, ``adamax`` and ``nadam``; only the first matters for the limit.
        dampening: Of ``heavy_ball``, in [0, 1).
        decoupled_weight_decay: w of ``AdamW`` and its like, where weights shrink by ``1 - ηw`` a step.

    Returns:
        The limit, in the units of the (preconditioned) Hessian's eigenvalues. 0 when decay alone is unstable (ηw ≥ 2).

    Raises:
        ValueError: When the kind is unknown or a number is out of its range.

    Example:
        >>> curvature_limit("gradient_descent", 0.1)
        20.0
        >>> round(curvature_limit("adam", 1e-3, betas=(0.9, 0.999)))
        38000
    """
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"The learning rate has to be positive and finite, got {learning_rate}.")
    beta, gain = _momentum_and_gain(kind, momentum, betas, dampening, decoupled_weight_decay)
    return max((1 + beta) * (2 - learning_rate * decoupled_weight_decay) / (gain * learning_rate), 0.0)


def largest_stable_learning_rate(
    kind: str,
    curvature: float,
    *,
    momentum: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    dampening: float = 0.0,
    decoupled_weight_decay: float = 0.0,
) -> float:
    """The learning rate whose :func:`curvature_limit` is this curvature: the largest stable one here and now.

    Args:
        kind: One of :data:`OPTIMIZER_KINDS`.
        curvature: The largest eigenvalue of the (preconditioned) Hessian.
        momentum: As in :func:`curvature_limit`.
        betas: As in :func:`curvature_limit`.
        dampening: As in :func:`curvature_limit`.
        decoupled_weight_decay: As in :func:`curvature_limit`.

    Returns:
        The learning rate; infinity when no positive curvature and no decay bounds it.

    Raises:
        ValueError: When the kind is unknown or a number is out of its range.

    Example:
        >>> largest_stable_learning_rate("gradient_descent", 20.0)
        0.1
    """
    beta, gain = _momentum_and_gain(kind, momentum, betas, dampening, decoupled_weight_decay)
    if math.isnan(curvature):
        return math.nan
    denominator = gain * max(curvature, 0.0) + (1 + beta) * decoupled_weight_decay
    return 2 * (1 + beta) / denominator if denominator > 0 else math.inf


def _momentum_and_gain(
    kind: str, momentum: float, betas: tuple[float, float], dampening: float, decay: float
) -> tuple[float, float]:
    """β, and the total weight that a sign-flipping gradient has in a step, times 1 + β."""
    if kind not in OPTIMIZER_KINDS:
        raise ValueError(f"Unknown kind of optimizer {kind!r}. Known: {', '.join(OPTIMIZER_KINDS)}.")
    beta = 0.0
    if kind in ("heavy_ball", "nesterov", "moving_average", "rmsprop"):
        beta = momentum
    elif kind in ("adam", "adamw", "adamax", "nadam"):
        beta = betas[0]
    if not 0 <= beta < 1:
        raise ValueError(f"Momentum has to be in [0, 1), got {beta}.")
    if not 0 <= dampening < 1:
        raise ValueError(f"Dampening has to be in [0, 1), got {dampening}.")
    if not decay >= 0:
        raise ValueError(f"Decoupled weight decay has to be at least 0, got {decay}.")
    gain = 1.0
    if kind == "heavy_ball" and beta > 0:
        gain = 1 - dampening
    if kind in ("moving_average", "adam", "adamw", "adamax", "nadam"):
        gain = 1 - beta
    if kind in ("nesterov", "nadam"):
        gain *= 1 + 2 * beta
    return beta, gain


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
