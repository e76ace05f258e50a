"""The learning-rate controller, rule by rule and over simulated runs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landscape_callbacks.diagnosis.learning_rate_decision import decide
from landscape_callbacks.diagnosis.learning_rate_policy import LearningRatePolicy, PolicyEvidence, PolicyState

VERDICTS = (
    "progressing",
    "noise floor",
    "strict saddle",
    "approximate second-order point",
    "flat",
    "step too small",
    "unstable",
    "undetermined",
)


def _evidence(verdict=None, *, step=1000, trend="plateau", rates=(0.1,), **known):
    return PolicyEvidence(step=step, trend=trend, learning_rates=rates, verdict=verdict, **known)


def _decide(evidence, state=None, **settings):
    return decide(LearningRatePolicy(**settings), state or PolicyState(), evidence)


@pytest.mark.parametrize("verdict", [None, "progressing", "undetermined", "approximate second-order point", "flat"])
def test_without_something_to_mend_nothing_changes(verdict):
    state, decision = _decide(
        _evidence(verdict, decrease_bound=0.0, cut_gain=1.0, largest_stable_rate=1.0, loss=1.0, loss_noise=0.1)
    )
    assert state == PolicyState()
    assert (decision.acts, decision.factor) == (False, 1.0)
    assert decision.action == ("warn" if verdict == "flat" else "hold")
    assert decision.reason.endswith(".")


def test_a_noise_floor_is_cut_only_when_the_cut_wins_more_than_going_on():
    # A cut to a quarter wins three quarters of cut_gain: 0.75.
    below, above = (
        _evidence("noise floor", decrease_bound=0.74, cut_gain=1.0),
        _evidence("noise floor", decrease_bound=0.76, cut_gain=1.0),
    )
    _, decision = _decide(below, factor=0.25)
    assert (decision.action, decision.factor) == ("cut", 0.25)
    _, decision = _decide(above, factor=0.25)
    assert decision.action == "hold"
    assert "may still lower the loss by 0.76" in decision.reason
    for unknown in ({"decrease_bound": 0.1}, {"cut_gain": 0.1}, {"decrease_bound": math.nan, "cut_gain": 0.1}):
        assert _decide(_evidence("noise floor", **unknown))[1].action == "hold"


@pytest.mark.parametrize("verdict", ["strict saddle", "step too small"])
def test_a_raise_goes_to_its_share_of_the_stable_limit(verdict):
    state, decision = _decide(_evidence(verdict, largest_stable_rate=1.0), stable_share=0.5)
    assert decision.action == "raise"
    assert decision.factor == pytest.approx(5.0)
    assert (state.scale, state.actions, state.last_step, state.trial) == (decision.factor, 1, 1000, decision.factor)


@pytest.mark.parametrize(
    ("settings", "known", "factor", "bound"),
    [
        ({"max_raise": 3.0}, {"largest_stable_rate": 1.0}, 3.0, "a factor 3 a raise"),
        ({}, {"largest_stable_rate": math.inf}, 10.0, "a factor 10 a raise"),
        ({"max_lr": 0.2}, {"largest_stable_rate": 1.0}, 2.0, "max_lr 0.2"),
        ({"max_lr": 0.6}, {"largest_stable_rate": 9.0, "peak_learning_rates": (0.3,)}, 2.0, "max_lr 0.6"),
        ({}, {"largest_stable_rate": 1.0, "peak_learning_rates": (0.25,)}, 2.0, "the schedule goes to 0.25"),
    ],
)
def test_raises_are_bounded(settings, known, factor, bound):
    _, decision = _decide(_evidence("strict saddle", **known), **settings)
    assert decision.factor == pytest.approx(factor)
    assert bound in decision.reason


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"largest_stable_rate": 0.22}, "close to its bound"),
        ({"largest_stable_rate": 1.0, "peak_learning_rates": (0.5,)}, "the schedule goes to 0.5"),
        ({"largest_stable_rate": None}, "not known"),
        ({"largest_stable_rate": math.nan}, "not known"),
        ({"largest_stable_rate": 1.0, "rates": (0.0,)}, "at zero"),
        ({"largest_stable_rate": 1.0, "rates": (3.0,)}, "close to its bound"),
    ],
)
def test_a_raise_that_cannot_be_justified_is_not_made(known, said):
    _, decision = _decide(_evidence("strict saddle", **known))
    assert decision.action == "hold"
    assert said in decision.reason


def test_the_largest_group_decides_about_raises_and_the_smallest_about_cuts():
    evidence = _evidence("step too small", rates=(0.01, 0.1), largest_stable_rate=1.0)
    assert _decide(evidence)[1].factor == pytest.approx(5.0)
    evidence = _evidence("noise floor", rates=(0.0, 0.01, 0.1), decrease_bound=0.0, cut_gain=1.0)
    assert _decide(evidence, min_lr=0.008)[1].factor == pytest.approx(0.8)


def test_an_unstable_run_is_cut_below_the_limit():
    _, decision = _decide(_evidence("unstable", largest_stable_rate=0.04, rates=(0.1,)), stable_share=0.5)
    assert decision.factor == pytest.approx(0.2)
    assert "is 0.1, the largest stable one 0.04" in decision.reason
    # A curvature of a spike says 1e-6; one cut goes no deeper than a tenth.
    _, decision = _decide(_evidence("unstable", largest_stable_rate=1e-6))
    assert decision.factor == pytest.approx(0.1)
    for unknown in (None, math.nan, math.inf, 0.0):
        _, decision = _decide(_evidence("unstable", largest_stable_rate=unknown), factor=0.3)
        assert decision.factor == 0.3


@pytest.mark.parametrize(
    ("trend", "action"), [("plateau", "cut"), ("rising", "cut"), ("progressing", "hold"), ("undetermined", "hold")]
)
def test_the_trend_policy_looks_at_the_trend_alone(trend, action):
    for verdict in (None, *VERDICTS):
        _, decision = _decide(_evidence(verdict, trend=trend, largest_stable_rate=1.0), policy="trend")
        assert decision.action == action


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_diagnosing_policy_does_not_cut_on_the_trend_alone(verdict):
    known = {"decrease_bound": 0.1, "cut_gain": 0.0, "largest_stable_rate": 1.0}
    _, decision = _decide(_evidence(verdict, trend="plateau", **known))
    assert (decision.factor < 1.0) == (verdict == "unstable")


def test_min_lr_bounds_the_cut_and_then_ends_it():
    settings = {"policy": "trend", "min_lr": 0.03, "cooldown": 0}
    state, decision = _decide(_evidence(), factor=0.5, **settings)
    assert decision.factor == 0.5
    state, decision = _decide(_evidence(rates=(0.05,)), state, factor=0.5, **settings)
    assert decision.factor == pytest.approx(0.6)
    state, decision = _decide(_evidence(rates=(0.03,)), state, factor=0.5, **settings)
    assert decision.action == "hold"
    assert "at min_lr" in decision.reason
    assert _decide(_evidence(rates=(0.01,)), **settings)[1].action == "hold"
    assert _decide(_evidence(rates=(0.0,)), **settings)[1].action == "hold"


def test_cooldown_holds_back_and_says_so():
    state, decision = _decide(_evidence(step=500), policy="trend", cooldown=100)
    assert decision.acts
    held, decision = _decide(_evidence(step=599), state, policy="trend", cooldown=100)
    assert (held, decision.action) == (state, "hold")
    assert "99 steps ago, cooldown is 100" in decision.reason
    _, decision = _decide(_evidence(step=600), state, policy="trend", cooldown=100)
    assert decision.acts


def test_the_number_of_actions_is_bounded():
    state = PolicyState()
    taken = 0
    for step in range(0, 10000, 100):
        state, decision = _decide(_evidence(step=step), state, policy="trend", max_actions=3)
        taken += decision.acts
    assert taken == 3
    assert state.scale == 0.5**3
    assert "all 3 actions" in decision.reason


def test_a_raise_that_made_the_loss_rise_is_taken_back_at_once_and_not_repeated():
    known = {"largest_stable_rate": 1.0, "loss": 2.0, "loss_noise": 0.1}
    state, decision = _decide(_evidence("strict saddle", **known), cooldown=100)
    assert state.trial_loss == pytest.approx(2.1)
    same, decision = _decide(_evidence("progressing", step=1010, loss=2.09, rates=(0.5,)), state)
    assert (same, decision.action) == (state, "hold")
    state, decision = _decide(_evidence(None, step=1020, loss=2.2, rates=(0.5,)), state)
    assert (decision.action, decision.factor) == ("revert", pytest.approx(0.2))
    assert state.scale == pytest.approx(1.0)
    assert (state.trial, state.actions) == (1.0, 1)
    state, decision = _decide(_evidence("strict saddle", step=2000, **known), state)
    assert decision.factor == pytest.approx(math.sqrt(5.0))
    assert "had to be reverted" in decision.reason


def test_after_a_large_raise_failed_the_next_one_goes_close_below_it():
    known = {"rates": (1e-8,), "loss": 2.0, "loss_noise": 0.1, "largest_stable_rate": 0.4}
    state, decision = _decide(_evidence("step too small", **known))
    assert decision.factor == pytest.approx(2e7)
    state, _ = _decide(_evidence(None, step=1002, loss=3.0, rates=(0.2,)), state)
    _, decision = _decide(_evidence("step too small", step=1200, **known), state)
    assert decision.factor == pytest.approx(2e6)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_raise_that_blew_up_is_taken_back_whatever_was_known_before(loss):
    for known in ({"loss": 2.0, "loss_noise": 0.1}, {"loss": 2.0}, {}):
        state, _ = _decide(_evidence("step too small", largest_stable_rate=1.0, **known))
        _, decision = _decide(_evidence(None, step=1001, loss=loss, rates=(0.5,)), state)
        assert decision.action == "revert"


@pytest.mark.parametrize("verdict", [None, "strict saddle", "noise floor", "flat"])
@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_an_unstable_run(verdict, loss):
    _, decision = _decide(_evidence(verdict, loss=loss, largest_stable_rate=10.0))
    assert (decision.action, decision.factor) == ("cut", 0.5)
    assert decision.reason.startswith("Unstable: the loss is")


def test_without_a_known_loss_nothing_is_taken_back():
    state, _ = _decide(_evidence("step too small", largest_stable_rate=1.0))
    same, decision = _decide(_evidence(None, step=1001, rates=(0.5,)), state)
    assert (same, decision.action) == (state, "hold")


def test_a_cut_ends_the_trial_of_a_raise():
    state, _ = _decide(_evidence("strict saddle", largest_stable_rate=1.0, loss=2.0, loss_noise=0.1))
    state, decision = _decide(_evidence("noise floor", step=3000, loss=1.0, decrease_bound=0.0, cut_gain=0.5), state)
    assert decision.action == "cut"
    assert state.trial == 1.0
    _, decision = _decide(_evidence(None, step=4000, loss=5.0), state)
    assert decision.action == "hold"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, *VERDICTS]),
            st.sampled_from(["plateau", "progressing", "rising", "undetermined"]),
            st.one_of(st.none(), st.floats(1e-6, 1e6), st.just(math.inf), st.just(math.nan)),
            st.one_of(st.none(), st.floats(-10, 10), st.just(math.nan), st.just(math.inf)),
            st.floats(0, 1),
            st.floats(0, 1),
        ),
        max_size=60,
    ),
    st.sampled_from(["diagnose", "trend"]),
)
def test_whatever_comes_the_rate_stays_in_its_bounds(looks, kind):
    policy = LearningRatePolicy(policy=kind, min_lr=0.01, max_lr=0.9, cooldown=2, max_actions=5)
    state, start = PolicyState(), (0.05, 0.1)
    actions = 0
    for step, (verdict, trend, limit, loss, bound, gain) in enumerate(looks):
        rates = tuple(rate * state.scale for rate in start)
        before = state
        evidence = PolicyEvidence(
            step, trend, rates, (), verdict, loss, 0.1, largest_stable_rate=limit, decrease_bound=bound, cut_gain=gain
        )
        state, decision = decide(policy, state, evidence)
        actions += decision.action in ("cut", "raise")
        assert state.scale == pytest.approx(before.scale * decision.factor)
        assert min(start) * state.scale >= 0.01 * (1 - 1e-9)
        assert max(start) * state.scale <= 0.9 * (1 + 1e-9)
        assert decision.reason.endswith(".")
        assert all(not isinstance(value, float) or not math.isnan(value) for value in state)
    assert actions == state.actions <= 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"policy": "guess"}, "'diagnose', 'trend'"),
        ({"factor": 1.0}, "factor"),
        ({"factor": 0.0}, "factor"),
        ({"cooldown": -1}, "cooldown"),
        ({"min_lr": -0.1}, "min_lr"),
        ({"min_lr": math.nan}, "min_lr"),
        ({"max_lr": 0.0}, "max_lr"),
        ({"min_lr": 0.2, "max_lr": 0.1}, "above min_lr=0.2, got 0.1"),
        ({"max_actions": -1}, "max_actions"),
        ({"stable_share": 1.0}, "stable_share"),
        ({"stable_share": 0.0}, "stable_share"),
        ({"min_raise": 1.0}, "min_raise"),
        ({"max_raise": 1.1}, "max_raise"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        LearningRatePolicy(**settings)


def test_state_survives_plain_storage():
    state, _ = _decide(_evidence("strict saddle", largest_stable_rate=1.0, loss=2.0, loss_noise=0.1))
    assert PolicyState(**state._asdict()) == state
    assert {type(value) for value in state} <= {int, float, type(None)}


def test_settings_at_the_edge_of_their_range_are_taken():
    state, decision = _decide(_evidence(), policy="trend", max_actions=0, max_raise=2.0, min_raise=2.0)
    assert (state, decision.action) == (PolicyState(), "hold")
    assert "all 0 actions" in decision.reason


def test_a_small_raise_is_taken_back_as_well_and_the_cooldown_begins_anew():
    known = {"largest_stable_rate": 0.3, "loss": 2.0, "loss_noise": 0.1}
    state, decision = _decide(_evidence("strict saddle", **known))
    assert decision.factor == pytest.approx(1.5)
    assert (state.trial, state.trial_loss) == pytest.approx((1.5, 2.1))
    state, decision = _decide(_evidence(None, step=1150, loss=2.2, rates=(0.15,)), state)
    assert (decision.action, decision.factor) == ("revert", pytest.approx(1 / 1.5))
    known["largest_stable_rate"] = 1.0
    assert "49 steps ago" in _decide(_evidence("unstable", step=1199, **known), state)[1].reason
    assert _decide(_evidence("unstable", step=1250, **known), state)[1].action == "cut"


def test_the_height_of_a_failed_raise_is_remembered_through_cuts():
    state = PolicyState(scale=1.0, ceiling=1.0)
    state, _ = _decide(_evidence("unstable"), state)
    assert (state.scale, state.ceiling) == (0.5, 1.0)
    _, decision = _decide(_evidence("strict saddle", step=2000, rates=(0.05,), largest_stable_rate=1.0), state)
    assert decision.factor == pytest.approx(2.0)


_FAILED = PolicyState(scale=5.0, trial=5.0, trial_loss=2.1)
_CUT = {"learning_rate": 0.1, "largest_stable_rate": None, "decrease_bound": None, "cut_gain": None}


@pytest.mark.parametrize(
    ("evidence", "settings", "state", "reason", "info"),
    [
        (_evidence(trend="rising"), {"policy": "trend"}, None, "The loss rises. Learning rate 0.1 -> 0.05.", _CUT),
        (
            _evidence(decrease_bound=0.0125),
            {"policy": "trend"},
            None,
            "The loss has stopped falling: going on can lower it by at most 0.0125. Learning rate 0.1 -> 0.05.",
            {**_CUT, "decrease_bound": 0.0125},
        ),
        (_evidence(), {"policy": "trend"}, None, "The loss has stopped falling. Learning rate 0.1 -> 0.05.", _CUT),
        (
            _evidence(rates=(0.0,)),
            {"policy": "trend"},
            None,
            "The loss has stopped falling. The learning rate is zero already.",
            {},
        ),
        (_evidence(), {}, None, "No verdict yet.", {}),
        (
            _evidence("flat"),
            {},
            None,
            (
                "Flat: gradient and curvature are too small for any learning rate to help (dead or saturated units?). "
                "Re-initialize, or change the activation."
            ),
            {},
        ),
        (
            _evidence("noise floor"),
            {},
            None,
            "Noise floor, but what a cut would win against going on is not known.",
            {},
        ),
        (
            _evidence("noise floor", decrease_bound=0.0, cut_gain=0.0),
            {},
            None,
            "Noise floor, but going on may still lower the loss by 0, a cut wins 0.",
            {},
        ),
        (
            _evidence("noise floor", decrease_bound=0.1, cut_gain=1.0),
            {},
            None,
            "Noise floor: going on can lower the loss by at most 0.1, this cut wins 0.5. Learning rate 0.1 -> 0.05.",
            {**_CUT, "decrease_bound": 0.1, "cut_gain": 1.0},
        ),
        (
            _evidence("unstable"),
            {},
            None,
            "Unstable: the loss suffers from too large a learning rate. Learning rate 0.1 -> 0.05.",
            _CUT,
        ),
        (
            _evidence("unstable", rates=(0.0,), largest_stable_rate=1.0),
            {},
            None,
            "Unstable: the loss suffers from too large a learning rate. The learning rate is zero already.",
            {},
        ),
        (
            _evidence("strict saddle", largest_stable_rate=1.0),
            {},
            None,
            "Strict saddle: steps are too small to leave. Learning rate 0.1 -> 0.5 (0.5 of the largest stable rate 1).",
            {"learning_rate": 0.1, "largest_stable_rate": 1.0},
        ),
        (
            _evidence("strict saddle", largest_stable_rate=1.0),
            {},
            PolicyState(scale=0.5, ceiling=1.0),
            (
                "Strict saddle: steps are too small to leave. Learning rate 0.1 -> 0.2 "
                "(the height at which an earlier raise had to be reverted)."
            ),
            {"learning_rate": 0.1, "largest_stable_rate": 1.0},
        ),
        (
            _evidence(loss=3.0, rates=(0.5,)),
            {},
            _FAILED,
            (
                "The last raise is taken back: the loss is 3, and before the raise it was within its noise below 2.1. "
                "Learning rate 0.5 -> 0.1."
            ),
            {"loss": 3.0},
        ),
    ],
)
def test_the_reason_and_its_figures(evidence, settings, state, reason, info):
    _, decision = _decide(evidence, state, **settings)
    assert (decision.reason, decision.info) == (reason, info)
