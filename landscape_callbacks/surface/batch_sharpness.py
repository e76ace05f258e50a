"""Batch sharpness: the curvature that minibatch steps feel, and what of training by small batches sits at the limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.metric import MetricSurface


@dataclass(frozen=True)
class BatchSharpness:
    """The mean curvature along minibatch gradients.

    Attributes:
        value: Loss units per squared unit of weight, in the optimizer's metric; NaN when every gradient is zero.
        error: Its standard error over the batches; NaN from a single one.
        batches: Batches that counted.
        products: Hessian-vector products spent, one a batch.
    """

    value: float
    error: float
    batches: int
    products: int


def batch_sharpness(
    surfaces: Sequence[LossSurface],
    *,
    preconditioner: Tensor | None = None,
    weight_decay: float | Tensor = 0.0,
) -> BatchSharpness:
    """E[gᵀH_B g/‖g‖²] over minibatches B with gradient g (Andreyev & Beneventano 2024, arXiv 2412.20553).

    With minibatches the largest eigenvalue of the mean loss settles below the stability limit; this is what approaches
    it. On one batch that is the whole data it is the curvature along the gradient.

    Args:
        surfaces: One a batch, each of the size that training steps use.
        preconditioner: The diagonal P of the optimizer, flat, shape (n,); see :class:`MetricSurface`.
        weight_decay: Weight decay that the optimizer adds; one number or flat, shape (n,).

    Raises:
        ValueError: Without surfaces.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> surface = LossSurface(lambda: w[0] ** 2 + 2 * w[1] ** 2, [w])
        >>> round(batch_sharpness([surface]).value, 4)  # (2·2² + 4·4²)/(2² + 4²)
        3.6
    """
    if not surfaces:
        raise ValueError("Batch sharpness needs at least one batch, got none.")
    curvatures = []
    for surface in surfaces:
        metric = MetricSurface(surface, preconditioner, weight_decay)
        gradient = metric.gradient()
        # Scaled to norm one first: squares of small gradients would underflow in float32.
        norm = metric.space.norm(gradient)
        if float(norm) != 0.0:
            unit = gradient / norm
            curvatures.append(float(metric.space.dot(unit, metric.hessian_vector_product(unit))))
    count = len(curvatures)
    if not count:
        return BatchSharpness(math.nan, math.nan, 0, 0)
    mean = sum(curvatures) / count
    error = math.nan
    if count > 1:
        error = math.sqrt(sum((curvature - mean) ** 2 for curvature in curvatures) / (count - 1) / count)
    return BatchSharpness(mean, error, count, count)
