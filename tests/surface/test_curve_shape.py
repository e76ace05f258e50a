"""Barrier, convexity, curvature and the minimum's error of loss curves with a closed form."""

from __future__ import annotations

import numpy as np
import pytest

from landscape_callbacks.surface.curve_shape import (
    barrier_height,
    best_step_error,
    convexity_violation,
    curvature_at_zero,
)
from landscape_callbacks.surface.loss_curve import LossCurve


def two_minima(points: int = 41) -> LossCurve:
    """(x² − 1)²: minima at ±1, a barrier of 1 between them, and 9 at the ends ±2."""
    alphas = np.linspace(-2, 2, points)
    return LossCurve(alphas, (alphas**2 - 1) ** 2)


class TestBarrier:
    def test_of_two_points_is_half_their_difference(self) -> None:
        assert barrier_height(LossCurve([0.0, 1.0], [1.0, 3.0])) == 1.0

    def test_of_one_point_is_not_known(self) -> None:
        assert np.isnan(barrier_height(LossCurve([0.0], [1.0])))

    def test_between_two_ends_leaves_out_what_lies_outside(self) -> None:
        curve = two_minima()
        assert barrier_height(curve, (-1.0, 1.0)) == pytest.approx(1.0, abs=1e-3)
        assert barrier_height(curve, (-0.5, 2.0)) == pytest.approx(9 - (9 + 0.75**2) / 2, abs=1e-3)

    def test_a_non_finite_loss_outside_the_ends_does_not_count(self) -> None:
        curve = two_minima()
        losses = curve.losses.copy()
        losses[[0, -1]] = np.inf, np.nan
        assert barrier_height(LossCurve(curve.alphas, losses), (-1.0, 1.0)) == pytest.approx(1.0, abs=1e-3)

    @pytest.mark.parametrize("place", [0, 20, 40])
    @pytest.mark.parametrize("loss", [np.inf, np.nan])
    def test_a_non_finite_loss_inside_or_at_an_end_is_the_barrier(self, place: int, loss: float) -> None:
        curve = two_minima()
        losses = curve.losses.copy()
        losses[place] = loss
        assert barrier_height(LossCurve(curve.alphas, losses)) == pytest.approx(loss, nan_ok=True)

    def test_an_end_outside_the_curve_is_not_known(self) -> None:
        assert np.isnan(barrier_height(two_minima(), (-1.0, 3.0)))


class TestConvexity:
    def test_three_points_alone_are_enough(self) -> None:
        curve = LossCurve(np.arange(5.0), [1.0, np.nan, 3.0, np.nan, 2.0])
        assert convexity_violation(curve) == pytest.approx(1.5)

    def test_two_points_alone_are_not(self) -> None:
        assert np.isnan(convexity_violation(LossCurve(np.arange(3.0), [1.0, np.nan, 3.0])))


