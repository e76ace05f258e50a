"""What can be measured on which trainer: every refusal, in one place, before training time is spent."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from landscape_callbacks.training.lightning_namespace import MisconfigurationException

SUPPORTED_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")


def require_supported_trainer(
    monitor: str, trainer: Any, pl_module: Any, *, loss_fn: Any, needs_other_weights: bool, batches: int
) -> None:
    """Refuses a trainer or module that cannot be measured, with a sentence that says what to change.

    Args:
        monitor: Class name of the monitor that asks.
        trainer: The trainer at ``setup``.
        pl_module: Its module.
        loss_fn: The monitor's ``loss_fn``, or ``None``.
        needs_other_weights: Whether the loss has to be evaluated at other weights than the current (slices, planes).
        batches: Batches that one measurement averages over.

    Raises:
        MisconfigurationException: When it cannot.
    """
    strategy = trainer.strategy
    bases = {base.__name__ for base in type(strategy).__mro__}
    refused = {"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy", "XLAStrategy"} & bases
    if refused or not bases & set(SUPPORTED_STRATEGIES):
        raise MisconfigurationException(
            f"{monitor} measures curvature on one device and under DDP; this trainer uses {type(strategy).__name__}. "
            "Use strategy='ddp' (or a single device) for the runs that you want to look at, or take the callback out."
        )
    if loss_fn is not None:
        return
    manual = not pl_module.automatic_optimization
    if manual and needs_other_weights:
        raise MisconfigurationException(
            f"{monitor} has to evaluate the loss at other weights, and under manual optimization training_step itself steps the optimizers, so "
            "it cannot be replayed. Give loss_fn=..., called as loss_fn(pl_module, batch), that returns the loss to look at."
        )
    if manual and batches > 1:
        raise MisconfigurationException(
            f"{monitor} averages over batches={batches}, and under manual optimization only the batch at hand can be looked at (training_step "
            "itself steps the optimizers, so it cannot be replayed). Set batches=1 or give loss_fn=..., called as loss_fn(pl_module, batch)."
        )
    if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
        raise MisconfigurationException(
            f"{monitor} cannot replay a training_step(dataloader_iter): it would take batches away from training. Let training_step take the "
            "batch, or take the callback out."
        )


def require_positive_int(monitor: str, name: str, value: Any, *, minimum: int = 1) -> int:
    """The value, when it is an int of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise MisconfigurationException(f"{monitor}: {name} has to be an integer of at least {minimum}, got {value!r}.")
    return value


def require_overhead(monitor: str, value: Any) -> float | None:
    """The value, when it is a share in (0, 1] or ``None``."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value <= 1.0:
        raise MisconfigurationException(
            f"{monitor}: max_overhead is the share of training time that measurements may take, so it has to be in (0, 1], or None for no "
            f"budget; got {value!r}."
        )
    return float(value)


def require_positive(monitor: str, name: str, value: Any) -> float:
    """The value, when it is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < float("inf"):
        raise MisconfigurationException(f"{monitor}: {name} has to be a number above 0, got {value!r}.")
    return float(value)


def require_choice(monitor: str, name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """The value, when it is one of ``choices``."""
    if value not in choices:
        options = ", ".join(repr(choice) for choice in choices)
        raise MisconfigurationException(f"{monitor}: {name} has to be one of {options}, got {value!r}.")
    return value


def require_pattern(monitor: str, value: Any) -> str | None:
    """The value, when it is a regular expression or ``None``."""
    if value is None:
        return None
    try:
        re.compile(value)
    except (re.error, TypeError) as error:
        raise MisconfigurationException(
            f"{monitor}: parameters has to be a regular expression on parameter names, got {value!r} ({error})."
        ) from error
    return str(value)


def require_callable(monitor: str, name: str, value: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """The value, when it can be called, or ``None``."""
    if value is not None and not callable(value):
        raise MisconfigurationException(
            f"{monitor}: {name} has to be callable as {name}(pl_module, batch) or None, got {value!r}."
        )
    return value
