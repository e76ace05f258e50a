"""The loss of a snapshot's batches with batch norm in a stated mode, for looking at other weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from landscape_callbacks.surface.average_surface import AverageSurface
from landscape_callbacks.surface.batch_norm import with_batch_norm
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.vectors import ParameterSpace
from landscape_callbacks.training.replay import Replay
from landscape_callbacks.training.seen_batch import SeenBatch


class BatchNormReplay:
    """Evaluates the batches of a snapshot under one of the policies of :func:`with_batch_norm`.

    The surfaces are for losses at other weights. Their derivatives would take the statistics for constants.

    Args:
        replay: Replays the training step; entered.
        pl_module: The module that trains.
        batches: The batches of the snapshot.
        space: The measured parameters.
        options: Further keywords of :class:`LossSurface`.
    """

    def __init__(
        self,
        replay: Replay,
        pl_module: Any,
        batches: Sequence[SeenBatch],
        space: ParameterSpace,
        options: dict[str, Any],
    ) -> None:
        self._replay, self._module, self._space, self._options = replay, pl_module, space, options
        self._batches = tuple(batches)

    def surface(self, policy: str) -> LossSurface | AverageSurface:
        """The loss over the batches: one surface a batch, or one in all when their statistics are taken together."""
        if policy == "recalibrated":
            return self._surface(with_batch_norm(self._mean, self._module, policy, self.pass_batches))
        closures = [with_batch_norm(partial(self._loss, seen), self._module, policy) for seen in self._batches]
        surfaces = [self._surface(closure) for closure in closures]
        weights = [seen.samples for seen in self._batches]
        return surfaces[0] if len(surfaces) == 1 else AverageSurface(surfaces, weights)

    def pass_batches(self) -> None:
        """Passes the batches through the module, as what recalibrates its statistics."""
        for seen in self._batches:
            self._loss(seen)
        self._replay.rewind()

    def _surface(self, loss: Callable[[], Tensor]) -> LossSurface:
        return LossSurface(self._replay.isolated(loss), self._space, **self._options)

    def _loss(self, seen: SeenBatch) -> Tensor:
        self._replay.rewind()
        return self._replay.loss_of(seen.batch, seen.index)

    def _mean(self) -> Tensor:
        samples = sum(seen.samples for seen in self._batches)
        weighted = [seen.samples / samples * self._loss(seen).double() for seen in self._batches]
        return weighted[0] if len(weighted) == 1 else sum(weighted[1:], weighted[0])
