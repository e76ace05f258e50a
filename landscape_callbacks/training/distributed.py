"""Averages over data-parallel ranks, in which a rank that fails takes the others out with it instead of leaving them to wait."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class OtherRankFailed(RuntimeError):
    """Another rank could not measure, so this one's part is worth nothing."""


class RankAverage:
    """The mean of a tensor over the ranks of a data-parallel strategy.

    DDP's gradient is the mean over ranks of each rank's mean loss, so this is the surface that training moves on.

    Args:
        trainer: A trainer on more than one rank.
    """

    def __init__(self, trainer: Any) -> None:
        self._ranks = trainer.world_size
        self._device = trainer.strategy.root_device

    def agree(self, error: Exception | None) -> None:
        """Raises ``error`` on its rank and :class:`OtherRankFailed` on every other; nothing when there is none."""
        failures = torch.tensor([0 if error is None else 1], device=self._device)
        torch.distributed.all_reduce(failures)
        if error is not None:
            raise error
        if int(failures) > 0:
            raise OtherRankFailed(f"{int(failures)} of {self._ranks} ranks could not measure; their own warning says why.")

    def __call__(self, value: Tensor) -> Tensor:
        """The mean over ranks, in place."""
        home = value.device
        shared = value.to(self._device)
        torch.distributed.all_reduce(shared)
        return shared.div_(self._ranks).to(home)


def rank_average(trainer: Any) -> RankAverage | None:
    """The average over the trainer's ranks; ``None`` on one."""
    return RankAverage(trainer) if trainer.world_size > 1 else None
