"""The training losses of the latest steps, brought over from the device a block at a time."""

from __future__ import annotations

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
        self._losses: list[Tensor] = []
        self._parts: list[Tensor] = []

    def add(self, loss: Tensor, *, steps: bool) -> None:
        """Takes the loss of a batch.

        Args:
            loss: One element, on any device.
            steps: Whether the optimizer steps on this batch; a loss with ``False`` is averaged into that of the next
                step (gradient accumulation).
        """
        dtype = torch.float64 if loss.device.type == "cpu" else torch.float32
        self._parts.append(loss.detach().reshape(()).to(dtype, copy=True))
        if steps:
            parts, self._parts = self._parts, []
            self._losses.append(parts[0] if len(parts) == 1 else torch.stack(parts).mean())

    def is_full(self) -> bool:
        """Whether a block is complete."""
        return len(self._losses) >= self.block

    def take(self, trainer: Any = None) -> list[float]:
        """The losses gathered so far, averaged over the ranks of ``trainer``; they are forgotten here."""
        losses, self._losses = self._losses, []
        if not losses:
            return []
        block = torch.stack(losses)
        average = None if trainer is None else rank_average(trainer)
        if average is not None:
            block = average(block)
        values: list[float] = block.tolist()
        return values

    def state_dict(self) -> list[float]:
        """The losses that wait for their block to fill, as plain values."""
        return torch.stack(self._losses).tolist() if self._losses else []

    def load_state_dict(self, losses: list[float]) -> None:
        """Continues with the losses that waited."""
        self._losses = [torch.tensor(loss, dtype=torch.float64) for loss in losses]

    def clear(self) -> None:
        """Forgets everything."""
        self._losses, self._parts = [], []


def loss_of_outputs(outputs: Any) -> Tensor | None:
    """The loss in what Lightning hands to ``on_train_batch_end``; ``None`` for a skipped or a manual step."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None