class TestCurvature:
    def test_two_mirrored_pairs_are_exact_on_quartics(self) -> None:
        alphas = np.array([-0.5, -0.2, 0.0, 0.2, 0.5])
        value, error, weights = curvature_at_zero(LossCurve(alphas, 1 + alphas + 3 * alphas**2 - 2 * alphas**4))
        assert value == pytest.approx(6.0, rel=1e-12)
        # What the extrapolation takes off: the nearer pair alone is off by 2·(−2)·s².
        assert error == pytest.approx(4 * 0.2**2)
        assert weights is not None
        assert weights.sum() == pytest.approx(0.0, abs=1e-10)

    def test_odd_terms_cancel_in_mirrored_pairs_also_beside_a_point_without_a_mirror(self) -> None:
        alphas = np.array([-0.4, -0.2, 0.0, 0.1, 0.2, 0.4])
        value, _, _ = curvature_at_zero(LossCurve(alphas, 1.5 * alphas**2 + alphas**5))
        assert value == pytest.approx(3.0, rel=1e-12)

    def test_a_non_finite_loss_elsewhere_changes_nothing(self) -> None:
        alphas = np.array([-0.4, -0.2, 0.0, 0.2, 0.4, 0.9])
        losses = 1.5 * alphas**2 + alphas**4
        losses[-1] = np.inf
        assert curvature_at_zero(LossCurve(alphas, losses))[0] == pytest.approx(3.0, rel=1e-12)

    def test_one_pair_alone_is_a_plain_difference_of_unknown_error(self) -> None:
        value, error, _ = curvature_at_zero(LossCurve([-0.5, 0.0, 0.5, 0.9], [2.0, 1.0, 3.0, np.nan]))
        assert value == pytest.approx(12.0)
        assert np.isnan(error)

    def test_one_pair_among_five_points_is_exact_on_quartics(self) -> None:
        alphas = np.array([-0.1, 0.0, 0.1, 0.3, 0.6])
        assert curvature_at_zero(LossCurve(alphas, 2 * alphas**2 + alphas**4))[0] == pytest.approx(4.0, rel=1e-10)

    @pytest.mark.parametrize(
        "alphas",
        [
            [0.0, 0.1, 0.25, 0.45, 0.7],
            [-0.1, 0.0, 0.13, 0.4, 0.7],
            [-0.4, -0.1, 0.0, 0.13, 0.7],
            [-0.7, -0.4, -0.13, 0.0, 0.1],
            [-0.7, -0.45, -0.25, -0.1, 0.0],
            [-0.9, -0.4, -0.1, 0.0, 0.13, 0.7],
            [-0.9, -0.6, -0.4, -0.1, 0.0, 0.13, 0.5, 1.0],
        ],
    )
    def test_without_pairs_a_quartic_is_exact_and_its_error_is_that_of_the_cubic(self, alphas: list[float]) -> None:
        at = np.array(alphas)
        value, error, weights = curvature_at_zero(LossCurve(at, 1 - at + 2 * at**2 + at**3 + 5 * at**4))
        assert value == pytest.approx(4.0, rel=1e-9)
        # A cubic through 0, a, b and c differs from x⁴ by x(x−a)(x−b)(x−c), which bends by 2(ab + ac + bc) at 0.
        a, b, c = sorted(alphas, key=abs)[1:4]
        assert error == pytest.approx(5 * 2 * abs(a * b + a * c + b * c), rel=1e-9)
        assert weights is not None
        assert set(at[weights != 0.0]) == set(sorted(alphas, key=abs)[:5])
        assert curvature_at_zero(LossCurve(at, at), rounding=1e-3)[1] == pytest.approx(1e-3 * np.abs(weights).sum())

    @pytest.mark.parametrize(
        "losses",
        [
            [np.nan, np.nan, np.nan, 1.0, 1.1, 1.3],
            [np.inf, 1.0, np.nan, 1.0, np.nan, 2.0],
            [1.0, 1.0, 1.0, np.nan, 1.0, 1.0],
        ],
    )
    def test_too_few_losses_around_zero_are_not_known(self, losses: list[float]) -> None:
        value, error, weights = curvature_at_zero(LossCurve([-0.35, -0.2, -0.15, 0.0, 0.1, 0.3], losses))
        assert np.isnan(value)
        assert np.isnan(error)
        assert weights is None


UNEVEN = np.array([-1.0, -0.7, -0.2, 0.1, 0.5, 0.8, 1.5])


class TestErrorOfTheMinimum:
    @pytest.mark.parametrize("best", [-0.8, -0.5, 0.0, 0.3, 0.7, 1.2])
    @pytest.mark.parametrize("curvature", [0.3, 4.0])
    def test_of_a_parabola_is_where_it_has_risen_by_the_rounding(self, best: float, curvature: float) -> None:
        curve = LossCurve(UNEVEN, curvature / 2 * (UNEVEN - best) ** 2)
        assert best_step_error(curve, best, 1e-4) == pytest.approx((2e-4 / curvature) ** 0.5, rel=1e-6)

    @pytest.mark.parametrize(("best", "interval"), [(-0.8, 0.3), (-0.5, 0.5), (0.0, 0.3), (0.7, 0.3), (1.2, 0.7)])
    def test_is_at_most_one_interval(self, best: float, interval: float) -> None:
        assert best_step_error(LossCurve(UNEVEN, (UNEVEN - best) ** 2), best, 1e3) == pytest.approx(interval)
        assert best_step_error(LossCurve(UNEVEN, np.ones(7)), best, 0.0) == pytest.approx(interval)
        assert best_step_error(LossCurve(UNEVEN, -(UNEVEN**2)), best, 1e-9) == pytest.approx(interval)

    @pytest.mark.parametrize(("place", "at_the_end"), [(0.35, 1), (0.15, 4), (0.05, 4), (0.95, 4)])
    def test_grows_with_what_the_curve_may_be_off_by_there(self, place: float, at_the_end: float) -> None:
        """On a quartic the fourth derivative is known, and so is what a spline of it is off by."""
        alphas = np.linspace(0, 1, 11)
        curve = LossCurve(alphas, 30 * (alphas - place) ** 2 + alphas**4)
        off = 3 * 24 * 5 / 384 * 0.1**4 * at_the_end
        assert best_step_error(curve, place, 0.0) == pytest.approx(4 * off / 0.1 / curve.bend(place), rel=1e-6)

    @pytest.mark.parametrize("far", [9, 20])
    def test_a_spike_far_away_does_not_count(self, far: int) -> None:
        alphas = np.arange(30.0)
        losses = (alphas - 14.5) ** 2
        losses[far] += 50.0
        assert best_step_error(LossCurve(alphas, losses), 14.5, 0.0) == pytest.approx(0.0, abs=1e-6)

    def test_a_minimum_at_an_end_or_none_is_not_known(self) -> None:
        curve = LossCurve(UNEVEN, UNEVEN**2)
        assert best_step_error(curve, -1.0, 0.0) == best_step_error(curve, 1.5, 0.0) == np.inf
        assert np.isnan(best_step_error(curve, np.nan, 0.0))
