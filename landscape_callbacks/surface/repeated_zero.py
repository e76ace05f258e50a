"""Further copies of the eigenvalue zero at an end of a spectrum, which one start vector cannot see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from landscape_callbacks.surface.eigenpairs import Eigenpairs, SymmetricOperator
from landscape_callbacks.surface.vectors import ParameterSpace

Search = Callable[[SymmetricOperator, int, int, int], Eigenpairs]


class _Deflated:
    """An operator on the complement of known eigenvectors; in their span it is ``shift`` times the identity."""

    def __init__(self, operator: SymmetricOperator, known: Tensor, shift: float) -> None:
        self.operator = operator
        self.known = known
        self.shift = shift

    @property
    def space(self) -> ParameterSpace:
        return self.operator.space

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        inside = self.known.T @ self.space.coefficients(self.known, vector)
        product = self.operator.hessian_vector_product(vector - inside)
        outside = product - self.known.T @ self.space.coefficients(self.known, product)
        return outside.add_(inside, alpha=self.shift)


def with_repeated_zero(operator: SymmetricOperator, pairs: Eigenpairs, radius: float, search: Search) -> Eigenpairs:
    """Looks for further copies of zero where an end of the spectrum is zero and more than one value was asked for.

    Dead units, redundant parameters and convex losses give Hessians whose lowest eigenvalue is zero, many times over.
    A Krylov space from one vector holds one eigenvector of each eigenvalue, so the next value that it shows would be
    taken for the second lowest. Here the known vectors are projected out, and the end is computed again, once for each
    copy that is found.

    Args:
        operator: The operator.
        pairs: Eigenpairs of it.
        radius: Its spectral radius.
        search: Gives the eigenpairs of an operator: ``search(operator, largest, smallest, seed)``.

    Returns:
        The eigenpairs, those of an end that is zero with all its copies; where a search did not converge, the values
        after the first are not called converged.
    """
    zero = math.sqrt(float(torch.finfo(operator.space.dtype).eps)) * radius
    for end in (1, -1):
        count = pairs.largest if end == 1 else pairs.smallest
        outermost = 0 if end == 1 else -1
        if count > 1 and pairs.converged[outermost] and abs(float(pairs.values[outermost])) <= zero < radius:
            pairs = _completed(operator, pairs, end, count, zero, radius, search)
    return pairs


def _completed(
    operator: SymmetricOperator, pairs: Eigenpairs, end: int, count: int, zero: float, radius: float, search: Search
) -> Eigenpairs:
    order = list(range(count)) if end == 1 else list(range(len(pairs.values) - 1, len(pairs.values) - 1 - count, -1))
    rows = [_row(pairs, place) for place in order]
    products = pairs.products
    while True:
        zeros = sum(abs(value) <= zero for value, *_ in rows)
        if zeros == count:
            break
        # The shift puts what is known at the other end of the spectrum.
        deflated = _Deflated(operator, torch.stack([vector for _, vector, *_ in rows[:zeros]]), -end * radius)
        found = search(deflated, int(end == 1), int(end == -1), zeros)
        products += found.products
        value, vector, residual, error, known = _row(found, 0)
        if not known:
            rows = [(*row[:4], row[4] and place < zeros) for place, row in enumerate(rows)]
            break
        if abs(value) > zero:
            break
        rows = [*rows[:zeros], (value, vector, residual, error, known), *rows[zeros:-1]]
    values, vectors = pairs.values.clone(), pairs.vectors.clone()
    residuals, errors, converged = pairs.residuals.clone(), pairs.errors.clone(), list(pairs.converged)
    for place, (value, vector, residual, error, known) in zip(order, rows, strict=True):
        values[place], vectors[place], residuals[place], errors[place] = value, vector, residual, error
        converged[place] = known
    return replace(
        pairs,
        values=values,
        vectors=vectors,
        residuals=residuals,
        errors=errors,
        converged=tuple(converged),
        products=products,
    )


def _row(pairs: Eigenpairs, place: int) -> tuple[float, Tensor, float, float, bool]:
    return (
        float(pairs.values[place]),
        pairs.vectors[place],
        float(pairs.residuals[place]),
        float(pairs.errors[place]),
        pairs.converged[place],
    )
