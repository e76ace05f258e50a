"""Steps along negative curvature: how far, which way, and how sure."""

import math

import pytest
import torch

from landscape_callbacks.surface.escape import confirmed_step, decreases_along, surest_step
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.metric import MetricSurface


def line_surface(function, at=0.0):
    """A loss of one weight."""
    weight = torch.nn.Parameter(torch.tensor([at], dtype=torch.float64))
    return MetricSurface(LossSurface(lambda: function(weight).sum(), [weight]))


ALONG = torch.ones(1, dtype=torch.float64)


def test_decreases_forth_back_and_of_both():
    surface = line_surface(lambda w: w**3 - w**2)
    found = decreases_along(surface, ALONG, [0.5, 1.0])
    expected = torch.tensor([[0.125, 0.0], [0.375, 2.0], [0.25, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_without_noise_the_lowest_point_is_found_also_far_beyond_the_first_distances():
    # x⁴/4 - x²/2 is lowest at ±1.
    way, distance, tried = surest_step([line_surface(lambda w: w**4 / 4 - w**2 / 2)], ALONG, 1 / 64)
    assert distance == pytest.approx(1.0)
    assert way in (0, 1, 2)
    assert tried > 21  # the line was extended
    way, distance, _ = surest_step([line_surface(lambda w: w**4 / 4 - w**2 / 2 + 0.3 * w)], ALONG, 1.0)
    assert (way, distance) == (1, 1.0)


def test_both_ways_are_taken_where_the_slope_hides_the_curvature():
    slopes = [3.0, -3.0, 2.5, -2.5]
    surfaces = [line_surface(lambda w, s=s: -(w**2) / 2 + w**4 / 100 + s * w) for s in slopes]
    way, distance, _ = surest_step(surfaces, ALONG, 2.0)
    assert way == 2
    assert 1 <= distance <= 6


def test_not_finite_losses_are_never_chosen():
    surface = line_surface(lambda w: torch.where(w.abs() > 1, w / 0.0 * 0.0, -(w**2)))
    _, distance, _ = surest_step([surface], ALONG, 1.0)
    assert distance == pytest.approx(1.0)


def test_the_surest_of_the_confirmed_steps():
    # Two ways, two distances, three surfaces: only the second way at the shorter distance is sure.
    decreases = [
        torch.tensor([[5.0, 0.1], [9.0, 1.0]]).double(),
        torch.tensor([[-5.0, -0.1], [-8.0, 1.1]]).double(),
        torch.tensor([[4.0, 0.0], [1.0, 0.9]]).double(),
    ]
    distance, mean, error = confirmed_step(decreases, [2.0, 1.0], whole_loss=False)
    assert distance == 1.0
    assert mean == pytest.approx(1.0)
    assert error == pytest.approx(0.1 / math.sqrt(3))
    distance, mean, error = confirmed_step(decreases, [2.0, 1.0], whole_loss=True)
    assert (distance, error) == (2.0, 0.0)
    assert mean == pytest.approx(4 / 3)
    assert confirmed_step([], [], whole_loss=False) == (0.0, 0.0, 0.0)


def test_the_line_is_extended_while_the_loss_falls_at_its_end_three_times_at_most():
    double_well = line_surface(lambda w: w**4 / 4 - w**2 / 2)
    # Ten distances from 2⁻⁸ to 2 both ways and the place itself; then five at a time.
    assert surest_step([double_well], ALONG, 1.0)[1:] == (1.0, 21)
    assert surest_step([double_well], ALONG, 1 / 64)[1:] == (1.0, 21 + 2 * 11)
    assert surest_step([line_surface(lambda w: -w)], ALONG, 1.0) == (0, 2.0 * 16**3, 21 + 3 * 11)


def test_two_standard_errors_less_are_what_is_maximised():
    # Of -x² ± 0.6x⁴ the surest decrease is x² - 1.2x⁴: more at 0.75 than at half or twice of it.
    surfaces = [line_surface(lambda w, s=s: -(w**2) + s * 0.6 * w**4) for s in (1, -1)]
    assert surest_step(surfaces, ALONG, 0.75)[1] == 0.75
    # At three standard errors the line would be crossed at 0.67, at two it is at 0.82.
    assert surest_step(surfaces, ALONG, 0.85)[1] == 0.425


@pytest.mark.parametrize(("error", "chosen"), [(0.2, 2.0), (0.24, 2.0), (0.29, 1.0)])
def test_a_step_is_confirmed_by_three_standard_errors(error, chosen):
    # A decrease of 1 with this error at distance 2, and a sure one of 0.2 at distance 1.
    decreases = [torch.tensor([[1.0 + k * error * math.sqrt(3), 0.2]]).double() for k in (-1, 0, 1)]
    distance, mean, found = confirmed_step(decreases, [2.0, 1.0], whole_loss=False)
    assert distance == chosen
    assert (mean, found) == pytest.approx((1.0, error) if chosen == 2.0 else (0.2, 0.0))


def test_of_the_whole_loss_the_largest_decrease_that_is_a_number_is_confirmed():
    decreases = [torch.tensor([[math.nan, 0.5, 3.0], [math.inf, 4.0, 0.1]]).double()]
    assert confirmed_step(decreases, [4.0, 2.0, 1.0], whole_loss=True) == (2.0, 4.0, 0.0)
