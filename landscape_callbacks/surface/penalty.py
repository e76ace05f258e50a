"""The share of weight decay in the loss along a line."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from landscape_callbacks.surface.vectors import ParameterSpace


def penalty_along(
    space: ParameterSpace, direction: Tensor, alphas: Sequence[float] | Tensor, weight_decay: float | Sequence[float]
) -> Tensor:
    """The share of weight decay in the loss on a line: Σ ½ λ ‖w + alpha·d‖² over the parameters.

    That is the penalty whose gradient torch's optimizers add for ``weight_decay=λ``. (For decoupled decay, as in AdamW,
    it is the penalty with the same pull on the weights.) It is exact and costs three inner products a value of λ, no
    forward passes.

    Args:
        space: The parameters.
        direction: Flat, shape (n,).
        alphas: Distances, in units of the direction; P of them.
        weight_decay: One λ for all parameters, or one a parameter, in order.

    Returns:
        float64, shape (P,), on the CPU, loss units.

    Raises:
        ValueError: When the number of values does not fit.

    Example:
        >>> import torch
        >>> space = ParameterSpace([torch.nn.Parameter(torch.tensor([3.0, 4.0]))])
        >>> penalty_along(space, torch.tensor([1.0, 0.0]), [0.0, 1.0], weight_decay=0.1)
        tensor([1.2500, 1.6000], dtype=torch.float64)
    """
    count = len(space.parameters)
    decays = [float(weight_decay)] * count if isinstance(weight_decay, (int, float)) else list(weight_decay)
    if len(decays) != count:
        raise ValueError(f"Expected one weight decay, or {count} (one a parameter), got {len(decays)}.")
    weights = space.weights()
    constant = linear = square = 0.0
    for decay in sorted({decay for decay in decays if decay != 0.0}):
        mask = [
            torch.full_like(piece, float(own == decay)) for piece, own in zip(space.split(weights), decays, strict=True)
        ]
        chosen = space.flatten(mask)
        own_weights, own_direction = weights * chosen, direction * chosen
        constant += 0.5 * decay * float(space.dot(own_weights, own_weights))
        linear += decay * float(space.dot(own_weights, own_direction))
        square += 0.5 * decay * float(space.dot(own_direction, own_direction))
    at = torch.tensor([float(alpha) for alpha in alphas], dtype=torch.float64)
    return constant + linear * at + square * at**2
