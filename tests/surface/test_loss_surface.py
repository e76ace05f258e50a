from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landscape_callbacks.surface import AverageSurface, LossSurface
from tests.surface.models import MODELS, Model, build, softmax_regression, softmax_regression_hessian


class Counted:
    """A closure that counts its calls."""

    def __init__(self, closure: Callable[[], Tensor]) -> None:
        self.closure = closure
        self.calls = 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return self.closure()


def dense(surface: LossSurface | AverageSurface) -> np.ndarray:
    identity = torch.eye(surface.space.dimension, dtype=surface.space.dtype)
    return torch.stack([surface.hessian_vector_product(row) for row in identity]).double().numpy()


def flat(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1).clone() for parameter in parameters])


@pytest.mark.parametrize("make", MODELS)
def test_products_match_the_dense_hessian(make: Callable[[], Model]) -> None:
    model = build(make)
    np.testing.assert_allclose(dense(model.surface()), model.hessian(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("make", MODELS)
def test_products_in_float32(make: Callable[[], Model]) -> None:
    model = build(make, torch.float32)
    products = dense(model.surface())
    reference = model.hessian()
    assert np.abs(products - reference).max() < 1e-5 * np.abs(reference).max()


def test_softmax_regression_has_its_closed_form() -> None:
    model = build(softmax_regression)
    np.testing.assert_allclose(dense(model.surface()), softmax_regression_hessian(model), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("make", MODELS)
def test_gradient_and_loss_are_those_of_backward(make: Callable[[], Model]) -> None:
    model = build(make)
    surface = model.surface()
    gradient, loss = surface.gradient(), surface.loss()
    assert all(parameter.grad is None for parameter in model.module.parameters())
    expected = model.loss()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, torch.cat([p.grad.reshape(-1) for p in model.module.parameters()]))
    torch.testing.assert_close(model.surface().gradient(retain=False), gradient)


def test_all_quantities_come_from_one_evaluation() -> None:
    model = build(MODELS[0])
    closure = Counted(model.loss)
    surface = LossSurface(closure, model.module.parameters())
    surface.gradient()
    surface.loss()
    for seed in range(3):
        surface.hessian_vector_product(surface.space.random(seed))
    assert closure.calls == 1
    surface.release()
    surface.gradient()
    assert closure.calls == 2


def test_the_graph_is_rebuilt_when_weights_have_changed() -> None:
    model = build(MODELS[0])
    surface = model.surface()
    vector = surface.space.random(0)
    surface.hessian_vector_product(vector)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(0.1)
    moved = surface.hessian_vector_product(vector).numpy()
    np.testing.assert_allclose(moved, model.hessian() @ vector.numpy(), rtol=1e-7, atol=1e-9)


def test_the_graph_is_rebuilt_after_an_optimizer_step() -> None:
    model = build(MODELS[0])
    surface = model.surface()
    before = surface.gradient()
    optimizer = torch.optim.Adam(model.module.parameters(), lr=0.1)
    model.loss().backward()
    optimizer.step()
    after = surface.gradient()
    torch.testing.assert_close(after, model.surface().gradient())
    assert not torch.equal(before, after)


def test_grads_of_the_training_loop_are_left_alone() -> None:
    model = build(MODELS[0])
    model.loss().backward()
    kept = [parameter.grad for parameter in model.module.parameters()]
    values = [grad.clone() for grad in kept]
    surface = model.surface()
    surface.hessian_vector_product(surface.space.random(0))
    surface.losses_along(surface.gradient(), [0.0, 1.0])
    for parameter, grad, value in zip(model.module.parameters(), kept, values, strict=True):
        assert parameter.grad is grad
        assert torch.equal(grad, value)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(context: Callable[[], object]) -> None:
    model = build(MODELS[0])
    surface = model.surface()
    vector = surface.space.random(0)
    expected = model.surface().hessian_vector_product(vector)
    with context():
        torch.testing.assert_close(surface.hessian_vector_product(vector), expected)


@pytest.mark.parametrize("make", MODELS)
def test_losses_along_a_direction(make: Callable[[], Model]) -> None:
    model = build(make)
    surface = model.surface()
    direction, alphas = surface.space.random(1), [-0.3, 0.0, 0.2]
    losses = surface.losses_along(direction, alphas)
    original = flat(list(model.module.parameters()))
    for alpha, loss in zip(alphas, losses, strict=True):
        with torch.no_grad():
            nn.utils.vector_to_parameters(original + alpha * direction, model.module.parameters())
            assert float(loss) == pytest.approx(float(model.loss()), rel=1e-12)


def test_losses_on_a_plane_are_indexed_by_second_then_first() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    surface = LossSurface(lambda: weight[0] + 10 * weight[1], [weight])
    first, second = torch.eye(2, dtype=torch.float64)
    losses = surface.losses_on_plane(first, second, [0.0, 1.0, 2.0], [0.0, 1.0])
    assert losses.tolist() == [[21.0, 22.0, 23.0], [31.0, 32.0, 33.0]]


def test_a_product_after_a_slice_still_uses_the_retained_graph() -> None:
    model = build(MODELS[0])
    closure = Counted(model.loss)
    surface = LossSurface(closure, model.module.parameters())
    vector = surface.space.random(0)
    before = surface.hessian_vector_product(vector)
    surface.losses_along(vector, [0.5, 1.0])
    assert torch.equal(surface.hessian_vector_product(vector), before)
    assert closure.calls == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_back_bit_exact(dtype: torch.dtype) -> None:
    weights = [nn.Parameter(torch.randn(5, 3).to(dtype)), nn.Parameter(torch.randn(4).to(dtype))]
    before = [weight.detach().clone() for weight in weights]
    surface = LossSurface(lambda: sum((weight.double() ** 2).sum() for weight in weights), weights)
    surface.losses_along(surface.space.random(0), [0.1, 1e-3, 1e3])
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_weights_come_back_after_an_exception_in_the_loss() -> None:
    weight = nn.Parameter(torch.randn(7))
    before = weight.detach().clone()
    calls = []

    def closure() -> Tensor:
        calls.append(weight.detach().clone())
        if len(calls) == 2:
            raise ArithmeticError("the loss failed")
        return (weight**2).sum()

    surface = LossSurface(closure, [weight])
    with pytest.raises(ArithmeticError, match="the loss failed"):
        surface.losses_along(torch.ones(7), [1.0, 2.0, 3.0])
    assert torch.equal(weight, before)
    assert not torch.equal(calls[1], before)


def test_weights_come_back_after_an_exception_in_the_with_block() -> None:
    weight = nn.Parameter(torch.randn(7))
    before = weight.detach().clone()
    surface = LossSurface(lambda: (weight**2).sum(), [weight])
    with pytest.raises(KeyboardInterrupt), surface.displaced() as move_to:
        move_to((torch.ones(7), 1.0))
        assert not torch.equal(weight, before)
        raise KeyboardInterrupt
    assert torch.equal(weight, before)


def test_non_finite_losses_are_returned() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    surface = LossSurface(lambda: weight.log().sum(), [weight])
    losses = surface.losses_along(torch.ones(1), [-2.0, -1.0, 0.0])
    assert torch.isnan(losses[0])
    assert losses[1] == -torch.inf
    assert losses[2] == 0.0


def test_a_frozen_parameter_is_left_out() -> None:
    model = build(MODELS[0])
    model.module[0].weight.requires_grad_(False)
    surface = model.surface()
    assert "0.weight" not in surface.space.names
    np.testing.assert_allclose(dense(surface), model.hessian(), rtol=1e-7, atol=1e-9)


def test_an_unused_parameter_has_zero_rows() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    surface = LossSurface(lambda: (used**4).sum(), [used, unused])
    assert surface.gradient().tolist() == [4.0, 4.0, 0.0, 0.0, 0.0]
    np.testing.assert_array_equal(dense(surface), np.diag([12.0, 12.0, 0.0, 0.0, 0.0]))


def test_a_linear_loss_has_a_zero_hessian() -> None:
    weight = nn.Parameter(torch.ones(3))
    surface = LossSurface(lambda: weight.sum(), [weight])
    assert surface.hessian_vector_product(torch.ones(3)).tolist() == [0.0, 0.0, 0.0]


def test_parameters_of_which_only_some_are_curved() -> None:
    curved, flat_one = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    surface = LossSurface(lambda: (curved**2).sum() + flat_one.sum(), [flat_one, curved])
    assert surface.hessian_vector_product(torch.ones(4)).tolist() == [0.0, 0.0, 2.0, 2.0]


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precision_parameters(dtype: torch.dtype, accuracy: float) -> None:
    torch.manual_seed(0)
    module = nn.Linear(6, 3).to(dtype)
    inputs, targets = torch.randn(10, 6).to(dtype), torch.arange(10) % 3
    model = Model(module, inputs, targets, lambda output, target: F.cross_entropy(output, target))
    surface = model.surface()
    assert surface.space.dtype == torch.float32
    products = dense(surface)
    reference = model.hessian()
    assert np.abs(products - reference).max() < accuracy * np.abs(reference).max()


def test_mixed_dtypes_give_vectors_of_the_widest() -> None:
    narrow, wide = nn.Parameter(torch.ones(2, dtype=torch.bfloat16)), nn.Parameter(torch.ones(2, dtype=torch.float64))
    surface = LossSurface(lambda: (narrow.double() ** 2).sum() + (wide**3).sum(), [narrow, wide])
    assert surface.space.dtype == torch.float64
    np.testing.assert_array_equal(dense(surface), np.diag([2.0, 2.0, 6.0, 6.0]))
    assert surface.gradient().tolist() == [2.0, 2.0, 3.0, 3.0]


def test_a_live_graph() -> None:
    model = build(MODELS[0])
    loss = model.loss()
    surface = LossSurface.from_graph(loss, model.module.named_parameters())
    np.testing.assert_allclose(dense(surface), model.hessian(), rtol=1e-7, atol=1e-9)
    assert surface.loss() == loss.detach()
    with pytest.raises(RuntimeError, match="live graph"):
        surface.losses_along(surface.space.zeros(), [0.0])
    loss.backward()


def test_complex_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="complex"):
        LossSurface(lambda: torch.zeros(()), [("filter", nn.Parameter(torch.ones(2, dtype=torch.complex64)))])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [([], "no parameter was given"), ([nn.Parameter(torch.ones(2), requires_grad=False)], "frozen")],
)
def test_nothing_to_differentiate_is_refused(parameters: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"Nothing to differentiate: .*{message}"):
        LossSurface(lambda: torch.zeros(()), parameters)


