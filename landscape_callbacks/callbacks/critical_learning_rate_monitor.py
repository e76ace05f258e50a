"""The cheap stability gauge: how large the last step could have been before it raised the loss."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from landscape_callbacks.diagnosis.critical_rate import critical_learning_rate
from landscape_callbacks.training.compatibility import require_positive_int
from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.replay import LossFunction
from landscape_callbacks.training.reporting import Report, current_step
from landscape_callbacks.training.snapshot import Snapshot, trained_now


class CriticalLearningRateMonitor(Monitor):
    r"""Logs the critical learning rate along the optimizer's own update, by a line search of about six forward passes.

    The optimizer's last step is taken again at other lengths, on the batch that it was made for: the critical learning
    rate is the one at which the loss is back at its start (Kalra & Barkeshli, arXiv 2406.09405). On a quadratic a step
    along one eigenvector is critical at 2/λ, the stability limit. It needs no second derivative, costs about two
    training steps, and holds for every optimizer.

    ======================================  ========================================================================
    tag                                     meaning
    ======================================  ========================================================================
    ``stability/critical_learning_rate``    rate at which the last update would not have lowered its own batch's loss
    ``stability/critical_ratio``            learning rate in use over the critical one; above 1 the step raised the loss
    ======================================  ========================================================================

    Args:
        every_n_steps: Smallest distance of two measurements (optimizer steps).
        max_overhead: Share of training time that measurements may take; ``None``: measure exactly every n steps.
        forwards: Most forward passes a measurement, at least 3.
        parameters: Regular expression on parameter names (``re.search``); the others stay at their new values.
        loss_fn: Called as ``loss_fn(pl_module, batch) -> scalar`` instead of replaying ``training_step``.
        eval_mode: Dropout off, batch-norm statistics frozen while measuring.
        verbose: Print a line a measurement (rank zero).

    Raises:
        MisconfigurationException: When an argument is wrong; in ``setup`` when the trainer cannot be supported.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from landscape_callbacks import CriticalLearningRateMonitor
        >>> trainer = Trainer(callbacks=[CriticalLearningRateMonitor()], logger=False, enable_checkpointing=False)
    """

    needs_other_weights = True

    def __init__(
        self,
        *,
        every_n_steps: int = 20,
        max_overhead: float | None = 0.05,
        forwards: int = 6,
        parameters: str | None = None,
        loss_fn: LossFunction | None = None,
        eval_mode: bool = False,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            every_n_steps=every_n_steps,
            max_overhead=max_overhead,
            parameters=parameters,
            loss_fn=loss_fn,
            eval_mode=eval_mode,
            batches=2,
            verbose=verbose,
        )
        self.forwards = require_positive_int(type(self).__name__, "forwards", forwards, minimum=3)
        self._before: tuple[int, Tensor] | None = None
        self._guess = math.nan

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Measures the step that was made, or takes down the weights before one that will be."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        step = current_step(trainer)
        # On the batch that the next measurement will look back at. With accumulation that is the last of the step.
        if self.cadence.is_due(step + 1) and not (self._before is not None and self._before[0] == step):
            space = trained_now(pl_module, self.settings.parameters)
            self._before = None if space is None else (step, space.weights())

    def wakes_at(self) -> int:
        """One step before the measurement: the weights before the step that it will look back at are wanted."""
        return super().wakes_at() - 1

    def measure(self, trainer: Any, pl_module: Any, snapshot: Snapshot) -> Report:
        """Searches along the last step."""
        before, self._before = self._before, None
        optimizer = snapshot.optimizer()
        rate = None if optimizer is None else optimizer.learning_rate
        if before is None or before[0] != snapshot.step - 1 or not rate or len(snapshot.surfaces) < 2:
            return Report()
        if len(before[1]) != snapshot.space.local_dimension:
            # Layers were frozen or unfrozen in between.
            return Report()
        update = snapshot.space.weights() - before[1]
        if not float(snapshot.space.norm(update)) > 0.0:
            return Report()
        surface = snapshot.surfaces[0]

        def loss_at(tried: float) -> float:
            return float(surface.losses_along(update, [tried / rate - 1.0])[0])

        start = self._guess if math.isfinite(self._guess) and self._guess > 0.0 else rate
        found = critical_learning_rate(loss_at, start, forwards=self.forwards)
        self._guess = found.value
        if self.verbose:
            pl_module.print(f"step {snapshot.step}: critical learning rate {found.value:.3g}, in use {rate:.3g}")
        ratio = rate / found.value if found.value > 0.0 else math.inf
        return Report({"stability/critical_learning_rate": found.value, "stability/critical_ratio": ratio})
