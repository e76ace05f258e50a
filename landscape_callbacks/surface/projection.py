"""Paths of very large models: random projections of the weights, with the error that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape_callbacks.surface.thinned_path import ThinnedPath
from landscape_callbacks.surface.vectors import ParameterSpace


class RandomProjection:
    """A random linear map from n entries to k that keeps inner products on average (a count sketch).

    Every entry is given a random sign and added to one of k sums; entries of a run of k go to different sums, in an
    order that a random shift of the run decides. So ⟨Su, Sv⟩ is an unbiased estimate of ⟨u, v⟩, with variance at most
    (‖u‖²‖v‖² + ⟨u, v⟩²)/k (Charikar et al. 2002), and a squared distance has a relative standard error of at most
    √(2/k): 2.2 % at k = 4096. It takes n bytes of memory for the signs, and O(n) time.

    Args:
        space: The parameters; not sharded ones.
        dimensions: k, the number of sums.
        seed: The same seed gives the same map.

    Raises:
        ValueError: When the parameters are sharded, or ``dimensions`` is not positive.

    Example:
        >>> import torch
        >>> space = ParameterSpace([torch.nn.Parameter(torch.zeros(10_000))])
        >>> projection = RandomProjection(space, dimensions=1024)
        >>> vector = space.random(seed=1)
        >>> abs(float(projection(vector).norm() / vector.norm()) - 1) < 0.1
        True
    """

    def __init__(self, space: ParameterSpace, dimensions: int = 4096, seed: int = 0) -> None:
        if dimensions < 1:
            raise ValueError(f"dimensions has to be positive, got {dimensions}.")
        if space.local_dimension != space.dimension:
            raise ValueError("Random projections of sharded parameters are not supported; keep snapshots (Trajectory).")
        self.space = space
        self.dimensions = dimensions
        generator = torch.Generator().manual_seed(seed)
        size = space.local_dimension
        self._signs = torch.empty(size, dtype=torch.int8).random_(0, 2, generator=generator).mul_(2).sub_(1)
        runs = math.ceil(size / dimensions)
        self._shifts = torch.randint(0, dimensions, (runs,), generator=generator).tolist()

    def __call__(self, vector: Tensor) -> Tensor:
        """The k sums of a flat vector of shape (n,): float64, on the CPU."""
        signed = vector.detach().cpu().double() * self._signs
        sums = torch.zeros(self.dimensions, dtype=torch.float64)
        for run, shift in enumerate(self._shifts):
            piece = signed[run * self.dimensions : (run + 1) * self.dimensions]
            split = min(self.dimensions - shift, len(piece))
            sums[shift : shift + split] += piece[:split]
            sums[: len(piece) - split] += piece[split:]
        return sums

    @property
    def squared_distance_error(self) -> float:
        """Largest relative standard error of a squared distance between two projected vectors."""
        return math.sqrt(2.0 / self.dimensions)


@dataclass(frozen=True)
class ProjectedPath:
    """A path in the coordinates of two directions, estimated through a random projection.

    Attributes:
        x: Coordinates of the T snapshots along the first direction, the reference weights at 0; shape (T,), float64.
        y: As ``x``, along the second.
        error: Standard error of the coordinates along each axis, the largest over the path.
    """

    x: Tensor
    y: Tensor
    error: tuple[float, float]


class ProjectedTrajectory(ThinnedPath):
    """Random projections of the weights along a path: k numbers a snapshot, whatever the size of the model.

    Args:
        projection: The map.
        max_snapshots: Most snapshots; when they are reached, every second one is dropped, as in :class:`Trajectory`.
    """

    def __init__(self, projection: RandomProjection, max_snapshots: int = 256) -> None:
        if max_snapshots < 4:
            raise ValueError(f"max_snapshots has to be at least 4, got {max_snapshots}.")
        super().__init__(projection.space, max_snapshots)
        self.projection = projection

    def _row(self, weights: Tensor) -> Tensor:
        return self.projection(weights)

    def inner_products(self) -> Tensor:
        """Estimated inner products of all snapshots, taken from the first: float64, shape (T, T)."""
        rows = torch.stack(self._rows)
        return (rows - rows[0]) @ (rows - rows[0]).T

    def coordinates(self, first: Tensor, second: Tensor) -> ProjectedPath:
        """Where the path runs on the plane through the current weights that two directions span.

        Args:
            first: Flat, shape (n,).
            second: Flat, shape (n,), nearly orthogonal to the first: the error leaves their angle out.

        Returns:
            The coordinates, with their standard error.
        """
        current = self.projection(self.space.weights())
        offsets = torch.stack(self._rows) - current
        space = self.space
        inner, errors = [], []
        for direction in (first, second):
            square = float(space.dot(direction, direction))
            inner.append(offsets @ self.projection(direction))
            variance = (offsets.square().sum(dim=1) * square + inner[-1].square()) / self.projection.dimensions
            errors.append(float(variance.max().sqrt()) / square)
        basis = torch.stack([first, second])
        gram = torch.stack([space.coefficients(basis, direction).cpu().double() for direction in basis])
        x, y = torch.linalg.solve(gram, torch.stack(inner))
        return ProjectedPath(x, y, (errors[0], errors[1]))
