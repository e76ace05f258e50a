"""What a loss curve says: its curvature at 0, its barrier, how far it is from convex, how sure its minimum is."""

from __future__ import annotations

import itertools

import numpy as np

from landscape_callbacks.surface.loss_curve import Array, LossCurve


def barrier_height(curve: LossCurve, ends: tuple[float, float] | None = None) -> float:
    """Highest loss between two ends minus the mean of theirs (Frankle et al. 2020); infinite or NaN when a loss is.

    Args:
        curve: The losses.
        ends: The two distances; the ends of the curve when ``None``.

    Returns:
        The barrier, loss units; NaN when an end lies outside the curve.
    """
    if len(curve.losses) < 2:
        return float("nan")
    low, high = (curve.alphas[0], curve.alphas[-1]) if ends is None else ends
    inside = (curve.alphas >= low) & (curve.alphas <= high)
    if np.isposinf(curve.losses[inside]).any():
        return float("inf")
    if np.isnan(curve.losses[inside]).any():
        return float("nan")
    alphas, losses = curve.dense()
    at_ends = curve.losses[[0, -1]] if ends is None else curve(ends)
    between = np.concatenate((losses[(alphas > low) & (alphas < high)], at_ends))
    return float(between.max() - at_ends.mean())


def convexity_violation(curve: LossCurve) -> float:
    """How far the curve rises above its convex envelope: the largest f(λx+(1−λ)y) − λf(x) − (1−λ)f(y), loss units."""
    alphas, losses = curve.dense()
    keep = np.isfinite(losses)
    alphas, losses = alphas[keep], losses[keep]
    if len(alphas) < 3:
        return float("nan")
    hull: list[int] = []
    x, y = alphas.tolist(), losses.tolist()
    for i in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (x[b] - x[a]) * (y[i] - y[a]) > (y[b] - y[a]) * (x[i] - x[a]):
                break
            hull.pop()
        hull.append(i)
    envelope = np.interp(alphas, alphas[hull], losses[hull])
    return float(max((losses - envelope).max(), 0.0))


def curvature_at_zero(curve: LossCurve, rounding: float = 0.0) -> tuple[float, float, Array | None]:
    """Second derivative of the losses at alpha = 0 by Richardson-extrapolated central differences.

    Every two successive pairs of points ±s, ±t mirrored at 0 give one estimate; its error is the size of the
    extrapolation plus the rounding in it, and the one with the smallest error is taken.

    Args:
        curve: The losses.
        rounding: Absolute rounding error of one loss.

    Returns:
        The curvature, its numerical error, and the weights of the losses in it, shape (P,). NaN, NaN and ``None`` when
        0 or its neighbours are missing or not finite; the error is NaN (not known) with fewer than five points.
    """
    nothing = float("nan"), float("nan"), None
    index = {float(alpha): i for i, alpha in enumerate(curve.alphas) if np.isfinite(curve.losses[i])}
    if 0.0 not in index:
        return nothing
    pairs = [alpha for alpha in sorted(index) if alpha > 0 and -alpha in index][:8]
    if len(pairs) < 2:
        uneven = _uneven_curvature(curve, index[0.0], rounding)
        if uneven[2] is not None or not pairs:
            return uneven

    def difference(step: float) -> Array:
        weights = np.zeros(len(curve.alphas))
        weights[[index[-step], index[0.0], index[step]]] = np.array([1.0, -2.0, 1.0]) / step**2
        return weights

    losses = np.where(np.isfinite(curve.losses), curve.losses, 0.0)
    if len(pairs) == 1:
        stencil = difference(pairs[0])
        return float(stencil @ losses), float("nan"), stencil
    best: tuple[float, float, Array] | None = None
    for near, far in itertools.pairwise(pairs):
        truncation = (difference(far) - difference(near)) / (far**2 - near**2) * near**2
        stencil = difference(near) - truncation
        error = abs(float(truncation @ losses)) + rounding * float(np.abs(stencil).sum())
        if best is None or error < best[1]:
            best = float(stencil @ losses), error, stencil
    assert best is not None
    return best


def _uneven_curvature(curve: LossCurve, center: int, rounding: float) -> tuple[float, float, Array | None]:
    """From a quartic through five points around 0 that are not mirrored, against the cubic through four of them."""
    for first, end in curve.runs:
        if first <= center < end and end - first >= 5:
            start = min(max(center - 2, first), end - 5)
            # The four points nearest to 0 are at the start or the end of the five.
            inner = start if center - start <= 2 else start + 1
            quartic, cubic = _polynomial_bend(curve.alphas, start, 5), _polynomial_bend(curve.alphas, inner, 4)
            value = float(quartic @ np.nan_to_num(curve.losses))
            error = abs(float((quartic - cubic) @ np.nan_to_num(curve.losses))) + rounding * float(
                np.abs(quartic).sum()
            )
            return value, error, quartic
    return float("nan"), float("nan"), None


def _polynomial_bend(alphas: Array, start: int, count: int) -> Array:
    x = alphas[start : start + count]
    scale = float(np.abs(x).max())
    powers = np.vander(x / scale, increasing=True).T
    weights = np.zeros(len(alphas))
    weights[start : start + count] = 2.0 / scale**2 * np.linalg.solve(powers, np.eye(count)[2])
    return weights


def best_step_error(curve: LossCurve, best_step: float, rounding: float) -> float:
    """How far the minimum may be off: where the curve rises by less than its own error there, at most one interval."""
    if not np.isfinite(best_step):
        return float("nan")
    for first, end in curve.runs:
        if curve.alphas[first] < best_step < curve.alphas[end - 1]:
            j = int(np.clip(np.searchsorted(curve.alphas, best_step, side="right") - 1, first, end - 2))
            interval = float(curve.alphas[j + 1] - curve.alphas[j])
            error = float(curve.interval_errors[max(j - 1, 0) : j + 2].max())
            bend = curve.bend(best_step)
            if not np.isfinite(error) or bend <= 0:
                return interval
            # An error e that bends over one interval tilts the curve by up to 4e/h, which moves its minimum by that
            # over f″; rounding moves it by at most the distance at which the parabola has risen by it.
            return float(min(interval, 4 * error / (interval * bend) + (2 * rounding / bend) ** 0.5))
    return float("inf")
