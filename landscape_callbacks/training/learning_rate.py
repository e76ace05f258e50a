"""Scale a learning rate so that schedulers keep it.

Setting ``group["lr"]`` alone is undone by the next step of every scheduler that computes its rate from a base
(``LambdaLR``, ``OneCycleLR``, ``CyclicLR``, cosine restarts). Schedulers are linear in the rates that they hold, so
multiplying **all** of those by one factor multiplies the whole rest of the schedule by it, and nothing else has to be
remembered: the numbers are part of the state of optimizer and scheduler, and come back from a checkpoint by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from landscape_callbacks.training.optimizers import unwrap_optimizer

# ``lr`` apart: OneCycleLR computes from initial_lr, max_lr and min_lr, SWALR from swa_lr.
_GROUP_KEYS = ("initial_lr", "max_lr", "min_lr", "swa_lr")
# CyclicLR holds max_lrs, the cosine schedules eta_min. ReduceLROnPlateau's min_lrs is not here: it is a bound that the
# user set, not a point of a schedule.
_SCHEDULER_ATTRIBUTES = ("base_lrs", "max_lrs", "eta_min", "_last_lr")


def scale_learning_rate(optimizer: Optimizer, factor: float, schedulers: Iterable[Any] = ()) -> None:
    """Multiplies the learning rate of every group, now and in the rest of the schedule.

    Args:
        optimizer: A torch optimizer, or Lightning's wrapper around one. A rate held as a tensor (``capturable=True``)
            is changed in place, so that a captured graph sees it.
        factor: Positive and finite. Scaling by ``factor`` and then by ``1 / factor`` is the identity up to rounding.
        schedulers: Learning-rate schedulers; those of other optimizers are passed over, those inside ``SequentialLR``
            and ``ChainedScheduler`` are found.

    Raises:
        ValueError: When ``factor`` is not a positive finite number.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        >>> scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        >>> scale_learning_rate(optimizer, 0.5, [scheduler])
        >>> optimizer.step()
        >>> scheduler.step()
        >>> learning_rates(optimizer)
        [0.025]
    """
    if not (math.isfinite(factor) and factor > 0.0):
        raise ValueError(f"A learning rate can be scaled by a positive finite factor only, got {factor!r}.")
    optimizer = unwrap_optimizer(optimizer)
    # Groups that took their rate from the optimizer's default share one tensor.
    scaled_tensors: set[int] = set()
    for group in optimizer.param_groups:
        rate = group["lr"]
        if not isinstance(rate, Tensor):
            group["lr"] = rate * factor
        elif id(rate) not in scaled_tensors:
            scaled_tensors.add(id(rate))
            with torch.no_grad():
                rate.mul_(factor)
        for key in _GROUP_KEYS:
            if group.get(key) is not None:
                group[key] = _scaled(group[key], factor)
    for scheduler in schedulers_of(optimizer, schedulers):
        for name in _SCHEDULER_ATTRIBUTES:
            if getattr(scheduler, name, None) is not None:
                setattr(scheduler, name, _scaled(getattr(scheduler, name), factor))


def learning_rates(optimizer: Optimizer) -> list[float]:
    """The learning rate of every group now, as floats."""
    return [float(group["lr"]) for group in unwrap_optimizer(optimizer).param_groups]


def peak_learning_rates(optimizer: Optimizer, schedulers: Iterable[Any] = ()) -> list[float]:
    """For every group the largest rate among its rate now and those that its schedule is built on.

    A warm-up or a restart comes back to its base rate later, so this is what an upper bound has to look at.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        >>> scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=100)
        >>> round(learning_rates(optimizer)[0], 6), peak_learning_rates(optimizer, [scheduler])
        (0.001, [0.1])
    """
    optimizer = unwrap_optimizer(optimizer)
    own = list(schedulers_of(optimizer, schedulers))
    peaks = []
    for index, group in enumerate(optimizer.param_groups):
        rates = [float(group["lr"])]
        rates += [float(group[key]) for key in ("initial_lr", "max_lr") if group.get(key) is not None]
        for scheduler in own:
            for name in ("base_lrs", "max_lrs"):
                values = getattr(scheduler, name, None) or []
                rates += [float(value) for value in values[index : index + 1]]
        peaks.append(max(rates))
    return peaks


def schedulers_of(optimizer: Optimizer, schedulers: Iterable[Any]) -> Iterator[Any]:
    """The schedulers of one optimizer, those nested in others included, each once."""
    optimizer = unwrap_optimizer(optimizer)
    seen: set[int] = set()
    waiting = list(schedulers)
    while waiting:
        scheduler = waiting.pop(0)
        if id(scheduler) in seen:
            continue
        seen.add(id(scheduler))
        waiting.extend(getattr(scheduler, "_schedulers", ()))
        if unwrap_optimizer(getattr(scheduler, "optimizer", None)) is optimizer:
            yield scheduler


def plateau_schedulers(optimizer: Optimizer, schedulers: Iterable[Any]) -> list[ReduceLROnPlateau]:
    """Those schedulers that react to a plateau themselves: two controllers on one rate work against each other."""
    return [scheduler for scheduler in schedulers_of(optimizer, schedulers) if isinstance(scheduler, ReduceLROnPlateau)]


def unknown_schedulers(schedulers: Iterable[Any]) -> list[str]:
    """Class names of schedulers that are not torch's base class, of which nothing can be promised."""
    names: list[str] = []
    waiting = list(schedulers)
    while waiting:
        scheduler = waiting.pop(0)
        waiting.extend(getattr(scheduler, "_schedulers", ()))
        if not isinstance(scheduler, LRScheduler):
            names.append(type(scheduler).__name__)
    return names


def _scaled(value: Any, factor: float) -> Any:
    """A new number, tensor, list or tuple: in place would scale a tensor twice that two holders share."""
    if isinstance(value, (list, tuple)):
        return type(value)(_scaled(entry, factor) for entry in value)
    return value.detach() * factor if isinstance(value, Tensor) else value * factor
