"""Few points, known error: a spline through the losses of a line, what it may be off by, and where to sample next."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_START_POINTS = 7
_SAFETY = 3.0


class LossCurve:
    """A cubic spline through losses on a line (not-a-knot ends, as in de Boor 1978), exact on parabolas and cubics.

    Non-finite losses cut the curve: it is fitted to each run of finite points by itself and is NaN between the runs.
    Runs of three and two points are joined by a parabola and a straight line.

    Args:
        alphas: Increasing distances, shape (P,).
        losses: Losses there, shape (P,); may hold NaN and infinities.

    Example:
        >>> curve = LossCurve([-1.0, 0.0, 1.0, 2.0], [4.0, 1.0, 0.0, 1.0])
        >>> float(curve(0.5))
        0.25
        >>> curve.minimum()[0]
        1.0
    """

    def __init__(self, alphas: Sequence[float] | Array, losses: Sequence[float] | Array) -> None:
        self.alphas = np.asarray(alphas, dtype=np.float64)
        self.losses = np.asarray(losses, dtype=np.float64)
        if self.alphas.ndim != 1 or self.alphas.shape != self.losses.shape or np.any(np.diff(self.alphas) <= 0):
            raise ValueError("A curve needs increasing alphas and one loss for each of them.")
        self.runs = _runs(np.isfinite(self.losses))

    # Lazy: while points are still being added, only the error is asked for, and it needs no spline.
    @cached_property
    def _bends(self) -> Array:
        bends = np.full_like(self.losses, np.nan)
        for first, end in self.runs:
            bends[first:end] = _second_derivatives(self.alphas[first:end], self.losses[first:end])
        return bends

    def __call__(self, alphas: float | Sequence[float] | Array) -> Array:
        """The losses at any distances; NaN outside the points and next to non-finite ones."""
        at = np.asarray(alphas, dtype=np.float64)
        points = at.reshape(-1)
        if len(self.alphas) < 2:
            values = np.where(np.isin(points, self.alphas), self.losses[0] if len(self.losses) else np.nan, np.nan)
            return values.reshape(at.shape)
        j = np.clip(np.searchsorted(self.alphas, points, side="right") - 1, 0, len(self.alphas) - 2)
        h = self.alphas[j + 1] - self.alphas[j]
        b = (points - self.alphas[j]) / h
        values = _cubic(self.losses[j], self.losses[j + 1], self._bends[j], self._bends[j + 1], h, b)
        values[(points < self.alphas[0]) | (points > self.alphas[-1])] = np.nan
        # At the points themselves the curve is the loss, to the bit, also beside a non-finite one.
        at_point = np.searchsorted(self.alphas, points).clip(0, len(self.alphas) - 1)
        exact = self.alphas[at_point] == points
        values[exact] = self.losses[at_point[exact]]
        return values.reshape(at.shape)

    def dense(self, refinement: int = 5) -> tuple[Array, Array]:
        """The points and ``refinement - 1`` more in each interval, and the losses there: for maxima and drawing."""
        b = np.linspace(0.0, 1.0, refinement, endpoint=False)
        h = np.diff(self.alphas)[:, None]
        alphas = self.alphas[:-1, None] + h * b
        y, bends = self.losses[:, None], self._bends[:, None]
        losses = _cubic(y[:-1], y[1:], bends[:-1], bends[1:], h, b)
        # At the points themselves the curve is the loss, to the bit, also beside a non-finite one.
        losses[:, 0] = self.losses[:-1]
        return np.append(alphas, self.alphas[-1:]), np.append(losses, self.losses[-1:])

    def minimum(self, rounding: float = 0.0) -> tuple[float, float]:
        """Where the curve is lowest, and its loss there; of equal minima (up to ``rounding``) the one nearest to 0."""
        at, values = [self.alphas], [self.losses]
        for first, end in self.runs:
            x, y, m = self.alphas[first:end], self.losses[first:end], self._bends[first:end]
            h = np.diff(x)
            # On an interval the slope is quadratic in the distance t from its left end: s + m·t + (Δm/2h)·t².
            slope = np.diff(y) / h - h * (2 * m[:-1] + m[1:]) / 6
            cubic = np.diff(m) / (2 * h)
            root = np.sqrt(np.maximum(m[:-1] ** 2 - 4 * cubic * slope, 0.0))
            # The minimum is the root where the slope grows; this form of it does not cancel for a small cubic term.
            with np.errstate(divide="ignore", invalid="ignore"):
                t = np.where(m[:-1] >= 0, -2 * slope / (m[:-1] + root), (root - m[:-1]) / (2 * cubic))
            inside = np.isfinite(t) & (t > 0) & (t < h)
            t, h = t[inside], h[inside]
            at.append(x[:-1][inside] + t)
            values.append(_cubic(y[:-1][inside], y[1:][inside], m[:-1][inside], m[1:][inside], h, t / h))
        candidates, losses = np.concatenate(at), np.concatenate(values)
        keep = np.isfinite(losses)
        if not keep.any():
            return float("nan"), float("nan")
        candidates, losses = candidates[keep], losses[keep]
        lowest = losses <= losses.min() + rounding
        index = int(np.argmin(np.where(lowest, np.abs(candidates), np.inf)))
        return float(candidates[index]), float(losses[index])

    def bend(self, alpha: float) -> float:
        """The second derivative of the curve at one distance (loss units per unit of alpha squared)."""
        j = int(np.clip(np.searchsorted(self.alphas, alpha, side="right") - 1, 0, len(self.alphas) - 2))
        share = (alpha - self.alphas[j]) / (self.alphas[j + 1] - self.alphas[j])
        return float((1 - share) * self._bends[j] + share * self._bends[j + 1])

    @cached_property
    def interval_errors(self) -> Array:
        """How far the curve may be from the loss in each interval, loss units, shape (P-1,).

        A cubic spline is off by at most 5/384·h⁴·|f⁗| in an interval of length h (Hall and Meyer 1976). The fourth
        derivative is taken from divided differences of five neighbouring points that surround the interval, so a kink
        counts as much as the points see of it, and the bound is taken three times. It is an estimate: what lies unseen
        between the points is not in it. NaN (not known) where fewer than five finite points stand in a row.
        """
        errors = np.full(max(len(self.alphas) - 1, 0), np.nan)
        for first, end in self.runs:
            x = self.alphas[first:end]
            difference = self.losses[first:end]
            if len(x) < 5:
                continue
            for order in range(1, 5):
                difference = (difference[1:] - difference[:-1]) / (x[order:] - x[:-order])
            # The largest of the four windows around each interval: a mean of them misses kinks and narrow waves.
            around = np.zeros(len(x) - 1)
            for shift in range(4):
                place = slice(shift, shift + len(difference))
                around[place] = np.maximum(around[place], np.abs(difference))
            errors[first : end - 1] = _SAFETY * 24 * 5 / 384 * around * (x[1:] - x[:-1]) ** 4
            # At the ends nothing is known beyond: there the spline is a plain cubic, off by 1/24·h⁴·|f⁗| and more.
            errors[[first, end - 2]] *= 4
        return errors

    @property
    def error(self) -> float:
        """The largest of :attr:`interval_errors`; NaN when none is known."""
        errors = self.interval_errors
        known = errors[np.isfinite(errors)]
        return float(known.max()) if len(known) else float("nan")


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


def _cubic(left: Array, right: Array, bend_left: Array, bend_right: Array, h: Array, b: Array) -> Array:
    """The spline at the share ``b`` of intervals of length ``h``, from losses and second derivatives at their ends."""
    a = 1.0 - b
    with np.errstate(invalid="ignore"):
        return np.asarray(
            a * left + b * right + ((a**3 - a) * bend_left + (b**3 - b) * bend_right) * h**2 / 6, dtype=np.float64
        )


def _runs(finite: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and end index of each run of finite losses."""
    if finite.all():
        return [(0, len(finite))] if len(finite) else []
    edges = np.flatnonzero(np.diff(np.concatenate(([0], finite.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _second_derivatives(x: Array, y: Array) -> Array:
    """Second derivatives at the points of the interpolating cubic spline with not-a-knot ends."""
    n = len(x)
    if n < 3:
        return np.zeros(n)
    h = np.diff(x)
    slopes = np.diff(y) / h
    if n == 3:
        return np.full(3, 2 * (slopes[1] - slopes[0]) / (h[0] + h[1]))
    matrix = np.zeros((n, n))
    right = np.zeros(n)
    inner = np.arange(1, n - 1)
    matrix[inner, inner - 1] = h[:-1]
    matrix[inner, inner] = 2 * (h[:-1] + h[1:])
    matrix[inner, inner + 1] = h[1:]
    right[1:-1] = 6 * np.diff(slopes)
    matrix[0, :3] = [h[1], -(h[0] + h[1]), h[0]]
    matrix[-1, -3:] = [h[-1], -(h[-2] + h[-1]), h[-2]]
    return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
