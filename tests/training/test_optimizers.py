"""The description of an optimizer, against the steps that torch takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, NAdam, RMSprop

from landscape_callbacks.diagnosis.stability import curvature_limit
from landscape_callbacks.surface.vectors import ParameterSpace
from landscape_callbacks.training.optimizers import describe_optimizer, unwrap_optimizer


def _parameters(dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in [(3, 2), (4,)]]


def _loss(parameters: list[torch.nn.Parameter], step: int) -> Tensor:
    """A loss whose gradient changes in size and sign from step to step."""
    first, second = parameters
    return (
        (first**4).sum() * (1 + 0.3 * step)
        + ((second - 0.7 * (-1) ** step) ** 2).sum()
        + first.sum() * second.sum() * 0.1
    )


def _run(
    optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights before the last step, its update, and the raw gradient that it used."""
    space = ParameterSpace(parameters)
    for step in range(steps):
        optimizer.zero_grad()
        _loss(parameters, step).backward()
        before, gradient = space.weights(), space.flatten([p.grad for p in parameters])
        optimizer.step()
    return before, space.weights() - before, gradient


IMPLEMENTATIONS = [{"foreach": False}, {"foreach": True}, {"fused": True}]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=["for loop", "foreach", "fused"])
@pytest.mark.parametrize("steps", [1, 2, 40])
@pytest.mark.parametrize(
    "options",
    [{}, {"amsgrad": True}, {"weight_decay": 0.1}, {"eps": 0.3}],
    ids=lambda o: next(iter(o), "plain"),
)
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_the_step_of_adam_is_minus_rate_times_preconditioned_momentum(kind, options, steps, implementation):
    parameters = _parameters()
    optimizer = kind(parameters, lr=0.01, betas=(0.8, 0.95), **{"weight_decay": 0.0, **options}, **implementation)
    before, update, _ = _run(optimizer, parameters, steps)
    space = ParameterSpace(parameters)
    description = describe_optimizer(optimizer, space)
    momentum = space.flatten([optimizer.state[p]["exp_avg"] for p in parameters])
    expected = -0.01 * momentum / description.preconditioner
    if description.decoupled_weight_decay:
        expected = expected - 0.01 * description.weight_decay * before
    torch.testing.assert_close(update, expected, rtol=1e-9, atol=1e-15)
    assert description.kind == ("adamw" if kind is AdamW else "adam")
    assert description.betas == (0.8, 0.95)
    assert description.steps == steps
    assert description.why_not is None
    assert description.amsgrad == options.get("amsgrad", False)


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, NAdam, RMSprop])
def test_an_optimizer_that_climbs_is_not_judged_by_the_limits_of_descent(kind):
    parameters = _parameters()
    description = describe_optimizer(kind(parameters, lr=0.01, maximize=True), ParameterSpace(parameters))
    assert description.kind == "unknown"
    assert description.learning_rate == 0.01
    assert "climbs the loss (maximize=True)" in description.why_not
    assert "negative" in description.why_not


@pytest.mark.parametrize("steps", [1, 2, 40])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_step_of_rmsprop(momentum, centered, foreach, steps):
    parameters = _parameters()
    optimizer = RMSprop(
        parameters,
        lr=0.01,
        alpha=0.9,
        momentum=momentum,
        centered=centered,
        weight_decay=0.2,
        foreach=foreach,
        eps=1e-3,
    )
    space = ParameterSpace(parameters)
    _run(optimizer, parameters, steps - 1) if steps > 1 else None
    buffers = [optimizer.state[p].get("momentum_buffer") if optimizer.state else None for p in parameters]
    previous = space.flatten([None if b is None else b.clone() for b in buffers])
    optimizer.zero_grad()
    _loss(parameters, 5).backward()
    before = space.weights()
    optimizer.step()
    description = describe_optimizer(optimizer, space)
    gradient = space.flatten([p.grad for p in parameters]) + description.coupled_decay * before
    expected = -0.01 * (momentum * previous + gradient / description.preconditioner)
    torch.testing.assert_close(space.weights() - before, expected, rtol=1e-9, atol=1e-15)
    assert description.kind == "rmsprop"
    assert description.momentum == momentum
    assert description.centered == centered
    assert description.betas == (0.0, 0.9)
    assert description.coupled_decay == 0.2


