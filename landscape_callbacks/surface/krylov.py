"""A Krylov space of a symmetric operator that grows by one product at a time and can be restarted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape_callbacks.surface.eigenpairs import SymmetricOperator

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

# Restarted and final vectors are formed in place, this many entries of all basis vectors at a time.
_CHUNK = 1 << 16


class NotFiniteError(ArithmeticError):
    """A product of the operator with a finite vector was not finite.

    Attributes:
        products: Products spent, this one included.
    """

    def __init__(self, products: int) -> None:
        super().__init__(f"Product {products} is not finite.")
        self.products = products


@dataclass(frozen=True)
class Ritz:
    """Eigenpairs of the operator restricted to a Krylov space of dimension m, in descending order.

    Attributes:
        values: Ritz values, shape (m,).
        rotation: Ritz vectors as columns, in coordinates of the basis, shape (m, m).
        couplings: Components of H·(Ritz vector) along the vector that the space would grow by, shape (m,), with sign.
        asymmetries: The part of each residual that lies in the space, shape (m,): zero but for rounding where the
            operator is symmetric. It does not shrink as the space grows.
        residuals: ‖H·y − θ·y‖, shape (m,).
    """

    values: Array
    rotation: Array
    couplings: Array
    asymmetries: Array
    residuals: Array

    @property
    def radius(self) -> float:
        """The largest magnitude of a Ritz value: a lower bound, soon tight, of the spectral radius."""
        return float(np.abs(self.values).max())


class KrylovSpace:
    """An orthonormal basis V of a Krylov space with H V = V C + v₊ bᵀ, held in preallocated memory.

    How it differs from the textbook's three-term Lanczos recursion:

    1. Each new vector is orthogonalised twice against the whole basis ("twice is enough", Parlett 1998). A short
       recursion loses orthogonality once a Ritz value converges, and copies of that value ("ghosts") appear.
    2. C holds all coefficients, not just three diagonals. It is symmetric for a symmetric operator; what asymmetry
       rounding or noise leaves goes into the residuals instead of being lost.
    3. A full basis is compressed to some of its Ritz vectors and grows again: the thick restart of Wu & Simon (2000).
    4. When the space is invariant, a random vector orthogonal to it starts another block: that finds the further copies
       of a multiple eigenvalue.

    Args:
        operator: The symmetric operator.
        start: Flat vector (n,), need not be normalised.
        capacity: How many basis vectors fit. One further vector is held, the one to grow by.
        seed: Seeds the vectors that start further blocks.
        dtype: Of the basis.
        device: Of the basis.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        start: Tensor,
        capacity: int,
        *,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.operator = operator
        self.space = operator.space
        self.capacity = min(capacity, self.space.dimension)
        self.basis = torch.empty(
            (self.capacity + 1, start.numel()),
            dtype=start.dtype if dtype is None else dtype,
            device=start.device if device is None else device,
        )
        self.products = 0
        self.size = 0
        self.block_start = 0
        self.invariant = False
        self.exhausted = False
        self._seed = seed
        self._matrix = np.zeros((self.capacity + 1, self.capacity + 1))
        self._discarded: list[_Restart] = []
        start = start.to(self.basis)
        torch.div(start, self.space.norm(start), out=self.basis[0])

    def grow(self) -> None:
        """Spends one product on the next basis vector.

        Raises:
            NotFiniteError: When the product is not finite.
        """
        m = self.size
        if self.invariant:
            self._start_block()
        vector = self.basis[m]
        product = self.operator.hessian_vector_product(vector.to(dtype=self.space.dtype, device=self.space.device))
        self.products += 1
        remainder = product.to(self.basis)
        coefficients = self._orthogonalize(remainder, m + 1)
        norm = self.space.norm(remainder)
        torch.div(remainder, norm, out=self.basis[m + 1])
        # The one transfer from the device in each product.
        numbers = torch.cat([coefficients, norm.reshape(1)]).to(device="cpu", dtype=torch.float64).numpy()
        if not np.isfinite(numbers).all():
            raise NotFiniteError(self.products)
        self._matrix[: m + 1, m] = numbers[:-1]
        self._matrix[m + 1, m] = numbers[-1]
        self.size = m + 1
        self.exhausted = self.size == self.space.dimension
        largest = np.abs(self._matrix[: m + 1, : m + 1]).max()
        self.invariant = self.exhausted or numbers[-1] <= 8 * torch.finfo(self.space.dtype).eps * largest
        if self.invariant:
            self._matrix[m + 1, m] = 0.0

    def asymmetry(self) -> float:
        """How far the operator is from symmetric on the space: the largest difference of uᵀHv and vᵀHu over the largest
        entry of C.
        """
        inner = self._matrix[: self.size, : self.size]
        return float(np.abs(inner - inner.T).max() / max(np.abs(inner).max(), np.finfo(np.float64).tiny))

    def ritz(self, first: int = 0) -> Ritz:
        """Rayleigh-Ritz on the basis vectors from index ``first`` on."""
        inner = self._matrix[first : self.size, first : self.size]
        values, rotation = np.linalg.eigh((inner + inner.T) / 2)
        values, rotation = values[::-1], rotation[:, ::-1]
        couplings = self._matrix[self.size, first : self.size] @ rotation
        asymmetries = np.linalg.norm(inner @ rotation - rotation * values, axis=0)
        return Ritz(values, rotation, couplings, asymmetries, np.hypot(couplings, asymmetries))

    def restart(self, ritz: Ritz, keep: Indices) -> None:
        """Compresses the space to the Ritz vectors with indices ``keep``; they become its first basis vectors."""
        kept = len(keep)
        self._rotate(ritz.rotation[:, keep])
        self.basis[kept].copy_(self.basis[self.size])
        compressed = ritz.rotation[:, keep].T @ self._matrix[: self.size, : self.size] @ ritz.rotation[:, keep]
        self._matrix[:] = 0.0
        self._matrix[:kept, :kept] = compressed
        self._matrix[kept, :kept] = ritz.couplings[keep]
        self._discarded.append(_Restart(ritz, keep))
        self.size = kept
        self.block_start = 0

    def start_components(self, ritz: Ritz, index: int) -> float:
        """How strongly the start holds an eigenvector u with eigenvalue near a Ritz value, over u's component there.

        Without a restart it is the first entry of the Ritz vector. A restart drops Ritz vectors y with value θ from the
        space; uᵀy = (coupling / (λ − θ)) · uᵀv₊, so that what was dropped is carried on by the coordinate of v₊.
        """
        value = ritz.values[index]
        coordinates = np.array([1.0])
        for restart in self._discarded:
            rotated = restart.ritz.rotation[: len(coordinates)].T @ coordinates
            dropped = np.setdiff1d(np.arange(len(rotated)), restart.keep)
            distance = value - restart.ritz.values[dropped]
            distance = np.where(distance == 0.0, np.finfo(np.float64).tiny, distance)
            carried = (rotated[dropped] * restart.ritz.couplings[dropped] / distance).sum()
            coordinates = np.append(rotated[restart.keep], carried)
        coordinates = coordinates[: len(ritz.values)]
        return float(abs(ritz.rotation[: len(coordinates), index] @ coordinates))

    def combine(self, coordinates: Array) -> Tensor:
        """The vector with these coordinates in the basis: flat (n,), in the space's dtype and device."""
        weights = torch.from_numpy(np.ascontiguousarray(coordinates)).to(self.basis)
        return torch.mv(self.basis[: self.size].T, weights).to(dtype=self.space.dtype, device=self.space.device)

    def extract(self, coordinates: Array) -> Tensor:
        """Vectors with the columns of (m, k) as coordinates: shape (k, n). The space is of no use afterwards."""
        self._rotate(coordinates)
        # A view would keep the whole basis alive for as long as the caller holds the vectors.
        return self.basis[: coordinates.shape[1]].to(dtype=self.space.dtype, device=self.space.device, copy=True)

    def _rotate(self, rotation: Array) -> None:
        """Replaces the first basis vectors by combinations, in place."""
        transposed = torch.from_numpy(np.ascontiguousarray(rotation.T)).to(self.basis)
        for start in range(0, self.basis.shape[1], _CHUNK):
            piece = self.basis[: self.size, start : start + _CHUNK]
            self.basis[: rotation.shape[1], start : start + _CHUNK] = transposed @ piece

    def _orthogonalize(self, vector: Tensor, count: int) -> Tensor:
        """Removes the components along the first ``count`` basis vectors in place, twice; returns their sum."""
        basis = self.basis[:count]
        first = self.space.coefficients(basis, vector)
        vector.addmv_(basis.T, first, alpha=-1)
        second = self.space.coefficients(basis, vector)
        vector.addmv_(basis.T, second, alpha=-1)
        return first + second

    def _start_block(self) -> None:
        self.block_start = self.size
        self._seed += 1
        vector = self.space.random(self._seed).to(self.basis)
        self._orthogonalize(vector, self.size)
        torch.div(vector, self.space.norm(vector), out=self.basis[self.size])
        self.invariant = False


@dataclass(frozen=True)
class _Restart:
    ritz: Ritz
    keep: Indices
