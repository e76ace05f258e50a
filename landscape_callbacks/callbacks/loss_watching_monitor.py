"""A monitor that follows the training loss of every step without waiting for the device at every step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from landscape_callbacks.callbacks.loss_watch import LossWatch
from landscape_callbacks.training.loss_history import loss_of_outputs
from landscape_callbacks.training.monitor import Monitor


class LossWatchingMonitor(Monitor):
    """Feeds a :class:`LossWatch` with the loss of each optimizer step, and says when it knows more.

    A subclass sets ``watch`` before a fit begins and acts in :meth:`on_losses`.
    """

    watch: LossWatch
    _batch_has_loss = False
    _unbooked = 0.0

    def joins(self, due: Sequence[Monitor]) -> bool:
        """With another one on the same surface: one probe then serves both."""
        return any(isinstance(other, LossWatchingMonitor) and other.settings == self.settings for other in due)

    def on_losses(self, trainer: Any, pl_module: Any) -> None:
        """Called after a block of losses was brought over from the device."""

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Takes the loss where ``training_step`` steps the optimizers itself."""
        super().on_before_backward(trainer, pl_module, loss)
        if not pl_module.automatic_optimization and not self._batch_has_loss:
            self._batch_has_loss = True
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            self.watch.add(loss if scaler is None else loss.detach() / scaler.get_scale(), steps=True)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Takes the loss of the step."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        started = time.perf_counter()
        loss = loss_of_outputs(outputs) if pl_module.automatic_optimization else None
        if loss is not None:
            alone = trainer.accumulate_grad_batches == 1
            self.watch.add(loss, steps=alone or not trainer.fit_loop.epoch_loop._should_accumulate())
        self._batch_has_loss = False
        if not self.watch.is_full():
            # Booked with the block: booking costs about as much as taking a loss.
            self._unbooked += time.perf_counter() - started
            return
        spent = self.coordinator.spent
        if self.watch.update(trainer):
            self.on_losses(trainer, pl_module)
            self.coordinator.wake_for(self)
        self.coordinator.took_since(started - self._unbooked, spent)
        self._unbooked = 0.0
