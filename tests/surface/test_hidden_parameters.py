"""Graphs that keep parameters from ``torch.autograd.grad`` would give wrong derivatives without a word."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from landscape_callbacks.surface import LossSurface
from landscape_callbacks.surface.retained_graph import HiddenParametersError


def surface(reentrant: bool) -> LossSurface:
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)), torch.ones(2, 3, requires_grad=True)

    def loss() -> Tensor:
        hidden = checkpoint(net[:2], x, use_reentrant=reentrant)
        assert isinstance(hidden, Tensor)
        return net[2](hidden).square().mean()

    return LossSurface(loss, net.named_parameters())


def test_reentrant_checkpoints_are_refused() -> None:
    inside = surface(reentrant=True)
    for measure in (inside.gradient, lambda: inside.gradient(retain=False)):
        with pytest.raises(HiddenParametersError, match="use_reentrant=False"):
            measure()
    with pytest.raises(HiddenParametersError):
        inside.hessian_vector_product(inside.space.random(0))


def test_the_other_checkpoints_are_not() -> None:
    inside = surface(reentrant=False)
    vector = inside.space.random(0)
    first = inside.hessian_vector_product(vector)
    assert torch.equal(first, inside.hessian_vector_product(vector))
    assert all(float(piece.norm()) > 0.0 for piece in inside.space.split(first))
