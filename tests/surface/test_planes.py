"""Planes against closed forms, and their rows and columns against lines."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape_callbacks.surface import AverageSurface, LossSurface, ParameterSpace, loss_plane
from landscape_callbacks.surface.directions import filter_normalized, layer_normalized
from landscape_callbacks.surface.planes import random_plane_directions


def rosenbrock() -> LossSurface:
    weight = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
    return LossSurface(lambda: (1 - weight[0]) ** 2 + 100 * (weight[1] - weight[0] ** 2) ** 2, [weight])


AXES = torch.eye(2, dtype=torch.float64)


def test_plane_equals_the_function_and_rows_are_the_second_direction() -> None:
    result = loss_plane(rosenbrock(), AXES[0], AXES[1], x=[-1.0, 0.0, 0.5], y=[-2.0, 0.0])
    x, y = 1 + result.x[None, :], 1 + result.y[:, None]
    assert result.losses.shape == (2, 3)
    torch.testing.assert_close(result.losses, (1 - x) ** 2 + 100 * (y - x**2) ** 2)
    assert result.evaluations == 6
    assert result.cosine == 0.0
    assert result.norms == (1.0, 1.0)


def test_middle_row_and_column_are_the_lines() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    inputs, labels = torch.randn(20, 4), torch.randint(0, 3, (20,))
    surface = LossSurface(lambda: nn.functional.cross_entropy(net(inputs), labels), net.named_parameters())
    first, second = random_plane_directions(surface.space, seed=0)
    weights = surface.space.weights()
    result = loss_plane(surface, first, second, points=7)
    assert torch.equal(result.losses[3], surface.losses_along(first, result.x))
    assert torch.equal(result.losses[:, 3], surface.losses_along(second, result.y))
    assert float(result.losses[3, 3]) == float(surface.closure().detach())
    assert torch.equal(surface.space.weights(), weights)
    assert torch.equal(result.x, -result.x.flip(0))


def test_average_over_batches() -> None:
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    surfaces = [LossSurface(lambda c=c: ((weight - c) ** 2).sum(), [weight]) for c in (1.0, -3.0)]
    result = loss_plane(AverageSurface(surfaces, [3, 1]), AXES[0], AXES[1], points=3)
    expected = [
        [0.75 * ((x - 1) ** 2 + (y - 1) ** 2) + 0.25 * ((x + 3) ** 2 + (y + 3) ** 2) for x in (-1, 0, 1)]
        for y in (-1, 0, 1)
    ]
    torch.testing.assert_close(result.losses, torch.tensor(expected, dtype=torch.float64))
    assert result.evaluations == 18


def test_non_finite_losses_are_counted_and_stay() -> None:
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    surface = LossSurface(lambda: torch.log(weight[0]) + 1 / weight[1], [weight])
    result = loss_plane(surface, AXES[0], AXES[1], x=[-2.0, 0.0], y=[-1.0, 0.0])
    assert result.nonfinite == 3
    assert torch.isnan(result.losses[1, 0])
    assert torch.isposinf(result.losses[0, 1])


def test_bad_planes_are_named() -> None:
    surface = rosenbrock()
    with pytest.raises(ValueError, match=r"second direction of shape \(2,\), got \(3,\)"):
        loss_plane(surface, AXES[0], torch.ones(3))
    with pytest.raises(ValueError, match="parallel"):
        loss_plane(surface, AXES[0], -3 * AXES[0])
    with pytest.raises(ValueError, match="other than zero"):
        loss_plane(surface, AXES[0], 0 * AXES[0])
    with pytest.raises(ValueError, match="increasing"):
        loss_plane(surface, AXES[0], AXES[1], x=[1.0, 0.0])


@pytest.mark.parametrize("normalization", ["filter", "layer", "none"])
def test_random_planes(normalization: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 10))
    surface = LossSurface(lambda: net(torch.ones(1, 40)).sum(), net.named_parameters())
    first, second = random_plane_directions(surface.space, seed=4, normalization=normalization)
    cosine = float(first @ second / (first.norm() * second.norm()))
    assert abs(cosine) < (1e-6 if normalization == "none" else 0.1)
    if normalization == "none":
        assert [float(first.norm()), float(second.norm())] == pytest.approx([1.0, 1.0])


def test_cosine_and_norms_of_directions_of_any_length() -> None:
    result = loss_plane(rosenbrock(), 0.01 * AXES[0], 50.0 * (0.6 * AXES[0] + 0.8 * AXES[1]), points=3, extent=0.25)
    assert result.cosine == pytest.approx(0.6)
    assert result.norms == pytest.approx((0.01, 50.0))
    assert result.x.tolist() == result.y.tolist() == [-0.25, 0.0, 0.25]


def test_distances_are_kept_in_double_precision() -> None:
    result = loss_plane(rosenbrock(), AXES[0], AXES[1], x=[0.0, 0.1], y=[0.0, 0.3])
    assert result.x.tolist() == [0.0, 0.1]
    assert result.y.tolist() == [0.0, 0.3]


@pytest.mark.parametrize("distances", [[0.0], [0.0, 0.0], [0.0, float("inf")]])
def test_distances_that_make_no_grid_are_refused(distances: list[float]) -> None:
    with pytest.raises(ValueError, match="increasing, finite"):
        loss_plane(rosenbrock(), AXES[0], AXES[1], x=distances)
    with pytest.raises(ValueError, match="increasing, finite"):
        loss_plane(rosenbrock(), AXES[0], AXES[1], y=distances)


def test_both_directions_of_a_random_plane_are_normalised_alike() -> None:
    space = ParameterSpace(nn.Linear(40, 30).named_parameters())
    for direction in random_plane_directions(space, seed=4, normalization="layer"):
        torch.testing.assert_close(layer_normalized(space, direction), direction)
        assert not torch.allclose(filter_normalized(space, direction), direction, rtol=0.01)
