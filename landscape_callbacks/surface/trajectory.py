"""The path that training took through weight space, in bounded memory, and the plane that shows most of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape_callbacks.surface.thinned_path import ThinnedPath
from landscape_callbacks.surface.vectors import ParameterSpace


class Trajectory(ThinnedPath):
    """Snapshots of the weights on the CPU, never more than a bound: when it is full, every second one is dropped.

    From then on only every second weights that are offered are kept, so the snapshots always cover the whole path
    evenly, and their number stays between half the bound and the bound. The first is always among them.

    Args:
        space: The parameters.
        max_snapshots: Most snapshots, at least 4.
        max_bytes: Most memory for the snapshots (bytes); lowers ``max_snapshots`` where it has to.
        dtype: In which they are kept; ``None``: that of the vectors of ``space``. ``torch.bfloat16`` halves float32,
            at a relative error of 0.4 % of each weight, which is coarse beside small steps.

    Raises:
        ValueError: When fewer than four snapshots fit. Use :class:`ProjectedTrajectory` then.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> path = Trajectory(ParameterSpace([weight]), max_snapshots=4)
        >>> for step in range(10):
        ...     _ = weight.data.fill_(step), path.offer(step)
        >>> path.steps
        [0, 4, 8]
    """

    def __init__(
        self,
        space: ParameterSpace,
        *,
        max_snapshots: int = 64,
        max_bytes: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dtype = space.dtype if dtype is None else dtype
        # The same bound on every process: they have to keep the same steps.
        size = space.largest_local_dimension * self.dtype.itemsize
        super().__init__(space, max_snapshots if max_bytes is None else min(max_snapshots, max_bytes // size))
        if self.max_snapshots < 4:
            raise ValueError(
                f"A trajectory needs room for at least 4 snapshots, got room for {self.max_snapshots} of "
                f"{size:,} bytes each. Raise the bound, or keep random projections (ProjectedTrajectory)."
            )

    def _row(self, weights: Tensor) -> Tensor:
        # A copy always: on the CPU ``to`` alone would keep the caller's own tensor.
        return weights.to(device="cpu", dtype=self.dtype, copy=True)

    def snapshots(self) -> list[Tensor]:
        """The weights that are kept: flat, on the CPU, in order of time. Do not write to them."""
        return list(self._rows)

    @property
    def bytes(self) -> int:
        """Memory that the snapshots take."""
        return sum(row.numel() * row.element_size() for row in self._rows)


@dataclass(frozen=True)
class TrajectoryPlane:
    """The plane through the current weights that shows most of a path.

    Attributes:
        first: First principal direction, unit length: flat, shape (n,).
        second: Second principal direction, unit length and orthogonal to the first: flat, shape (n,).
        x: Coordinates of the T snapshots along the first direction, the current weights at 0; shape (T,), float64.
        y: As ``x``, along the second.
        steps: Steps of the snapshots.
        losses: Losses there; NaN where not known.
        variance_explained: Share of the variance of the path along each direction, 0 to 1.
    """

    first: Tensor
    second: Tensor
    x: Tensor
    y: Tensor
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    variance_explained: tuple[float, float]


def trajectory_plane(trajectory: Trajectory) -> TrajectoryPlane:
    """The first two principal components of a path, after Li et al. 2018, section 7.

    The components are those of the snapshots around their mean; the plane is laid through the current weights, so the
    path is seen projected onto it. They are computed from the T x T matrix of inner products, so beside the snapshots
    only two vectors are needed.

    Args:
        trajectory: At least three snapshots.

    Returns:
        The plane, with the path on it.

    Raises:
        ValueError: When there are fewer than three snapshots, or they lie on a point or a line.
    """
    space = trajectory.space
    rows = trajectory.snapshots()
    if len(rows) < 3:
        raise ValueError(f"A plane through a trajectory needs at least 3 snapshots, got {len(rows)}.")
    current = space.weights().cpu()
    inner = _inner_products(space, rows, current)
    count = len(rows)
    centering = torch.eye(count, dtype=torch.float64) - 1.0 / count
    values, vectors = torch.linalg.eigh(centering @ inner @ centering)
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    total = float(values.sum())
    if not math.isfinite(total) or float(values[1]) <= 1e-12 * max(total, 1e-300):
        raise ValueError(
            "The snapshots of the trajectory lie on a line (or do not move, or are not finite): no plane through them."
        )
    mixing = centering @ vectors[:, :2]
    directions = []
    for k in range(2):
        # Signs of eigenvectors are arbitrary; the path is to end on the right and at the top, so pictures do not flip.
        column = mixing[:, k] if float(inner[-1] @ mixing[:, k]) >= float(inner[0] @ mixing[:, k]) else -mixing[:, k]
        directions.append(_combination(rows, current, column))
    first = directions[0].to(device=space.device, dtype=space.dtype)
    second = directions[1].to(device=space.device, dtype=space.dtype)
    first = first / space.norm(first)
    second = second - first * space.dot(first, second)
    second = second / space.norm(second)
    x, y = coordinates_on_plane(trajectory, first, second)
    return TrajectoryPlane(
        first=first,
        second=second,
        x=x,
        y=y,
        steps=tuple(trajectory.steps),
        losses=tuple(trajectory.losses),
        variance_explained=(float(values[0]) / total, float(values[1]) / total),
    )


def coordinates_on_plane(trajectory: Trajectory, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The snapshots projected onto the plane through the current weights that two directions span.

    Args:
        trajectory: T snapshots.
        first: Flat, shape (n,), any length.
        second: Flat, shape (n,), not parallel to the first.

    Returns:
        Coordinates along each direction, in its units: float64, shape (T,) each.
    """
    space = trajectory.space
    basis = torch.stack([first, second])
    current = space.weights()
    products = torch.stack(
        [
            space.coefficients(basis, row.to(device=space.device, dtype=space.dtype) - current).cpu().double()
            for row in trajectory.snapshots()
        ]
    )
    gram = torch.stack([space.coefficients(basis, direction).cpu().double() for direction in basis])
    solution = torch.linalg.solve(gram, products.T)
    return solution[0], solution[1]


def snapshot_inner_products(trajectory: Trajectory) -> Tensor:
    """Inner products of all snapshots, taken from the first: float64, shape (T, T)."""
    rows = trajectory.snapshots()
    if not rows:
        raise ValueError("The trajectory holds no snapshot yet.")
    return _inner_products(trajectory.space, rows, rows[0])


def distances_from_inner_products(inner: Tensor) -> Tensor:
    """Euclidean distances from inner products: float64, shape (T, T)."""
    square = inner.diagonal()[:, None] + inner.diagonal()[None, :] - 2 * inner
    return square.clamp(min=0.0).fill_diagonal_(0.0).sqrt()


def _inner_products(space: ParameterSpace, rows: Sequence[Tensor], origin: Tensor, chunk: int = 1 << 20) -> Tensor:
    """Inner products of ``rows - origin``, float64 (T, T), in chunks: no second copy of the snapshots is made."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start, end, share in space.segments():
        for begin in range(start, end, chunk):
            part = slice(begin, min(begin + chunk, end))
            block = torch.stack([row[part] for row in rows]).double() - origin[part].double()
            total += share * (block @ block.T)
    return space.sum_over_processes(total.to(space.device)).cpu()


def _combination(rows: Sequence[Tensor], origin: Tensor, weights: Tensor) -> Tensor:
    result = torch.zeros_like(origin)
    for row, weight in zip(rows, weights.tolist(), strict=True):
        result.add_(row.to(result.dtype) - origin, alpha=weight)
    return result
