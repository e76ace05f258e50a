"""One-dimensional slices through a loss surface: the loss on a line, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from landscape_callbacks.surface.adaptive import sample_adaptively, symmetric_grid
from landscape_callbacks.surface.average_surface import AverageSurface
from landscape_callbacks.surface.curve_shape import (
    barrier_height,
    best_step_error,
    convexity_violation,
    curvature_at_zero,
)
from landscape_callbacks.surface.loss_curve import Array, LossCurve
from landscape_callbacks.surface.loss_surface import LossSurface

Surface = LossSurface | AverageSurface


@dataclass(frozen=True)
class SliceResult:
    """The loss along ``weights + alpha · direction``, with what can be read from it. P points, K batches.

    Attributes:
        alphas: Increasing distances, in units of the direction; shape (P,), float64.
        losses: Losses there; shape (P,), float64. Non-finite losses stay as they are.
        loss_error: Standard error of each loss over the batches, shape (P,); ``None`` with one batch.
        validation_losses: Losses of the second surface at the same points, shape (P,); ``None`` without one.
        curvature: Second derivative at alpha = 0, loss units per unit of alpha squared. NaN where 0 is not sampled.
        curvature_error: Its numerical error and its standard error over the batches, together.
        best_step: Where the curve is lowest, in units of the direction.
        best_step_error: As for the curvature; infinite when the lowest point is an end of the slice.
        best_loss: The loss there.
        barrier: Highest loss between two ends minus the mean of the losses at them (Frankle et al. 2020), loss units.
            Between ends of unequal height it is at least half their difference, also without a hill between them.
        convexity_violation: The largest f(λx+(1−λ)y) − λf(x) − (1−λ)f(y) over all x, y of the slice and λ in [0, 1]:
            how far the curve rises above its convex envelope, loss units. 0 for a convex curve.
        error: Estimated largest error of the curve between the points, loss units; NaN (not known) when fewer than five
            finite points stand in a row.
        nonfinite: How many of the losses are NaN or infinite.
        direction_norm: Euclidean length of the direction; ``curvature / direction_norm²`` is that per unit vector.
        evaluations: Forward passes spent, over all batches, the second surface left out.
    """

    alphas: Tensor
    losses: Tensor
    loss_error: Tensor | None
    validation_losses: Tensor | None
    curvature: float
    curvature_error: float
    best_step: float
    best_step_error: float
    best_loss: float
    barrier: float
    convexity_violation: float
    error: float
    nonfinite: int
    direction_norm: float
    evaluations: int
    batch_losses: Tensor = field(repr=False)
    """Losses of each batch, shape (K, P)."""

    def curve(self, alphas: Sequence[float] | Tensor) -> Tensor:
        """Losses between the points, by a cubic spline; NaN outside them and next to non-finite ones."""
        curve = LossCurve(self.alphas.numpy(), self.losses.numpy())
        return torch.from_numpy(np.atleast_1d(curve(np.asarray(alphas, dtype=np.float64))))


def loss_slice(
    surface: Surface,
    direction: Tensor,
    *,
    points: int | Sequence[float] | None = None,
    extent: float | tuple[float, float] = 1.0,
    tolerance: float = 1e-3,
    max_points: int = 11,
    curvature: str | tuple[float, float] = "auto",
    barrier_between: tuple[float, float] | None = None,
    validation: Surface | None = None,
) -> SliceResult:
    """The loss along a line through the current weights.

    By default the points are chosen adaptively: a cubic spline is drawn through few points and new ones are put where
    it may be worst, until its estimated error is below ``tolerance`` or ``max_points`` are spent; the error is
    reported either way. The current weights (alpha = 0) are among the points, with the loss itself, unless ``points``
    leaves them out. Weights come back bit-exact.

    Args:
        surface: The loss. Of an :class:`AverageSurface` each batch is evaluated at the same points, and the results
            carry standard errors over the batches.
        direction: Flat, shape (n,).
        points: ``None`` for adaptive points; an odd number for an even symmetric grid; or the distances themselves.
        extent: The slice covers [-extent, extent], or the two ends given. Not used when ``points`` gives the distances.
        tolerance: Largest error asked of adaptive points, as a share of the range of the losses.
        max_points: Most adaptive points, at least 9.
        curvature: How the curvature at 0 is found. ``"difference"``: from the losses, at the cost of two points close
            to 0. ``"product"``: by a Hessian-vector product; of ReLU networks that is the curvature between the kinks,
            while differences see the kinks too. ``"auto"``: a product where the surface holds a graph for it, as after
            a gradient or eigenvectors were taken at these weights; else differences. Or the curvature and its error,
            when they are known already, as of an eigenvector of length 1 its eigenvalue and residual.
        barrier_between: The two distances that the barrier lies between; the ends of the slice when ``None``.
        validation: A second surface over the same parameters, such as the loss on validation data, evaluated at the
            same points.

    Returns:
        The slice.

    Raises:
        ValueError: When the direction does not fit or is zero, or points and extent make no slice.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        >>> surface = LossSurface(lambda: 0.5 * (weight**2).sum(), [weight])
        >>> result = loss_slice(surface, -surface.gradient(), extent=2.0)
        >>> round(result.curvature, 6), round(result.best_step, 6), abs(result.best_loss) < 1e-9
        (5.0, 1.0, True)
    """
    space = surface.space
    if direction.shape != (space.local_dimension,):
        raise ValueError(f"Expected a direction of shape ({space.local_dimension},), got {tuple(direction.shape)}.")
    direction = direction.to(device=space.device, dtype=space.dtype)
    length = float(space.norm(direction))
    if not (np.isfinite(length) and length > 0.0):
        raise ValueError(f"The direction has length {length}; a slice needs a finite direction other than zero.")
    if isinstance(curvature, str) and curvature not in ("auto", "difference", "product"):
        raise ValueError(
            f"curvature has to be 'auto', 'difference', 'product' or a pair of numbers, got {curvature!r}."
        )
    sampler = _Sampler(surface, direction)
    if curvature == "auto":
        curvature = "product" if sampler.holds_graphs() else "difference"
    rounding = surface.rounding
    if points is None:
        low, high = _ends(extent)
        if max_points < 9:
            raise ValueError(f"An adaptive slice needs max_points of at least 9, got {max_points}; or set points.")
        curve = sample_adaptively(
            sampler,
            low,
            high,
            tolerance=tolerance,
            max_points=max_points,
            rounding=rounding,
            center_pair=curvature == "difference",
            including=barrier_between or (),
        )
    else:
        grid = _grid(points, extent)
        curve = LossCurve(grid, sampler(grid))
    alphas = torch.from_numpy(curve.alphas)
    others = None if validation is None else validation.losses_along(direction, alphas)
    rounding = max(rounding, _loss_rounding(sampler.batch_losses))
    if curvature == "product":
        curvature = sampler.curvature_by_product()
    known = None if isinstance(curvature, str) else curvature
    return _summarized(curve, sampler, rounding, known, barrier_between, others, length)


class _Sampler:
    """Evaluates all batches at the same points; gives their average and keeps their losses in the order of alpha."""

    def __init__(self, surface: Surface, direction: Tensor) -> None:
        self._direction = direction
        self._surfaces: Sequence[LossSurface] = surface.surfaces if isinstance(surface, AverageSurface) else (surface,)
        self.weights = np.asarray(surface.weights if isinstance(surface, AverageSurface) else (1.0,), dtype=np.float64)
        self._alphas = np.empty(0)
        self.batch_losses: Array = np.empty((len(self._surfaces), 0))

    def __call__(self, alphas: list[float]) -> Array:
        rows = np.stack([surface.losses_along(self._direction, alphas).numpy() for surface in self._surfaces])
        order = np.argsort(np.concatenate((self._alphas, alphas)))
        self._alphas = np.concatenate((self._alphas, alphas))[order]
        self.batch_losses = np.concatenate((self.batch_losses, rows), axis=1)[:, order]
        return self.average(rows)

    def holds_graphs(self) -> bool:
        """Whether a Hessian-vector product needs no new forward pass."""
        graphs = [getattr(surface, "_current_graph", None) for surface in self._surfaces]
        return all(graph is not None and graph() is not None for graph in graphs)

    def curvature_by_product(self) -> tuple[float, float]:
        """The second derivative along the direction at 0 from one Hessian-vector product a batch, and its error."""
        direction, space = self._direction, self._surfaces[0].space
        products = [one.hessian_vector_product(direction) for one in self._surfaces]
        values = np.asarray([float(space.dot(direction, product)) for product in products], dtype=np.float64)
        coarse = max(one.rounding for one in self._surfaces)
        largest = max(float(space.norm(product)) for product in products) * float(space.norm(direction))
        rounding = largest * max(coarse, float(torch.finfo(space.dtype).eps))
        noise = float(self.standard_error(values)) if len(values) > 1 else 0.0
        return float(self.weights @ values), float(np.hypot(rounding, noise))

    def average(self, rows: Array) -> Array:
        """The weighted mean over the batches; for one batch its losses to the bit."""
        return rows[0] if len(rows) == 1 else np.asarray(self.weights @ rows, dtype=np.float64)

    def standard_error(self, values: Array) -> Array:
        """Standard error of a weighted mean over the batches; ``values`` (K, …)."""
        count = len(self._surfaces)
        spread = values - np.tensordot(self.weights, values, axes=1)
        squares = np.tensordot(self.weights**2, spread**2, axes=1)
        return np.asarray(np.sqrt(squares * count / (count - 1)), dtype=np.float64)


def _summarized(
    curve: LossCurve,
    sampler: _Sampler,
    rounding: float,
    known_curvature: tuple[float, float] | None,
    ends: tuple[float, float] | None,
    validation: Tensor | None,
    length: float,
) -> SliceResult:
    rows = sampler.batch_losses
    finite = np.isfinite(curve.losses)
    scale = float(np.abs(curve.losses[finite]).max()) if finite.any() else 0.0
    noisy = len(rows) > 1
    if known_curvature is not None:
        curvature, curvature_error = float(known_curvature[0]), float(known_curvature[1])
    else:
        curvature, curvature_error, stencil = curvature_at_zero(curve, rounding * scale)
        if noisy and stencil is not None:
            curvature_error = float(np.hypot(curvature_error, sampler.standard_error(_weighted(rows, stencil))))
    best_step, best_loss = curve.minimum(rounding * scale)
    best_error = best_step_error(curve, best_step, rounding * scale)
    if noisy and np.isfinite(best_error):
        best_error = float(np.hypot(best_error, _jackknife_of_best_step(curve, sampler)))
    violation = convexity_violation(curve)
    return SliceResult(
        alphas=torch.from_numpy(curve.alphas),
        losses=torch.from_numpy(curve.losses),
        loss_error=torch.from_numpy(sampler.standard_error(rows)) if noisy else None,
        validation_losses=validation,
        curvature=curvature,
        curvature_error=curvature_error,
        best_step=best_step,
        best_step_error=best_error,
        best_loss=best_loss,
        barrier=barrier_height(curve, ends),
        convexity_violation=0.0 if violation <= 4 * rounding * scale else violation,
        error=curve.error,
        nonfinite=int((~finite).sum()),
        direction_norm=length,
        evaluations=int(rows.size),
        batch_losses=torch.from_numpy(rows),
    )


def _jackknife_of_best_step(curve: LossCurve, sampler: _Sampler) -> float:
    rows, weights = sampler.batch_losses, sampler.weights
    steps = []
    for left_out in range(len(rows)):
        kept = np.delete(weights, left_out)
        if kept.sum() <= 0:
            return float("nan")
        losses = (kept / kept.sum()) @ np.delete(rows, left_out, axis=0)
        steps.append(LossCurve(curve.alphas, losses).minimum()[0])
    count = len(steps)
    return float(np.sqrt((count - 1) / count * np.sum((np.asarray(steps) - np.mean(steps)) ** 2)))


def _weighted(rows: Array, stencil: Array) -> Array:
    used = stencil != 0
    return np.asarray(rows[:, used] @ stencil[used], dtype=np.float64)


def _ends(extent: float | tuple[float, float]) -> tuple[float, float]:
    low, high = (-extent, extent) if isinstance(extent, (int, float)) else extent
    if not (np.isfinite(low) and np.isfinite(high) and low < high and low <= 0.0 <= high):
        raise ValueError(
            f"A slice goes from a distance ≤ 0 to one ≥ 0, such as 1.0 or (-0.5, 1.5); got extent={extent}."
        )
    return float(low), float(high)


def _grid(points: int | Sequence[float], extent: float | tuple[float, float]) -> list[float]:
    if isinstance(points, int):
        low, high = _ends(extent)
        if low == -high:
            return symmetric_grid(points, high)
        if points < 2:
            raise ValueError(f"A slice has at least two points, got {points}.")
        return sorted({0.0, *np.linspace(low, high, points).tolist()})
    grid = sorted({float(alpha) for alpha in points})
    if len(grid) < 2 or not np.isfinite(grid).all():
        raise ValueError(f"A slice needs at least two different, finite distances, got {list(points)}.")
    return grid


def _loss_rounding(losses: Array) -> float:
    """Relative rounding of losses that all happen to be numbers of a shorter format, as those of a float16 loss are."""
    values = torch.from_numpy(losses[np.isfinite(losses)])
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if values.numel() and torch.equal(values.to(dtype).double(), values):
            return float(torch.finfo(dtype).eps)
    return 0.0
