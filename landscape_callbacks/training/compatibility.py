"""What can be measured on which trainer: every refusal, in one place, before training time is spent."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch

from landscape_callbacks.training.lightning_namespace import MisconfigurationException

SUPPORTED_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy")
# With 2.6 gradients of tensor-parallel weights are off, and fully_shard does not run on a CPU; between, none was tried.
_LEAST_TORCH_WITH_SHARDS = (2, 13)
_USE_FULLY_SHARD = (
    "Use strategy=ModelParallelStrategy(...) with torch's fully_shard in configure_model (FSDP2) for models that "
    "have to be sharded, "
    "strategy='ddp' for others, or take the callback out."
)
_REFUSED_STRATEGIES = {
    "FSDPStrategy": "which keeps parameters in flat buffers where they cannot be told apart or moved one by one",
    "DeepSpeedStrategy": "which keeps gradients and partitioned weights to itself",
    "XLAStrategy": "which compiles the step as a whole",
}


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
    require_supported_strategy(monitor, trainer)
    if loss_fn is not None:
        return
    manual = not pl_module.automatic_optimization
    if manual and _is_a(trainer.strategy, "ModelParallelStrategy"):
        raise MisconfigurationException(
            f"{monitor} cannot look at a module that steps its optimizers itself and is sharded: gradients of "
            "sharded parameters come by "
            "backward only, which is in the step. Give loss_fn=..., called as loss_fn(pl_module, batch), that "
            "returns the loss to look at."
        )
    if manual and needs_other_weights:
        raise MisconfigurationException(
            f"{monitor} has to evaluate the loss at other weights, and under manual optimization training_step "
            "itself steps the optimizers, so "
            "it cannot be replayed. Give loss_fn=..., called as loss_fn(pl_module, batch), that returns the loss to "
            "look at."
        )
    if manual and batches > 1:
        raise MisconfigurationException(
            f"{monitor} averages over batches={batches}, and under manual optimization only the batch at hand can be "
            "looked at (training_step "
            "itself steps the optimizers, so it cannot be replayed). Set batches=1 or give loss_fn=..., called as "
            "loss_fn(pl_module, batch)."
        )
    if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
        raise MisconfigurationException(
            f"{monitor} cannot replay a training_step(dataloader_iter): it would take batches away from training. "
            "Let training_step take the "
            "batch, or take the callback out."
        )


def require_supported_strategy(monitor: str, trainer: Any) -> None:
    """Refuses a strategy under which parameters and gradients cannot be read.

    Raises:
        MisconfigurationException: Then, with a sentence that says what to use.
    """
    strategy = trainer.strategy
    for name, reason in _REFUSED_STRATEGIES.items():
        if _is_a(strategy, name):
            raise MisconfigurationException(
                f"{monitor} cannot measure under {type(strategy).__name__}, {reason}. {_USE_FULLY_SHARD}"
            )
    if _is_a(strategy, "ModelParallelStrategy") and _torch_version() < _LEAST_TORCH_WITH_SHARDS:
        least = ".".join(map(str, _LEAST_TORCH_WITH_SHARDS))
        raise MisconfigurationException(
            f"{monitor} measures under ModelParallelStrategy from torch {least} on, and this is torch "
            f"{torch.__version__}: with older ones values came out wrong or were not tried. Install a newer torch, or "
            "take the callback out."
        )
    if not any(_is_a(strategy, name) for name in SUPPORTED_STRATEGIES):
        raise MisconfigurationException(
            f"{monitor} measures on one device, under DDP and under ModelParallelStrategy; this trainer uses "
            f"{type(strategy).__name__}. "
            f"{_USE_FULLY_SHARD}"
        )


def require_supported_shards(monitor: str, trainer: Any, *, sharded: bool, differentiation: str) -> None:
    """Refuses a data-parallel axis that nothing keeps in step, and second derivatives of shards, once the module is
    configured.

    Args:
        monitor: Class name of the monitor that asks.
        trainer: The trainer at ``on_fit_start``.
        sharded: Whether a part of the module is under ``fully_shard``.
        differentiation: The monitor's.

    Raises:
        MisconfigurationException: When there is one.
    """
    if sharded and differentiation == "double_backward":
        raise MisconfigurationException(
            f"{monitor}: gradients of parameters under fully_shard carry no graph, so that "
            "differentiation='double_backward' is impossible. "
            "Use 'auto' or 'central_difference'."
        )
    mesh = trainer.strategy.device_mesh if _is_a(trainer.strategy, "ModelParallelStrategy") else None
    if mesh is not None and mesh["data_parallel"].size() > 1 and not sharded:
        raise MisconfigurationException(
            f"{monitor}: the mesh has {mesh['data_parallel'].size()} data-parallel ranks, but no part of the module "
            "is under fully_shard, which "
            "would average its gradients over them. Call fully_shard(..., mesh=self.device_mesh['data_parallel']) in "
            "configure_model, or set "
            "data_parallel_size=1."
        )


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _is_a(strategy: Any, name: str) -> bool:
    # By name, so that both Lightning namespaces fit and no optional library is imported.
    return any(base.__name__ == name for base in type(strategy).__mro__)


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
            f"{monitor}: max_overhead is the share of training time that measurements may take, so it has to be in "
            "(0, 1], or None for no "
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


def require_device(monitor: str, name: str, value: Any) -> str | None:
    """The value, when it names a device or is ``None``."""
    if value is None:
        return None
    try:
        torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise MisconfigurationException(
            f"{monitor}: {name} has to name a device, such as 'cpu' or 'cuda:1', got {value!r}."
        ) from error
    return str(value)


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
