"""Which statistics batch norm uses while a surface is looked at: said, instead of whatever mode the model is in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

POLICIES = ("batch", "frozen", "recalibrated")


def with_batch_norm(
    closure: Callable[[], Tensor],
    module: nn.Module,
    policy: str,
    recalibrate: Callable[[], object] | None = None,
) -> Callable[[], Tensor]:
    """A closure that evaluates the loss with batch norm in a stated mode, and leaves modes and statistics as they were.

    - ``"batch"``: every batch is normalised by its own mean and variance, as in training. That is the loss that
      training descends; it depends on the composition of the batch.
    - ``"frozen"``: the running statistics, as in evaluation. Away from the current weights they no longer fit the
      activations, so the surface is steeper than the network's own.
    - ``"recalibrated"``: at every point the running statistics are computed anew from data (as ``update_bn`` in
      stochastic weight averaging, Izmailov et al. 2018), then used as in evaluation. That is what a network at that
      point would do once deployed; it costs the forward passes of ``recalibrate`` more a point.

    Args:
        closure: Evaluates the loss.
        module: The model whose batch-norm layers are meant.
        policy: ``"batch"``, ``"frozen"`` or ``"recalibrated"``.
        recalibrate: Passes data through the model, in batch-norm training mode and without gradient; its result is not
            used. Only for ``"recalibrated"``.

    Returns:
        The closure.

    Raises:
        ValueError: When the policy is unknown, or ``recalibrate`` is missing or not used.
    """
    if policy not in POLICIES:
        raise ValueError(f"The batch-norm policy must be one of {', '.join(POLICIES)}, got {policy!r}.")
    if (policy == "recalibrated") != (recalibrate is not None):
        raise ValueError(
            "recalibrate=… (a function that passes data through the model) goes with policy 'recalibrated', and with "
            f"no other; got policy {policy!r} {'with' if recalibrate is not None else 'without'} it."
        )
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]

    def evaluate() -> Tensor:
        with _restored(layers):
            if recalibrate is not None:
                for layer in layers:
                    layer.reset_running_stats()
                    layer.momentum = None
                    layer.train()
                with torch.no_grad():
                    recalibrate()
            for layer in layers:
                layer.train(policy == "batch")
            return closure()

    return evaluate


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a model has batch-norm layers."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


@contextmanager
def _restored(layers: Iterable[_BatchNorm]) -> Iterator[None]:
    kept = [(layer, layer.training, layer.momentum, [buffer.clone() for buffer in layer.buffers()]) for layer in layers]
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, training, momentum, buffers in kept:
                layer.train(training)
                layer.momentum = momentum
                for buffer, value in zip(layer.buffers(), buffers, strict=True):
                    # Through .data: a graph that saved the buffer stays valid.
                    buffer.data.copy_(value)
