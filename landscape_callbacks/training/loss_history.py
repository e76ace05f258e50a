"""The training losses of the latest steps, brought over from the device a block at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from landscape_callbacks.training.distributed import rank_average


class LossHistory:
    """Gathers one loss an optimizer step where it is, and hands them out in blocks.

    Reading a loss waits for the accelerator, so that is done once a block. On several ranks a block is averaged over
    them: every rank then sees the same numbers, and decides the same.

    Args:
        block: Steps in a block.

    Example:
        >>> import torch
        >>> history = LossHistory(block=2)
        >>> for loss in (3.0, 1.0):
        ...     history.add(torch.tensor(loss), steps=True)
        >>> history.is_full()
        True
        >>> history.take()
        [3.0, 1.0]
    """

    def __init__(self, block: int = 16) -> None:
        if block < 1:
            raise ValueError(f"A block holds at least 1 step, got {block}.")
        self.block = block
        # Numbers where reading one waits for nothing (CPU), else tensors on their device.
        self._losses: list[Tensor | float] = []
        self._parts: list[Tensor | float] = []

    def add(self, loss: Tensor, *, steps: bool) -> None:
        """Takes the loss of a batch.

        Args:
            loss: One element, on any device.
            steps: Whether the optimizer steps on this batch; a loss with ``False`` is averaged into that of the next
                step (gradient accumulation).
        """
        part = loss.item() if loss.is_cpu else loss.detach().reshape(()).to(torch.float32, copy=True)
        if steps and not self._parts:
            self._losses.append(part)
            return
        self._parts.append(part)
        if steps:
            parts, self._parts = self._parts, []
            self._losses.append(sum(parts) / len(parts))

    def is_full(self) -> bool:
        """Whether a block is complete."""
        return len(self._losses) >= self.block

    def take(self, trainer: Any = None) -> list[float]:
        """The losses gathered so far, averaged over the ranks of ``trainer``; they are forgotten here."""
        losses, self._losses = self._losses, []
        if not losses:
            return []
        values = _read(losses)
        average = None if trainer is None else rank_average(trainer)
        return values if average is None else list(average(torch.tensor(values, dtype=torch.float64)).tolist())

    def state_dict(self) -> list[float]:
        """The losses that wait for their block to fill, as plain values."""
        return _read(self._losses)

    def load_state_dict(self, losses: list[float]) -> None:
        """Continues with the losses that waited."""
        self._losses = list(losses)

    def clear(self) -> None:
        """Forgets everything."""
        self._losses, self._parts = [], []


def _read(losses: Sequence[Tensor | float]) -> list[float]:
    """The numbers, those on an accelerator in one transfer."""
    waiting = [loss for loss in losses if isinstance(loss, Tensor)]
    read = iter(torch.stack(waiting).tolist() if waiting else [])
    return [float(next(read)) if isinstance(loss, Tensor) else float(loss) for loss in losses]


def loss_of_outputs(outputs: Any) -> Tensor | None:
    """The loss in what Lightning hands to ``on_train_batch_end``; ``None`` for a skipped or a manual step."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None
