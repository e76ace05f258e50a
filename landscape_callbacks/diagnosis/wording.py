"""What a verdict says to a person: the figures with their errors in one sentence, and what to do."""

from __future__ import annotations

import math

from landscape_callbacks.diagnosis import student
from landscape_callbacks.diagnosis.gains import Gains
from landscape_callbacks.diagnosis.measurement import Measurement, Situation
from landscape_callbacks.diagnosis.verdict import Evidence, Verdict

_EDGE = (0.9, 1.3)  # of the stability limit: where full-batch training goes by itself


def compose(label: str, measurement: Measurement, situation: Situation, won: Gains) -> Verdict:
    """The verdict of this label in words and figures."""
    rate = _stable_learning_rate(measurement, situation)
    suggestion, suggested = _suggestion(label, situation, rate)
    return Verdict(
        label=label,
        edge=label != "unstable" and _EDGE[0] <= won.curvature_share <= _EDGE[1],
        evidence=_evidence(measurement, situation, won),
        samples=measurement.samples,
        cost=measurement.cost,
        sentence=f"{label}. {_finding(label, measurement, situation, won)} Cost: {measurement.samples} samples.",
        suggestion=suggestion,
        saddle_score=_saddle_score(won),
        suggested_learning_rate=suggested,
    )


def _finding(label: str, m: Measurement, s: Situation, won: Gains) -> str:
    """The figures that decided, in words."""
    share = _Share(m, s)
    trend = _trend_words(s)
    gradient_step = f"a gradient step can win at most {share(won.gradient_step)}"
    balance = f"a step wins {share(won.gain, won.gain_error)} by the gradient and loses {share(won.heat)} to noise"
    if label == "unstable":
        if not math.isfinite(m.loss) or not math.isfinite(m.squared_gradient):
            return f"{trend} the loss or its gradient is not a finite number."
        return f"{trend} the largest curvature is {won.curvature_share:.2g} times the stability limit of the optimizer."
    if label == "strict saddle":
        confidence = student.quantile(0.005, m.degrees_of_freedom) if m.lowest_curvature_error > 0 else 0.0
        return (
            f"{trend} lowest curvature {m.lowest_curvature:.2g} ± {confidence * m.lowest_curvature_error:.1g} (99 %), "
            f"moving {abs(m.escape_distance):.2g} along it lowers the loss by {share(won.escape, won.escape_error)}; "
            f"{gradient_step}."
        )
    if label == "progressing":
        return f"{trend} {balance}."
    if label == "noise floor":
        return f"{trend} cutting the learning rate to zero would win {share(won.cut)}; {balance}."
    if label == "flat":
        return f"{trend} gradient and curvature vanish at the scale of the weights, in all directions that were seen."
    if label == "step too small":
        at_most = f"{share(won.steps_bound)} over the next {s.horizon:.0f} steps"
        return f"{trend} {gradient_step}, but steps at this learning rate win at most {at_most}."
    if label == "approximate second-order point":
        return f"{trend} no useful negative curvature was found; {gradient_step}."
    return (
        f"{trend} the evidence does not decide: {gradient_step}, moving along the lowest curvature wins "
        f"{share(won.escape, won.escape_error)}, cutting the learning rate {share(won.cut)}."
    )


def _suggestion(label: str, s: Situation, stable_rate: float) -> tuple[str, float | None]:
    """What to do, and the learning rate to go to if that is part of it."""
    target = 0.5 * stable_rate  # 1/λmax for plain gradient descent: half of the largest stable rate
    named = f"{target:.2g} (half of the largest stable one, {stable_rate:.2g})"
    raisable = math.isfinite(target) and target > 1.25 * s.learning_rate
    if label == "unstable":
        if math.isfinite(target) and target < s.learning_rate:
            return f"Lower the learning rate to {named}.", target
        return "Lower the learning rate; go back to a checkpoint if the weights are not finite.", 0.5 * s.learning_rate
    if label == "strict saddle":
        if raisable:
            return (
                f"Raise the learning rate toward {named}, or step along the direction found. Do not lower it.",
                target,
            )
        return "Step along the direction found (a line search finds how far). Do not lower the learning rate.", None
    if label == "step too small" and raisable:
        return f"Raise the learning rate toward {named}.", target
    if label == "step too small":
        return "Raise the learning rate.", None
    if label == "noise floor":
        return "Lower the learning rate, or use larger batches: noise keeps the loss above the valley.", None
    if label == "flat":
        return "Look for dead or saturated units and initialise them anew; no learning rate helps here.", None
    if label == "undetermined":
        return "Measure with more microbatches.", None
    return "", None


