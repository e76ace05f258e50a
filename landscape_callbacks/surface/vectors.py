"""The vector space spanned by a set of parameters: flat vectors and inner products.

Every algorithm in this package works on flat one-dimensional tensors and takes inner products only through
:class:`ParameterSpace`. That is what lets the same Lanczos loop run on one process, on replicated parameters (every
rank holds the whole vector) and on sharded parameters (every rank holds its piece, inner products are summed over the
mesh).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from landscape_callbacks.surface.shards import largest_piece, local_piece, piece_like, shards_of, sum_over_mesh

_SALT = 0x6C616E6473636170
_SEED_STRIDE = 1_000_003
# One float32 sum over 25 million entries is off by 2e-4 (measured: torch.dot) to 1.4e-3 (torch.linalg.vector_norm);
# sums over blocks of this size, added up in float64, by 1e-7, at the same speed.
BLOCK = 1 << 17


def _dense(tensor: Tensor) -> Tensor:
    """The tensor itself, or all its entries when it is a sparse gradient (of an embedding)."""
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


class ParameterSpace:
    """Flat vectors over a set of parameters.

    Tied parameters (the same tensor under two names) are counted once, under their first name. Frozen parameters
    (``requires_grad=False``) are left out. A vector is a one-dimensional tensor with the parameters' entries in
    order; its dtype is at least float32, so that sums over half-precision gradients do not lose their small terms.

    Args:
        parameters: Tensors, or ``(name, tensor)`` pairs as from ``module.named_parameters()``.

    Attributes:
        names: One name a parameter.
        parameters: The parameters, in order.
        dimension: Entries of a vector over all processes.
        local_dimension: Entries of a vector that this process holds; equals ``dimension`` unless parameters are
            sharded.
        largest_local_dimension: The most entries that a process holds.
        dtype: Dtype of vectors.
        device: Device of vectors.

    Raises:
        ValueError: When a parameter is complex, or when there is nothing to differentiate.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2, 3))
        >>> space = ParameterSpace([("weight", weight)])
        >>> space.dimension
        6
        >>> space.split(space.flatten([weight]))[0].shape
        torch.Size([2, 3])
    """

    def __init__(self, parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]]) -> None:
        names: list[str] = []
        tensors: list[Tensor] = []
        seen: set[int] = set()
        frozen = 0
        entries: Iterable[Any] = parameters
        for index, entry in enumerate(entries):
            name, tensor = (str(index), entry) if isinstance(entry, Tensor) else entry
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            if isinstance(tensor, torch.nn.parameter.UninitializedParameter):
                raise ValueError(
                    f"Parameter '{name}' is not initialized yet (a lazy module). Run one batch through the model first."
                )
            if tensor.is_complex():
                raise ValueError(
                    f"Parameter '{name}' is complex ({tensor.dtype}); curvature is defined here for real parameters "
                    "only. "
                    "Exclude it, or hold its real and imaginary parts as two real parameters."
                )
            if not tensor.requires_grad:
                frozen += 1
                continue
            names.append(name)
            tensors.append(tensor)
        if not tensors:
            received = f"all {frozen} parameters are frozen" if frozen else "no parameter was given"
            raise ValueError(
                f"Nothing to differentiate: {received}. Pass at least one floating-point parameter with "
                "requires_grad=True."
            )
        self.names = tuple(names)
        self.parameters = tuple(tensors)
        self.device = local_piece(tensors[0]).device
        self.dtype = torch.float32
        for tensor in tensors:
            self.dtype = torch.promote_types(self.dtype, tensor.dtype)
        self._shapes = tuple(local_piece(tensor).shape for tensor in tensors)
        self._sizes = tuple(shape.numel() for shape in self._shapes)
        self.local_dimension = sum(self._sizes)
        self.dimension = sum(tensor.numel() for tensor in tensors)
        self.largest_local_dimension = sum(map(largest_piece, tensors))
        self._mesh, self._segments = self._find_shards()

    def _find_shards(self) -> tuple[Any, list[tuple[int, int, float]]]:
        """The mesh that parameters are sharded over, and for each run of entries the share that this copy counts for.

        An entry that r processes of the mesh hold counts 1/r on each, so that a plain sum over the mesh is right.
        """
        mesh, copies = shards_of(self.parameters)
        if mesh is None:
            return None, []
        segments: list[tuple[int, int, float]] = []
        start = 0
        for size, count in zip(self._sizes, copies, strict=True):
            share = 1.0 / count
            if segments and segments[-1][2] == share:
                segments[-1] = (segments[-1][0], start + size, share)
            else:
                segments.append((start, start + size, share))
            start += size
        return mesh, segments

    def flatten(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One flat vector from a tensor a parameter; ``None`` (an unused parameter) becomes zeros.

        For a sharded parameter the tensor is a DTensor, or whole, or this process's piece.
        """
        pieces = [
            torch.zeros(size, dtype=self.dtype, device=self.device)
            if tensor is None
            else _dense(piece_like(tensor.detach(), parameter)).to(device=self.device, dtype=self.dtype).reshape(-1)
            for tensor, parameter, size in zip(tensors, self.parameters, self._sizes, strict=True)
        ]
        return torch.cat(pieces)

    def split(self, vector: Tensor) -> list[Tensor]:
        """The entries of a flat vector, one tensor a parameter in its shape, dtype and device; views if possible."""
        if vector.shape != (self.local_dimension,):
            raise ValueError(
                f"Expected a flat vector of {self.local_dimension} entries, got shape {tuple(vector.shape)}."
            )
        pieces = torch.split(vector, list(self._sizes))
        return [
            piece.view(shape).to(device=local_piece(tensor).device, dtype=tensor.dtype)
            for piece, shape, tensor in zip(pieces, self._shapes, self.parameters, strict=True)
        ]

    def split_like_parameters(self, vector: Tensor) -> list[Tensor]:
        """As :meth:`split`, and as DTensors where the parameters are: the form that autograd takes as grad outputs."""
        pieces = self.split(vector)
        if self._mesh is None:
            return pieces
        from torch.distributed.tensor import DTensor

        return [
            DTensor.from_local(piece, tensor.device_mesh, tensor.placements, shape=tensor.shape, stride=tensor.stride())
            if isinstance(tensor, DTensor)
            else piece
            for piece, tensor in zip(pieces, self.parameters, strict=True)
        ]

    def weights(self) -> Tensor:
        """A copy of the current weights as one flat vector."""
        return self.flatten(self.parameters)

    def zeros(self) -> Tensor:
        """The zero vector."""
        return torch.zeros(self.local_dimension, dtype=self.dtype, device=self.device)

    def random(self, seed: int, distribution: str = "normal") -> Tensor:
        """A random vector from its own generator: no global random stream is read or moved.

        Args:
            seed: The same seed gives the same vector on every process; sharded pieces differ from each other.
            distribution: ``"normal"`` (independent standard normal entries) or ``"rademacher"`` (independent ±1).
        """
        if distribution not in ("normal", "rademacher"):
            raise ValueError(f"distribution must be 'normal' or 'rademacher', got {distribution!r}.")
        if self._mesh is None:
            return self._draw(self.local_dimension, seed, distribution)
        pieces = []
        for index, (tensor, size) in enumerate(zip(self.parameters, self._sizes, strict=True)):
            place = 0
            for axis, placement in enumerate(getattr(tensor, "placements", ())):
                if placement.is_shard():
                    own = tensor.device_mesh  # type: ignore[attr-defined]
                    place = place * own.size(axis) + own.get_local_rank(axis)
            pieces.append(self._draw(size, seed + _SEED_STRIDE * (1 + index) + 7919 * place, distribution))
        return torch.cat(pieces)

    def _draw(self, size: int, seed: int, distribution: str) -> Tensor:
        # Salted: with the user's own seed the vector would repeat the stream that drew the weights.
        generator = torch.Generator().manual_seed((seed + _SALT) % (1 << 63))
        if distribution == "normal":
            drawn = torch.randn(size, generator=generator, dtype=self.dtype)
        else:
            drawn = torch.randint(0, 2, (size,), generator=generator).to(self.dtype).mul_(2).sub_(1)
        return drawn.to(self.device)

    def dot(self, first: Tensor, second: Tensor) -> Tensor:
        """Inner product of two flat vectors over all processes that share them; a 0-d tensor of their dtype."""
        return self.coefficients(first.unsqueeze(0), second)[0]

    def norm(self, vector: Tensor) -> Tensor:
        """Euclidean norm of a flat vector; a 0-d tensor of its dtype."""
        return self.dot(vector, vector).sqrt()

    def coefficients(self, basis: Tensor, vector: Tensor) -> Tensor:
        """Inner products of the rows of ``basis`` (m, n) with ``vector`` (n,); shape (m,), of their dtype."""
        if self._mesh is None:
            return _blocked_products(basis, vector).to(vector.dtype)
        shares = [share * _blocked_products(basis[:, a:b], vector[a:b]) for a, b, share in self._segments]
        total = torch.stack(shares).sum(0)
        return sum_over_mesh(self._mesh, total).to(vector.dtype)

    def segments(self) -> list[tuple[int, int, float]]:
        """Runs of entries ``(start, end, share)``: an entry that r processes hold counts 1/r on each in a sum over
        all.
        """
        return [(0, self.local_dimension, 1.0)] if self._mesh is None else list(self._segments)

    def sum_over_processes(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes that share the parameters; the tensor itself when none do."""
        return value if self._mesh is None else sum_over_mesh(self._mesh, value)

    def __repr__(self) -> str:
        count = len(self.parameters)
        return f"ParameterSpace({count} parameters, {self.dimension} entries, {self.dtype}, {self.device})"


def _blocked_products(basis: Tensor, vector: Tensor) -> Tensor:
    """``basis @ vector`` by blocks of columns, added up in float64."""
    size = vector.shape[0]
    if size <= BLOCK:
        return torch.mv(basis, vector).double()
    starts = range(0, size, BLOCK)
    parts = [torch.mv(basis[:, start : start + BLOCK], vector[start : start + BLOCK]) for start in starts]
    return torch.stack(parts).double().sum(0)
