"""The gradients that an optimizer is about to use: their names, their scale, whether they get clipped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from landscape_callbacks.training.optimizers import unwrap_optimizer


def named_gradients(pl_module: Any, optimizer: Any, pattern: str | None) -> tuple[list[str], list[Tensor]]:
    """Names and gradients of an optimizer's parameters that have one and whose names match ``pattern``.

    A parameter that the module does not name (another optimizer's own) is called by its place in the optimizer.
    """
    named = {id(parameter): name for name, parameter in pl_module.named_parameters()}
    names, gradients = [], []
    groups = unwrap_optimizer(optimizer).param_groups
    for index, parameter in enumerate(parameter for group in groups for parameter in group["params"]):
        name = named.get(id(parameter), f"parameter_{index}")
        if parameter.grad is not None and (pattern is None or re.search(pattern, name)):
            names.append(name)
            gradients.append(parameter.grad)
    return names, gradients


def gradient_scale(trainer: Any, optimizer: Any) -> Tensor | None:
    """The loss scale that gradients still carry before the step, on their device; ``None`` when they carry none.

    Lightning unscales before ``on_before_optimizer_step``, except for optimizers that unscale inside their step (fused
    ones).
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(unwrap_optimizer(optimizer), "_step_supports_amp_scaling", False):
        return None
    scale: Tensor | None = scaler._scale
    return scale


def clips_gradients(trainer: Any, pl_module: Any) -> bool:
    """Whether Lightning clips gradients between ``on_before_optimizer_step`` and the step."""
    if not pl_module.automatic_optimization:
        return False
    overridden = type(pl_module).configure_gradient_clipping.__module__.partition(".")[0] not in (
        "lightning",
        "pytorch_lightning",
    )
    return bool(trainer.gradient_clip_val) or overridden


def norms_by_module(names: Sequence[str], norms: Sequence[float], depth: int) -> dict[str, float]:
    """L2 norms by module, for every prefix of the parameter names of at most ``depth`` parts.

    Example:
        >>> norms_by_module(["net.0.weight", "net.0.bias", "net.1.weight"], [3.0, 4.0, 12.0], depth=1)
        {'net': 13.0}
    """
    squares: dict[str, float] = {}
    for name, norm in zip(names, norms, strict=True):
        modules = name.split(".")[:-1][:depth]
        for length in range(1, len(modules) + 1):
            prefix = ".".join(modules[:length])
            squares[prefix] = squares.get(prefix, 0.0) + norm * norm
    return {module: square**0.5 for module, square in squares.items()}


def optimizer_tag(trainer: Any, key: int) -> str:
    """The name of an optimizer in tags, by its ``id`` as hooks pass it."""
    for index, optimizer in enumerate(trainer.optimizers):
        if id(optimizer) == key:
            return f"optimizer_{index}"
    return "optimizer"
