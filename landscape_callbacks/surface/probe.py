"""A probe of the loss surface on K microbatches: gradient, noise, lowest curvature and what it wins, with errors.

How it differs from "take the lowest Ritz value of the probe", and why: the direction that looks lowest on a set of
samples was chosen for it, so its curvature there is biased down, and at a minimum with label noise it is negative every
time. Here one half of the microbatches chooses (direction, way, distance) and the other half tests. On the test half
the curvature vᵀH_k v and the decrease of the loss are plain means over independent microbatches, and Student's t holds.
Since E[vᵀHv] ≥ λmin, "negative curvature found" needs no convergence of the search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from landscape_callbacks.diagnosis.measurement import Measurement
from landscape_callbacks.surface.average_surface import AverageSurface
from landscape_callbacks.surface.escape import SHORTER_STEPS, confirmed_step, decreases_along, surest_step
from landscape_callbacks.surface.lanczos import extreme_eigenvalues
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.metric import MetricSurface

_FORWARD, _GRADIENT, _PRODUCT = 1 / 3, 1.0, 2.0


@dataclass(frozen=True)
class Probe:
    """A measurement, and the directions that it is about.

    Attributes:
        measurement: The plain numbers.
        lowest_direction: Displacement of the weights along the lowest curvature, of unit length in the optimizer's
            metric: flat, shape (n,). Moving ``measurement.escape_distance`` times it is the tested step.
        largest_direction: The same along the largest curvature.
        warm_start: Flat, shape (n,): give it as ``initial`` to the next probe.
    """

    measurement: Measurement
    lowest_direction: Tensor
    largest_direction: Tensor
    warm_start: Tensor


def probe_surface(
    surfaces: Sequence[LossSurface],
    batch_size: float,
    *,
    whole_loss: bool = False,
    sample_losses: Tensor | None = None,
    loss_scale: float | None = None,
    preconditioner: Tensor | None = None,
    weight_decay: float | Tensor = 0.0,
    initial: Tensor | None = None,
    tolerance: float = 0.05,
    smallest_tolerance: float = 0.3,
    max_products: int = 60,
    seed: int = 0,
) -> Probe:
    """Measures what a verdict needs, on K microbatches.

    Memory: K gradients, and the retained graphs of half of the microbatches at a time.

    Args:
        surfaces: K surfaces over the same parameters, one a microbatch, all of the same size: at least 4, or at least 1
            for the whole loss.
        batch_size: Samples a microbatch.
        whole_loss: The surfaces together are the training loss itself (full-batch training): no sampling errors.
        sample_losses: Loss of each sample, shape (N,), for the spread; from the microbatch losses when ``None``.
        loss_scale: Unit of loss where the spread cannot be known (one surface); sets the distances that are searched.
        preconditioner: The diagonal P of the optimizer, flat, shape (n,); see :class:`MetricSurface`.
        weight_decay: Weight decay that the optimizer adds; one number or flat, shape (n,).
        initial: Where the search for eigenvalues starts: ``warm_start`` of the last probe.
        tolerance: Of the largest eigenvalue, relative.
        smallest_tolerance: Of the lowest one, relative to it or to a hundredth of the largest, where that is more.
        max_products: Most Hessian-vector products of the search, each on half of the probe.
        seed: Of the random start of the search.

    Returns:
        The measurement with its directions. When a loss or gradient is not finite, everything else is NaN.

    Raises:
        ValueError: With too few surfaces.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([0.0, 0.0]))
        >>> surface = LossSurface(lambda: w[0] ** 2 - w[1] ** 2 + w[1] ** 4 / 4, [w])
        >>> found = probe_surface([surface], batch_size=1, whole_loss=True).measurement
        >>> round(found.lowest_curvature, 4), round(found.largest_curvature, 4)
        (-2.0, 2.0)
    """
    if len(surfaces) < (1 if whole_loss else 4):
        raise ValueError(
            "A probe needs at least 4 microbatches, two to choose directions and two to test them, "
            f"got {len(surfaces)}."
        )
    choosing = [
        MetricSurface(surface, preconditioner, weight_decay) for surface in (surfaces if whole_loss else surfaces[::2])
    ]
    testing = choosing if whole_loss else [MetricSurface(s, preconditioner, weight_decay) for s in surfaces[1::2]]
    work = 0.0

    losses = [float(surface.loss()) for surface in choosing]
    gradients = [surface.gradient() for surface in choosing]
    work += len(choosing) * _GRADIENT
    half = MetricSurface(
        AverageSurface(list(surfaces) if whole_loss else list(surfaces[::2])), preconditioner, weight_decay
    )
    if not _finite(losses, gradients):
        return _nowhere(half, losses, len(surfaces), batch_size)
    pairs = extreme_eigenvalues(
        half,
        largest=1,
        smallest=1,
        tolerance=tolerance,
        smallest_tolerance=smallest_tolerance,
        initial=initial,
        max_products=max_products,
        seed=seed,
    )
    work += len(choosing) * pairs.products * _PRODUCT
    largest, lowest = pairs.vectors[0], pairs.vectors[-1]
    ritz = float(pairs.values[-1])
    way, distance = 0, 0.0
    if ritz < 0:
        scale = _spread(losses, batch_size, sample_losses)
        scale = scale if scale > 0 else (loss_scale or abs(losses[0]) or abs(ritz))
        way, distance, tried = surest_step(choosing, lowest, math.sqrt(2 * scale / abs(ritz)))
        work += len(choosing) * tried * _FORWARD
    shorter = [distance * 0.5**power for power in range(SHORTER_STEPS)]
    deviations = _deviations(gradients)
    if not whole_loss:
        half.release()

    low_curvatures, high_curvatures, curved = [], [], []
    decreases: list[Tensor] = []
    for index, surface in enumerate(testing):
        if not whole_loss:
            losses.append(float(surface.loss()))
            gradients.append(surface.gradient())
            work += _GRADIENT
        low_curvatures.append(float(surface.space.dot(lowest, surface.hessian_vector_product(lowest))))
        high_curvatures.append(float(surface.space.dot(largest, surface.hessian_vector_product(largest))))
        work += 2 * _PRODUCT
        if deviations:
            deviation = deviations[index % len(deviations)]
            curved.append(float(surface.space.dot(deviation, surface.hessian_vector_product(deviation))))
            work += _PRODUCT
        if distance:
            decreases.append(decreases_along(surface, lowest, shorter)[[way, 2]])
            work += (2 * len(shorter) + 1) * _FORWARD
        if not whole_loss:
            surface.surface.release()
    if not _finite(losses, gradients):
        return _nowhere(half, losses, len(surfaces), batch_size)
    squared, squared_error, trace = _squared_gradient(half, gradients, batch_size, whole_loss)
    low, low_error = _mean(low_curvatures, whole_loss)
    high, high_error = _mean(high_curvatures, whole_loss)
    moved, decrease, decrease_error = confirmed_step(decreases, shorter, whole_loss)
    loss, loss_error = _mean(losses, whole_loss)
    measurement = Measurement(
        loss=loss,
        loss_error=loss_error,
        loss_spread=_spread(losses, batch_size, sample_losses),
        squared_gradient=squared,
        squared_gradient_error=squared_error,
        noise_trace=trace,
        curved_noise=batch_size * sum(curved) / len(curved) if curved else 0.0,
        largest_curvature=high,
        largest_curvature_error=high_error,
        lowest_curvature=low,
        lowest_curvature_error=low_error,
        lowest_ritz_value=ritz,
        search_converged=bool(pairs.converged[-1]),
        escape_distance=-moved if way == 1 else moved,
        escape_decrease=decrease,
        escape_decrease_error=decrease_error,
        weight_norm=half.weight_norm(),
        degrees_of_freedom=math.inf if whole_loss else len(testing) - 1.0,
        microbatches=len(surfaces),
        samples=round(batch_size * len(surfaces)),
        cost=batch_size * work,
        largest_ritz_value=float(pairs.values[0]),
    )
    return Probe(measurement, half.to_weights(lowest), half.to_weights(largest), pairs.warm_start)


def _deviations(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Deviations from the mean gradient, scaled so that each one's square is unbiased for the variance."""
    count = len(gradients)
    if count < 2:
        return []
    mean = torch.stack([gradient / count for gradient in gradients]).sum(dim=0)
    return [(gradient - mean) * math.sqrt(count / (count - 1)) for gradient in gradients]


