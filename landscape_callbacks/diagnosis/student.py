"""Student's t distribution in plain Python: tail and quantile, accurate far out where repeated looks need it."""

from __future__ import annotations

import math


def tail(t: float, degrees_of_freedom: float) -> float:
    """The probability that a t-distributed number exceeds ``t`` (one-sided).

    By the regularised incomplete beta function, I_x(ν/2, 1/2)/2 at x = ν/(ν + t²) (Abramowitz & Stegun 26.7.1), from
    its continued fraction; tails of 1e-30 keep their relative accuracy.

    Example:
        >>> round(tail(2.0, 10), 4)
        0.0367
    """
    if math.isnan(t) or degrees_of_freedom <= 0:
        return math.nan
    if t < 0:
        return 1.0 - tail(-t, degrees_of_freedom)
    if math.isinf(t):
        return 0.0
    nu = degrees_of_freedom
    return 0.5 * _incomplete_beta(nu / (nu + t * t), t * t / (nu + t * t), 0.5 * nu, 0.5)


def quantile(probability: float, degrees_of_freedom: float) -> float:
    """The value that a t-distributed number exceeds with this probability (upper quantile).

    Raises:
        ValueError: When the probability is not inside (0, 1) or there is no degree of freedom.

    Example:
        >>> round(quantile(0.025, 24), 4)
        2.0639
    """
    if not 0 < probability < 1:
        raise ValueError(f"The probability has to be inside (0, 1), got {probability}.")
    if not degrees_of_freedom > 0:
        raise ValueError(f"Student's t needs degrees of freedom above 0, got {degrees_of_freedom}.")
    if probability > 0.5:
        return -quantile(1 - probability, degrees_of_freedom)
    low, high = 0.0, 1.0
    while tail(high, degrees_of_freedom) > probability:
        low, high = high, 2 * high
    # The logarithm of the tail is smooth and falls steadily: bisection to full accuracy in a few dozen steps.
    for _ in range(80):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if tail(middle, degrees_of_freedom) > probability:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _incomplete_beta(x: float, complement: float, a: float, b: float) -> float:
    """I_x(a, b); ``complement`` is 1 - x, given apart so that it keeps its digits near 0."""
    if x <= 0 or complement <= 0:
        return 0.0 if x <= 0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(complement)
    front = math.exp(log_front)
    # The continued fraction converges fast on this side of the mean and slowly on the other.
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(x, a, b) / a
    return 1.0 - front * _beta_fraction(complement, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Continued fraction of the incomplete beta function (Abramowitz & Stegun 26.5.8), by Lentz's method."""
    tiny = 1e-300
    c = 1.0
    d = 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0), tiny)
    fraction = d
    for m in range(1, 300):
        for coefficient in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away_from_zero(1.0 + coefficient * d, tiny)
            c = _away_from_zero(1.0 + coefficient / c, tiny)
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return fraction


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
