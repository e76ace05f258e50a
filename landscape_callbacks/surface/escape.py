"""How far to move along a direction of negative curvature so that the decrease of the loss can be confirmed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from landscape_callbacks.surface.metric import MetricSurface

SHORTER_STEPS = 4
_POWERS = range(-8, 2)
_EXTENSIONS = 3


def decreases_along(surface: MetricSurface, direction: Tensor, distances: Sequence[float]) -> Tensor:
    """Decrease of the loss at each distance forth, back, and the mean of both: shape (3, len(distances))."""
    count = len(distances)
    losses = surface.losses_along(direction, [0.0, *distances, *(-distance for distance in distances)])
    forth, back = losses[0] - losses[1 : 1 + count], losses[0] - losses[1 + count :]
    return torch.stack([forth, back, 0.5 * (forth + back)])


def surest_step(surfaces: Sequence[MetricSurface], direction: Tensor, start: float) -> tuple[int, float, int]:
    """Which way (a row of :func:`decreases_along`) and how far the loss falls for sure: ``start`` times a power of two.

    Far out the loss falls most and varies most from batch to batch, so two standard errors less than the mean decrease
    is what is maximised. The mean of both ways is free of the slope, whose noise often hides the curvature; the better
    way falls at least as much. Also returned: losses evaluated on each surface.
    """
    tried = 0
    distances = [start * 2.0**power for power in _POWERS]
    for _ in range(_EXTENSIONS + 1):
        decreases = torch.stack([decreases_along(surface, direction, distances) for surface in surfaces])
        sure = decreases.mean(dim=0)
        if len(surfaces) > 1:
            sure = sure - 2 * decreases.std(dim=0) / math.sqrt(len(surfaces))
        sure = torch.where(torch.isfinite(sure), sure, -torch.inf)
        way, index = divmod(int(sure.argmax()), len(distances))
        distance = distances[index]
        tried += 2 * len(distances) + 1
        if index < len(distances) - 1:
            break
        # Still falling at the end of the line: look on from there.
        distances = [distance * 2.0**power for power in range(5)]
    return way, distance, tried


def confirmed_step(
    decreases: Sequence[Tensor], distances: Sequence[float], whole_loss: bool
) -> tuple[float, float, float]:
    """Distance, mean decrease and standard error of the surest of a few steps on the half that tests.

    The half that chose overrates the direction and so the distance: on the other half a shorter step may be the right
    one. The few steps are one step at different scales and nearly one test.
    """
    if not decreases:
        return 0.0, 0.0, 0.0
    values = torch.stack(list(decreases))  # (surfaces, ways, distances)
    mean = values.mean(dim=0)
    error = torch.zeros_like(mean) if whole_loss else values.std(dim=0) / math.sqrt(len(values))
    sure = torch.where(torch.isfinite(mean - 3 * error), mean - 3 * error, -torch.inf)
    way, index = divmod(int(sure.argmax()), len(distances))
    return distances[index], float(mean[way, index]), float(error[way, index])