def test_a_lazy_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="not initialized"):
        LossSurface(lambda: torch.zeros(()), nn.LazyLinear(3).named_parameters())


@pytest.mark.parametrize(
    ("closure", "message"),
    [
        (lambda weight: weight, "one element"),
        (lambda weight: 1.0, "got float"),
        (lambda weight: weight.sum().detach(), "without a graph"),
        (lambda weight: (weight * 1j).sum(), "complex loss"),
    ],
)
def test_what_is_not_a_loss_is_refused(closure: Callable[[Tensor], Tensor], message: str) -> None:
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        LossSurface(lambda: closure(weight), [weight]).gradient()


def test_a_vector_of_wrong_length_is_refused() -> None:
    surface = build(MODELS[0]).surface()
    with pytest.raises(ValueError, match="flat vector"):
        surface.hessian_vector_product(torch.ones(3))


def test_no_global_random_stream_is_moved() -> None:
    model = build(MODELS[0])
    surface = model.surface()
    state = torch.get_rng_state()
    surface.hessian_vector_product(surface.space.random(3))
    surface.losses_along(surface.space.random(4, "rademacher"), [0.0, 1.0])
    assert torch.equal(torch.get_rng_state(), state)


def test_an_average_over_unequal_batches_is_the_pooled_loss() -> None:
    model = build(softmax_regression)
    batches = [slice(0, 30), slice(30, 40)]
    parameters = list(model.module.parameters())
    surfaces = [
        LossSurface(
            lambda part=part: F.cross_entropy(model.module(model.inputs[part]), model.targets[part]), parameters
        )
        for part in batches
    ]
    average, pooled = AverageSurface(surfaces, weights=[30, 10]), model.surface()
    np.testing.assert_allclose(dense(average), dense(pooled), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(average.gradient(), pooled.gradient())
    torch.testing.assert_close(average.loss(), pooled.loss())
    direction = average.space.random(0)
    torch.testing.assert_close(average.losses_along(direction, [0.0, 1.0]), pooled.losses_along(direction, [0.0, 1.0]))
    torch.testing.assert_close(
        average.losses_on_plane(direction, average.space.random(1), [0.0, 1.0], [0.5]),
        pooled.losses_on_plane(direction, average.space.random(1), [0.0, 1.0], [0.5]),
    )


def test_averages_that_make_no_sense_are_refused() -> None:
    first, second = build(MODELS[0]).surface(), build(MODELS[0]).surface()
    with pytest.raises(ValueError, match="at least one"):
        AverageSurface([])
    with pytest.raises(ValueError, match="same parameters"):
        AverageSurface([first, second])
    with pytest.raises(ValueError, match="weights"):
        AverageSurface([first], weights=[-1.0])


class Doubling:
    """Stands in for an average over processes."""

    def agree(self, error: Exception | None) -> None:
        if error is not None:
            raise RuntimeError("one of the processes failed") from error

    def __call__(self, value: Tensor) -> Tensor:
        return 2 * value


def test_a_failure_is_told_to_the_other_processes() -> None:
    weight = nn.Parameter(torch.ones(2))
    surface = LossSurface(lambda: weight, [weight], average=Doubling())
    with pytest.raises(RuntimeError, match="one of the processes failed"):
        surface.gradient()


def test_the_average_over_processes_is_applied_to_everything() -> None:
    model = build(MODELS[0])
    plain = model.surface()
    surface = LossSurface(model.loss, model.module.named_parameters(), average=Doubling())
    vector = plain.space.random(0)
    torch.testing.assert_close(surface.loss(), 2 * plain.loss())
    torch.testing.assert_close(surface.gradient(), 2 * plain.gradient())
    torch.testing.assert_close(surface.hessian_vector_product(vector), 2 * plain.hessian_vector_product(vector))
    torch.testing.assert_close(surface.losses_along(vector, [0.5]), 2 * plain.losses_along(vector, [0.5]))


def test_a_gradient_that_retains_nothing_builds_no_graph_and_uses_one_that_is_there() -> None:
    model = build(MODELS[0])
    closure = Counted(model.loss)
    surface = LossSurface(closure, model.module.parameters())
    surface.gradient(retain=False)
    surface.loss()
    assert closure.calls == 2
    surface.hessian_vector_product(surface.space.random(0))
    assert closure.calls == 3
    surface.gradient(retain=False)
    surface.gradient()
    assert closure.calls == 3


def test_an_unused_parameter_has_a_zero_gradient_without_a_graph_too() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    surface = LossSurface(lambda: (used**4).sum(), [used, unused])
    assert surface.gradient(retain=False).tolist() == [4.0, 4.0, 0.0, 0.0, 0.0]


def test_no_distances_give_no_losses() -> None:
    surface = build(MODELS[0]).surface()
    losses = surface.losses_along(surface.space.random(0), [])
    assert losses.shape == (0,)
    assert losses.dtype == torch.float64


def test_a_live_graph_is_averaged_over_processes() -> None:
    weight = nn.Parameter(torch.tensor([3.0]))
    surface = LossSurface.from_graph((weight**2).sum(), [weight], average=Doubling())
    assert surface.loss() == 18.0
    assert surface.gradient().tolist() == [12.0]
    assert surface.hessian_vector_product(torch.ones(1)).tolist() == [4.0]


def test_a_space_is_taken_as_it_is() -> None:
    space = build(MODELS[0]).surface().space
    assert LossSurface(lambda: torch.zeros(()), space).space is space


@pytest.mark.parametrize(
    ("dtypes", "given", "expected"),
    [
        ([torch.float32], 0.0, 2.0**-23),
        ([torch.float64, torch.bfloat16], 0.0, 2.0**-7),
        ([torch.float32], 0.1, 0.1),
    ],
)
def test_rounding_is_that_of_the_coarsest_format(dtypes: list[torch.dtype], given: float, expected: float) -> None:
    parameters = [nn.Parameter(torch.ones(1, dtype=dtype)) for dtype in dtypes]
    arguments = {"rounding": given} if given else {}
    assert LossSurface(lambda: torch.zeros(()), parameters, **arguments).rounding == expected


def test_weights_of_an_average_may_be_zero_or_less_than_one_but_not_all_zero() -> None:
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    first = LossSurface(lambda: (weight**2).sum(), [weight])
    second = LossSurface(lambda: (weight**3).sum(), first.space)
    assert float(AverageSurface([first, second], weights=[0.5, 0.0]).loss()) == 4.0
    assert float(AverageSurface([first, second], weights=[0.25, 0.75]).loss()) == 7.0
    assert float(AverageSurface([first, second]).loss()) == 6.0
    for weights in ([0.0, 0.0], [3.0, -1.0], [1.0], [1.0, 1.0, 1.0]):
        with pytest.raises(ValueError, match="Expected 2 non-negative weights with a positive sum"):
            AverageSurface([first, second], weights=weights)
