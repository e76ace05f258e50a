"""Where to sample a line: few points, the next where the curve through them is likely to be worst."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np

from landscape_callbacks.surface.loss_curve import Array, LossCurve

_START_POINTS = 7


def symmetric_grid(points: int, extent: float = 1.0) -> list[float]:
    """Evenly spaced distances from ``-extent`` to ``extent``, mirrored to the bit, with 0 in the middle.

    Args:
        points: How many; odd, at least 3.
        extent: Distance of the last from 0.

    Returns:
        ``points`` increasing distances.

    Raises:
        ValueError: When the number is even or too small, or the extent is not positive.

    Example:
        >>> symmetric_grid(5)
        [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    if points < 3 or points % 2 == 0:
        raise ValueError(
            f"A symmetric grid with the current weights in the middle has 3, 5, 7, … points, got {points}."
        )
    if not (np.isfinite(extent) and extent > 0):
        raise ValueError(f"extent has to be a positive number, got {extent}.")
    half = [extent * k / (points // 2) for k in range(1, points // 2 + 1)]
    return [-alpha for alpha in reversed(half)] + [0.0] + half


def start_grid(low: float, high: float, *, center_pair: bool = True) -> list[float]:
    """The first distances of an adaptive slice: the ends, 0, and a few between; mirrored when ``low = -high``."""
    if not low < 0.0 < high:
        return sorted({0.0, *np.linspace(low, high, _START_POINTS).tolist()})
    # Denser towards the ends, where a spline is worst: halved once more, these are close to the mean of even and of
    # Chebyshev points. A pair close to 0 replaces two of them.
    shares = [0.65] if center_pair else [0.5, 0.875]
    return [low, *[low * share for share in reversed(shares)], 0.0, *[high * share for share in shares], high]


def sample_adaptively(
    evaluate: Callable[[list[float]], Array],
    low: float,
    high: float,
    *,
    tolerance: float = 1e-3,
    max_points: int = 11,
    rounding: float = 0.0,
    center_pair: bool = True,
    including: Sequence[float] = (),
) -> LossCurve:
    """Samples a line where its spline is worst, until the estimated error is small or the points are spent.

    Args:
        evaluate: Losses at distances: a list of p distances in, shape (p,) out.
        low: First distance.
        high: Last distance.
        tolerance: Largest error that is asked for, as a share of the range of the losses (0.001 is 0.1 %).
        max_points: Never more points than this; at least 7.
        rounding: Relative rounding error of one loss, such as 1.2e-7 for float32.
        center_pair: Spends two of the points close to 0, for the curvature there: at the distance that balances
            rounding against truncation.
        including: Distances that have to be among the points.

    Returns:
        The curve through all points.
    """
    center_pair = center_pair and low < 0.0 < high
    alphas = sorted({*start_grid(low, high, center_pair=center_pair), *including})
    curve = LossCurve(alphas, evaluate(alphas))
    if center_pair:
        distance = _balanced_distance(curve, rounding, min(-low, high))
        curve = _extended(curve, evaluate, [-distance, distance])
    while len(curve.alphas) < max_points:
        finite = curve.losses[np.isfinite(curve.losses)]
        # Below the rounding of the losses themselves nothing is won by more points.
        wanted = max(tolerance * np.ptp(finite), 4 * rounding * np.abs(finite).max()) if len(finite) else np.inf
        # By the round: what is done between two rounds costs as much as a forward pass of a small network.
        added = _worst_places(curve, wanted, min((len(curve.alphas) + 1) // 2, max_points - len(curve.alphas)))
        if not added:
            break
        curve = _extended(curve, evaluate, added)
    return curve


def _worst_places(curve: LossCurve, wanted: float, count: int) -> list[float]:
    """Up to ``count`` midpoints where the curve is likely to be worst, those of halved intervals among them."""
    errors = np.nan_to_num(curve.interval_errors, nan=0.0).tolist()
    alphas = curve.alphas.tolist()
    intervals = [(-error, *ends) for error, *ends in zip(errors, alphas, alphas[1:], strict=False) if error > wanted]
    heapq.heapify(intervals)
    places: list[float] = []
    while intervals and len(places) < count:
        error, low, high = heapq.heappop(intervals)
        middle = (low + high) / 2
        places.append(middle)
        # The error of a cubic spline falls with the fourth power of an interval's length.
        if -error / 16 > wanted:
            for half in ((low, middle), (middle, high)):
                heapq.heappush(intervals, (error / 16, *half))
    return sorted(places)


def _extended(curve: LossCurve, evaluate: Callable[[list[float]], Array], added: list[float]) -> LossCurve:
    alphas = np.concatenate((curve.alphas, added))
    losses = np.concatenate((curve.losses, evaluate(added)))
    order = np.argsort(alphas)
    return LossCurve(alphas[order], losses[order])


def _balanced_distance(curve: LossCurve, rounding: float, reach: float) -> float:
    """The h at which rounding 4εL/h² and truncation h²·|f⁗|/12 of a central second difference are equal."""
    x, y = curve.alphas, curve.losses
    center = int(np.argmin(np.abs(x)))
    nearest = float(min(x[center + 1] - x[center], x[center] - x[center - 1]))
    window = slice(max(0, min(center - 2, len(x) - 5)), max(0, min(center - 2, len(x) - 5)) + 5)
    difference = y[window]
    for order in range(1, 5):
        difference = np.diff(difference) / (x[window][order:] - x[window][:-order])
    truncation = 2 * abs(float(difference[0]))
    finite = y[np.isfinite(y)]
    if not np.isfinite(truncation) or not len(finite):
        return nearest / 8
    # A coarse grid sees too little of a fine structure at 0: ten times its estimate is the safer one.
    balanced = (4 * rounding * float(np.abs(finite).max()) / (10 * truncation + 1e-300)) ** 0.25
    return float(min(max(balanced, 0.01 * reach), 0.4 * nearest))
