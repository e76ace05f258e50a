"""Stability limits: the curvature at which the steps of an optimizer stop contracting.

On a quadratic of curvature h every optimizer below is a linear recursion with real coefficients. As h grows, its
first root to leave the unit circle leaves at -1: the iterate flips its sign each step. Putting x' = -x into the
recursion gives the limit.
"""

from __future__ import annotations

import math

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


def effective_learning_rate(
    kind: str,
    learning_rate: float,
    *,
    momentum: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    dampening: float = 0.0,
    decoupled_weight_decay: float = 0.0,
) -> float:
    """What a steady gradient moves the weights by a step, once momentum has built up: η·s/(1-β).

    Noise floors and progress over many steps go by it: a run with momentum behaves like one without at this rate.

    Args:
        kind: One of :data:`OPTIMIZER_KINDS`.
        learning_rate: η.
        momentum: As in :func:`curvature_limit`.
        betas: As in :func:`curvature_limit`.
        dampening: As in :func:`curvature_limit`.
        decoupled_weight_decay: Taken so that the arguments of :func:`curvature_limit` fit; it changes nothing here.

    Example:
        >>> round(effective_learning_rate("heavy_ball", 0.1, momentum=0.9), 9)
        1.0
        >>> effective_learning_rate("adam", 0.001)
        0.001
    """
    beta, gain = _momentum_and_gain(kind, momentum, betas, dampening, decoupled_weight_decay)
    if kind in ("nesterov", "nadam"):
        gain /= 1 + 2 * beta
    return learning_rate * gain / (1 - beta)
