"""The curve through the losses of a line, against scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from landscape_callbacks.surface.loss_curve import LossCurve


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


def random_curve(seed: int, points: int) -> tuple[LossCurve, CubicSpline]:
    rng = np.random.default_rng(seed)
    alphas, losses = np.sort(rng.uniform(-2, 3, points)), rng.normal(size=points)
    return LossCurve(alphas, losses), CubicSpline(alphas, losses)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_the_minimum_is_that_of_scipys_spline(seed: int, scale: float) -> None:
    curve, spline = random_curve(seed, 4 + seed)
    at = np.concatenate((curve.alphas, spline.derivative().roots(extrapolate=False)))
    expected = at[np.argmin(spline(at))]
    found = LossCurve(curve.alphas, scale * curve.losses).minimum()
    assert found == pytest.approx((expected, scale * spline(expected)), rel=1e-7)


def test_the_minimum_of_a_shallow_parabola_does_not_cancel() -> None:
    alphas = np.array([-1.0, -0.4, 0.1, 0.5, 1.0])
    at, value = LossCurve(alphas, 0.1 * (alphas - 0.3) ** 2 + 2).minimum()
    assert at == pytest.approx(0.3, abs=1e-9)
    assert value == pytest.approx(2.0, abs=1e-12)


def test_the_minimum_may_lie_beyond_a_non_finite_loss() -> None:
    alphas = np.arange(9.0)
    losses = (alphas - 6.3) ** 2
    losses[:3], losses[3] = [7.0, 8.0, 9.0], np.nan
    assert LossCurve(alphas, losses).minimum() == pytest.approx((6.3, 0.0), abs=1e-9)


@pytest.mark.filterwarnings("error")
def test_nothing_is_warned_of_where_losses_are_not_finite_or_lie_on_a_line() -> None:
    curve = LossCurve(np.arange(8.0), [1.0, np.nan, 4.0, 5.0, 6.0, 7.0, np.inf, 2.0])
    assert curve.minimum() == (0.0, 1.0)
    assert np.isnan(curve([0.5, 6.5])).all()
    assert curve.dense()[1][0] == 1.0


@pytest.mark.parametrize("refinement", [2, 5])
def test_dense_points_divide_each_interval_evenly(refinement: int) -> None:
    curve, spline = random_curve(3, 6)
    alphas, losses = curve.dense() if refinement == 5 else curve.dense(refinement)
    expected = [np.linspace(a, b, refinement + 1)[:-1] for a, b in zip(curve.alphas, curve.alphas[1:], strict=False)]
    np.testing.assert_allclose(alphas, [*np.concatenate(expected), curve.alphas[-1]], rtol=1e-12)
    np.testing.assert_allclose(losses, spline(alphas), rtol=1e-9, atol=1e-9)
    assert np.array_equal(losses[::refinement], curve.losses)


def test_the_bend_is_the_second_derivative_of_scipys_spline() -> None:
    curve, spline = random_curve(4, 7)
    for alpha in [*curve.alphas, *np.linspace(curve.alphas[0], curve.alphas[-1], 20)]:
        assert curve.bend(alpha) == pytest.approx(float(spline(alpha, 2)), rel=1e-9, abs=1e-9)


def test_whole_numbers_will_do_and_the_shape_is_kept() -> None:
    curve = LossCurve([0, 1, 2, 3], [9, 4, 1, 0])
    assert curve.alphas.dtype == curve.losses.dtype == np.float64
    assert curve([[0, 1], [2, 3]]).tolist() == [[9.0, 4.0], [1.0, 0.0]]
    assert float(curve(0.5)) == pytest.approx(6.25)
    assert LossCurve([1.0], [2.0])([[1.0], [1.0]]).tolist() == [[2.0], [2.0]]


def test_beyond_its_points_a_curve_is_not_known() -> None:
    curve = LossCurve([0.0, 1.0, 2.0], [1.0, np.nan, 3.0])
    assert curve([-0.1, 0.0, 2.0, 2.1]) == pytest.approx([np.nan, 1.0, 3.0, np.nan], nan_ok=True)
    assert np.isnan(LossCurve([], [])([0.0, 1.0])).all()


def test_a_curve_of_a_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="increasing alphas and one loss for each"):
        LossCurve([[0.0, 1.0]], [[1.0, 2.0]])