def test_nadam_divides_by_its_preconditioner():
    parameters = _parameters()
    optimizer = NAdam(parameters, lr=0.01, betas=(0.8, 0.95))
    _, update, gradient = _run(optimizer, parameters, 7)
    space = ParameterSpace(parameters)
    description = describe_optimizer(optimizer, space)
    state = [optimizer.state[p] for p in parameters]
    momentum = space.flatten([s["exp_avg"] for s in state])
    mu = 0.8 * (1 - 0.5 * 0.96 ** (7 * 4e-3))
    mu_next = 0.8 * (1 - 0.5 * 0.96 ** (8 * 4e-3))
    product = float(state[0]["mu_product"])
    mixture = (1 - mu) / (1 - product) * gradient + mu_next / (1 - product * mu_next) * momentum
    torch.testing.assert_close(update, -0.01 * mixture / description.preconditioner, rtol=1e-6, atol=1e-15)
    assert description.kind == "nadam"
    assert description.nesterov


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "gradient_descent"),
        ({"momentum": 0.9}, "heavy_ball"),
        ({"momentum": 0.9, "dampening": 0.5}, "heavy_ball"),
        ({"momentum": 0.9, "nesterov": True}, "nesterov"),
    ],
)
def test_sgd_has_no_preconditioner(options, kind):
    parameters = _parameters()
    description = describe_optimizer(SGD(parameters, lr=0.3, **options), ParameterSpace(parameters))
    assert (description.kind, description.learning_rate, description.preconditioner) == (kind, 0.3, None)
    assert description.why_not is None
    assert description.steps is None
    assert description.momentum == options.get("momentum", 0.0)
    assert description.dampening == options.get("dampening", 0.0)
    assert description.nesterov == (kind == "nesterov")


def test_groups_with_different_rates_become_part_of_the_preconditioner():
    first, second = _parameters()
    optimizer = Adam([{"params": [second], "lr": 0.002}, {"params": [first], "lr": 0.01}], betas=(0.8, 0.95))
    _, update, _ = _run(optimizer, [first, second], 5)
    space = ParameterSpace([first, second])
    description = describe_optimizer(optimizer, space)
    assert description.learning_rate == 0.01
    assert description.learning_rates == (0.002, 0.01)
    momentum = space.flatten([optimizer.state[p]["exp_avg"] for p in (first, second)])
    torch.testing.assert_close(update, -0.01 * momentum / description.preconditioner, rtol=1e-9, atol=1e-15)

    sgd = SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.4}])
    expected = space.flatten([torch.full_like(first, 4.0), torch.ones_like(second)])
    torch.testing.assert_close(describe_optimizer(sgd, space).preconditioner, expected)


def _curvature_product(description, space, hessian_vector_product):
    surface = SimpleNamespace(space=space, hessian_vector_product=hessian_vector_product)
    return description.metric_surface(surface).hessian_vector_product


def test_a_parameter_that_does_not_move_has_an_infinite_preconditioner():
    first, second = _parameters()
    space = ParameterSpace([first, second])
    elsewhere = describe_optimizer(SGD([first], lr=0.1), space)
    frozen = describe_optimizer(SGD([{"params": [first]}, {"params": [second], "lr": 0.0}], lr=0.1), space)
    adam = Adam([first, second], lr=0.1)
    first.square().sum().backward()
    adam.step()
    unused = describe_optimizer(adam, space)
    for description in (elsewhere, frozen, unused):
        assert torch.isinf(description.preconditioner[first.numel() :]).all()
        assert torch.isfinite(description.preconditioner[: first.numel()]).all()
        product = _curvature_product(description, space, lambda v: torch.full_like(v, v.sum().item()))(
            torch.ones(10, dtype=torch.float64)
        )
        assert torch.isfinite(product).all()
        assert not product[first.numel() :].any()


def test_weight_decay_by_group_is_a_vector():
    first, second = _parameters()
    optimizer = SGD([{"params": [second], "weight_decay": 0.0}, {"params": [first]}], lr=0.1, weight_decay=0.5)
    space = ParameterSpace([first, second])
    description = describe_optimizer(optimizer, space)
    assert description.weight_decay == 0.5
    torch.testing.assert_close(
        description.coupled_decay, space.flatten([torch.full_like(first, 0.5), torch.zeros_like(second)])
    )
    vector = space.random(0)
    torch.testing.assert_close(
        _curvature_product(description, space, lambda v: 2 * v)(vector), (2 + description.coupled_decay) * vector
    )


