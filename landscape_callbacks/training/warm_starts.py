"""Where the next computation of eigenvalues starts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from landscape_callbacks.surface.vectors import ParameterSpace


class WarmStarts:
    """Start vectors that a measurement leaves for the next one, by operator.

    They are kept in bfloat16: a start needs no digits, only a direction, and they wait through the whole of training
    and in checkpoints.
    """

    def __init__(self) -> None:
        self._vectors: dict[str, Tensor] = {}
        self._sharded = False

    def put(self, name: str, vector: Tensor, space: ParameterSpace, device: torch.device | str | None = None) -> None:
        """Keeps a start for the next measurement; none when it is not finite."""
        self._sharded = space.local_dimension != space.dimension
        kept = vector.detach().to(device=device, dtype=torch.bfloat16, copy=True)
        if bool(torch.isfinite(kept).all()):
            self._vectors[name] = kept
        else:
            self._vectors.pop(name, None)

    def get(self, name: str, space: ParameterSpace) -> Tensor | None:
        """The start that was kept, as a vector of ``space``; ``None`` without one that fits."""
        kept = self._vectors.get(name)
        if kept is None or len(kept) != space.local_dimension:
            return None
        return kept.to(device=space.device, dtype=space.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """CPU tensors for a checkpoint. Shards are left out: a checkpoint holds the state of one rank."""
        return {} if self._sharded else {name: vector.cpu() for name, vector in self._vectors.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues with the starts of a checkpoint."""
        self._vectors = dict(state)
