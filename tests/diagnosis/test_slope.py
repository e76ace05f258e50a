"""The slope of a correlated series against its definition, and whether its error is calibrated."""

import math

import numpy as np
import pytest

from landscape_callbacks.diagnosis import slope as slope_module
from landscape_callbacks.diagnosis.slope import slope_of_blocks
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
