"""The trend of a loss: error rates under correlated noise, known shapes, and the bookkeeping."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape_callbacks.diagnosis.trend import LossTrend
from landscape_callbacks.diagnosis.windows import BLOCKS
from tests.cases import autoregressive


def states(losses, every=30):
    """The states that a run passes through, without repeats."""
    trend, seen = LossTrend(), []
    for start in range(0, len(losses), every):
        state = trend.update_many(losses[start : start + every])
        if not seen or seen[-1] != state:
            seen.append(state)
    return seen


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_a_loss_that_falls_at_the_floor_is_not_called_a_plateau(correlation):
    # 0.3 standard deviations in 1000 steps is the floor itself, the hardest case. The full figure is in the study.
    falling = 10 - 0.3e-3 * np.arange(4000)
    alarms = sum("plateau" in states(falling + autoregressive([1, seed], correlation, 4000)) for seed in range(30))
    assert alarms <= 4  # a rate of 5 % exceeds this with probability below 2 %


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_a_true_plateau_is_found_within_4000_steps(correlation):
    found = sum("plateau" in states(10 + autoregressive([2, seed], correlation, 4000)) for seed in range(30))
    assert found >= 27  # a power of 95 % stays below this with probability below 2 %


def test_slow_noise_is_not_decided_upon_too_early():
    # At a correlation of 0.998 the noise wanders for hundreds of steps: 1000 steps cannot tell.
    for seed in range(10):
        assert "plateau" not in states(5 + autoregressive([3, seed], 0.998, 1000))


def test_shapes_without_noise():
    steps = np.arange(1500)
    assert states(np.exp(-steps / 200)) == ["progressing", "plateau"]
    assert states(np.full(300, 2.3)) == ["undetermined", "plateau"]
    assert states(np.zeros(300)) == ["undetermined", "plateau"]
    assert states(1 + steps / 100) == ["undetermined", "rising"]


def test_saddle_plateau_of_a_deep_linear_net_begins_and_ends():
    # Two modes of strength 2 and 0.5, learned one after the other (Saxe et al. 2014); the plateau between is ½ 0.5².
    strengths, modes, losses = np.array([2.0, 0.5]), np.full(2, 1e-5), []
    for _ in range(6000):
        losses.append(0.5 * np.sum((strengths - modes) ** 2))
        modes = modes + 0.002 * 2 * modes * (strengths - modes)
    assert states(losses[300:5000]) == ["undetermined", "progressing", "plateau", "progressing"]
    trend = LossTrend()
    trend.update_many(losses[:2500])
    report = trend.report()
    assert report.state == "plateau"
    assert losses[report.since] == pytest.approx(0.125, rel=0.02)


def test_change_after_a_noisy_plateau_is_seen_soon():
    noise = 0.1 * np.random.default_rng(0).standard_normal(4000)
    trend = LossTrend()
    assert trend.update_many(1 + noise[:3000]) == "plateau"
    assert trend.update_many(1 + noise[3000:3400] - 1e-3 * np.arange(400)) == "progressing"
    assert trend.report().since > 2500
    rising = LossTrend()
    rising.update_many(1 + noise[:3000])
    assert rising.update_many(1 + noise[3000:3400] + 1e-3 * np.arange(400)) == "rising"


def test_scale_of_the_loss_changes_nothing():
    losses = 3 * np.exp(-np.arange(2500) / 100) + 0.1 * autoregressive([6, 0], 0.5, 2500)
    plain, scaled = LossTrend(), LossTrend()
    for start in range(0, 2500, 50):
        block = losses[start : start + 50]
        assert plain.update_many(block) == scaled.update_many(1e6 * block)
    assert scaled.report().floor == pytest.approx(1e6 * plain.report().floor)


def test_blocks_and_single_losses_agree_and_a_saved_state_continues():
    losses = 2 - 1e-4 * np.arange(2000) + 0.05 * autoregressive([7, 0], 0.3, 2000)
    single, blocks = LossTrend(), LossTrend()
    for loss in losses:
        single.update(loss)
    blocks.update_many(losses[:777])
    resumed = LossTrend()
    resumed.load_state_dict(json.loads(json.dumps(blocks.state_dict())))
    resumed.update_many(losses[777:])
    assert resumed.state_dict() == single.state_dict()
    assert resumed.report() == single.report()


def test_memory_does_not_grow_with_the_run():
    trend = LossTrend()
    trend.update_many(np.random.default_rng(0).standard_normal(20_000))
    windows = trend.state_dict()["windows"]
    assert max(map(len, windows["means"])) <= BLOCKS
    assert len(windows["means"]) <= 16


def test_nonfinite_losses_are_counted_and_left_out():
    trend = LossTrend()
    trend.update_many([1.0, math.nan, math.inf] * 100)
    report = trend.report()
    assert (report.nonfinite, report.steps, report.state) == (200, 300, "plateau")


def test_the_drop_so_far_sets_the_floor_of_a_loss_without_noise():
    losses = np.concatenate([np.linspace(5, 1, 100), np.full(300, 1.0)])
    trend = LossTrend()
    assert trend.update_many(losses) == "plateau"
    assert trend.report().floor == pytest.approx(0.01 * 4, rel=0.1)


def test_restart_forgets_the_windows_and_keeps_the_error_rate_spent():
    trend = LossTrend()
    trend.update_many(np.random.default_rng(0).standard_normal(3000))
    spent = trend.state_dict()["spent"]
    trend.restart()
    assert trend.state == "undetermined"
    trend.update_many(np.random.default_rng(1).standard_normal(59))
    assert trend.state == "undetermined"
    assert trend.state_dict()["spent"] == spent


def test_plateau_score_follows_the_trend():
    noise = 0.1 * np.random.default_rng(0).standard_normal(3000)
    flat, falling = LossTrend(), LossTrend()
    flat.update_many(1 + noise)
    falling.update_many(1 - 1e-3 * np.arange(3000) + noise)
    assert flat.report().plateau_score > 0.99
    assert falling.report().plateau_score < 0.01
    assert LossTrend().report().plateau_score == 0.0


def test_before_the_first_window_nothing_is_claimed():
    report = LossTrend().report()
    assert (report.state, report.steps, report.window) == ("undetermined", 0, 0)
    assert math.isnan(report.decrease)


@pytest.mark.parametrize(
    "options",
    [{"horizon": 0}, {"horizon_share": -1}, {"noise_floor": 0}, {"drop_floor": -1}, {"false_alarm_rate": 1}],
)
def test_refusals(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        LossTrend(**options)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=60, max_size=200))
@settings(max_examples=50, deadline=None)
def test_whatever_the_losses_are_there_is_an_answer(losses):
    trend = LossTrend()
    assert trend.update_many(losses) in ("progressing", "plateau", "rising", "undetermined")
    report = trend.report()
    assert report.steps == len(losses)
    assert 0 <= report.plateau_score <= 1


def test_before_the_first_window_a_clear_fall_is_told_and_noise_is_not() -> None:
    noise = np.random.default_rng(5).standard_normal
    falling, level = LossTrend(), LossTrend()
    assert falling.update_many(10.0 - 0.5 * np.arange(20) + noise(20)) == "progressing"
    report = falling.report()
    assert report.window == 16
    assert report.decrease / report.horizon == pytest.approx(0.5, abs=0.15)
    assert LossTrend().update_many(10.0 + 0.5 * np.arange(20) + noise(20)) == "undetermined"
    claims = [LossTrend().update_many(10.0 + noise(40)) for _ in range(300)]
    assert claims.count("progressing") <= 3
    assert level.update_many([1.0] * 40) == "undetermined"
    assert LossTrend().update_many(1.0 - 1e-9 * np.arange(40)) == "undetermined"  # falls, but by nothing
    falling.restart()
    assert falling.state == "undetermined"


def test_the_early_look_survives_a_checkpoint() -> None:
    losses = (5.0 * np.exp(-np.arange(50) / 20)).tolist()
    whole, first, second = LossTrend(), LossTrend(), LossTrend()
    whole.update_many(losses)
    first.update_many(losses[:20])
    second.load_state_dict(first.state_dict())
    assert second.report() == first.report()
    second.update_many(losses[20:])
    assert second.report() == whole.report()
    assert whole.state == "progressing"
