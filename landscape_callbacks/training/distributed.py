"""Averages over data-parallel ranks, in which a rank that fails takes the others out with it instead of leaving them
to wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class OtherRankFailedError(RuntimeError):
    """Another rank could not measure, so this one's part is worth nothing."""


class RankAverage:
    """The mean of a tensor over the ranks that see different data.

    DDP's gradient is the mean over ranks of each rank's mean loss, so this is the surface that training moves on.
    Under tensor parallelism several ranks see the same data; the mean is then over the data-parallel axis of the
    mesh.

    What keeps ranks together: before every collective of a measurement all ranks :meth:`agree` that none has failed.
    A rank that fails says so in its next ``agree`` and leaves; the others, whose ``agree`` it meets, leave by
    :class:`OtherRankFailedError`. So both sides have called the same collectives, and training goes on with the next.

    Args:
        trainer: A trainer on more than one rank.
    """

    def __init__(self, trainer: Any) -> None:
        self._world, self._rank = trainer.world_size, trainer.global_rank
        self._device = trainer.strategy.root_device
        mesh = getattr(trainer.strategy, "device_mesh", None)
        self._group = None if mesh is None else mesh["data_parallel"].get_group()
        self.ranks: int = self._world if mesh is None else mesh["data_parallel"].size()

    def agree(self, error: Exception | None = None) -> None:
        """Raises ``error`` on its rank and :class:`OtherRankFailedError` on every other; nothing when there is none."""
        failed = int(error is not None)
        failures = torch.tensor([failed, failed * int(self._rank == 0)], device=self._device)
        torch.distributed.all_reduce(failures)
        count, on_rank_zero = failures.tolist()
        if error is not None:
            error._all_ranks_know = True  # type: ignore[attr-defined]
            error._rank_zero_failed = bool(on_rank_zero)  # type: ignore[attr-defined]
            raise error
        if count > 0:
            raise OtherRankFailedError(f"{count} of {self._world} ranks could not measure; their own warning says why.")

    def __call__(self, value: Tensor) -> Tensor:
        """The mean over ranks, in place. All ranks have to agree before."""
        home = value.device
        shared = value.to(self._device)
        torch.distributed.all_reduce(shared, group=self._group)
        return shared.div_(self.ranks).to(home)

    def totals(self, values: Sequence[float]) -> list[float]:
        """The sum over ranks of each number, when all ranks have come here."""
        self.agree()
        shared = torch.tensor(values, dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(shared, group=self._group)
        return [float(value) for value in shared.tolist()]


def rank_average(trainer: Any) -> RankAverage | None:
    """The average over the trainer's ranks; ``None`` on one."""
    return RankAverage(trainer) if trainer.world_size > 1 else None


def all_ranks_know(error: BaseException | None) -> bool:
    """Whether an error, or the one it was raised from, was told to the other ranks by :meth:`RankAverage.agree`."""
    while error is not None:
        if isinstance(error, OtherRankFailedError) or getattr(error, "_all_ranks_know", False):
            return True
        error = error.__cause__
    return False


def has_to_speak(error: BaseException) -> bool:
    """Whether an error is to be told by this rank, since rank zero has none of its own to tell."""
    return not isinstance(error, OtherRankFailedError) and not getattr(error, "_rank_zero_failed", True)


def largest_of_ranks(trainer: Any, values: list[float]) -> list[float]:
    """The largest of each number over all ranks."""
    if trainer.world_size == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
    return [float(value) for value in shared.tolist()]


def mean_where_known(trainer: Any, value: float | None) -> float | None:
    """The mean of a number over the ranks that know it; ``None`` when none does. All ranks call it, since all decide
    alike.
    """
    if trainer.world_size == 1:
        return value
    both = [0.0, 0.0] if value is None else [value, 1.0]
    shared = torch.tensor(both, dtype=torch.float64, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(shared)
    total, ranks = shared.tolist()
    return total / ranks if ranks else None
