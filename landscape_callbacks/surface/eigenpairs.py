"""The result of an eigenvalue computation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from landscape_callbacks.surface.vectors import ParameterSpace


class SymmetricOperator(Protocol):
    """What the eigenvalue methods need: a space and products with a symmetric matrix.

    :class:`LossSurface`, :class:`AverageSurface` and :class:`MetricSurface` are such operators.
    """

    @property
    def space(self) -> ParameterSpace:
        """The space of the vectors."""

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        """The matrix times a flat vector (n,), as a new tensor (n,)."""


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Eigenvalues of a Hessian with their eigenvectors, errors and cost; k values in n dimensions.

    Attributes:
        values: float64, shape (k,), CPU, loss units per squared unit of weight. The ``largest`` asked for come first,
            in descending order, then the smallest, also in descending order: the lowest comes last. NaN when a product
            was not finite.
        vectors: Unit eigenvectors, shape (k, n).
        residuals: float64, shape (k,): ‖Hv − λv‖. An eigenvalue lies within the residual of each value.
        errors: float64, shape (k,): bound on the distance of each value to the eigenvalue it stands for. Where
            ``converged``, the smaller of residual and residual²/gap (never below rounding), the residual elsewhere.
        converged: One a value: whether it is known to the tolerance asked for, with no eigenvalue passed over, but for
            copies of a multiple one other than zero.
        products: Hessian-vector products spent.
        largest: How many of the values are from the upper end.
        warm_start: Flat vector (n,) from which the next computation, some training steps later, can start: give these
            eigenpairs as ``initial``.
        asymmetry: How far the operator is from symmetric: the largest difference of uᵀHv and vᵀHu seen, as a share of
            the spectral radius. What rounding leaves, unless something is wrong with a derivative. NaN when not known.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    errors: Tensor
    converged: tuple[bool, ...]
    products: int
    largest: int
    warm_start: Tensor
    asymmetry: float = math.nan

    @property
    def smallest(self) -> int:
        """How many of the values are from the lower end."""
        return len(self.converged) - self.largest

    @property
    def relative_errors(self) -> Tensor:
        """``errors / |values|``: float64, shape (k,)."""
        return self.errors / self.values.abs()

    @classmethod
    def not_finite(cls, space: ParameterSpace, largest: int, smallest: int, products: int) -> Eigenpairs:
        """The result when a product was not finite: NaN everywhere, nothing converged."""
        count = largest + smallest
        nan = torch.full((count,), float("nan"), dtype=torch.float64)
        vector = torch.full_like(space.zeros(), float("nan"))
        return cls(
            values=nan,
            vectors=vector.expand(count, -1),
            residuals=nan.clone(),
            errors=nan.clone(),
            converged=(False,) * count,
            products=products,
            largest=largest,
            warm_start=vector,
        )
