"""The loss on a validation batch as a function that can be evaluated again, without a trace."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from landscape_callbacks.surface.batch_norm import with_batch_norm
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.training.replay import LossFunction, Replay
from landscape_callbacks.training.snapshot import Snapshot


class ValidationReplay(Replay):
    """As :class:`Replay`, with ``validation_step`` in eval mode, isolated in the same way.

    The loss is what ``validation_step`` returns: a tensor, or a mapping with a tensor under ``"loss"``. When it returns
    none, it is what the step logs: the value named ``metric``, or the only one whose name ends in "loss".

    Args:
        trainer: The trainer, inside ``fit``.
        pl_module: The module that trains.
        loss_fn: Called as ``loss_fn(pl_module, batch)`` instead of ``validation_step``.
        metric: Name of the logged loss; it then goes before what the step returns.
    """

    def __init__(
        self, trainer: Any, pl_module: Any, *, loss_fn: LossFunction | None = None, metric: str | None = None
    ) -> None:
        super().__init__(trainer, pl_module, loss_fn=loss_fn, eval_mode=True)
        self._metric = metric

    def _training_step_loss(self, batch: Any, batch_idx: int) -> Tensor:
        logged: dict[str, Any] = {}

        def log(name: str, value: Any, *_: Any, **__: Any) -> None:
            logged[name] = value

        def log_dict(values: Mapping[str, Any], *_: Any, **__: Any) -> None:
            logged.update(values)

        # Attributes of the instance shadow its methods. What isolates the step takes them away again.
        self._module.log, self._module.log_dict = log, log_dict
        accepted = inspect.signature(self._module.validation_step).parameters
        positions = [batch, batch_idx, 0][: max(1, len(accepted))]
        return _loss_of(self._module.validation_step(*positions), logged, self._metric)


@contextmanager
def validation_surface(
    trainer: Any,
    pl_module: Any,
    snapshot: Snapshot,
    batch: Any,
    *,
    loss_fn: LossFunction | None,
    metric: str | None,
    batch_norm: str | None,
) -> Iterator[LossSurface]:
    """The validation loss of a batch over the weights of a snapshot.

    Batch norm uses its running statistics, as ``validation_step`` does; with ``batch_norm="recalibrated"`` those that
    the batches of the snapshot give at each point.
    """
    with ValidationReplay(trainer, pl_module, loss_fn=loss_fn, metric=metric) as replay:
        closure = replay.closure(batch, 0)
        if batch_norm == "recalibrated" and snapshot.batch_norm is not None:
            loss = partial(replay.loss_of, batch, 0)
            closure = replay.isolated(with_batch_norm(loss, pl_module, batch_norm, snapshot.batch_norm.pass_batches))
        trained = snapshot.surfaces[0]
        yield LossSurface(closure, snapshot.space, average=trained.average, sharded=trained.sharded)


def _loss_of(output: Any, logged: Mapping[str, Any], metric: str | None) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if metric is None and isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    candidates = [name for name in logged if name.lower().endswith("loss")] if metric is None else [metric]
    if len(candidates) == 1 and isinstance(logged.get(candidates[0]), Tensor):
        value: Tensor = logged[candidates[0]]
        return value
    raise ValueError(
        f"validation_step gives no loss to follow: it returned {type(output).__name__} and logged "
        f"{', '.join(logged) or 'nothing'}. Return the loss from it, or name the logged one: validation='<name>'."
    )
