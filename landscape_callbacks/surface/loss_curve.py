"""A curve through the losses of a line, and what it may be off by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

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
