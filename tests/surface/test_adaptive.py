"""Points of adaptive slices: curves with kinks, waves and holes, the first points, and the pair close to zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from landscape_callbacks.surface.adaptive import _worst_places, sample_adaptively, start_grid, symmetric_grid
from landscape_callbacks.surface.loss_curve import LossCurve


@pytest.mark.parametrize("points", [3, 11, 51])
def test_symmetric_grid_is_mirrored_to_the_bit(points: int) -> None:
    grid = symmetric_grid(points, 0.3)
    assert len(grid) == points
    assert grid[points // 2] == 0.0
    assert grid == [-alpha for alpha in reversed(grid)]
    assert grid == pytest.approx(np.linspace(-0.3, 0.3, points))


@pytest.mark.parametrize(("points", "extent"), [(4, 1.0), (1, 1.0), (5, 0.0), (5, float("inf"))])
def test_grids_without_a_middle_are_refused(points: int, extent: float) -> None:
    with pytest.raises(ValueError, match="got"):
        symmetric_grid(points, extent)


@pytest.mark.parametrize("ends", [(-1.0, 1.0), (-0.5, 1.5), (0.0, 1.0), (-1.0, 0.0)])
def test_start_grid_holds_the_ends_and_zero(ends: tuple[float, float]) -> None:
    for center_pair in (True, False):
        grid = start_grid(*ends, center_pair=center_pair)
        assert {0.0, *ends} <= set(grid)
        assert grid == sorted(grid)


SMOOTH = {
    "exp": np.exp,
    "bump": lambda x: np.exp(-8 * (x - 0.3) ** 2),
    "softplus": lambda x: np.logaddexp(0, 12 * (x - 0.2)),
    "wave": lambda x: np.sin(4 * x) + x**2,
}


@pytest.mark.parametrize("name", SMOOTH)
def test_tolerance_is_met_with_few_points_on_smooth_curves(name: str) -> None:
    function = SMOOTH[name]
    curve = sample_adaptively(lambda at: function(np.asarray(at)), -1.0, 1.0, tolerance=1e-3, max_points=41)
    at = np.linspace(-1, 1, 2001)
    true_error = np.abs(curve(at) - function(at)).max()
    assert true_error <= 1e-3 * np.ptp(function(at))
    assert true_error <= curve.error
    assert len(curve.alphas) < 36


@pytest.mark.parametrize("place", [-0.4, 0.05, 0.17, 0.33, 0.9])
def test_a_kink_is_seen_by_the_estimate(place: float) -> None:
    def kinked(at: list[float]) -> np.ndarray:
        return np.abs(np.asarray(at) - place)

    curve = sample_adaptively(kinked, -1.0, 1.0, tolerance=1e-4, max_points=20)
    at = np.linspace(-1, 1, 4001)
    true_error = np.abs(curve(at) - kinked(at)).max()
    assert len(curve.alphas) == 20, "the tolerance is out of reach, so all points are spent"
    assert true_error < 0.02
    assert curve.error >= true_error / 3


def test_a_round_halves_the_worst_intervals_again_where_one_halving_is_not_enough() -> None:
    alphas = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 8.0])
    curve = LossCurve(alphas, alphas**4)
    one = curve.interval_errors[2]
    assert curve.interval_errors == pytest.approx(one * np.array([4, 1, 1, 1, 4 * 4**4]), rel=1e-9)
    assert _worst_places(curve, 10 * one, 6) == [5.0, 6.0, 7.0]
    assert _worst_places(curve, 10 * one, 2) == [5.0, 6.0]
    assert _worst_places(curve, 65 * one, 6) == [6.0]
    assert _worst_places(curve, 2 * one, 4) == [0.5, 5.0, 6.0, 7.0]
    assert _worst_places(curve, curve.interval_errors.max(), 6) == []


def test_points_are_never_more_than_the_bound_and_evaluated_once() -> None:
    seen: list[float] = []

    def evaluate(at: list[float]) -> np.ndarray:
        seen.extend(at)
        return np.sign(np.asarray(at) - 0.01)

    curve = sample_adaptively(evaluate, -1.0, 1.0, tolerance=1e-9, max_points=13)
    assert len(curve.alphas) == 13
    assert sorted(seen) == curve.alphas.tolist()


def test_constant_losses_need_no_more_points() -> None:
    curve = sample_adaptively(lambda at: np.full(len(at), 2.0), -1.0, 1.0, max_points=50, rounding=1e-7)
    assert len(curve.alphas) == 7
    assert curve.error == 0.0


def test_non_finite_ends_do_not_stop_the_rest() -> None:
    def evaluate(at: list[float]) -> np.ndarray:
        x = np.asarray(at)
        with np.errstate(invalid="ignore"):
            return np.where(x > 0.8, np.nan, np.exp(2 * x))

    curve = sample_adaptively(evaluate, -1.0, 1.0, max_points=20)
    at = np.linspace(-1, 0.5, 100)
    np.testing.assert_allclose(curve(at), np.exp(2 * at), atol=0.01)
    assert np.isnan(curve(0.9))


def test_start_grids() -> None:
    assert start_grid(-0.5, 2.0) == pytest.approx([-0.5, -0.325, 0.0, 1.3, 2.0])
    assert start_grid(-1.0, 1.0, center_pair=False) == [-1.0, -0.875, -0.5, 0.0, 0.5, 0.875, 1.0]
    assert start_grid(0.0, 1.0) == pytest.approx(np.linspace(0, 1, 7))
    assert start_grid(-1.0, 0.0) == pytest.approx(np.linspace(-1, 0, 7))
    assert start_grid(1.0, 2.0) == pytest.approx([0.0, *np.linspace(1, 2, 7)])
    assert symmetric_grid(5) == [-1.0, -0.5, 0.0, 0.5, 1.0]


def center_pair(function: Callable[[np.ndarray], np.ndarray], *ends: float, **options: Any) -> float:
    """The distance of the pair close to 0, evaluated after the start."""
    rounds: list[list[float]] = []

    def evaluate(at: list[float]) -> np.ndarray:
        rounds.append(at)
        return function(np.asarray(at))

    sample_adaptively(evaluate, *ends, **options)
    low, high = rounds[1]
    assert low == -high
    return high


def test_the_pair_close_to_zero_balances_rounding_against_truncation() -> None:
    # Ten times |f⁗| = 24·3 is taken: 4εL/h² = 10·72·h²/12, with the largest loss L = 1 + 3.
    expected = (4 * 1e-6 * 4 / (10 * 72 / 12)) ** 0.25
    assert center_pair(lambda x: 1 + 3 * x**4, -1.0, 1.0, rounding=1e-6) == pytest.approx(expected)
    # Between a hundredth of the nearer end and 0.4 of the nearest point; an eighth of that where losses are not finite.
    assert center_pair(lambda x: 1 + 3 * x**4, -0.5, 2.0, rounding=0.0) == pytest.approx(0.01 * 0.5)
    assert center_pair(lambda x: 1 + 3 * x**4, -2.0, 0.5, rounding=0.0) == pytest.approx(0.01 * 0.5)
    for ends in ((-0.5, 2.0), (-2.0, 0.5)):
        assert center_pair(lambda x: 1 + 3 * x**4, *ends, rounding=1.0) == pytest.approx(0.4 * 0.325)
        with_nan = center_pair(lambda x: np.where(np.abs(x) > 1, np.nan, x), *ends, rounding=1.0)
        assert with_nan == pytest.approx(0.325 / 8)


def test_truncation_is_that_of_the_five_points_around_zero() -> None:
    # The fourth divided difference of x⁴ + x⁵ is one more than the sum of its five points.
    near = (-0.2, -0.1, 0.15, 0.3)
    points = [-0.2, -0.1, 0.0, 0.15, 0.3]
    expected = (4 * 1e-7 * 3 / (10 * 2 * (1 + sum(points)))) ** 0.25
    found = center_pair(lambda x: 1 + x**4 + x**5, -1.0, 1.0, rounding=1e-7, including=near)
    assert found == pytest.approx(expected)


def rounds_of(function: Callable[[np.ndarray], np.ndarray], *ends: float, **options: Any) -> list[list[float]]:
    rounds: list[list[float]] = []

    def evaluate(at: list[float]) -> np.ndarray:
        rounds.append(at)
        return function(np.asarray(at))

    sample_adaptively(evaluate, *ends, **options)
    return rounds


def kinked_at_a_third(x: np.ndarray) -> np.ndarray:
    return np.abs(x - 1 / 3)


def test_eleven_points_in_all_and_half_as_many_as_there_are_in_a_round() -> None:
    assert [len(added) for added in rounds_of(kinked_at_a_third, -1.0, 1.0)] == [5, 2, 4]
    many = [len(added) for added in rounds_of(kinked_at_a_third, -1.0, 1.0, max_points=60, tolerance=1e-12)]
    assert many[:4] == [5, 2, 4, 6]
    assert sum(many) == 60


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 0.0), (1.0, 2.0)])
def test_there_is_no_pair_around_an_end(ends: tuple[float, float]) -> None:
    first, *others = rounds_of(kinked_at_a_third, *ends)
    assert len(first) >= 7
    assert [alpha for added in [first, *others] for alpha in added if abs(alpha) < 0.05] == [0.0]


def test_without_a_finite_loss_no_more_points_are_spent() -> None:
    rounds = rounds_of(lambda x: np.full(len(x), np.nan), -1.0, 1.0)
    assert [len(added) for added in rounds] == [5, 2]


def test_below_four_roundings_of_the_largest_loss_nothing_is_won() -> None:
    def wave(x: np.ndarray) -> np.ndarray:
        return 1000.0 + 1e-3 * np.sin(3 * x)

    # The estimated error of the start is between 4 and 5 roundings of a loss of 1000 at the coarser one.
    counts = [len(rounds_of(wave, -1.0, 1.0, rounding=rounding, tolerance=1e-9)) for rounding in (1e-9, 1e-3)]
    assert counts[0] > 2
    assert counts[1] == 2