def test_the_curvature_product_has_the_eigenvalues_of_the_preconditioned_hessian():
    parameters = _parameters()
    optimizer = Adam(parameters, lr=0.01, weight_decay=0.1)
    _run(optimizer, parameters, 6)
    space = ParameterSpace(parameters)
    description = describe_optimizer(optimizer, space)
    root = torch.randn(10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    hessian = root + root.T
    product = _curvature_product(description, space, lambda v: hessian @ v)
    matrix = torch.stack([product(unit) for unit in torch.eye(10, dtype=torch.float64)])
    torch.testing.assert_close(matrix, matrix.T)
    reference = torch.linalg.eigvals((hessian + 0.1 * torch.eye(10)) / description.preconditioner[:, None]).real
    torch.testing.assert_close(torch.linalg.eigvalsh(matrix), reference.sort().values, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda p: SGD(p, lr=0.5), 4.0),
        (lambda p: SGD(p, lr=0.5, momentum=0.5), 6.0),
        (lambda p: SGD(p, lr=0.5, momentum=0.5, dampening=0.5), 12.0),
        (lambda p: SGD(p, lr=0.5, momentum=0.5, nesterov=True), 3.0),
        (lambda p: Adam(p, lr=1e-3), 38000.0),
        (lambda p: AdamW(p, lr=1e-3, weight_decay=1.0), 38000.0 - 19.0),
        (lambda p: RMSprop(p, lr=0.5, momentum=0.5), 6.0),
    ],
)
def test_the_form_that_the_stability_limits_take(build, expected):
    parameters = _parameters()
    description = describe_optimizer(build(parameters), ParameterSpace(parameters))
    limit = curvature_limit(learning_rate=description.learning_rate, **description.stability_form)
    assert limit == pytest.approx(expected)


@pytest.mark.parametrize("kind", [Adam, AdamW, RMSprop, NAdam])
def test_before_the_first_step_the_preconditioner_is_not_known(kind):
    parameters = _parameters()
    space = ParameterSpace(parameters)
    description = describe_optimizer(kind(parameters, lr=0.01), space)
    assert description.preconditioner is None
    assert "has not stepped yet" in description.why_not
    with pytest.raises(ValueError, match="has not stepped yet"):
        _curvature_product(description, space, lambda v: v)


class _OwnStep(Adam):
    def step(self, closure=None):
        return super().step(closure)


class _OwnName(AdamW):
    pass


def test_what_is_unknown_says_so():
    parameters = _parameters()
    space = ParameterSpace(parameters)
    for optimizer in (torch.optim.LBFGS(parameters), _OwnStep(parameters), torch.optim.Adagrad(parameters)):
        description = describe_optimizer(optimizer, space)
        assert description.kind == "unknown"
        assert description.preconditioner is None
        assert type(optimizer).__name__ in description.why_not
        assert description.learning_rate == optimizer.param_groups[0]["lr"]
    assert "holds none" in describe_optimizer(SGD(_parameters(), lr=0.1), space).why_not
    mixed = SGD([{"params": [parameters[0]], "momentum": 0.9}, {"params": [parameters[1]]}], lr=0.1)
    assert "differ in momentum" in describe_optimizer(mixed, space).why_not


def test_a_subclass_with_torchs_step_and_a_scheduled_optimizer_are_known():
    parameters = _parameters()
    optimizer = _OwnName(parameters, lr=0.01)
    torch.optim.lr_scheduler.StepLR(optimizer, 3)
    _run(optimizer, parameters, 2)
    description = describe_optimizer(optimizer, ParameterSpace(parameters))
    assert description.kind == "adamw"
    assert description.preconditioner is not None


def test_lightnings_wrapper_is_opened():
    from lightning.pytorch.core.optimizer import LightningOptimizer

    parameters = _parameters()
    optimizer = SGD(parameters, lr=0.25)
    wrapped = LightningOptimizer(optimizer)
    assert unwrap_optimizer(wrapped) is optimizer
    assert describe_optimizer(wrapped, ParameterSpace(parameters)).learning_rate == 0.25


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_and_a_rate_held_as_tensor(dtype):
    parameters = _parameters(dtype)
    optimizer = Adam(parameters, lr=torch.tensor(0.125), foreach=False)
    _run(optimizer, parameters, 3)
    description = describe_optimizer(optimizer, ParameterSpace(parameters))
    assert description.learning_rate == 0.125
    assert description.preconditioner.dtype == torch.float32
    assert (description.preconditioner > 0).all()


def test_reading_changes_nothing():
    parameters = _parameters()
    optimizer = Adam(parameters, lr=0.01)
    _run(optimizer, parameters, 3)
    before = {k: v.clone() for k, v in optimizer.state[parameters[0]].items()}
    random_state = torch.get_rng_state()
    describe_optimizer(optimizer, ParameterSpace(parameters))
    assert all(torch.equal(before[key], value) for key, value in optimizer.state[parameters[0]].items())
    assert torch.equal(random_state, torch.get_rng_state())


def test_a_rate_of_zero_keeps_the_shape_of_the_map():
    parameters = _parameters()
    space = ParameterSpace(parameters)
    assert describe_optimizer(SGD(parameters, lr=0.0), space).preconditioner is None
    optimizer = Adam(parameters, lr=0.1)
    _run(optimizer, parameters, 2)
    before = describe_optimizer(optimizer, space).preconditioner
    optimizer.param_groups[0]["lr"] = 0.0
    torch.testing.assert_close(describe_optimizer(optimizer, space).preconditioner, before, rtol=0, atol=0)
