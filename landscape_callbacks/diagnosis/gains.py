"""What each move at a place can win, all in one currency: the decrease of the loss, in units of its spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

from landscape_callbacks.diagnosis import student
from landscape_callbacks.diagnosis.measurement import Measurement, Situation

LARGE = 0.01  # of the spread of the loss: what is worth a person's attention
STANDARD_ERRORS = 3.0  # for decreases and gradients
_SOON = 100  # steps


@dataclass(frozen=True)
class Gains:
    """What each move can win, in units of the loss spread where not said otherwise.

    Attributes:
        escape: D_v, moving along the lowest curvature.
        escape_error: Its standard error.
        gradient_step: D_c, the best that one gradient step can promise (upper bound, three standard errors).
        gradient_step_95: The same with 95 % confidence.
        steps: ηU·h, gradient steps over the horizon.
        steps_bound: The same from the upper bound of |g|².
        heat: What noise adds to the loss in one step, against ``gain``: ½η²tr(HΣ)/B.
        gain: ηU, what the gradient takes from it in one step.
        gain_error: Its standard error.
        cut: D_cut, cutting the learning rate to zero.
        trend: Decrease of the loss over the trend's window.
        trend_bound: Upper 95 % bound of the decrease of the loss over the horizon.
        trend_error: Standard error of ``trend``.
        soon: What the next 100 steps can win: the smaller of the bounds by gradient and trend.
        curvature_share: Largest curvature over the stability limit.
        negative: Chance of a mean curvature this low along v if the surface did not curve down there.
    """

    escape: float
    escape_error: float
    gradient_step: float
    gradient_step_95: float
    steps: float
    steps_bound: float
    heat: float
    gain: float
    gain_error: float
    cut: float
    trend: float
    trend_bound: float
    trend_error: float
    soon: float
    curvature_share: float
    negative: float


def gains(measurement: Measurement, situation: Situation) -> Gains:
    """What each move can win at this place."""
    scale = situation.scale(measurement)
    rate, trend = situation.effective_learning_rate, situation.trend
    unit = scale if scale > 0 else 1.0
    upper = max(measurement.squared_gradient, 0.0) + STANDARD_ERRORS * measurement.squared_gradient_error
    likely = max(measurement.squared_gradient, 0.0) + 1.645 * measurement.squared_gradient_error
    curvature = max(measurement.largest_curvature, abs(measurement.lowest_curvature), 0.0)
    window = trend.window / trend.horizon
    if measurement.lowest_curvature_error > 0:
        t = -measurement.lowest_curvature / measurement.lowest_curvature_error
        negative = student.tail(t, measurement.degrees_of_freedom)
    else:
        negative = 0.0 if measurement.lowest_curvature < -1e-6 * curvature else 1.0
    trend_bound = (trend.upper(0.95) if trend.window else math.inf) / trend.horizon  # a step
    return Gains(
        escape=measurement.escape_decrease / unit,
        escape_error=measurement.escape_decrease_error / unit,
        gradient_step=_best_step(upper, curvature) / unit,
        gradient_step_95=_best_step(likely, curvature) / unit,
        steps=rate * measurement.squared_gradient * situation.horizon / unit,
        steps_bound=rate * upper * situation.horizon / unit,
        heat=0.5 * rate**2 * max(measurement.curved_noise, 0.0) / situation.batch_size / unit,
        gain=rate * measurement.squared_gradient / unit,
        gain_error=rate * measurement.squared_gradient_error / unit,
        cut=0.25 * rate * max(measurement.noise_trace, 0.0) / situation.batch_size / unit,
        trend=trend.decrease * window / unit,
        trend_bound=trend_bound * situation.horizon / unit,
        trend_error=trend.standard_error * window / unit,
        soon=_SOON * min(rate * upper, max(trend_bound, 0.0)) / unit,
        curvature_share=measurement.largest_curvature / situation.curvature_limit,
        negative=negative,
    )


def _best_step(squared_gradient: float, curvature: float) -> float:
    """The decrease of the best gradient step on a parabola: |g|²/(2λ)."""
    if curvature > 0:
        return squared_gradient / (2 * curvature)
    return math.inf if squared_gradient > 0 else 0.0
