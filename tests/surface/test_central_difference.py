from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape_callbacks.surface import LossSurface
from landscape_callbacks.surface.central_difference import InaccurateDifferenceError
from landscape_callbacks.surface.retained_graph import DoubleBackwardError


class OnceDifferentiable(torch.autograd.Function):
    """tanh with a gradient that has no gradient."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (y,) = ctx.saved_tensors
        return gradient * (1 - y * y)


def network(dtype: torch.dtype, activation: nn.Module) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(6, 12), activation, nn.Linear(12, 12), activation, nn.Linear(12, 3)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 6, generator=generator, dtype=dtype)
    return net, x, x[:, :3].argmax(1)


class Custom(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return OnceDifferentiable.apply(x)


def surface(net: nn.Module, x: torch.Tensor, y: torch.Tensor, differentiation: str) -> LossSurface:
    return LossSurface(
        lambda: nn.functional.cross_entropy(net(x), y), net.named_parameters(), differentiation=differentiation
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-3)])
def test_products_agree_with_double_backward_within_the_stated_error(dtype: torch.dtype, tolerance: float) -> None:
    net, x, y = network(dtype, nn.Tanh())
    exact, approximate = surface(net, x, y, "double_backward"), surface(net, x, y, "central_difference")
    for seed in range(3):
        vector = 3.0 * exact.space.random(seed)
        expected = exact.hessian_vector_product(vector)
        error = float((approximate.hessian_vector_product(vector) - expected).norm() / expected.norm())
        assert error <= tolerance
        assert approximate.approximation is not None
        assert error <= 10 * approximate.approximation.relative_error
    assert exact.approximation is None


def test_auto_falls_back_where_there_is_no_second_derivative_and_says_so() -> None:
    smooth, x, y = network(torch.float64, nn.Tanh())
    custom, _, _ = network(torch.float64, Custom())
    expected = surface(smooth, x, y, "double_backward")
    fallen = surface(custom, x, y, "auto")
    torch.testing.assert_close(fallen.gradient(), expected.gradient(), rtol=1e-12, atol=1e-14)
    vector = expected.space.random(5)
    exact = expected.hessian_vector_product(vector)
    assert float((fallen.hessian_vector_product(vector) - exact).norm() / exact.norm()) < 1e-6
    assert fallen.approximation is not None
    assert "cannot be differentiated twice" in fallen.approximation.reason
    assert "once_differentiable" in fallen.approximation.reason


def test_double_backward_alone_refuses() -> None:
    custom, x, y = network(torch.float64, Custom())
    with pytest.raises(DoubleBackwardError, match="once_differentiable"):
        only = surface(custom, x, y, "double_backward")
        only.hessian_vector_product(only.space.random(0))


def test_kinks_in_single_precision_are_refused_with_the_error_and_a_way_out() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 3))
    x = torch.randn(256, 20)
    y = x[:, :3].argmax(1)
    approximate = surface(net, x, y, "central_difference")
    with pytest.raises(InaccurateDifferenceError, match=r"off by about \d+%.*double precision"):
        approximate.hessian_vector_product(approximate.space.random(0))


def test_weights_come_back_and_the_zero_vector_costs_nothing() -> None:
    net, x, y = network(torch.float32, nn.Tanh())
    before = [parameter.detach().clone() for parameter in net.parameters()]
    approximate = surface(net, x, y, "central_difference")
    approximate.hessian_vector_product(approximate.space.random(0))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not approximate.hessian_vector_product(approximate.space.zeros()).any()


def test_a_flat_loss_has_a_zero_product() -> None:
    weight = nn.Parameter(torch.ones(4))
    flat = LossSurface(lambda: (0.0 * weight).sum(), [weight], differentiation="central_difference")
    assert not flat.hessian_vector_product(torch.ones(4)).any()
