"""What a verdict says to a person: the figures with their errors in one sentence, and what to do."""

from __future__ import annotations

import math

from landscape_callbacks.diagnosis import student
from landscape_callbacks.diagnosis.gains import Gains
from landscape_callbacks.diagnosis.measurement import Measurement, Situation
from landscape_callbacks.diagnosis.verdict import Evidence, Verdict

_EDGE = (0.9, 1.3)  # of the stability limit: where full-batch training goes by itself
_CLEAR = 2.0  # standard errors from which on a gain is called one


def compose(label: str, measurement: Measurement, situation: Situation, won: Gains) -> Verdict:
    """The verdict of this label in words and figures."""
    rate = situation.largest_stable_rate(measurement)
    suggestion, suggested = _suggestion(label, situation, rate)
    return Verdict(
        label=label,
        edge=label != "unstable" and _EDGE[0] <= won.curvature_share <= _EDGE[1],
        evidence=_evidence(measurement, situation, won),
        samples=measurement.samples,
        cost=measurement.cost,
        finding=_finding(label, measurement, situation, won),
        suggestion=suggestion,
        saddle_score=_saddle_score(won),
        suggested_learning_rate=suggested,
    )


def _finding(label: str, m: Measurement, s: Situation, won: Gains) -> str:
    """The figures that decided, in words: one unit a sentence."""
    said = _Amounts(m, s)
    trend = _trend_words(s)
    gradient_step = f"a gradient step can win up to {said.part(won.gradient_step)}"
    if label == "unstable":
        if not math.isfinite(m.loss) or not math.isfinite(m.squared_gradient):
            return f"{trend} the loss or its gradient is not a finite number."
        seen = "" if _whole(m) else ", on other batches,"
        times = f"{won.curvature_share:.2g} times the stability limit of the optimizer"
        return f"{trend} the curvature along the sharpest direction{seen} is {times}."
    if label == "strict saddle":
        confidence = student.quantile(0.005, m.degrees_of_freedom) if m.lowest_curvature_error > 0 else 0.0
        seen = "" if _whole(m) else ", on other batches"
        curvature = f"curvature {m.lowest_curvature:.2g} ± {confidence * m.lowest_curvature_error:.1g} (99 %)"
        return (
            f"{trend} {curvature} along the lowest direction{seen}; "
            f"moving {abs(m.escape_distance):.2g} along it lowers the loss by "
            f"{said.decrease(won.escape, won.escape_error)}; {gradient_step}."
        )
    if label == "progressing":
        return f"{trend} {_balance(said, won)}."
    if label == "noise floor":
        return f"{trend} cutting the learning rate to zero would win {said.estimate(won.cut)}; {_balance(said, won)}."
    if label == "flat":
        return f"{trend} gradient and curvature vanish at the scale of the weights, in all directions that were seen."
    if label == "step too small":
        at_most = f"{said.part(won.steps_bound)} over the next {s.horizon:.0f} steps"
        return f"{trend} {gradient_step}, but steps at this learning rate up to {at_most}."
    if label == "approximate second-order point":
        return f"{trend} no useful negative curvature was found; {gradient_step}."
    return (
        f"{trend} the evidence does not decide: {gradient_step}, moving along the lowest direction lowers the loss by "
        f"{said.decrease(won.escape, won.escape_error)}, cutting the learning rate to zero would win "
        f"{said.estimate(won.cut)}."
    )


