"""The pieces of tensors that processes hold, and sums over them: plain tensors and DTensors alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def local_piece(tensor: Tensor) -> Tensor:
    """The piece of a tensor that this process holds: the shard of a DTensor, the tensor itself otherwise."""
    to_local = getattr(tensor, "to_local", None)
    return to_local() if to_local is not None else tensor


def piece_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """What this process holds of a tensor, when it is laid out as a parameter is."""
    placements: Any = getattr(parameter, "placements", None)
    if placements is None:
        return tensor
    own = getattr(tensor, "placements", None)
    mesh: Any = parameter.device_mesh  # type: ignore[attr-defined]
    if own is None:
        if tensor.shape == local_piece(parameter).shape:
            return tensor
        from torch.distributed.tensor import distribute_tensor

        # Without a source rank every process cuts its piece out of its own copy, and none has to send.
        return local_piece(distribute_tensor(tensor, mesh, placements, src_data_rank=None))
    return local_piece(tensor if own == placements else tensor.redistribute(mesh, placements))  # type: ignore[attr-defined]


def largest_piece(tensor: Tensor) -> int:
    """Entries of the largest piece of a tensor: the first process along an axis gets the most."""
    shape = list(tensor.shape)
    for axis, placement in enumerate(getattr(tensor, "placements", ())):
        if placement.is_shard():
            shape[placement.dim] = math.ceil(shape[placement.dim] / tensor.device_mesh.size(axis))  # type: ignore[attr-defined]
    return math.prod(shape)


def shards_of(tensors: Sequence[Tensor]) -> tuple[Any, list[int]]:
    """The device mesh that tensors are sharded over (``None`` when none is), and how many of its processes hold each
    entry.

    Where meshes differ, the largest one stands for all, as one axis of it does under data and tensor parallelism
    together.

    Raises:
        ValueError: When one mesh is no part of the other, or a tensor is a partial sum.
    """
    meshes = [tensor.device_mesh for tensor in tensors if hasattr(tensor, "device_mesh")]
    if not meshes:
        return None, []
    mesh = max(meshes, key=lambda one: int(one.size()))
    processes = set(mesh.mesh.flatten().tolist())
    copies = []
    for tensor in tensors:
        own = getattr(tensor, "device_mesh", mesh)
        if own != mesh and not (own.ndim < mesh.ndim and processes >= set(own.mesh.flatten().tolist())):
            raise ValueError(
                "The parameters are sharded over device meshes of which none holds the others; measure one mesh's "
                "parameters at a time."
            )
        pieces = 1
        for axis, placement in enumerate(getattr(tensor, "placements", ())):
            if placement.is_partial():
                raise ValueError(f"A tensor is placed as {placement}; only sharded and replicated ones are supported.")
            pieces *= own.size(axis) if placement.is_shard() else 1
        copies.append(mesh.size() // pieces)
    return mesh, copies


def sum_over_mesh(mesh: Any, value: Tensor) -> Tensor:
    """The sum of a tensor over all processes of a device mesh, in place."""
    for axis in range(mesh.ndim):
        torch.distributed.all_reduce(value, group=mesh.get_group(axis))
    return value
