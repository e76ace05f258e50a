"""The slope of a correlated series against its definition, and whether its error is calibrated."""

import math

import numpy as np
import pytest
from scipy.stats import linregress

from landscape_callbacks.diagnosis import slope as slope_module
from landscape_callbacks.diagnosis.slope import slope_in_white_noise, slope_of_blocks
from landscape_callbacks.diagnosis.windows import BLOCKS
from tests.cases import autoregressive


def blocks(series, block):
    parts = series.reshape(BLOCKS, block)
    return parts.mean(axis=1), ((parts - parts.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)


def test_slope_noise_and_correlation_time_against_their_definitions():
    series = 1e3 - 1e-3 * np.arange(1920) + 0.2 * autoregressive([4, 0], 0.5, 1920)
    means, squares = blocks(series, 32)
    found = slope_of_blocks(means, squares, 32)
    assert found.value == pytest.approx(np.polyfit(32 * np.arange(60), means, 1)[0])
    line = np.polyval(np.polyfit(np.arange(1920), series, 1), np.arange(1920))
    assert found.noise == pytest.approx(np.std(series - line, ddof=2), rel=3e-3)
    assert found.correlation_time == pytest.approx(3.0, rel=0.5)
    assert found.error == pytest.approx(0.2 * math.sqrt(12 * 3 / 1920**3), rel=0.3)


@pytest.mark.parametrize(("correlation", "block"), [(0.0, 1), (0.0, 32), (0.9, 32), (0.99, 4)])
def test_error_of_the_slope_holds_under_correlation(correlation, block):
    # Half of Student's t with 24 degrees of freedom lies within 0.685, and 5 % beyond 2.06.
    scores = []
    for seed in range(300):
        found = slope_of_blocks(*blocks(autoregressive([5, seed], correlation, BLOCKS * block), block), block)
        scores.append(found.value / found.error)
    beyond = np.mean(np.abs(scores) > 2.06)
    assert beyond <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    if correlation == 0.0 and block == 32:
        assert np.mean(np.abs(scores) > 0.685) == pytest.approx(0.5, abs=0.1)


def test_a_random_walk_has_no_slope():
    wrong = 0
    for seed in range(300):
        walk = np.cumsum(np.random.default_rng([6, seed]).standard_normal(BLOCKS))
        found = slope_of_blocks(walk, np.zeros(BLOCKS), 1)
        wrong += abs(found.value / found.error) > 2.06
    assert wrong / 300 <= 0.09


def test_a_smooth_curve_has_one():
    curve = np.exp(-np.arange(BLOCKS) / 40)
    found = slope_of_blocks(curve, np.zeros(BLOCKS), 1)
    assert found.value / found.error < -10
    assert found.value == pytest.approx((curve[-1] - curve[0]) / (BLOCKS - 1))


def test_bases_are_orthonormal():
    for basis in (slope_module._LEVEL_BASIS, slope_module._INCREMENT_BASIS):
        np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-12)


def _left_over(series, *, with_line):
    """Mean of the squares that 24 cosines take from the residuals of a constant, and of a line if asked."""
    time = (np.arange(len(series)) + 0.5) / len(series)
    few = [np.ones_like(time), time] if with_line else [np.ones_like(time)]
    many = few + [np.cos(np.pi * k * time) for k in range(1, 25)]
    without, having = (
        np.sum((series - matrix @ np.linalg.lstsq(matrix, series, rcond=None)[0]) ** 2)
        for matrix in (np.stack(few, axis=1), np.stack(many, axis=1))
    )
    return (without - having) / 24


@pytest.mark.parametrize("wanders", [False, True])
def test_error_of_the_slope_is_what_the_lowest_frequencies_leave_to_it(wanders):
    # Blocks of white noise go by the residuals beside the line, a random walk by its increments.
    shocks, block = np.random.default_rng([10, 0]).standard_normal(BLOCKS), 8
    means = 3.0 - 0.1 * np.arange(BLOCKS) + (np.cumsum(shocks) if wanders else shocks)
    squares = np.full(BLOCKS, 7.0)
    found = slope_of_blocks(means, squares, block)
    time = np.arange(BLOCKS) - 29.5
    power = _left_over(means, with_line=True)
    assert found.correlation_time == pytest.approx(block * power / found.noise**2)
    assert (BLOCKS * block < 80 * found.correlation_time) == wanders
    if wanders:
        value = (means[-1] - means[0]) / (BLOCKS - 1)
        error = math.sqrt(_left_over(np.diff(means), with_line=False) / (BLOCKS - 1))
    else:
        value = time @ means / (time @ time)
        error = math.sqrt(power / (time @ time))
    assert (found.value, found.error) == pytest.approx((value / block, error / block))


@pytest.mark.parametrize("steepness", [0.0, 0.3])
def test_a_line_within_the_blocks_is_no_noise(steepness):
    # Noise that is even in time, between and within the blocks: no line fits it, so that the truth is the noise itself.
    between = np.random.default_rng([11, 0]).standard_normal(BLOCKS // 2)
    between = np.concatenate([between, between[::-1]]) - between.mean()
    noise = 0.2 * np.repeat(between, 4) + 0.1 * np.tile([1.0, -1.0, -1.0, 1.0], BLOCKS)
    found = slope_of_blocks(*blocks(5.0 + steepness * np.arange(240) + noise, 4), 4)
    assert found.value == pytest.approx(steepness, abs=2e-3)
    assert found.noise == pytest.approx(math.sqrt(noise @ noise / 238))


def test_an_offset_costs_no_digits():
    series = np.round(100 * np.random.default_rng([12, 0]).standard_normal(BLOCKS))
    plain, far = (slope_of_blocks(series + offset, np.zeros(BLOCKS), 1) for offset in (0.0, 2.0**45))
    assert far == pytest.approx(plain)


def test_a_constant_is_white_and_has_no_noise():
    assert slope_of_blocks([3.0] * BLOCKS, [0.0] * BLOCKS, 4) == (0.0, 0.0, 0.0, 1.0)


def test_a_line_in_white_noise_against_scipy():
    series = 2.0 - 0.5 * np.arange(7) + np.random.default_rng([13, 0]).standard_normal(7)
    expected, found = linregress(np.arange(7), series), slope_in_white_noise(series)
    assert (found.value, found.error) == pytest.approx((expected.slope, expected.stderr))
    residuals = series - expected.intercept - expected.slope * np.arange(7)
    assert found.noise == pytest.approx(math.sqrt(residuals @ residuals / 5))
    assert found.correlation_time == 1.0