def _squared_gradient(
    surface: MetricSurface, gradients: Sequence[Tensor], batch_size: float, whole_loss: bool
) -> tuple[float, float, float]:
    """|g|² with its error, and tr(Σ).

    U = (|Σg_k|² - Σ|g_k|²)/(K(K-1)) is unbiased for |g|². It is a U-statistic: leaving out microbatch k changes it by
    inner products with the sum alone, so that the jackknife needs no second pass.
    """
    space, count = surface.space, len(gradients)
    total = torch.zeros_like(gradients[0])
    for gradient in gradients:
        total += gradient
    square = float(space.dot(total, total))
    own = [float(space.dot(gradient, gradient)) for gradient in gradients]
    trace = batch_size * (sum(own) - square / count) / (count - 1) if count > 1 else 0.0
    if whole_loss:
        return square / count**2, 0.0, trace
    with_total = [float(space.dot(gradient, total)) for gradient in gradients]
    left_out = [
        (square - 2 * inner + norm - (sum(own) - norm)) / ((count - 1) * (count - 2))
        for inner, norm in zip(with_total, own, strict=True)
    ]
    mean = sum(left_out) / count
    error = math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in left_out))
    return (square - sum(own)) / (count * (count - 1)), error, trace


def _mean(values: Sequence[float], whole_loss: bool) -> tuple[float, float]:
    """Mean and its standard error; the error is zero where the values make up the whole loss."""
    count = len(values)
    mean = sum(values) / count
    if whole_loss:
        return mean, 0.0
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)


def _spread(losses: Sequence[float], batch_size: float, sample_losses: Tensor | None) -> float:
    """Standard deviation of the loss of a sample; from means over microbatches, √b times theirs."""
    if sample_losses is not None:
        return float(sample_losses.double().std())
    if len(losses) < 2:
        return math.nan
    return float(torch.tensor(losses, dtype=torch.float64).std()) * math.sqrt(batch_size)


def _finite(losses: Sequence[float], gradients: Sequence[Tensor]) -> bool:
    return all(map(math.isfinite, losses)) and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def _nowhere(surface: MetricSurface, losses: Sequence[float], microbatches: int, batch_size: float) -> Probe:
    """What is left to say where a loss or a gradient is not a finite number."""
    unknown = Measurement(**dict.fromkeys((field.name for field in fields(Measurement)), math.nan))  # type: ignore[arg-type]
    measurement = replace(
        unknown,
        loss=sum(losses) / len(losses),
        search_converged=False,
        microbatches=microbatches,
        samples=round(batch_size * microbatches),
        cost=batch_size * microbatches * _GRADIENT,
    )
    nowhere = torch.full_like(surface.space.zeros(), math.nan)
    return Probe(measurement, nowhere, nowhere, nowhere)
