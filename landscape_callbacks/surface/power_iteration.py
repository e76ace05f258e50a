"""Extreme eigenpairs by power iteration, the textbook method: slower than Lanczos, and simple to check by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape_callbacks.surface.eigenpairs import Eigenpairs, SymmetricOperator

# Products of the first run, which finds how far the spectrum reaches.
_FIRST_RUN = 20


def power_iteration(
    surface: SymmetricOperator,
    largest: int = 1,
    smallest: int = 0,
    *,
    tolerance: float = 1e-3,
    max_products: int = 1000,
    seed: int = 0,
) -> Eigenpairs:
    """Largest and smallest eigenvalues by power iteration with deflation (Golub & Van Loan, §7.3).

    Plain iteration finds the eigenvalue of largest absolute value, whatever its sign. So each end is found on the
    operator shifted by the bound that the first iteration gave, on which that end dominates. Converged vectors are
    projected out for the next one. A value has converged when its residual outside of these vectors is at most
    ``tolerance`` of the largest absolute eigenvalue: an eigenvalue is that near. Which one it is among close ones the
    method cannot tell; :func:`extreme_eigenvalues` can.

    Args:
        surface: A loss surface, or anything with ``space`` and symmetric ``hessian_vector_product``.
        largest: How many of the largest eigenvalues.
        smallest: How many of the smallest.
        tolerance: Residual to reach, as a share of the largest absolute eigenvalue.
        max_products: Hessian-vector products for all values together.
        seed: Of the random start vectors.

    Returns:
        The eigenpairs, in the form that :func:`extreme_eigenvalues` gives.

    Raises:
        ValueError: When no eigenvalue is asked for, or an argument is out of its range.

    Example:
        >>> import torch
        >>> from landscape_callbacks.surface import LossSurface
        >>> weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        >>> curvatures = torch.tensor([3.0, 1.0, -5.0], dtype=torch.float64)
        >>> surface = LossSurface(lambda: 0.5 * (curvatures * weight**2).sum(), [weight])
        >>> power_iteration(surface, 1, 1, tolerance=1e-6).values
        tensor([ 3.0000, -5.0000], dtype=torch.float64)
    """
    if largest < 0 or smallest < 0 or largest + smallest < 1:
        raise ValueError(f"Ask for at least one eigenvalue, got largest={largest} and smallest={smallest}.")
    if not tolerance > 0.0 or max_products < 1:
        raise ValueError(f"tolerance and max_products have to be positive, got {tolerance} and {max_products}.")
    largest = min(largest, surface.space.dimension)
    smallest = min(smallest, surface.space.dimension - largest)
    iteration = _Iteration(surface, tolerance, max_products, seed)
    # λ and −λ at both ends never separate without a shift. So the first run need not converge: ‖Hv‖ is close to the
    # spectral radius long before, and half of the radius is shift enough.
    dominant = iteration.run(shift=0.0, deflated=[], limit=_FIRST_RUN)
    iteration.bound = dominant.image_norm
    ends: dict[int, list[_Pair]] = {1: [], -1: []}
    for sign, count in ((1, largest), (-1, smallest)):
        for _ in range(count):
            if not ends[sign] and dominant.value * sign > 0.0 and dominant.converged:
                ends[sign].append(dominant)
                continue
            ends[sign].append(
                iteration.run(shift=-sign * iteration.bound, deflated=[pair.vector for pair in ends[sign]])
            )
        ends[sign].sort(key=lambda pair: -sign * pair.value)
    pairs = [*ends[1], *reversed(ends[-1])]
    residuals = torch.tensor([pair.residual for pair in pairs], dtype=torch.float64)
    vectors = torch.stack([pair.vector for pair in pairs])
    return Eigenpairs(
        values=torch.tensor([pair.value for pair in pairs], dtype=torch.float64),
        vectors=vectors,
        residuals=residuals,
        errors=residuals,
        converged=tuple(pair.converged for pair in pairs),
        products=iteration.products,
        largest=largest,
        warm_start=vectors.sum(0),
    )


@dataclass(frozen=True)
class _Pair:
    value: float
    vector: Tensor
    residual: float
    image_norm: float
    converged: bool


class _Iteration:
    """Power iterations that share a budget of products and a bound of the spectrum."""

    def __init__(self, surface: SymmetricOperator, tolerance: float, max_products: int, seed: int) -> None:
        self.surface = surface
        self.tolerance = tolerance
        self.max_products = max_products
        self.products = 0
        self.bound = 0.0
        self._seed = seed

    def run(self, shift: float, deflated: list[Tensor], limit: int | None = None) -> _Pair:
        """Iterates on ``H − shift`` outside of the deflated vectors; gives the pair of H."""
        space = self.surface.space
        vector = self._unit(space.random(self._seed), deflated)
        self._seed += 1
        last = self.max_products if limit is None else min(self.max_products, self.products + limit)
        while True:
            full = image = self.surface.hessian_vector_product(vector)
            self.products += 1
            for known in deflated:
                image = image - space.dot(known, image) * known
            rayleigh = space.dot(vector, image)
            norms = [space.norm(part) for part in (image - rayleigh * vector, full - rayleigh * vector, full)]
            # One transfer from the device in each product.
            value, change, residual, norm = torch.stack([rayleigh, *norms]).tolist()
            # What the earlier vectors are off by can not be iterated away here; the residual that is returned holds it.
            converged = change <= self.tolerance * max(self.bound, abs(value))
            if converged or not math.isfinite(change) or self.products >= last:
                return _Pair(value, vector, residual, norm, converged)
            vector = self._unit(image - shift * vector, deflated)

    def _unit(self, vector: Tensor, deflated: list[Tensor]) -> Tensor:
        space = self.surface.space
        for known in deflated:
            vector = vector - space.dot(known, vector) * known
        return vector / space.norm(vector)
