"""The trend of a loss: error rates under correlated noise, known shapes, and the bookkeeping."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student_t

from landscape_callbacks.diagnosis.error_budget import ErrorBudget
from landscape_callbacks.diagnosis.slope import slope_of_blocks
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
    assert all(math.isnan(value) for value in (report.decrease, report.noise, report.correlation_time))


@pytest.mark.parametrize(
    "options",
    [
        {"horizon": 0},
        {"horizon_share": -1},
        {"noise_floor": 0},
        {"drop_floor": -1},
        {"false_alarm_rate": 1},
        {"false_alarm_rate": 0},
    ],
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


def test_settings_at_the_edge_of_their_range_are_taken() -> None:
    trend = LossTrend(horizon=0.5, horizon_share=0, drop_floor=0)
    assert trend.update_many([1.0] * 60) == "plateau"
    assert (trend.report().horizon, trend.report().floor) == (0.5, 0.0)


def test_the_report_holds_the_figures_of_the_window() -> None:
    losses = 3 - 2.0 * np.arange(60) + np.random.default_rng(8).standard_normal(60)
    line = slope_of_blocks(losses.tolist(), [0.0] * 60, 1)
    trend = LossTrend(horizon=200, drop_floor=1e-6)
    assert trend.update_many(losses) == "progressing"
    report = trend.report()
    assert (report.since, report.steps, report.window) == (0, 60, 60)
    assert (report.decrease, report.standard_error) == pytest.approx((-200 * line.value, 200 * line.error))
    assert (report.noise, report.correlation_time) == pytest.approx((line.noise, line.correlation_time))
    assert report.floor == pytest.approx(0.3 * line.noise)


@pytest.mark.parametrize("rate", [0.05, 0.5])
@pytest.mark.parametrize(("direction", "state"), [(-1, "progressing"), (1, "rising")])
def test_a_change_is_claimed_at_the_chance_of_error_that_the_budget_grants(rate, direction, state) -> None:
    critical = student_t.isf(ErrorBudget(rate, shortest=60, center=4 * 15).spend(0), 24)
    noise, time = np.random.default_rng(9).standard_normal(60), np.arange(60)
    level = slope_of_blocks(noise.tolist(), [0.0] * 60, 1)
    for share, claimed in ((0.98, False), (1.02, True)):
        steepness = direction * share * critical * level.error - level.value
        trend = LossTrend(horizon=15, false_alarm_rate=rate)
        assert (trend.update_many(noise + steepness * time) == state) == claimed


@pytest.mark.parametrize("count", [16, 32])
def test_the_early_look_errs_once_in_a_thousand(count) -> None:
    # A line, and a pattern around it that is even in time, so that the line fitted is the line itself.
    time, critical = np.arange(count), student_t.isf(1e-3, count - 2)
    pattern = np.tile([1.0, -1.0, -1.0, 1.0], count // 4)
    error = math.sqrt(count / (count - 2) / np.sum((time - time.mean()) ** 2))
    for share, expected in ((0.995, "undetermined"), (1.005, "progressing")):
        assert LossTrend().update_many(pattern - share * critical * error * time) == expected


def test_an_early_fall_is_dated_from_the_first_loss_that_counts() -> None:
    trend = LossTrend()
    trend.update_many(np.zeros(100))
    trend.restart()
    assert trend.update_many([math.nan] * 3 + [10 - 0.5 * step for step in range(16)]) == "progressing"
    assert (trend.report().since, trend.report().steps) == (103, 119)


def test_a_fall_that_begins_after_the_first_early_look_is_told_at_the_second() -> None:
    noise = np.tile([0.1, -0.1], 16)
    trend = LossTrend()
    assert trend.update_many(5 + noise[:20]) == "undetermined"
    report = trend.report()
    assert (report.window, report.since) == (0, 20)
    assert trend.update_many(5 + noise[20:] - 0.5 * np.arange(12)) == "progressing"
    assert (trend.report().window, trend.report().since) == (32, 0)


def test_while_nothing_is_told_the_longest_window_is_reported() -> None:
    losses = 5 + np.random.default_rng(1).standard_normal(250)
    trend = LossTrend()
    assert trend.update_many(losses) == "undetermined"
    report = trend.report()
    assert (report.window, report.since) == (240, 250)
    assert report.noise == pytest.approx(np.std(losses), rel=0.1)
    assert math.isfinite(report.correlation_time)


def test_a_state_is_dated_from_where_it_began() -> None:
    noise = 0.1 * np.random.default_rng(3).standard_normal(600)
    bend = np.concatenate([np.arange(300, 0, -1), np.arange(300)])
    trend = LossTrend()
    assert trend.update_many((0.1 * bend + noise)[:300]) == "progressing"
    assert (trend.report().since, trend.report().window) == (0, 60)
    assert trend.update_many((0.1 * bend + noise)[300:]) == "rising"
    assert 240 <= trend.report().since <= 330
    assert trend.report().window == 60


def test_the_loss_at_the_start_and_the_lowest_one_set_the_floor_at_once() -> None:
    trend = LossTrend(noise_floor=1e-9)
    trend.update_many([2.0] * 8 + [6.0] * 22)
    assert trend.report().floor == pytest.approx(0.1 * 0.01 * 2)
    falling = LossTrend(noise_floor=1e-9)
    falling.update_many([5.0] * 30 + [1.0] * 30)
    assert falling.report().floor == pytest.approx(0.01 * 4)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_plateau_from_before_a_change_is_not_brought_up_again(sign) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(3200)
    trend = LossTrend()
    assert trend.update_many(1 + noise[:3000]) == "plateau"
    bump = sign * 6 * np.interp(np.arange(200), [0, 60, 120], [0, 1, 0])
    after = [trend.update(loss) for loss in 1 + noise[3000:] + bump]
    changed = after.index("progressing" if sign < 0 else "rising")
    assert "undetermined" in after[changed:]
    assert "plateau" not in after[changed:]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_saved_state_reports_the_same(restarted) -> None:
    trend, loaded = LossTrend(), LossTrend()
    trend.update_many(1 + 0.1 * np.random.default_rng(0).standard_normal(3000))
    assert trend.report().window > 60
    if restarted:
        trend.restart()
    loaded.load_state_dict(json.loads(json.dumps(trend.state_dict())))
    assert loaded.state_dict() == trend.state_dict()
    if not restarted:
        assert loaded.report() == trend.report()


def test_a_fresh_state_can_be_saved() -> None:
    trend, loaded = LossTrend(), LossTrend()
    loaded.load_state_dict(json.loads(json.dumps(trend.state_dict())))
    assert loaded.state_dict() == trend.state_dict()


def test_after_a_restart_nothing_is_claimed() -> None:
    trend = LossTrend()
    assert trend.update_many(np.arange(200.0)) == "rising"
    trend.restart()
    report = trend.report()
    assert (report.state, report.since, report.steps, report.window) == ("undetermined", 200, 200, 0)
    assert math.isnan(report.decrease)
