"""The decision rule on measurements made by hand, and what it has to be invariant to. Real states are in the study."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from landscape_callbacks.diagnosis.gains import gains
from landscape_callbacks.diagnosis.measurement import Measurement, Situation
from landscape_callbacks.diagnosis.slope import FREQUENCIES
from landscape_callbacks.diagnosis.stationarity import diagnose
from landscape_callbacks.diagnosis.trend import Trend
from landscape_callbacks.diagnosis.verdict import LABELS, Evidence, Verdict

# A place where nothing can be won: gradient and curvature measured well, loss spread 1.
REST = Measurement(
    loss=2.0,
    loss_error=0.05,
    loss_spread=1.0,
    squared_gradient=0.0,
    squared_gradient_error=1e-3,
    noise_trace=0.1,
    curved_noise=0.1,
    largest_curvature=4.0,
    largest_curvature_error=0.1,
    lowest_curvature=0.1,
    lowest_curvature_error=0.05,
    lowest_ritz_value=0.05,
    search_converged=True,
    escape_distance=0.0,
    escape_decrease=0.0,
    escape_decrease_error=0.0,
    weight_norm=3.0,
    degrees_of_freedom=7.0,
    microbatches=16,
    samples=512,
    cost=5000.0,
)
SADDLE = {
    "lowest_curvature": -0.5,
    "lowest_curvature_error": 0.05,
    "escape_distance": 0.8,
    "escape_decrease": 0.2,
    "escape_decrease_error": 0.02,
    "lowest_ritz_value": -0.6,
}


def trend(state="plateau", decrease=0.0, error=1e-3):
    return Trend(state, 1000, 3000, 1920, decrease, error, 0.05, 1000.0, 0.3, 1.0, 0)


def situation(**changes):
    given_values = {
        "learning_rate": 0.01,
        "effective_learning_rate": 0.01,
        "batch_size": 16.0,
        "curvature_limit": 200.0,
        "trend": trend(),
        "initial_loss": 5.0,
        "lowest_loss": 0.5,
    }
    return Situation(**{**given_values, **changes})


def measured(**changes):
    return dataclasses.replace(REST, **changes)


CASES = {
    "approximate second-order point": (measured(), situation()),
    "strict saddle": (measured(**SADDLE), situation()),
    "noise floor": (measured(noise_trace=200.0, curved_noise=400.0), situation()),
    "progressing": (
        measured(squared_gradient=0.5, squared_gradient_error=0.05),
        situation(trend=trend("undetermined", 0.0, 10.0)),
    ),
    "unstable": (measured(largest_curvature=230.0), situation(trend=trend("rising", -1.0, 0.1))),
    "flat": (
        measured(
            squared_gradient=0.0,
            squared_gradient_error=0.0,
            largest_curvature=0.0,
            largest_curvature_error=0.0,
            lowest_curvature=0.0,
            lowest_curvature_error=0.0,
            noise_trace=0.0,
        ),
        situation(),
    ),
    "step too small": (
        measured(squared_gradient=2.0, squared_gradient_error=0.1),
        situation(learning_rate=1e-7, effective_learning_rate=1e-7, curvature_limit=2e7),
    ),
    "undetermined": (
        measured(squared_gradient_error=5.0, noise_trace=1.0),
        situation(trend=trend("undetermined", 0.0, 10.0)),
    ),
}


@pytest.mark.parametrize("label", LABELS)
def test_every_label_has_its_case(label):
    verdict = diagnose(*CASES[label])
    assert verdict.label == label
    assert verdict.sentence.startswith(f"{label}. ")
    assert "512 samples" in verdict.sentence
    assert 0 <= verdict.saddle_score <= 1
    json.dumps(verdict.as_info())


@pytest.mark.parametrize("label", LABELS)
@given(loss=st.floats(1e-6, 1e6), weight=st.floats(1e-4, 1e4))
@settings(max_examples=25, deadline=None)
def test_labels_and_scores_do_not_depend_on_the_units_of_loss_and_weights(label, loss, weight):
    measurement, where = CASES[label]
    per_weight = {
        "loss": loss,
        "loss_error": loss,
        "loss_spread": loss,
        "squared_gradient": loss**2 / weight**2,
        "squared_gradient_error": loss**2 / weight**2,
        "noise_trace": loss**2 / weight**2,
        "curved_noise": loss**3 / weight**4,
        "largest_curvature": loss / weight**2,
        "largest_curvature_error": loss / weight**2,
        "lowest_curvature": loss / weight**2,
        "lowest_curvature_error": loss / weight**2,
        "lowest_ritz_value": loss / weight**2,
        "escape_distance": weight,
        "escape_decrease": loss,
        "escape_decrease_error": loss,
        "weight_norm": weight,
    }
    rescaled = dataclasses.replace(
        measurement, **{name: getattr(measurement, name) * factor for name, factor in per_weight.items()}
    )
    other = dataclasses.replace(
        where,
        learning_rate=where.learning_rate * weight**2 / loss,
        effective_learning_rate=where.effective_learning_rate * weight**2 / loss,
        curvature_limit=where.curvature_limit * loss / weight**2,
        initial_loss=where.initial_loss * loss,
        lowest_loss=where.lowest_loss * loss,
        trend=dataclasses.replace(
            where.trend,
            **{name: getattr(where.trend, name) * loss for name in ("decrease", "standard_error", "floor", "noise")},
        ),
    )
    before, after = diagnose(measurement, where), diagnose(rescaled, other)
    assert after.label == before.label
    assert after.edge == before.edge
    assert after.saddle_score == pytest.approx(before.saddle_score, rel=1e-6, abs=1e-12)


def test_the_saddle_warning_says_what_the_issue_asks_for():
    verdict = diagnose(measured(**SADDLE), situation())
    assert verdict.sentence == (
        "strict saddle. Loss flat for 2000 steps; curvature -0.5 ± 0.2 (99 %) along the lowest direction, on other "
        "batches; moving 0.8 along it lowers the loss by 10 ± 1 %; a gradient step can win up to 0.019 % of the loss. "
        "Cost: 512 samples."
    )
    assert "Raise the learning rate toward 0.25" in verdict.suggestion
    assert verdict.suggested_learning_rate == pytest.approx(1 / 4.0)
    assert verdict.warning
    assert verdict.saddle_score > 0.9


def test_negative_curvature_alone_is_no_saddle_while_the_loss_falls():
    progressing = situation(trend=trend("progressing", 0.5, 0.01))
    assert diagnose(measured(**SADDLE), progressing).label == "progressing"


def test_negative_curvature_that_wins_nothing_is_no_saddle():
    useless = measured(**{**SADDLE, "escape_decrease": 1e-6, "escape_decrease_error": 1e-8})
    assert diagnose(useless, situation()).label == "approximate second-order point"


def test_negative_curvature_within_its_error_is_no_saddle():
    unsure = measured(**{**SADDLE, "lowest_curvature_error": 0.3})
    assert diagnose(unsure, situation()).label != "strict saddle"


def test_the_edge_of_stability_is_a_flag_and_no_alarm():
    at_edge = diagnose(measured(largest_curvature=210.0), situation(batch_size=math.inf))
    assert at_edge.edge
    assert at_edge.label != "unstable"
    assert not diagnose(measured(), situation()).edge


def test_curvature_far_above_the_limit_is_unstable_unless_the_loss_falls():
    above = measured(largest_curvature=400.0)
    assert diagnose(above, situation()).label == "unstable"
    assert diagnose(above, situation(trend=trend("progressing", 0.5, 0.01))).label == "progressing"


def test_a_loss_that_is_no_number_is_unstable():
    nowhere = dataclasses.replace(REST, **dict.fromkeys(("loss", "squared_gradient", "lowest_curvature"), math.nan))
    verdict = diagnose(nowhere, situation())
    assert verdict.label == "unstable"
    assert verdict.suggested_learning_rate == pytest.approx(0.005)
    assert verdict.saddle_score == 0.0


def test_a_search_that_did_not_converge_proves_no_minimum():
    assert diagnose(measured(search_converged=False), situation()).label == "undetermined"


def test_without_a_known_spread_the_drop_so_far_is_the_scale():
    unknown = measured(loss_spread=math.nan)
    assert situation().scale(unknown) == pytest.approx(0.3)
    assert situation(initial_loss=2.0).scale(unknown) == pytest.approx(0.06)
    assert situation().scale(measured(loss_spread=0.0)) == pytest.approx(0.15)
    assert situation(initial_loss=-100.0).scale(measured(loss_spread=0.0)) == pytest.approx(3.0)


def test_at_weights_of_zero_a_slope_is_not_taken_for_a_flat_surface():
    tiny = {"learning_rate": 1e-9, "effective_learning_rate": 1e-9, "curvature_limit": 2e9}
    at_zero = measured(squared_gradient=2.0, squared_gradient_error=0.1, weight_norm=0.0)
    assert diagnose(at_zero, situation(**tiny)).label == "step too small"


def test_a_noise_floor_needs_a_loss_that_has_settled():
    noisy = measured(noise_trace=200.0, curved_noise=400.0, squared_gradient_error=0.5)
    assert diagnose(noisy, situation(trend=trend("undetermined", 0.0, 10.0))).label == "undetermined"
    # What going on can win at most is less than what the cut wins: settled enough.
    assert diagnose(noisy, situation(trend=trend("undetermined", 0.0, 0.005))).label == "noise floor"


def test_a_saddle_shows_beside_a_slow_decline_that_it_dwarfs():
    slow = situation(trend=trend("progressing", 0.011, 0.001))
    assert diagnose(measured(**{**SADDLE, "escape_decrease": 0.3}), slow).label == "strict saddle"


def test_a_schedule_that_ends_is_not_called_too_slow():
    measurement, where = CASES["step too small"]
    assert diagnose(measurement, dataclasses.replace(where, steps_left=5000)).label == "step too small"
    assert diagnose(measurement, dataclasses.replace(where, steps_left=20)).label != "step too small"


def test_gains_are_the_textbook_ones():
    won = gains(measured(squared_gradient=0.8, squared_gradient_error=0.0, loss_spread=2.0), situation())
    assert won.gradient_step == pytest.approx(0.8 / (2 * 4) / 2)
    assert won.steps == pytest.approx(0.01 * 0.8 * 1000 / 2)
    assert won.cut == pytest.approx(0.25 * 0.01 * 0.1 / 16 / 2)
    assert won.heat == pytest.approx(0.5 * 0.01**2 * 0.1 / 16 / 2)


def test_markdown_has_a_row_for_each_figure():
    verdict = diagnose(*CASES["strict saddle"])
    text = verdict.as_markdown()
    assert text.startswith("**strict saddle**")
    assert "| curvature along the lowest direction, on other batches | -0.5 | 0.05 | loss per squared weight |" in text
    assert text.count("\n|") >= len(verdict.evidence)


@pytest.mark.parametrize("name", ["loss", "squared_gradient"])
def test_one_figure_that_is_no_number_is_enough(name):
    assert diagnose(measured(**{name: math.nan}), situation()).label == "unstable"


# The gain of a step is 0.01 times the squared gradient; its standard error is 1e-3, and heat 1e-3 with this noise.
HOT = {"curved_noise": 320.0}


@pytest.mark.parametrize(
    ("state", "gain_in_errors", "changes", "progresses"),
    [
        ("undetermined", 2.5, {}, True),
        ("plateau", 2.5, {}, False),
        ("undetermined", 1.5, {}, False),
        ("plateau", 3.5, {}, True),
        ("undetermined", 2.5, HOT, True),
        ("undetermined", 2.5, {"curved_noise": 640.0}, False),
        ("plateau", 3.5, HOT, False),
        ("plateau", 4.5, HOT, True),
    ],
)
def test_progress_needs_a_gradient_beyond_its_error_and_its_heat(state, gain_in_errors, changes, progresses):
    place = measured(squared_gradient=0.1 * gain_in_errors, squared_gradient_error=0.1, **changes)
    label = diagnose(place, situation(trend=trend(state, 0.0, 10.0))).label
    assert (label == "progressing") == progresses


@pytest.mark.parametrize(
    ("share", "state", "loss", "batch_size", "unstable"),
    [
        # A loss that rises, or that stands above its start for sure: lower for small batches than for the whole set.
        (0.8, "rising", 2.0, 16.0, True),
        (0.6, "rising", 2.0, 16.0, False),
        (0.8, "rising", 2.0, math.inf, False),
        (1.1, "rising", 2.0, math.inf, True),
        (0.8, "undetermined", 6.0, 16.0, True),
        (0.8, "undetermined", 5.1, 16.0, False),
        (0.8, "undetermined", 2.0, 16.0, False),
        (0.8, "plateau", 6.0, 16.0, False),
        # Otherwise 1.3 times the limit, beyond two standard errors (of 0.1 each here).
        (1.45, "plateau", 2.0, 16.0, False),
        (1.55, "plateau", 2.0, 16.0, True),
    ],
)
def test_how_much_curvature_is_unstable_depends_on_the_loss(share, state, loss, batch_size, unstable):
    place = measured(loss=loss, largest_curvature=share * 200.0, largest_curvature_error=20.0)
    where = situation(trend=trend(state, 0.0, 10.0), batch_size=batch_size)
    assert (diagnose(place, where).label == "unstable") == unstable


@pytest.mark.parametrize(
    ("rate", "label"), [(0.01, "strict saddle"), (1e-5, "strict saddle"), (1e-8, "step too small")]
)
def test_a_saddle_without_a_gradient_is_left_unless_the_steps_are_too_small(rate, label):
    # Over the 3000 steps of the run so far a rate of 1e-5 moves along curvatures of 4 by 12 %.
    at_rest = measured(**SADDLE, squared_gradient_error=0.0)
    where = situation(learning_rate=rate, effective_learning_rate=rate, curvature_limit=2 / rate)
    assert diagnose(at_rest, where).label == label


def test_steps_that_add_up_to_something_in_the_rest_of_the_run_are_not_too_small():
    measurement, where = CASES["step too small"]
    assert diagnose(measurement, dataclasses.replace(where, steps_left=100_000)).label != "step too small"


def test_a_slope_without_curvature_is_walked_down():
    slope = measured(squared_gradient=2.0, squared_gradient_error=0.1, largest_curvature=1e-6, lowest_curvature=1e-7)
    assert diagnose(slope, situation(trend=trend("undetermined", 0.0, 10.0))).label == "progressing"


@pytest.mark.parametrize(
    ("curvature", "gradient", "flat"), [(1.5e-5, 1.5e-4, True), (3e-5, 1.5e-4, False), (1.5e-5, 3e-4, False)]
)
def test_a_surface_is_flat_that_weights_as_large_as_these_do_not_feel(curvature, gradient, flat):
    # Less than 1e-3 of the spread of 2, at weights of norm 10: curvatures below 2e-5 and gradients below 2e-4.
    place = measured(
        loss_spread=2.0,
        weight_norm=10.0,
        squared_gradient=0.4 * gradient**2,
        squared_gradient_error=0.2 * gradient**2,
        largest_curvature=curvature,
        lowest_curvature=0.1 * curvature,
        lowest_curvature_error=0.0,
    )
    where = situation(learning_rate=1e-3, effective_learning_rate=1e-3, curvature_limit=2000.0)
    assert (diagnose(place, where).label == "flat") == flat


FINDINGS = {
    "progressing": (
        (
            "Loss without a clear trend; each step changes the loss by -0.25 ± 0.03 % through the gradient and by about "
            "+1.6e-05 % through noise."
        ),
        "",
    ),
    "noise floor": (
        (
            "Loss flat for 2000 steps; cutting the learning rate to zero would win about 1.6 % of the loss; each step "
            "changes the loss by 0 ± 0.0005 % through the gradient (no measurable decrease) and by about +0.062 % through "
            "noise."
        ),
        "Lower the learning rate, or use larger batches: noise keeps the loss above the valley.",
    ),
    "strict saddle": (
        (
            "Loss flat for 2000 steps; curvature -0.5 ± 0.2 (99 %) along the lowest direction, on other batches; moving "
            "0.8 along it lowers the loss by 10 ± 1 %; a gradient step can win up to 0.019 % of the loss."
        ),
        (
            "Raise the learning rate toward 0.25 (half of the largest stable one, 0.5), or step along the direction found. "
            "Do not lower it."
        ),
    ),
    "approximate second-order point": (
        (
            "Loss flat for 2000 steps; no useful negative curvature was found; a gradient step can win up to 0.019 % of "
            "the loss."
        ),
        "",
    ),
    "flat": (
        (
            "Loss flat for 2000 steps; gradient and curvature vanish at the scale of the weights, in all directions that "
            "were seen."
        ),
        "Look for dead or saturated units and initialise them anew; no learning rate helps here.",
    ),
    "step too small": (
        (
            "Loss flat for 2000 steps; a gradient step can win up to 14 % of the loss, but steps at this learning rate up "
            "to 0.011 % of the loss over the next 1000 steps."
        ),
        "Raise the learning rate toward 0.25 (half of the largest stable one, 0.5).",
    ),
    "unstable": (
        (
            "Loss rising for 2000 steps; the curvature along the sharpest direction, on other batches, is 1.1 times the "
            "stability limit of the optimizer."
        ),
        "Lower the learning rate to 0.0043 (half of the largest stable one, 0.0087).",
    ),
    "undetermined": (
        (
            "Loss without a clear trend; the evidence does not decide: a gradient step can win up to 94 % of the loss, "
            "moving along the lowest direction lowers the loss by 0 ± 0 %, cutting the learning rate to zero would win "
            "about 0.0078 % of the loss."
        ),
        "Measure with more microbatches.",
    ),
}


@pytest.mark.parametrize("label", LABELS)
def test_the_finding_and_the_suggestion_of_each_label(label):
    verdict = diagnose(*CASES[label])
    assert (verdict.finding, verdict.suggestion) == FINDINGS[label]
    assert verdict.sentence == f"{label}. {FINDINGS[label][0]} Cost: 512 samples."


def test_plain_values_of_a_verdict():
    entry = Evidence("curvature", -0.5, 0.05, "loss per squared weight")
    verdict = Verdict("strict saddle", True, (entry,), 512, 5000.0, "Found.", "Do.", 0.9, 0.25)
    assert verdict.as_info() == {
        "verdict": "strict saddle",
        "edge": True,
        "sentence": "Found.",
        "suggestion": "Do.",
        "evidence": [
            {"name": "curvature", "value": -0.5, "error": 0.05, "unit": "loss per squared weight"},
        ],
        "samples": 512,
        "cost": 5000.0,
        "saddle_score": 0.9,
        "suggested_learning_rate": 0.25,
        "warning": True,
    }


def test_the_whole_markdown_of_a_verdict():
    entries = (Evidence("loss", 2.0, 0.05, "loss"), Evidence("spread", 1.23456, math.nan, "loss"))
    verdict = Verdict("noise floor", True, entries, 512, 5000.4, "Found.", "Do.", 0.0, None)
    assert verdict.as_markdown() == (
        "**noise floor** (at the edge of stability)\n\nFound.\n\nSuggestion: Do.\n\n"
        "| evidence | value | standard error | unit |\n|---|---|---|---|\n"
        "| loss | 2 | 0.05 | loss |\n| spread | 1.235 |  | loss |\n\n"
        "Cost: 512 samples looked at, as much work as 5000 samples of training."
    )
    assert (
        dataclasses.replace(verdict, edge=False, suggestion="")
        .as_markdown()
        .startswith("**noise floor**\n\nFound.\n\n|")
    )


@pytest.mark.parametrize(
    ("lowest", "escape", "error", "said"),
    [
        (0.5, 0.2, 0.02, "10 ± 1 %"),
        (0.5, 2.0, 0.5, "100 ± 25 %"),
        (0.5, 0.96, 0.3, "48 ± 15 %"),
        (0.5, 3.0, 0.4, "up to all of it (2)"),
        (0.0, 3.0, 0.4, "up to all of it (2)"),
        # A loss that goes below zero, or may do so for all that is known, has no share.
        (-1e-9, 3.0, 0.4, "3 ± 0.4"),
        (-1e-9, 0.2, 0.02, "0.2 ± 0.02"),
        (math.nan, 0.2, 0.02, "0.2 ± 0.02"),
    ],
)
def test_a_gain_is_told_as_a_share_of_a_loss_that_was_never_below_zero(lowest, escape, error, said):
    saddle = measured(**{**SADDLE, "escape_decrease": escape, "escape_decrease_error": error})
    assert f"lowers the loss by {said};" in diagnose(saddle, situation(lowest_loss=lowest)).finding


def test_what_a_parabola_promises_beyond_the_loss_is_said_to_be_all_of_it_and_kept_in_the_evidence():
    # Of the end of examples/quick_start.py: cross entropy, 0.0058, and a noise floor estimated at 0.007.
    place = measured(
        loss=0.0058, loss_spread=0.07, noise_trace=45.0, squared_gradient=-8e-4, squared_gradient_error=1.4e-3
    )
    verdict = diagnose(place, situation())
    assert verdict.label == "noise floor"
    assert "cutting the learning rate to zero would win up to all of the loss (0.0058);" in verdict.finding
    (cut,) = [entry.value for entry in verdict.evidence if entry.name.startswith("gain by a learning rate of zero")]
    assert cut == pytest.approx(0.25 * 0.01 * 45 / 16)
    assert "would win about 0.007 in loss units;" in diagnose(place, situation(lowest_loss=-0.1)).finding
    settled = dataclasses.replace(place, noise_trace=0.0, largest_curvature=0.3, lowest_curvature=0.2)
    finding = diagnose(settled, situation(initial_loss=50.0)).finding
    assert finding.endswith("a gradient step can win up to all of the loss (0.0058).")


@pytest.mark.parametrize(
    ("gradient", "error", "lowest", "said"),
    [
        (0.5, 0.05, 0.5, "by -0.25 ± 0.03 % through the gradient and by about +0.06 % through noise."),
        (0.1, 0.05, 0.5, "by -0.05 ± 0.03 % through the gradient (no measurable decrease) and by about +0.06 %"),
        (-0.5, 0.05, 0.5, "by +0.25 ± 0.03 % through the gradient (no measurable decrease) and by about +0.06 %"),
        (0.5, 0.05, -0.5, "by -0.005 ± 0.0005 through the gradient and by about +0.0012 through noise (loss units)."),
        (500.0, 0.05, 0.5, "by up to -100 % through the gradient and by about +0.06 % through noise."),
    ],
)
def test_what_a_step_does_to_the_loss_is_told_in_one_unit_and_with_its_sign(gradient, error, lowest, said):
    place = measured(squared_gradient=gradient, squared_gradient_error=error, curved_noise=384.0)
    falling = situation(trend=trend("progressing", 0.5, 0.01), lowest_loss=lowest)
    assert f"each step changes the loss {said}" in diagnose(place, falling).finding


@pytest.mark.parametrize(("gain", "shown"), [(0.97, "97"), (0.9949, "99"), (0.996, "100")])
def test_percents_are_plain_numbers_also_just_below_a_power_of_ten(gain, shown):
    # A step wins 0.01 times the squared gradient, of a loss of 2.
    place = measured(loss=2.0, squared_gradient=200.0 * gain, squared_gradient_error=19.4)
    finding = diagnose(place, situation(trend=trend("undetermined", 0.0, 10.0))).finding
    assert f"each step changes the loss by -{shown} ± 10 %" in finding


def test_every_gain_by_hand_in_units_of_the_spread():
    # A spread of 2; upper bounds of the squared gradient of 0.8 + 3·0.1 and 0.8 + 1.645·0.1; the larger curvature is 6.
    place = measured(
        loss_spread=2.0,
        squared_gradient=0.8,
        squared_gradient_error=0.1,
        **{**SADDLE, "lowest_curvature": -6.0, "lowest_curvature_error": 2.0},
    )
    won = gains(place, situation(trend=trend("progressing", 0.3, 0.04)))  # over 1000 steps; the window has 1920
    trend_bound = 0.3 + 0.04 * stats.t.isf(0.05, FREQUENCIES)
    assert dataclasses.asdict(won) == pytest.approx(
        {
            "escape": 0.2 / 2,
            "escape_error": 0.02 / 2,
            "gradient_step": 1.1 / (2 * 6) / 2,
            "gradient_step_95": 0.9645 / (2 * 6) / 2,
            "steps": 0.01 * 0.8 * 1000 / 2,
            "steps_bound": 0.01 * 1.1 * 1000 / 2,
            "heat": 0.5 * 0.01**2 * 0.1 / 16 / 2,
            "gain": 0.01 * 0.8 / 2,
            "gain_error": 0.01 * 0.1 / 2,
            "cut": 0.25 * 0.01 * 0.1 / 16 / 2,
            "trend": 0.3 * 1.92 / 2,
            "trend_bound": trend_bound / 2,
            "trend_error": 0.04 * 1.92 / 2,
            "soon": 100 * trend_bound / 1000 / 2,
            "curvature_share": 4 / 200,
            "negative": stats.t.sf(3.0, 7),
        }
    )


def test_a_loss_that_rises_promises_nothing_soon_and_one_without_a_trend_what_the_gradient_does():
    steep = measured(squared_gradient=0.8, squared_gradient_error=0.1)
    assert gains(steep, situation(trend=trend("rising", -0.3, 0.04))).soon == 0
    unseen = gains(steep, situation(trend=dataclasses.replace(trend("undetermined", 0.0, 0.0), window=0)))
    assert unseen.trend_bound == math.inf
    assert unseen.soon == pytest.approx(100 * 0.01 * 1.1)


@pytest.mark.parametrize(
    ("lowest", "largest", "chance"),
    [(-5e-6, 4.0, 0.0), (-3e-6, 4.0, 1.0), (1e-6, 4.0, 1.0), (-1e-20, 0.0, 0.0), (0.0, 0.0, 1.0)],
)
def test_without_an_error_a_curvature_below_zero_by_more_than_rounding_is_negative_for_sure(lowest, largest, chance):
    exact = measured(lowest_curvature=lowest, lowest_curvature_error=0.0, largest_curvature=largest)
    assert gains(exact, situation()).negative == chance


def test_without_curvature_any_slope_promises_without_bound_and_none_nothing():
    straight = measured(largest_curvature=0.0, lowest_curvature=0.0, squared_gradient_error=0.0)
    assert gains(straight, situation()).gradient_step == 0
    sloping = dataclasses.replace(straight, squared_gradient=1e-12)
    assert gains(sloping, situation()).gradient_step == math.inf


def test_without_any_unit_of_loss_gains_are_in_plain_loss():
    place = measured(loss=0.0, loss_spread=0.0, escape_decrease=0.2)
    assert gains(place, situation(initial_loss=0.0)).escape == 0.2


@pytest.mark.parametrize("nowhere", [math.nan, math.inf])
def test_a_start_that_is_no_number_is_not_part_of_the_scale(nowhere):
    assert situation(initial_loss=nowhere).scale(measured(loss_spread=0.7)) == 0.7
    assert situation(initial_loss=nowhere).scale(measured(loss_spread=0.0)) == 0.0
    assert situation(initial_loss=nowhere).scale(measured(loss_spread=math.nan)) == 0.0


def test_a_hundredth_of_a_drop_far_below_zero_is_the_scale():
    assert situation().scale(measured(loss_spread=0.0, loss=-1000.0)) == pytest.approx(0.01 * 1005)


def test_the_evidence_of_a_verdict_in_loss_units():
    place = measured(loss_spread=2.0, squared_gradient=0.8, squared_gradient_error=0.1, **SADDLE)
    verdict = diagnose(place, situation(trend=trend("plateau", 0.03, 0.004)))
    assert [(entry.name, entry.unit) for entry in verdict.evidence] == [
        ("loss", "loss"),
        ("spread of the loss over samples", "loss"),
        ("decrease over 1000 steps", "loss"),
        ("curvature along the lowest direction, on other batches", "loss per squared weight"),
        ("curvature along the sharpest direction, on other batches", "loss per squared weight"),
        ("curvature along the sharpest direction, on other batches, over the stability limit", "1"),
        ("decrease along the lowest direction, on other batches", "loss"),
        ("best decrease by one gradient step (upper bound, parabola)", "loss"),
        ("squared gradient (unbiased, may be below 0)", "squared loss per squared weight"),
        ("gain by gradient steps over 1000 steps (straight on)", "loss"),
        ("gain by a learning rate of zero (parabola)", "loss"),
    ]
    step, steps, cut = (0.8 + 3 * 0.1) / (2 * 4), 0.01 * 0.8 * 1000, 0.25 * 0.01 * 0.1 / 16
    assert [entry.value for entry in verdict.evidence] == pytest.approx(
        [2.0, 2.0, 0.03, -0.5, 4.0, 4 / 200, 0.2, step, 0.8, steps, cut]
    )
    assert [entry.error for entry in verdict.evidence] == pytest.approx(
        [0.05, math.nan, 0.004, 0.05, 0.1, math.nan, 0.02, math.nan, 0.1, 0.01 * 0.1 * 1000, math.nan], nan_ok=True
    )
    assert (verdict.samples, verdict.cost) == (512, 5000.0)


def test_of_the_whole_training_loss_there_are_no_other_batches():
    whole = {"lowest_curvature_error": 0.0, "largest_curvature_error": 0.0, "degrees_of_freedom": math.inf}
    verdict = diagnose(measured(**{**SADDLE, **whole}), situation(batch_size=math.inf))
    assert "curvature along the sharpest direction" in {entry.name for entry in verdict.evidence}
    assert "other batches" not in verdict.as_markdown()
    rising = situation(trend=trend("rising", -1.0, 0.1), batch_size=math.inf)
    unstable = diagnose(measured(largest_curvature=230.0, **whole), rising)
    assert "; the curvature along the sharpest direction is 1.1 times" in unstable.finding


@pytest.mark.parametrize(("share", "edge"), [(0.85, False), (0.9, True), (1.3, True), (1.35, False)])
def test_the_edge_of_stability_goes_from_nine_tenths_of_the_limit_to_a_third_above_it(share, edge):
    place = measured(largest_curvature=share * 200.0, largest_curvature_error=20.0)
    assert diagnose(place, situation()).edge == edge


def test_what_is_unstable_is_not_at_the_edge():
    assert not diagnose(*CASES["unstable"]).edge


@pytest.mark.parametrize("name", ["loss", "squared_gradient"])
def test_what_to_do_when_a_figure_is_no_number_and_no_lower_rate_is_known(name):
    # Half of the largest stable rate, 0.01·200/100, is the present one: nothing to lower it to.
    verdict = diagnose(measured(largest_curvature=100.0, **{name: math.nan}), situation())
    assert "the loss or its gradient is not a finite number" in verdict.sentence
    assert verdict.suggestion == "Lower the learning rate; go back to a checkpoint if the weights are not finite."
    assert verdict.suggested_learning_rate == 0.005


@pytest.mark.parametrize("largest", [0.0, -0.1, 1 / 0.012])
def test_at_a_saddle_a_rate_is_raised_only_to_a_known_one_that_is_clearly_higher(largest):
    # The rate of 0.01 could go to 1/λ; without upward curvature nobody knows how far.
    verdict = diagnose(measured(**SADDLE, largest_curvature=largest), situation())
    assert (
        verdict.suggestion
        == "Step along the direction found (a line search finds how far). Do not lower the learning rate."
    )
    assert verdict.suggested_learning_rate is None


@pytest.mark.parametrize("largest", [50.0, 0.5])
def test_at_a_saddle_a_rate_is_raised_to_half_of_the_largest_stable_one(largest):
    verdict = diagnose(measured(**SADDLE, largest_curvature=largest), situation())
    assert verdict.suggested_learning_rate == pytest.approx(1 / largest)
    assert verdict.suggestion.startswith(f"Raise the learning rate toward {1 / largest:.2g} (half of the largest")


def test_steps_too_small_without_upward_curvature_are_to_be_larger():
    measurement, where = CASES["step too small"]
    verdict = diagnose(dataclasses.replace(measurement, largest_curvature=0.0), where)
    assert verdict.label == "step too small"
    assert (verdict.suggestion, verdict.suggested_learning_rate) == ("Raise the learning rate.", None)


def test_a_falling_loss_is_said_to_fall():
    verdict = diagnose(measured(), situation(trend=trend("progressing", 0.5, 0.01)))
    assert verdict.sentence.startswith("progressing. Loss falling for 2000 steps; each step changes the loss by")


def test_the_saddle_score_is_certainty_times_the_share_of_what_can_be_won():
    unsure = measured(**{**SADDLE, "lowest_curvature_error": 0.25}, squared_gradient=0.1)
    escape, gradient_step = 0.2 - 2 * 0.02, (0.1 + 3 * 1e-3) / (2 * 4)
    expected = stats.t.cdf(2.0, 7) * escape / (escape + 3 * gradient_step + 0.01)
    assert diagnose(unsure, situation()).saddle_score == pytest.approx(expected)
    within_its_error = dataclasses.replace(unsure, escape_decrease_error=0.11)
    assert diagnose(within_its_error, situation()).saddle_score == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss_spread": 4.0}, "lowers the loss by 10 ± 1 %;"),
        ({"loss": 0.5}, "lowers the loss by 40 ± 4 %;"),
        ({"escape_decrease_error": 0.0299}, "lowers the loss by 10 ± 1 %;"),
        ({"escape_decrease": 40.0, "squared_gradient": 20.0}, "a gradient step can win up to all of the loss (2)."),
    ],
)
def test_shares_of_the_loss_whatever_the_spread(changes, said):
    assert said in diagnose(measured(**{**SADDLE, **changes}), situation()).sentence


def test_at_a_loss_of_zero_gains_are_plain_numbers():
    measurement, where = CASES["undetermined"]
    sentence = diagnose(dataclasses.replace(measurement, loss=0.0), where).sentence
    assert (
        "lowers the loss by 0 ± 0, cutting the learning rate to zero would win about 0.00016 in loss units." in sentence
    )


@pytest.mark.parametrize(
    ("on_others", "chosen", "rate"),
    [
        (4.0, 3.0, 0.05),  # the half that chose may see less than the other
        (0.1, 4.0, 0.05),  # a few samples make the curvature, and none of them is in the other half
        (-1.0, 4.0, 0.05),
        (4.0, math.nan, 0.05),
        (0.0, -1.0, math.inf),
        (math.nan, 4.0, math.nan),
    ],
)
def test_a_rate_called_stable_holds_for_every_curvature_that_was_seen(on_others, chosen, rate):
    here = situation(learning_rate=0.01, curvature_limit=20.0)
    seen = dataclasses.replace(REST, largest_curvature=on_others, largest_ritz_value=chosen)
    assert here.largest_stable_rate(seen) == pytest.approx(rate, nan_ok=True)
