"""The share of weight decay on a line, against the penalty written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape_callbacks.surface import LossSurface, ParameterSpace
from landscape_callbacks.surface.penalty import penalty_along


@pytest.mark.parametrize("decay", [0.1, 1.0, [0.1, 0.0], [0.3, 0.05]])
def test_penalty_along_equals_the_penalty_itself(decay: float | list[float]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    decays = [decay, decay] if isinstance(decay, float) else decay
    surface = LossSurface(
        lambda: sum(0.5 * d * (p**2).sum() for d, p in zip(decays, layer.parameters(), strict=True)), layer.parameters()
    )
    direction = surface.space.random(1)
    alphas = [-2.0, 0.0, 0.7]
    torch.testing.assert_close(
        penalty_along(surface.space, direction, alphas, decay), surface.losses_along(direction, alphas)
    )


def test_its_gradient_is_what_sgd_adds() -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    space = ParameterSpace([weight])
    step = 1e-6
    for axis in torch.eye(2, dtype=torch.float64):
        low, high = penalty_along(space, axis, [-step, step], 0.1)
        assert float(high - low) / (2 * step) == pytest.approx(0.1 * float(weight.detach() @ axis))


def test_wrong_number_of_values() -> None:
    with pytest.raises(ValueError, match="or 1"):
        penalty_along(ParameterSpace([nn.Parameter(torch.ones(2))]), torch.ones(2), [0.0], [0.1, 0.2])
