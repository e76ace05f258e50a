"""What an optimizer does to a step: its kind, its hyperparameters, and the diagonal that it preconditions by.

Stability is a matter of the optimizer's linear map, not of the loss alone: Adam steps against ``P⁻¹ m``, so what has
to stay below its limit is the curvature of ``P⁻¹ H`` (Cohen et al. 2022, arXiv 2207.14484). This file reads ``P`` from
the state of a torch optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RMSprop

from landscape_callbacks.surface.vectors import ParameterSpace
from landscape_callbacks.training.optimizer_description import OptimizerDescription as OptimizerDescription


def unwrap_optimizer(optimizer: Any) -> Any:
    """The torch optimizer inside a wrapper that keeps it as ``.optimizer``, as ``LightningOptimizer`` does."""
    inner = getattr(optimizer, "optimizer", None)
    return unwrap_optimizer(inner) if isinstance(inner, Optimizer) and inner is not optimizer else optimizer


def is_decay_decoupled(optimizer: Any, group: Mapping[str, Any]) -> bool:
    """Whether the weight decay of a group acts on the weights, beside the loss, as AdamW's."""
    # Before torch 2.7 AdamW was no subclass of Adam and did not say in its groups that its decay is decoupled.
    return bool(group.get("decoupled_weight_decay", isinstance(unwrap_optimizer(optimizer), AdamW)))


def describe_optimizer(optimizer: Optimizer, space: ParameterSpace) -> OptimizerDescription:
    """Reads the kind, the hyperparameters and the preconditioner of a torch optimizer.

    Nothing is written and no random number is drawn. Reading a learning rate or a step count that lives on an
    accelerator (as with ``capturable=True``) waits for it, so call this where you measure, not at every step.

    Adam's bias corrections and ``ε`` are part of the preconditioner (Cohen et al. 2022, §2):
    ``P = (1 − β₁^t) · (√(v / (1 − β₂^t)) + ε)``; RMSprop's is ``√v + ε``, with ``v`` less the squared mean gradient
    when centered. NAdam mixes gradient and momentum by a schedule of its own; its ``P`` is ``√(v / (1 − β₂^t)) + ε``,
    which leaves that mixture out.

    Args:
        optimizer: A torch optimizer, or Lightning's wrapper around one.
        space: The parameters, and the order of the entries in ``preconditioner``.

    Returns:
        The description. An optimizer that is not known, or that has not stepped yet, gives one with ``why_not`` set.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> adam = torch.optim.Adam([w], lr=0.1, betas=(0.5, 0.5), eps=0.0)
        >>> (w**2).sum().backward()
        >>> adam.step()
        >>> description = describe_optimizer(adam, ParameterSpace([w]))
        >>> description.kind, description.learning_rate, description.preconditioner
        ('adam', 0.1, tensor([1., 2.]))
    """
    optimizer = unwrap_optimizer(optimizer)
    groups = optimizer.param_groups
    rates = tuple(float(group["lr"]) if "lr" in group else float("nan") for group in groups)
    name = type(optimizer).__name__
    group_of = {id(parameter): index for index, group in enumerate(groups) for parameter in group["params"]}
    held = sorted({group_of[id(p)] for p in space.parameters if id(p) in group_of})
    if not held:
        return _unknown(
            name, rates, f"{name} holds none of the measured parameters; describe the optimizer that moves them."
        )
    family = _family(optimizer)
    if family is None:
        return _unknown(
            name,
            rates,
            f"The update rule of {name} is not known here; known are torch's SGD, Adam, AdamW, NAdam and RMSprop.",
        )
    first = groups[held[0]]
    differing = [key for key in _SHARED_KEYS if any(groups[i].get(key) != first.get(key) for i in held)]
    if differing:
        return _unknown(
            name,
            rates,
            f"The parameter groups of {name} differ in {', '.join(differing)}, so no one stability limit fits.",
        )
    if first.get("maximize", False):
        return _unknown(
            name,
            rates,
            f"{name} climbs the loss (maximize=True), and limits are those of descent. Descend its negative instead.",
        )
    rate = max(rates[i] for i in held)
    decoupled = is_decay_decoupled(optimizer, first)
    decays = [float(groups[i].get("weight_decay", 0.0)) for i in held]
    steps = _steps(optimizer, space)
    preconditioner, why_not = _preconditioner(optimizer, family, space, group_of, rates, rate)
    betas = first.get("betas")
    return OptimizerDescription(
        kind=_kind(family, first, decoupled),
        name=name,
        learning_rate=rate,
        learning_rates=rates,
        momentum=float(first.get("momentum", 0.0)),
        dampening=float(first.get("dampening", 0.0)) if family is SGD else 0.0,
        betas=(0.0, float(first["alpha"]))
        if family is RMSprop
        else None
        if betas is None
        else (float(betas[0]), float(betas[1])),
        epsilon=float(first.get("eps", 0.0)),
        weight_decay=max(decays),
        decoupled_weight_decay=decoupled,
        coupled_decay=0.0 if decoupled else _coupled_decay(groups, held, group_of, space),
        amsgrad=bool(first.get("amsgrad", False)),
        centered=bool(first.get("centered", False)),
        steps=steps,
        preconditioner=preconditioner,
        why_not=why_not,
    )


