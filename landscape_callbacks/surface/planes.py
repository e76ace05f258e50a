"""Two-dimensional planes through a loss surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape_callbacks.surface.adaptive import symmetric_grid
from landscape_callbacks.surface.average_surface import AverageSurface
from landscape_callbacks.surface.directions import orthogonalized, random_direction
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.vectors import ParameterSpace


@dataclass(frozen=True)
class PlaneResult:
    """The loss on ``weights + x · first + y · second``.

    Attributes:
        x: Distances along the first direction, in its units; shape (A,), float64.
        y: Distances along the second; shape (B,), float64.
        losses: Shape (B, A), float64. Non-finite losses stay as they are.
        nonfinite: How many of the losses are NaN or infinite.
        norms: Euclidean lengths of the two directions.
        cosine: Cosine of the angle between them; 0 when the picture has the angles of weight space.
        evaluations: Forward passes spent.
    """

    x: Tensor
    y: Tensor
    losses: Tensor
    nonfinite: int
    norms: tuple[float, float]
    cosine: float
    evaluations: int


def loss_plane(
    surface: LossSurface | AverageSurface,
    first: Tensor,
    second: Tensor,
    *,
    points: int = 25,
    extent: float = 1.0,
    x: Sequence[float] | None = None,
    y: Sequence[float] | None = None,
) -> PlaneResult:
    """The loss on a plane through the current weights, on a grid. Weights come back bit-exact.

    Args:
        surface: The loss.
        first: Direction of the x axis: flat, shape (n,).
        second: Direction of the y axis: flat, shape (n,), not parallel to the first.
        points: Points along each axis, odd: the grid is symmetric and holds the current weights.
        extent: The grid covers [-extent, extent] along both axes.
        x: The distances along the first direction themselves, increasing, in place of ``points`` and ``extent``.
        y: As ``x``, along the second direction.

    Returns:
        The plane.

    Raises:
        ValueError: When a direction does not fit, is zero, or is parallel to the other; or distances do not increase.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        >>> surface = LossSurface(lambda: weight[0] ** 2 - weight[1] ** 2, [weight])
        >>> axes = torch.eye(2, dtype=torch.float64)
        >>> loss_plane(surface, axes[0], axes[1], points=3).losses
        tensor([[ 0., -1.,  0.],
                [ 1.,  0.,  1.],
                [ 0., -1.,  0.]], dtype=torch.float64)
    """
    space = surface.space
    for name, direction in (("first", first), ("second", second)):
        if direction.shape != (space.local_dimension,):
            raise ValueError(
                f"Expected a {name} direction of shape ({space.local_dimension},), got {tuple(direction.shape)}."
            )
    norms = float(space.norm(first)), float(space.norm(second))
    if not (np.isfinite(norms).all() and min(norms) > 0):
        raise ValueError(f"The directions have lengths {norms}; a plane needs two finite directions other than zero.")
    cosine = float(space.dot(first / norms[0], second / norms[1]))
    if abs(cosine) > 1 - 1e-6:
        raise ValueError(f"The two directions are parallel (cosine {cosine:.7f}) and span a line; use loss_slice.")
    at_x = _distances(x, points, extent)
    at_y = _distances(y, points, extent)
    losses = surface.losses_on_plane(first, second, at_x, at_y)
    batches = len(surface.surfaces) if isinstance(surface, AverageSurface) else 1
    return PlaneResult(
        x=torch.tensor(at_x, dtype=torch.float64),
        y=torch.tensor(at_y, dtype=torch.float64),
        losses=losses,
        nonfinite=int((~torch.isfinite(losses)).sum()),
        norms=norms,
        cosine=cosine,
        evaluations=losses.numel() * batches,
    )


def random_plane_directions(
    space: ParameterSpace, seed: int, *, normalization: str = "filter"
) -> tuple[Tensor, Tensor]:
    """Two random directions for a plane, normalised as in :func:`random_direction`.

    Random directions of many entries are nearly orthogonal; those of ``"none"`` are made exactly so. With filter or
    layer normalisation that would undo the norms; :class:`PlaneResult` states the cosine that is left.

    Args:
        space: The parameters.
        seed: The same seed gives the same plane.
        normalization: ``"filter"``, ``"layer"`` or ``"none"``.

    Returns:
        Two flat vectors, shape (n,) each.
    """
    first = random_direction(space, seed, normalization=normalization)
    second = random_direction(space, seed + 1, normalization=normalization)
    if normalization == "none":
        second = orthogonalized(space, second, [first])
        return first, second / space.norm(second)
    return first, second


def _distances(given: Sequence[float] | None, points: int, extent: float) -> list[float]:
    if given is None:
        return symmetric_grid(points, extent)
    distances = [float(value) for value in given]
    if len(distances) < 2 or not np.isfinite(distances).all() or np.any(np.diff(distances) <= 0):
        raise ValueError(f"Expected at least two increasing, finite distances, got {distances}.")
    return distances
