"""The plain numbers that a verdict rests on: what a probe of the loss surface measured, and how training stands."""

from __future__ import annotations

import math
from dataclasses import dataclass

from landscape_callbacks.diagnosis.trend import Trend

START_SHARE, DROP_SHARE = 0.03, 0.01  # of the loss at the start and of the drop since: the least unit of loss


@dataclass(frozen=True)
class Measurement:
    """What a probe of K microbatches found at the current weights.

    Directions were chosen on half of the microbatches and tested on the other, so that the errors are those of plain
    means. All quantities are taken in the metric of the optimizer: for Adam, gradient and curvature are P^(-½)g and
    P^(-½)HP^(-½), for plain steps g and H. Standard errors are zero where the surface is the whole training loss.

    Attributes:
        loss: Mean loss.
        loss_error: Its standard error.
        loss_spread: Standard deviation of the loss of a sample, the unit in which a decrease is large or small; NaN
            when it is not known.
        squared_gradient: Unbiased estimate of |g|²; may be negative by noise.
        squared_gradient_error: Its standard error by the jackknife.
        noise_trace: tr(Σ), Σ the covariance of the gradient of one sample.
        curved_noise: tr(HΣ).
        largest_curvature: Mean curvature along the direction of the largest eigenvalue.
        largest_curvature_error: Its standard error.
        lowest_curvature: Mean curvature along the direction of the lowest eigenvalue.
        lowest_curvature_error: Its standard error.
        lowest_ritz_value: The lowest eigenvalue of the half that chose; biased down by the choice.
        search_converged: Whether the search for the lowest eigenvalue converged, so that "none found" says something.
        escape_distance: Distance along the lowest direction at which the loss is lowest.
        escape_decrease: Mean decrease of the loss there (of both ways, where that is the surer figure); negative when
            it rises.
        escape_decrease_error: Its standard error.
        weight_norm: Norm of the weights in the same metric.
        degrees_of_freedom: Of the errors of curvatures and decrease (microbatches that tested, less one); infinite for
            the whole training loss.
        microbatches: K.
        samples: Samples in the probe.
        cost: Samples of training that the same work would have served: a forward counts ⅓, a gradient 1, a
            Hessian-vector product 2.
        largest_ritz_value: The largest eigenvalue of the half that chose; biased up by the choice. NaN: not known.
    """

    loss: float
    loss_error: float
    loss_spread: float
    squared_gradient: float
    squared_gradient_error: float
    noise_trace: float
    curved_noise: float
    largest_curvature: float
    largest_curvature_error: float
    lowest_curvature: float
    lowest_curvature_error: float
    lowest_ritz_value: float
    search_converged: bool
    escape_distance: float
    escape_decrease: float
    escape_decrease_error: float
    weight_norm: float
    degrees_of_freedom: float
    microbatches: int
    samples: int
    cost: float
    largest_ritz_value: float = math.nan


@dataclass(frozen=True)
class Situation:
    """How training stands when the probe is taken.

    Attributes:
        learning_rate: As set in the optimizer.
        effective_learning_rate: Of a step once momentum has built up; see `stability.py`.
        batch_size: Samples a step; infinity when every step sees the whole training set.
        curvature_limit: The stability limit of the optimizer, in the metric of the measurement.
        trend: The trend of the loss so far.
        initial_loss: The loss at the start of the run.
        steps_left: Steps until the end of the run; ``None`` when not known.
        lowest_loss: The lowest loss of any step so far; NaN when not known. While it is not below zero, no decrease
            is said to exceed the loss.
    """

    learning_rate: float
    effective_learning_rate: float
    batch_size: float
    curvature_limit: float
    trend: Trend
    initial_loss: float
    steps_left: int | None = None
    lowest_loss: float = math.nan

    @property
    def horizon(self) -> float:
        """Steps over which a gain has to be worth the wait."""
        return self.trend.horizon

    @property
    def ending(self) -> bool:
        """Whether the run is in its last twentieth, where schedules let the learning rate go to zero on purpose."""
        return self.steps_left is not None and self.steps_left < 0.05 * (self.steps_left + self.trend.steps)

    def largest_stable_rate(self, measurement: Measurement) -> float:
        """The learning rate at which steps stop contracting; NaN when a curvature is, infinity when none bounds it.

        By the larger of the curvature on other batches and the largest eigenvalue of those that chose the direction:
        where a few samples make the curvature, the first says what a step feels on the average and the second what it
        can meet, and a rate called stable has to hold for both.
        """
        if math.isnan(measurement.largest_curvature):
            return math.nan
        known = (measurement.largest_curvature, measurement.largest_ritz_value)
        curvature = max(value for value in known if not math.isnan(value))
        return self.learning_rate * self.curvature_limit / curvature if curvature > 0.0 else math.inf

    def scale(self, measurement: Measurement) -> float:
        """The unit of loss in which a decrease is large or small; it follows any rescaling of the loss.

        The spread of the loss over samples, and at least 3 % of the loss at the start and 1 % of the drop since: where
        all samples have nearly the same loss (a net that predicts a constant, an interpolating minimum) their spread
        says nothing. Where it is not known, a tenth of the drop stands in.
        """
        known = math.isfinite(self.initial_loss)
        start = abs(self.initial_loss) if known else 0.0
        drop = abs(self.initial_loss - measurement.loss) if known else 0.0
        if math.isnan(measurement.loss_spread):
            return max(START_SHARE * start, 0.1 * drop)
        return max(measurement.loss_spread, START_SHARE * start, DROP_SHARE * drop)
