"""The decision rule: from the numbers of a probe and of the run to a verdict.

What a place is worth is asked in one currency, the decrease of the loss that each move can win:

- D_v, along ±v, the direction of the lowest curvature: searched on one half of the probe and tested on the other;
- D_c = U/(2λ), the best that one gradient step can promise (U the upper bound of |g|², λ the largest curvature);
- ηU·h, what gradient steps win over a horizon of h steps;
- D_cut = ¼η·tr(Σ)/B, what cutting the learning rate η to zero would win: the height of the noise floor.

Large and small are measured against the spread of the loss over samples, so that nothing depends on the scale of the
loss or of the parameters.
"""

from __future__ import annotations

import math

from landscape_callbacks.diagnosis import wording
from landscape_callbacks.diagnosis.gains import LARGE, STANDARD_ERRORS, Gains, gains
from landscape_callbacks.diagnosis.measurement import Measurement, Situation
from landscape_callbacks.diagnosis.verdict import Verdict

_SIGNIFICANCE = 0.01  # of the test for negative curvature
_UNSTABLE, _UNSTABLE_IF_RISING, _UNSTABLE_IF_NOISY = 1.3, 1.05, 0.7  # shares of the stability limit


def diagnose(measurement: Measurement, situation: Situation) -> Verdict:
    """The verdict on the place that training is in.

    Args:
        measurement: What the probe found.
        situation: How training stands.

    Returns:
        The verdict, with the figures that it rests on.
    """
    won = gains(measurement, situation)
    label = _label(measurement, situation, won)
    return wording.compose(label, measurement, situation, won)


def _label(m: Measurement, s: Situation, won: Gains) -> str:
    """The first rule that matches."""
    trend = s.trend
    if not math.isfinite(m.loss) or not math.isfinite(m.squared_gradient):
        return "unstable"
    if _unstable(m, s, won):
        return "unstable"
    negative = won.negative < _SIGNIFICANCE
    escape_sure = won.escape > STANDARD_ERRORS * won.escape_error
    escape_large = negative and escape_sure and won.escape > LARGE
    settled = trend.state == "plateau"
    # Without a plateau in the losses, progress is the likely state: less evidence for it is enough.
    gradient_sure = won.gain > (STANDARD_ERRORS if settled else 2.0) * won.gain_error and won.gain > 0
    net_sure = won.gain - won.heat > (STANDARD_ERRORS if settled else 1.0) * won.gain_error
    stuck = _stuck(m, s, won, escape_large)
    if stuck:
        return stuck
    # A loss that falls a little beside a way down that is worth ten times as much is at a saddle all the same.
    dwarfed = escape_large and won.escape > 10 * max(won.trend, won.soon)
    if trend.state == "progressing" and won.trend > LARGE and not dwarfed:
        return "progressing"
    beats_steps = won.escape > max(3 * won.gradient_step, won.soon)
    if escape_large and beats_steps:
        return "strict saddle"
    # At a noise floor the gain of a step and its heat balance; progress is what is left of the gain.
    if gradient_sure and net_sure and won.steps > LARGE:
        return "progressing"
    if not settled and won.trend > 2 * won.trend_error and won.trend > LARGE:
        return "progressing"
    if escape_large and not gradient_sure and (settled or won.escape > won.soon):
        return "strict saddle"
    going_on = min(won.steps_bound, max(won.trend_bound, 0.0))
    if negative and escape_sure and settled and won.escape > max(1e-4, 10 * won.gradient_step, going_on):
        return "strict saddle"
    if won.cut > LARGE and (settled or max(won.trend_bound, 0.0) < won.cut):
        return "noise floor"
    # A plateau in the losses is evidence too: with it, a looser bound on the gradient is enough.
    if won.gradient_step_95 < (3 * LARGE if settled else LARGE) and not escape_large and m.search_converged:
        return "approximate second-order point"
    return "undetermined"


def _unstable(m: Measurement, s: Situation, won: Gains) -> bool:
    """Curvature near the stability limit or above it, and a loss that suffers; far above, when it does not fall."""
    if s.trend.state == "progressing":
        return False
    above_start = m.loss - s.initial_loss > STANDARD_ERRORS * m.loss_error and s.trend.state != "plateau"
    if not (s.trend.state == "rising" or above_start):
        return won.curvature_share - 2 * m.largest_curvature_error / s.curvature_limit > _UNSTABLE
    # Noise of small batches makes steps diverge well below the limit of the mean surface (batch sharpness).
    return won.curvature_share > (_UNSTABLE_IF_RISING if math.isinf(s.batch_size) else _UNSTABLE_IF_NOISY)


def _stuck(m: Measurement, s: Situation, won: Gains, escape_large: bool) -> str | None:
    """Places that the steps left in the run cannot leave: a flat surface, or steps too small for it."""
    scale = s.scale(m)
    steps = max(s.horizon, s.trend.steps if s.steps_left is None else s.steps_left)
    curvature = max(abs(m.largest_curvature), abs(m.lowest_curvature))
    if s.effective_learning_rate * curvature * steps >= 0.01 or won.steps_bound * steps / s.horizon >= LARGE:
        return None
    if won.gradient_step > LARGE or escape_large:
        return None if s.ending else "step too small"
    gradient = math.sqrt(max(m.squared_gradient, 0.0) + STANDARD_ERRORS * m.squared_gradient_error)
    if curvature * m.weight_norm**2 < 1e-3 * scale and gradient * m.weight_norm < 1e-3 * scale:
        return "flat"
    return None
