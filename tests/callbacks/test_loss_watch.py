"""The level of a loss, its noise, and whether it blows up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from landscape_callbacks.callbacks.loss_watch import BLOCK, CAREFUL_STEPS, LONGEST_WAIT, LossWatch
from landscape_callbacks.diagnosis.trend import LossTrend


def _follow(watch, losses):
    """Feeds losses; the steps at which a block came over and the loss had blown up."""
    alarms = []
    for step, loss in enumerate(losses):
        watch.add(torch.tensor(float(loss), dtype=torch.float64), steps=True)
        if watch.update() and watch.blew_up:
            alarms.append(step)
    return alarms


def _noise(seed, length, correlation=0.0):
    generator = np.random.default_rng(seed)
    values = np.empty(length)
    values[0] = generator.standard_normal()
    for i in range(1, length):
        values[i] = correlation * values[i - 1] + math.sqrt(1 - correlation**2) * generator.standard_normal()
    return values


def test_losses_come_over_one_by_one_at_first_and_then_in_blocks():
    watch = LossWatch(horizon=100)
    arrivals = []
    for step in range(CAREFUL_STEPS + 3 * BLOCK):
        watch.add(torch.tensor(1.0), steps=True)
        if watch.update():
            arrivals.append(step)
    assert arrivals[:CAREFUL_STEPS] == list(range(CAREFUL_STEPS))
    assert arrivals[CAREFUL_STEPS:] == [CAREFUL_STEPS + BLOCK * (i + 1) - 1 for i in range(3)]
    watch.restart()
    watch.add(torch.tensor(1.0), steps=True)
    assert watch.update()


def test_the_trend_is_told_of_all_losses_several_blocks_at_a_time():
    watch, trend, news = LossWatch(horizon=100), LossTrend(horizon=100), []
    losses = 1.0 + np.exp(-np.arange(1500) / 300) + 0.1 * _noise(0, 1500)
    for step, loss in enumerate(losses):
        trend.update(loss)
        watch.add(torch.tensor(loss, dtype=torch.float64), steps=True)
        if watch.update():
            assert watch.trend.state_dict() == trend.state_dict()
            news.append(step)
    waits = np.diff(news)
    assert waits.max() == LONGEST_WAIT
    # Early on a wait is short beside what went before.
    assert all(wait <= (step + wait) / 8 + BLOCK for wait, step in zip(waits, news, strict=False))


@pytest.mark.parametrize("growth", [1.3, 2.0, 25.0])
def test_a_loss_that_explodes_from_the_start_is_seen_within_a_few_steps(growth):
    losses = 2.3 * growth ** np.arange(40.0)
    alarms = _follow(LossWatch(horizon=100), losses)
    assert alarms[0] <= (2 if growth > 2 else 14)


def test_an_explosion_later_is_seen_within_a_block():
    losses = np.concatenate([1.0 + 0.1 * _noise(0, 300), 1.0 * 2.0 ** np.arange(20)])
    (first, *_) = _follow(LossWatch(horizon=100), losses)
    assert 300 < first <= 300 + BLOCK


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_no_number_is_an_explosion(loss):
    assert _follow(LossWatch(horizon=100), [1.0, loss])[0] == 1
    assert _follow(LossWatch(horizon=100), [1.0] * 20 + [loss])[0] == 20


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_noise_on_a_falling_loss_is_no_explosion(correlation):
    runs = 60
    alarmed = 0
    for seed in range(runs):
        fall = 3.0 * np.exp(-np.arange(600) / 150)
        watch = LossWatch(horizon=100)
        alarmed += bool(_follow(watch, fall + 0.3 * _noise(seed, 600, correlation)))
    assert alarmed <= 0.1 * runs


def test_a_smooth_fall_and_a_plateau_raise_no_alarm():
    assert _follow(LossWatch(horizon=100), np.exp(-np.arange(500) / 50)) == []
    assert _follow(LossWatch(horizon=100), np.ones(500)) == []


def test_the_verdict_does_not_change_with_the_scale_of_the_loss():
    losses = np.concatenate([1.0 + 0.1 * _noise(0, 100), 1.2 ** np.arange(60)])
    alarms = _follow(LossWatch(horizon=100), losses)
    assert alarms
    assert _follow(LossWatch(horizon=100), 1e-6 * losses) == alarms


def test_after_settling_the_level_is_the_new_normal():
    watch = LossWatch(horizon=100)
    assert _follow(watch, np.concatenate([1.0 + 0.1 * _noise(0, 80), 50.0 + 0.1 * _noise(1, 16)]))
    watch.settle()
    assert not watch.blew_up


def test_state_goes_on_where_it_stopped():
    losses = np.concatenate([1.0 + 0.1 * _noise(0, 203), 1.0 * 1.5 ** np.arange(30)])
    whole, first, second = (LossWatch(horizon=100) for _ in range(3))
    alarms = _follow(whole, losses)
    early = _follow(first, losses[:150])
    second.load_state_dict(first.state_dict())
    assert early + [150 + step for step in _follow(second, losses[150:])] == alarms
    assert second.state_dict() == whole.state_dict()


def test_the_lowest_loss_of_any_step_outlives_restarts_and_numbers_that_are_none():
    watch = LossWatch(horizon=100)
    assert math.isnan(watch.lowest_ever)
    _follow(watch, [3.0, math.nan, 2.0, 5.0])
    assert watch.lowest_ever == 2.0
    watch.restart()
    _follow(watch, [4.0, math.inf])
    assert watch.lowest_ever == 2.0
    _follow(watch, [-1.0, 3.0])
    assert watch.lowest_ever == -1.0
    before_it_was_kept = {key: value for key, value in watch.state_dict().items() if key != "lowest_ever"}
    again = LossWatch(100.0)
    again.load_state_dict(before_it_was_kept)
    assert math.isnan(again.lowest_ever)