def _balance(said: _Amounts, won: Gains) -> str:
    """What a step does to the loss, as a change of it: a gain is a change below zero."""
    unmeasured = "" if won.gain > _CLEAR * won.gain_error else " (no measurable decrease)"
    return (
        f"each step changes the loss by {said.change(-won.gain, won.gain_error)} through the gradient{unmeasured} and "
        f"by about {said.change(won.heat)} through noise{said.unit_of_changes}"
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


def _saddle_score(won: Gains) -> float:
    """Certainty of negative curvature times the share of its gain in all that can be won."""
    if math.isnan(won.negative) or math.isnan(won.escape):
        return 0.0
    escape = max(won.escape - 2 * won.escape_error, 0.0)
    rivals = 3 * won.gradient_step + 0.01
    return (1 - won.negative) * escape / (escape + rivals)


class _Amounts:
    """Gains in words, all in one unit: percent of a loss that was never seen below zero, else loss units.

    What a parabola promises may exceed a loss that cannot fall below zero. The figures of the evidence stay as they
    were estimated; words say no more than "all of the loss".
    """

    def __init__(self, measurement: Measurement, situation: Situation) -> None:
        self.loss = measurement.loss
        # Where nothing tells what is large, gains are in plain loss already.
        self.scale = situation.scale(measurement) or 1.0
        self.relative = self.loss > 0 and situation.lowest_loss >= 0

    def part(self, gain: float) -> str:
        """After "up to"."""
        return f"all of the loss ({self.loss:.2g})" if self._exceeds(gain) else f"{self._number(gain)}{self._unit()}"

    def estimate(self, gain: float) -> str:
        """After "wins": of a model, so about as much."""
        return f"{'up to' if self._exceeds(gain) else 'about'} {self.part(gain)}"

    def decrease(self, gain: float, error: float) -> str:
        """After "lowers the loss by"."""
        if self._exceeds(gain):
            return f"up to all of it ({self.loss:.2g})"
        return f"{self._number(gain)} ± {self._number(error, 1)}{self._sign()}"

    def change(self, change: float, error: float | None = None) -> str:
        """After "changes the loss by", with its sign."""
        if self._exceeds(-change):
            return "up to -100 %"
        sign = "+" if change > 0 else "-" if change < 0 else ""
        spread = "" if error is None else f" ± {self._number(error, 1)}"
        return f"{sign}{self._number(abs(change))}{spread}{self._sign()}"

    @property
    def unit_of_changes(self) -> str:
        """After all changes of a sentence."""
        return "" if self.relative else " (loss units)"

    def _exceeds(self, gain: float) -> bool:
        return self.relative and gain * self.scale > self.loss

    def _number(self, gain: float, digits: int = 2) -> str:
        return _plain(gain * self.scale * (100 / self.loss if self.relative else 1.0), digits)

    def _sign(self) -> str:
        return " %" if self.relative else ""

    def _unit(self) -> str:
        return " % of the loss" if self.relative else " in loss units"


def _plain(number: float, digits: int = 2) -> str:
    """A number to so many digits, without an exponent where it has more of them before the point."""
    text = f"{number:.{digits}g}"
    return f"{number:.0f}" if "e+" in text and abs(number) < 1e6 else text


def _whole(m: Measurement) -> bool:
    """Whether the probe saw the whole training loss: no batches were held out, and there are no errors."""
    return math.isinf(m.degrees_of_freedom)


def _evidence(m: Measurement, s: Situation, won: Gains) -> tuple[Evidence, ...]:
    scale = s.scale(m)
    unit = scale or 1.0
    # Directions are chosen on one half of the batches and tested on the other: no eigenvalues, and lower than those.
    seen = "" if _whole(m) else ", on other batches"
    lowest, sharpest = f"along the lowest direction{seen}", f"along the sharpest direction{seen}"
    step, cut = won.gradient_step * unit, won.cut * unit
    steps, steps_error = won.steps * unit, won.gain_error * s.horizon * unit
    return (
        Evidence("loss", m.loss, m.loss_error, "loss"),
        Evidence("spread of the loss over samples", scale, math.nan, "loss"),
        Evidence(f"decrease over {s.trend.horizon:.0f} steps", s.trend.decrease, s.trend.standard_error, "loss"),
        Evidence(f"curvature {lowest}", m.lowest_curvature, m.lowest_curvature_error, "loss per squared weight"),
        Evidence(f"curvature {sharpest}", m.largest_curvature, m.largest_curvature_error, "loss per squared weight"),
        Evidence(f"curvature {sharpest}, over the stability limit", won.curvature_share, math.nan, "1"),
        Evidence(f"decrease {lowest}", m.escape_decrease, m.escape_decrease_error, "loss"),
        Evidence("best decrease by one gradient step (upper bound, parabola)", step, math.nan, "loss"),
        Evidence(
            "squared gradient (unbiased, may be below 0)",
            m.squared_gradient,
            m.squared_gradient_error,
            "squared loss per squared weight",
        ),
        Evidence(f"gain by gradient steps over {s.horizon:.0f} steps (straight on)", steps, steps_error, "loss"),
        Evidence("gain by a learning rate of zero (parabola)", cut, math.nan, "loss"),
    )
