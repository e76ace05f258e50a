"""How much memory a measurement takes, and how it takes less after memory has run out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from landscape_callbacks.surface.lanczos import EXTRA_VECTORS
from landscape_callbacks.surface.vectors import ParameterSpace

FEW_EXTRA_VECTORS = 6
MOST_MICROBATCHES = 16
# Flat vectors that one Hessian-vector product holds besides its argument: the gradient with its graph, the product by
# parameter, both flat.
_PRODUCT_VECTORS = 4


@dataclass(frozen=True)
class Economy:
    """How sparing of memory the measurements on one surface are.

    Attributes:
        few_vectors: A Krylov basis as small as it can be, on the host, and no trace or density.
        microbatches: Pieces that a batch is worked through in.
        off: Nothing is measured any more.
    """

    few_vectors: bool = False
    microbatches: int = 1
    off: bool = False

    def next(self, can_split: bool) -> Economy:
        """What to try after memory has run out: fewer vectors, then twice as many microbatches, then nothing."""
        if not self.few_vectors:
            return replace(self, few_vectors=True)
        if can_split and self.microbatches < MOST_MICROBATCHES:
            return replace(self, microbatches=2 * self.microbatches)
        return replace(self, off=True)

    @property
    def extra_vectors(self) -> int:
        """Basis vectors beyond the wanted ones; see :func:`extreme_eigenvalues`."""
        return FEW_EXTRA_VECTORS if self.few_vectors else EXTRA_VECTORS

    def describe(self) -> str:
        """What is tried now, as the end of a sentence."""
        if self.off:
            return "measurements on this surface are off for the rest of the run"
        if self.microbatches > 1:
            return f"batches are worked through in {self.microbatches} microbatches"
        return "the Krylov basis is kept small and on the host, without trace and density"


@dataclass(frozen=True)
class Memory:
    """Bytes that a measurement takes at its peak beside the training step, without its activations.

    Attributes:
        beside_parameters: On the device of the parameters.
        basis: Of these or further ones, what the Krylov basis takes.
        basis_device: Where the basis is.
    """

    beside_parameters: int
    basis: int
    basis_device: torch.device

    def sentence(self, space: ParameterSpace, monitors: Iterable[str]) -> str:
        """What is said before the first measurement of these monitors, which share a surface."""
        place = (
            ""
            if self.basis_device == space.device
            else f" on {space.device} and {_readable(self.basis)} on {self.basis_device}"
        )
        total = self.beside_parameters if place else self.beside_parameters + self.basis
        return (
            f"{', '.join(dict.fromkeys(monitors))}: measuring holds up to {_readable(total)}{place} in vectors over "
            f"{space.local_dimension:,} parameters, and for as "
            "long as it lasts about four times the activations that a forward pass keeps for its backward."
        )


def eigenvalue_memory(
    space: ParameterSpace,
    wanted: int,
    *,
    extra_vectors: int = EXTRA_VECTORS,
    basis_dtype: torch.dtype | None = None,
    basis_device: torch.device | str | None = None,
    held: int = 0,
    preconditioned: bool = False,
) -> Memory:
    """What :func:`extreme_eigenvalues` takes.

    Args:
        space: The parameters.
        wanted: Eigenvalues asked for.
        extra_vectors: As of :func:`extreme_eigenvalues`.
        basis_dtype: Dtype of the basis.
        basis_device: Where the basis is.
        held: Vectors that are held meanwhile, such as eigenvectors found before.
        preconditioned: Whether products are with a preconditioned Hessian.
    """
    rows = min(wanted + extra_vectors, space.dimension) + 1
    dtype = basis_dtype or space.dtype
    device = space.device if basis_device is None else torch.device(basis_device)
    apart = device != space.device or dtype != space.dtype
    # A product, the start with its random part and what was kept of the last one, a conversion from and to a basis
    # that is elsewhere, and the eigenvectors as they are handed out.
    working = max(_PRODUCT_VECTORS + 4 + 2 * apart, wanted + 3) + held + 4 * preconditioned
    size = space.local_dimension
    return Memory(working * size * _bytes(space.dtype), rows * size * _bytes(dtype), device)


def vector_memory(space: ParameterSpace, vectors: int) -> Memory:
    """Memory of plain vectors beside the parameters."""
    return Memory(vectors * space.local_dimension * _bytes(space.dtype), 0, space.device)


def together(first: Memory, second: Memory) -> Memory:
    """Of two measurements on one snapshot that come one after the other and keep their results."""
    basis = max(first, second, key=lambda memory: memory.basis)
    return Memory(first.beside_parameters + second.beside_parameters, basis.basis, basis.basis_device)


def _bytes(dtype: torch.dtype) -> int:
    return torch.empty(0, dtype=dtype).element_size()


def _readable(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000.0:
            return f"{size:.3g} {unit}"
        size /= 1000.0
    return f"{size:.3g} TB"


def dtype_named(name: str | None) -> torch.dtype | None:
    """The dtype of a plain name, as keywords of monitors give it."""
    dtype: Any = None if name is None else getattr(torch, name)
    return dtype
