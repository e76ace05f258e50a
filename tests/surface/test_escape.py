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
