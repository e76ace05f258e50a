"""The spline and its error estimate, against scipy, closed forms and curves with kinks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from landscape_callbacks.surface.adaptive import LossCurve, sample_adaptively, start_grid, symmetric_grid


@pytest.mark.parametrize("points", [4, 5, 9, 23])
def test_spline_equals_scipys_not_a_knot(points: int) -> None:
    rng = np.random.default_rng(0)
    alphas = np.sort(rng.uniform(-2, 3, points))
    losses = rng.normal(size=points)
    at = np.linspace(alphas[0], alphas[-1], 301)
    np.testing.assert_allclose(LossCurve(alphas, losses)(at), CubicSpline(alphas, losses)(at), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("points", [3, 5, 12])
def test_exact_on_parabolas(points: int) -> None:
    alphas = np.sort(np.random.default_rng(1).uniform(-1, 1, points))
    at = np.linspace(alphas[0], alphas[-1], 101)
    curve = LossCurve(alphas, 3 * (alphas - 0.1) ** 2 - 1)
    np.testing.assert_allclose(curve(at), 3 * (at - 0.1) ** 2 - 1, atol=1e-12)
    if points >= 5:
        assert curve.error < 1e-10


def test_two_points_are_joined_by_a_line_and_one_stands_alone() -> None:
    assert LossCurve([0.0, 2.0], [1.0, 3.0])([1.0, -0.1]) == pytest.approx([2.0, np.nan], nan_ok=True)
    assert LossCurve([0.0], [1.0])([0.0, 0.1]) == pytest.approx([1.0, np.nan], nan_ok=True)


def test_curve_passes_through_its_points_to_the_bit() -> None:
    rng = np.random.default_rng(2)
    alphas, losses = np.sort(rng.normal(size=20)), rng.normal(size=20)
    assert np.array_equal(LossCurve(alphas, losses)(alphas), losses)


def test_non_finite_losses_cut_the_curve_and_are_not_replaced() -> None:
    losses = [1.0, 2.0, np.nan, 4.0, 5.0, 6.0, np.inf]
    curve = LossCurve(np.arange(7.0), losses)
    assert np.array_equal(curve(np.arange(7.0)), losses, equal_nan=True)
    assert np.isnan(curve([1.5, 2.5, 5.5])).all()
    assert curve([0.5, 4.5]) == pytest.approx([1.5, 5.5])
    assert curve.minimum() == (0.0, 1.0)
    assert np.isnan(curve.error)


def test_a_curve_without_a_finite_loss() -> None:
    curve = LossCurve([0.0, 1.0], [np.nan, np.inf])
    assert np.isnan(curve.minimum()).all()


def test_minimum_between_points() -> None:
    alphas = np.linspace(-1, 2, 31)
    at, value = LossCurve(alphas, np.cosh(alphas - 0.77)).minimum()
    assert at == pytest.approx(0.77, abs=1e-5)
    assert value == pytest.approx(1.0, abs=1e-6)


def test_of_equal_minima_the_one_nearest_to_zero() -> None:
    assert LossCurve(np.linspace(-1, 1, 5), np.ones(5)).minimum(rounding=1e-12)[0] == 0.0


def test_points_have_to_increase() -> None:
    with pytest.raises(ValueError, match="increasing"):
        LossCurve([0.0, 0.0], [1.0, 1.0])


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


def test_a_kink_is_seen_by_the_estimate() -> None:
    def kinked(at: list[float]) -> np.ndarray:
        return np.abs(np.asarray(at) - 0.17)

    curve = sample_adaptively(kinked, -1.0, 1.0, tolerance=1e-4, max_points=20)
    at = np.linspace(-1, 1, 4001)
    true_error = np.abs(curve(at) - kinked(at)).max()
    assert len(curve.alphas) == 20, "the tolerance is out of reach, so all points are spent"
    assert true_error < 0.01
    assert curve.error >= true_error / 3


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