_SHARED_KEYS = (
    "momentum",
    "dampening",
    "nesterov",
    "betas",
    "alpha",
    "amsgrad",
    "centered",
    "maximize",
    "momentum_decay",
    "decoupled_weight_decay",
)


def _unknown(name: str, rates: tuple[float, ...], why_not: str) -> OptimizerDescription:
    return OptimizerDescription("unknown", name, max(rates) if rates else None, rates, why_not=why_not)


def _family(optimizer: Optimizer) -> type[Optimizer] | None:
    """The class of torch.optim whose ``step`` this optimizer runs; a subclass with a step of its own is not known."""
    for known in (SGD, Adam, AdamW, NAdam, RMSprop):
        if isinstance(optimizer, known):
            # Schedulers wrap ``step`` on the instance, and torch on the class; the wrapped function is what to compare.
            same_step = _plain(type(optimizer).step) is _plain(known.step)
            return None if not same_step else Adam if known is AdamW else known
    return None


def _plain(function: Any) -> Any:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _kind(family: type[Optimizer], group: Mapping[str, Any], decoupled: bool) -> str:
    if family is SGD:
        if not group["momentum"]:
            return "gradient_descent"
        return "nesterov" if group["nesterov"] else "heavy_ball"
    if family is Adam:
        return "adamw" if decoupled else "adam"
    return "nadam" if family is NAdam else "rmsprop"


def _coupled_decay(
    groups: Sequence[Mapping[str, Any]], held: Sequence[int], group_of: Mapping[int, int], space: ParameterSpace
) -> float | Tensor:
    decays = {float(groups[i].get("weight_decay", 0.0)) for i in held}
    if len(decays) == 1:
        return decays.pop()
    return space.flatten(
        [
            torch.full_like(
                parameter, float(groups[group_of[id(parameter)]].get("weight_decay", 0.0)), dtype=space.dtype
            )
            if id(parameter) in group_of
            else None
            for parameter in space.parameters
        ]
    )


def _steps(optimizer: Optimizer, space: ParameterSpace) -> int | None:
    counts = [
        optimizer.state[p]["step"] for p in space.parameters if p in optimizer.state and "step" in optimizer.state[p]
    ]
    return int(max(float(count) for count in counts)) if counts else None


@torch.no_grad()
def _preconditioner(
    optimizer: Optimizer,
    family: type[Optimizer],
    space: ParameterSpace,
    group_of: Mapping[int, int],
    rates: Sequence[float],
    rate: float,
) -> tuple[Tensor | None, str | None]:
    """The diagonal and, where it is not known, why."""
    pieces: list[Tensor] = []
    identity = True
    seen_state = family is SGD
    for parameter in space.parameters:
        index = group_of.get(id(parameter))
        diagonal: Tensor | None = None
        own_rate = 0.0 if index is None else rates[index]
        # At a rate of zero (the first step of a warm-up) nothing moves; the shape of the map is that of any other rate.
        if index is not None and (own_rate > 0.0 or rate == 0.0):
            if family is SGD:
                diagonal = torch.ones_like(parameter, dtype=space.dtype)
            elif optimizer.state.get(parameter):
                seen_state = True
                diagonal = _diagonal(family, optimizer.param_groups[index], optimizer.state[parameter], space.dtype)
        if diagonal is None:
            diagonal = torch.full_like(parameter, torch.inf, dtype=space.dtype)
        elif own_rate != rate:
            diagonal = diagonal.mul_(rate / own_rate)
        identity = identity and family is SGD and own_rate == rate
        pieces.append(diagonal)
    if not seen_state:
        name = type(optimizer).__name__
        return None, f"{name} has not stepped yet, so its preconditioner is not known; measure after a step."
    return (None if identity else space.flatten(pieces)), None


def _diagonal(
    family: type[Optimizer], group: Mapping[str, Any], state: Mapping[str, Any], dtype: torch.dtype
) -> Tensor:
    """The preconditioner of one parameter, in the parameter's shape."""
    epsilon = group["eps"]
    if family is RMSprop:
        second: Tensor = state["square_avg"].to(dtype)
        if group["centered"]:
            # The exact difference is not negative; rounding can make it so, and torch's own step is then NaN.
            second = (second - state["grad_avg"].to(dtype) ** 2).clamp_(min=0.0)
        return second.sqrt().add_(epsilon)
    second = state["max_exp_avg_sq" if group.get("amsgrad", False) else "exp_avg_sq"].to(dtype)
    # ``step`` lives on the CPU, or with ``capturable`` beside the parameter: as a tensor it is used where it is.
    step = state["step"].to(torch.float64)
    beta1, beta2 = group["betas"]
    diagonal = (second / (1 - beta2**step).to(dtype)).sqrt_().add_(epsilon)
    return diagonal if family is NAdam else diagonal.mul_((1 - beta1**step).to(dtype))
