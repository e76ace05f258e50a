"""Directions: norms of every filter, what is left out, what a rescaling of the network changes (nothing)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape_callbacks.surface import LossSurface, ParameterSpace
from landscape_callbacks.surface.directions import (
    direction_between,
    filter_normalized,
    layer_normalized,
    orthogonalized,
    random_direction,
    weights_vector,
)


def conv_net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)).to(
        dtype
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_filter_has_the_norm_of_its_weights(dtype: torch.dtype) -> None:
    net = conv_net(dtype)
    space = ParameterSpace(net.named_parameters())
    pieces = dict(zip(space.names, space.split(random_direction(space, seed=3)), strict=True))
    for name, weight in net.named_parameters():
        if weight.ndim < 2:
            assert torch.count_nonzero(pieces[name]) == 0, name
            continue
        for filter_direction, filter_weight in zip(pieces[name], weight.detach(), strict=True):
            assert float(filter_direction.double().norm()) == pytest.approx(
                float(filter_weight.double().norm()), rel=1e-6
            )


def test_layer_normalization_keeps_one_norm_a_parameter() -> None:
    space = ParameterSpace(conv_net().named_parameters())
    vector = space.random(1)
    for direction, weight in zip(space.split(layer_normalized(space, vector)), space.parameters, strict=True):
        expected = float(weight.detach().norm()) if weight.ndim > 1 else 0.0
        assert float(direction.norm()) == pytest.approx(expected, rel=1e-6)


def test_norms_may_come_from_other_weights() -> None:
    space = ParameterSpace([nn.Parameter(torch.ones(2, 3))])
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0, 3.0, 4.0])
    rows = filter_normalized(space, space.random(0), weights).view(2, 3)
    assert rows.norm(dim=1).tolist() == pytest.approx([1.0, 5.0])


def test_a_rescaled_relu_network_shows_the_same_curve() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    inputs, labels = torch.randn(32, 5, dtype=torch.float64), torch.randint(0, 3, (32,))
    surface = LossSurface(lambda: nn.functional.cross_entropy(net(inputs), labels), net.named_parameters())
    alphas = [-1.0, -0.3, 0.0, 0.4, 1.0]
    before = surface.losses_along(random_direction(surface.space, 5), alphas)
    unnormalised = surface.losses_along(random_direction(surface.space, 5, normalization="none") * 10, alphas)
    with torch.no_grad():
        net[0].weight.mul_(4.0), net[0].bias.mul_(4.0), net[2].weight.div_(4.0)
    torch.testing.assert_close(surface.losses_along(random_direction(surface.space, 5), alphas), before)
    rescaled = surface.losses_along(random_direction(surface.space, 5, normalization="none") * 10, alphas)
    assert float((rescaled - unnormalised).abs().max()) > 0.01


def test_filters_without_weights_stay_where_they_are() -> None:
    weight = nn.Parameter(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    direction = random_direction(ParameterSpace([weight]), 0).view(2, 2)
    assert torch.equal(direction[0], torch.zeros(2))
    assert float(direction[1].norm()) == pytest.approx(5.0)


def test_seeds_and_the_global_stream() -> None:
    space = ParameterSpace(conv_net().named_parameters())
    before = torch.get_rng_state()
    assert torch.equal(random_direction(space, 7), random_direction(space, 7))
    assert not torch.equal(random_direction(space, 7), random_direction(space, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_unit_vector_without_normalization() -> None:
    space = ParameterSpace(conv_net().named_parameters())
    assert float(space.norm(random_direction(space, 7, normalization="none"))) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("parameter", [torch.ones(4), torch.zeros(2, 2)])
def test_nothing_left_to_normalise_is_an_error(parameter: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="normalised direction is zero"):
        random_direction(ParameterSpace([nn.Parameter(parameter)]), 0)


def test_unknown_normalization() -> None:
    with pytest.raises(ValueError, match="got 'filters'"):
        random_direction(ParameterSpace([nn.Parameter(torch.ones(2, 2))]), 0, normalization="filters")


def test_weights_from_a_state_dict_a_vector_and_tensors_agree() -> None:
    net = conv_net()
    space = ParameterSpace(net.named_parameters())
    expected = space.weights()
    assert torch.equal(weights_vector(space, net.state_dict()), expected)
    assert torch.equal(weights_vector(space, list(net.parameters())), expected)
    assert torch.equal(weights_vector(space, expected), expected)


def test_weights_of_another_model_are_named() -> None:
    space = ParameterSpace(conv_net().named_parameters())
    with pytest.raises(ValueError, match=r"no entry for 6 of 6 parameters, such as '0\.weight'"):
        weights_vector(space, {"model.weight": torch.ones(1)})
    state = {name: torch.zeros(7) for name in space.names}
    with pytest.raises(ValueError, match=r"'0\.weight' has shape \(4, 1, 3, 3\).*shape \(7,\)"):
        weights_vector(space, state)
    with pytest.raises(ValueError, match="Expected 6 tensors"):
        weights_vector(space, [torch.zeros(1)])
    with pytest.raises(ValueError, match="flat vector"):
        weights_vector(space, torch.zeros(3))


def test_direction_between_leads_from_start_to_end() -> None:
    space = ParameterSpace([nn.Parameter(torch.tensor([1.0, 2.0]))])
    start, end = torch.tensor([0.5, 0.0]), torch.tensor([1.0, 5.0])
    assert direction_between(space, start, end).tolist() == [0.5, 5.0]
    assert direction_between(space, start).tolist() == [0.5, 2.0]


def test_orthogonalized() -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(50))])
    first, second, third = (space.random(seed) for seed in range(3))
    second = orthogonalized(space, second, [first])
    third = orthogonalized(space, third, [first, second])
    scale = float(space.norm(third))
    assert abs(float(space.dot(third, first))) < 1e-5 * scale * float(space.norm(first))
    assert abs(float(space.dot(third, second))) < 1e-5 * scale * float(space.norm(second))


def test_layer_normalization_keeps_the_direction_within_a_parameter() -> None:
    space = ParameterSpace([nn.Parameter(torch.ones(2, 2))])
    direction = layer_normalized(space, torch.tensor([3.0, 4.0, 0.0, 12.0]), torch.tensor([0.0, 0.0, 0.0, 26.0]))
    assert direction.tolist() == pytest.approx([6.0, 8.0, 0.0, 24.0])


def test_a_filter_without_a_direction_stays_and_small_weights_are_enough() -> None:
    space = ParameterSpace([nn.Parameter(torch.tensor([[3e-6, 4e-6], [1e-6, 0.0]]))])
    direction = filter_normalized(space, torch.tensor([0.0, 0.0, 0.0, 2.0]))
    assert direction.tolist() == pytest.approx([0.0, 0.0, 0.0, 1e-6])


def test_a_vector_of_weights_takes_the_dtype_of_the_space() -> None:
    space = ParameterSpace([nn.Parameter(torch.ones(3))])
    assert weights_vector(space, torch.ones(3, dtype=torch.float64)).dtype == torch.float32


def test_orthogonalized_to_vectors_of_any_length() -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(3))])
    others = [torch.tensor([0.01, 0.0, 0.0]), torch.zeros(3), torch.tensor([0.0, 100.0, 0.0])]
    assert orthogonalized(space, torch.ones(3), others).tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)
