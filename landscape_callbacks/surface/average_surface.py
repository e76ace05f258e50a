"""A loss over several batches as one surface."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from landscape_callbacks.surface.central_difference import Approximation
from landscape_callbacks.surface.loss_surface import LossSurface


class AverageSurface:
    """The weighted average of several surfaces over the same parameters, as one surface: a loss over several batches.

    Args:
        surfaces: At least one, all on the same :class:`ParameterSpace`.
        weights: One weight a surface, such as the batch sizes; normalised to sum to one. Equal when ``None``.

    Raises:
        ValueError: Without surfaces, with surfaces on different parameters, or with weights that do not fit.
    """

    def __init__(self, surfaces: Sequence[LossSurface], weights: Sequence[float] | None = None) -> None:
        if not surfaces:
            raise ValueError("AverageSurface needs at least one surface, got none.")
        self.surfaces = tuple(surfaces)
        self.space = surfaces[0].space
        if any([id(p) for p in s.space.parameters] != [id(p) for p in self.space.parameters] for s in surfaces):
            raise ValueError("The surfaces of an average have to be over the same parameters in the same order.")
        weights = [1.0] * len(surfaces) if weights is None else [float(weight) for weight in weights]
        if len(weights) != len(surfaces) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"Expected {len(surfaces)} non-negative weights with a positive sum, got {weights}.")
        self.weights = tuple(weight / sum(weights) for weight in weights)

    @property
    def rounding(self) -> float:
        """Relative rounding of a loss; see :class:`LossSurface`."""
        return max(surface.rounding for surface in self.surfaces)

    def loss(self) -> Tensor:
        """The average loss: a 0-d tensor."""
        return self._average([surface.loss() for surface in self.surfaces])

    def gradient(self) -> Tensor:
        """The average gradient: flat, shape (n,)."""
        return self._average(surface.gradient() for surface in self.surfaces)

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        """The average Hessian times a flat vector of shape (n,)."""
        return self._average(surface.hessian_vector_product(vector) for surface in self.surfaces)

    def losses_along(self, direction: Tensor, alphas: Sequence[float] | Tensor) -> Tensor:
        """The average losses along a direction; see :meth:`LossSurface.losses_along`."""
        return self._average(surface.losses_along(direction, alphas) for surface in self.surfaces)

    def losses_on_plane(self, first: Tensor, second: Tensor, alphas: Sequence[float], betas: Sequence[float]) -> Tensor:
        """The average losses on a plane; see :meth:`LossSurface.losses_on_plane`."""
        return self._average(surface.losses_on_plane(first, second, alphas, betas) for surface in self.surfaces)

    def release(self) -> None:
        """Frees the retained graph of every surface."""
        for surface in self.surfaces:
            surface.release()

    def _average(self, values: Iterable[Tensor]) -> Tensor:
        total: Tensor | None = None
        for weight, value in zip(self.weights, values, strict=True):
            total = value.mul(weight) if total is None else total.add_(value, alpha=weight)
        assert total is not None
        return total

    @property
    def approximation(self) -> Approximation | None:
        """The worst approximation among the surfaces; ``None`` when all products were exact."""
        known = [surface.approximation for surface in self.surfaces if surface.approximation is not None]
        return max(known, key=lambda approximation: approximation.relative_error) if known else None