def _trend_words(s: Situation) -> str:
    trend = s.trend
    steps = trend.steps - trend.since
    if trend.state == "plateau":
        return f"Loss flat for {steps} steps;"
    if trend.state in ("progressing", "rising"):
        return f"Loss {'falling' if trend.state == 'progressing' else 'rising'} for {steps} steps;"
    return "Loss without a clear trend;"


def _stable_learning_rate(m: Measurement, s: Situation) -> float:
    """The largest stable learning rate: limits go as one over the rate."""
    if not m.largest_curvature > 0:
        return math.inf
    return s.learning_rate * s.curvature_limit / m.largest_curvature


def _saddle_score(won: Gains) -> float:
    """Certainty of negative curvature times the share of its gain in all that can be won."""
    if math.isnan(won.negative) or math.isnan(won.escape):
        return 0.0
    escape = max(won.escape - 2 * won.escape_error, 0.0)
    rivals = 3 * won.gradient_step + 0.01
    return (1 - won.negative) * escape / (escape + rivals)


class _Share:
    """A gain as a share of the current loss, or in loss units where the loss is not positive or the gain exceeds it."""

    def __init__(self, measurement: Measurement, situation: Situation) -> None:
        self.scale = situation.scale(measurement)
        self.loss = measurement.loss

    def __call__(self, gain: float, error: float | None = None) -> str:
        value, spread = gain * self.scale, 0.0 if error is None else error * self.scale
        if not self.loss > 0 or value > self.loss:
            return f"{value:.2g}" if error is None else f"{value:.2g} ± {spread:.1g}"
        percent, spread = 100 * value / self.loss, 100 * spread / self.loss
        return f"{_plain(percent)} %" if error is None else f"{_plain(percent)} ± {_plain(spread, 1)} %"


def _plain(number: float, digits: int = 2) -> str:
    """A number to so many digits, without an exponent where it has more of them before the point."""
    text = f"{number:.{digits}g}"
    return f"{number:.0f}" if "e+" in text and abs(number) < 1e6 else text


def _evidence(m: Measurement, s: Situation, won: Gains) -> tuple[Evidence, ...]:
    scale = s.scale(m)
    return (
        Evidence("loss", m.loss, m.loss_error, "loss"),
        Evidence("spread of the loss over samples", scale, math.nan, "loss"),
        Evidence(f"decrease over {s.trend.horizon:.0f} steps", s.trend.decrease, s.trend.standard_error, "loss"),
        Evidence("lowest curvature", m.lowest_curvature, m.lowest_curvature_error, "loss per squared weight"),
        Evidence("largest curvature", m.largest_curvature, m.largest_curvature_error, "loss per squared weight"),
        Evidence("largest curvature over the stability limit", won.curvature_share, math.nan, "1"),
        Evidence("decrease along the lowest curvature", m.escape_decrease, m.escape_decrease_error, "loss"),
        Evidence("best decrease by one gradient step (bound)", won.gradient_step * scale, math.nan, "loss"),
        Evidence("squared gradient", m.squared_gradient, m.squared_gradient_error, "squared loss per squared weight"),
        Evidence(f"gain by gradient steps over {s.horizon:.0f} steps", won.steps * scale, math.nan, "loss"),
        Evidence("gain by a learning rate of zero", won.cut * scale, math.nan, "loss"),
    )
