from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape_callbacks.surface import LossSurface, ParameterSpace
from landscape_callbacks.surface.central_difference import CentralDifference, InaccurateDifferenceError
from landscape_callbacks.surface.microbatched_surface import MicrobatchedSurface
from landscape_callbacks.surface.retained_graph import DoubleBackwardError, RetainedGraph


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


def asked_at(weights: float) -> tuple[CentralDifference, list[float]]:
    """Differences of the gradient exp(w), and the distances that they are taken at."""
    space = ParameterSpace([nn.Parameter(torch.tensor([weights], dtype=torch.float64))])
    asked: list[float] = []

    def gradient_at(direction: torch.Tensor, alpha: float) -> torch.Tensor:
        asked.append(alpha)
        return torch.exp(weights + alpha * direction)

    return CentralDifference(gradient_at, space, "Because"), asked


def test_the_step_is_the_one_that_changes_the_product_least_and_its_change_is_told() -> None:
    difference, asked = asked_at(1.0)
    product = difference.product(torch.tensor([3.0], dtype=torch.float64))
    steps = torch.tensor([alpha for alpha in asked if alpha > 0], dtype=torch.float64)
    torch.testing.assert_close(steps[:-1] / steps[1:], torch.full_like(steps[1:], 4.0))
    products = (torch.exp(1 + steps) - torch.exp(1 - steps)) / (2 * steps)
    changes = (products[1:] - products[:-1]).abs() / products[1:]
    best = int(changes.argmin())
    assert difference.approximation is not None
    assert difference.approximation.step == float(steps[best + 1])
    assert difference.approximation.relative_error == pytest.approx(float(changes[best]))
    assert difference.approximation.reason == "Because"
    assert float(product) == pytest.approx(3 * float(products[best + 1]), rel=1e-14)
    asked.clear()
    difference.product(torch.tensor([1.0], dtype=torch.float64))
    assert [abs(alpha) for alpha in asked] == [difference.approximation.step] * 2


def test_steps_are_in_proportion_to_the_weights_unless_these_are_next_to_nothing() -> None:
    first = {}
    for weights in (1e-9, 1e-3, 1.0, 10.0):
        difference, asked = asked_at(weights)
        difference.product(torch.ones(1, dtype=torch.float64))
        first[weights] = abs(asked[0])
    assert first[10.0] / first[1.0] == pytest.approx(10)
    assert first[1.0] / first[1e-3] == pytest.approx(1e3)
    assert first[1e-9] == first[1e-3]


def in_parts(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, differentiation: str = "auto"
) -> tuple[MicrobatchedSurface, list[int]]:
    """The loss in two unequal parts, and the sizes of those that were evaluated."""
    evaluated: list[int] = []

    def part(rows: slice) -> torch.Tensor:
        evaluated.append(len(x[rows]))
        return nn.functional.cross_entropy(net(x[rows]), y[rows])

    closures = [lambda: part(slice(0, 40)), lambda: part(slice(40, 64))]
    return MicrobatchedSurface(closures, [40, 24], net.named_parameters(), differentiation=differentiation), evaluated


def test_microbatches_fall_back_as_one_batch_does() -> None:
    smooth, x, y = network(torch.float64, nn.Tanh())
    custom, _, _ = network(torch.float64, Custom())
    whole = surface(smooth, x, y, "double_backward")
    vector = whole.space.random(3)
    expected = whole.hessian_vector_product(vector)
    exact, evaluated = in_parts(smooth, x, y)
    for _ in range(2):
        torch.testing.assert_close(exact.hessian_vector_product(vector), expected)
    assert evaluated == [40, 24] * 2, "no graph is retained"
    assert exact.approximation is None
    fallen, differences = in_parts(custom, x, y)[0], in_parts(smooth, x, y, "central_difference")[0]
    for approximate, reason in ((fallen, "cannot be differentiated twice"), (differences, "were asked for")):
        product = approximate.hessian_vector_product(vector)
        assert float((product - expected).norm() / expected.norm()) < 1e-6
        assert approximate.approximation is not None
        assert reason in approximate.approximation.reason
    with pytest.raises(DoubleBackwardError, match="once_differentiable"):
        in_parts(custom, x, y, "double_backward")[0].hessian_vector_product(vector)


def test_microbatches_take_what_one_batch_takes() -> None:
    first, second = (nn.Parameter(torch.tensor([2.0], dtype=torch.float64)) for _ in range(2))
    closures = [lambda: (first**2).sum(), lambda: (second**3).sum()]
    parts = MicrobatchedSurface(closures, [3, 1], [first, second], rounding=0.01)
    assert parts.gradient().tolist() == [3.0, 3.0]  # a part need not depend on all parameters
    assert parts.rounding == 0.01
    assert MicrobatchedSurface(closures, [3, 1], [first, second]).rounding == torch.finfo(torch.float64).eps
    with pytest.raises(ValueError, match="shorter"):
        MicrobatchedSurface(closures, [1], [first, second])

    class Half:
        def agree(self, error: Exception | None) -> None:
            assert error is None

        def __call__(self, value: torch.Tensor) -> torch.Tensor:
            return value / 2

    halved = MicrobatchedSurface(closures, [3, 1], [first, second], average=Half())
    assert halved.gradient().tolist() == [1.5, 1.5]


class Refusing(torch.autograd.Function):
    """The identity, with a gradient that raises."""

    error: Exception

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        raise Refusing.error


class Square(torch.autograd.Function):
    """x², which cannot be differentiated twice."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return 2 * gradient * Refusing.apply(x)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no such derivative\nand more of it"), "differentiated twice (no such derivative)"),
        (NotImplementedError(), "differentiated twice (NotImplementedError)"),
        (TypeError(" \n"), "differentiated twice (TypeError)"),
    ],
)
def test_what_a_second_derivative_raises_is_told_in_its_first_line(error: Exception, said: str) -> None:
    weight = nn.Parameter(torch.ones(3))
    Refusing.error = error
    graph = RetainedGraph(Square.apply(weight).sum(), ParameterSpace([weight]))
    with pytest.raises(DoubleBackwardError) as raised:
        graph.product([torch.ones(3)])
    assert str(raised.value).endswith(said)
    assert raised.value.__cause__ is error


def test_running_out_of_memory_in_a_second_derivative_stays_what_it_is() -> None:
    weight = nn.Parameter(torch.ones(3))
    Refusing.error = torch.OutOfMemoryError("out of memory")
    graph = RetainedGraph(Square.apply(weight).sum(), ParameterSpace([weight]))
    with pytest.raises(torch.OutOfMemoryError):
        graph.product([torch.ones(3)])
