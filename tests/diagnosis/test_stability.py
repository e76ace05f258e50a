"""Stability limits against real torch optimizers on quadratics."""

import math

import pytest
import torch

from landscape_callbacks.diagnosis.stability import (
    OPTIMIZER_KINDS,
    curvature_limit,
    effective_learning_rate,
    largest_stable_learning_rate,
)


def _diverges(make_optimizer, curvature, steps=800):
    weight = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = make_optimizer([weight])
    for _ in range(steps):
        weight.grad = curvature * weight.detach()
        optimizer.step()
        if not abs(weight.item()) < 1e12:
            return True
    return abs(weight.item()) > 1.0


def _measured_limit(make_optimizer, guess):
    low, high = 0.9 * guess, 1.1 * guess
    assert not _diverges(make_optimizer, low)
    assert _diverges(make_optimizer, high)
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _diverges(make_optimizer, middle) else (middle, high)
    return math.sqrt(low * high)


FORMS = {
    "gradient descent": ("gradient_descent", {}, lambda p: torch.optim.SGD(p, lr=0.1)),
    "dampened without momentum": (
        "heavy_ball",
        {"dampening": 0.3},
        lambda p: torch.optim.SGD(p, lr=0.1, dampening=0.3),
    ),
    "heavy ball": ("heavy_ball", {"momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "dampened": (
        "heavy_ball",
        {"momentum": 0.8, "dampening": 0.3},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, dampening=0.3),
    ),
    "nesterov": ("nesterov", {"momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
    "moving average": (
        "moving_average",
        {"momentum": 0.9},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.9),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_limit_of_plain_forms_is_where_torch_begins_to_diverge(name):
    kind, options, make_optimizer = FORMS[name]
    limit = curvature_limit(kind, 0.1, **options)
    assert _measured_limit(make_optimizer, limit) == pytest.approx(limit, rel=0.02)


# A second moment that barely moves freezes the preconditioner: with v = c² from the first step on, P = c, and the
# preconditioned curvature is h/c.
FROZEN = {
    "adam": ({"betas": (0.9, 1 - 1e-12)}, lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.9, 1 - 1e-12), eps=0)),
    "adamw": (
        {"betas": (0.8, 1 - 1e-12), "decoupled_weight_decay": 20.0},
        lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 1 - 1e-12), eps=0, weight_decay=20.0),
    ),
    "nadam": (
        {"betas": (0.9, 1 - 1e-12)},
        lambda p: torch.optim.NAdam(p, lr=1e-2, betas=(0.9, 1 - 1e-12), eps=0, momentum_decay=10.0),
    ),
    "adamax": ({"betas": (0.9, 1 - 1e-12)}, lambda p: torch.optim.Adamax(p, lr=1e-2, betas=(0.9, 1 - 1e-12), eps=0)),
    "rmsprop": (
        {"momentum": 0.5},
        lambda p: torch.optim.RMSprop(p, lr=1e-2, alpha=1 - 1e-12, momentum=0.5, eps=0),
    ),
}


@pytest.mark.parametrize("kind", FROZEN)
def test_limit_of_adaptive_forms_with_a_frozen_preconditioner(kind):
    options, make_optimizer = FROZEN[kind]
    limit = curvature_limit(kind, 1e-2, **options)

    def frozen(parameters):
        optimizer = make_optimizer(parameters)
        for parameter in parameters:
            state = optimizer.state[parameter]
            state["step"] = torch.tensor(1e9)
            for name in ("exp_avg", "momentum_buffer"):
                state[name] = torch.zeros_like(parameter.data)
            state["exp_avg_sq"] = state["square_avg"] = torch.ones_like(parameter.data)
            state["exp_inf"] = torch.full_like(parameter.data, 1.0)
            state["mu_product"] = torch.tensor(0.0, dtype=torch.float64)
        return optimizer

    # Bias correction divides by 1 - beta2**step, about 1e-3 here: the frozen second moment is 1 after it.
    correction = 1 - (1 - 1e-12) ** 1e9 if kind in ("adam", "adamw", "nadam") else 1.0
    scale = math.sqrt(1 / correction)

    def diverges(curvature):
        weight = torch.nn.Parameter(torch.tensor([1e-9], dtype=torch.float64))
        optimizer = frozen([weight])
        for _ in range(800):
            weight.grad = curvature * scale * weight.detach()
            optimizer.step()
            # Gradients have to stay small beside the frozen second moment of 1.
            if not abs(curvature * scale * weight.item()) < 1e-2:
                return True
        return abs(weight.item()) > 1e-9

    low, high = 0.9 * limit, 1.1 * limit
    assert not diverges(low)
    assert diverges(high)
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if diverges(middle) else (middle, high)
    assert math.sqrt(low * high) == pytest.approx(limit, rel=0.02)


def test_adam_on_a_quadratic_settles_at_the_limit_by_itself():
    # The second moment shrinks with the gradient until the preconditioned curvature meets the limit, and hovers there.
    weight = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=1e-2, betas=(0.9, 0.995), eps=0.0)
    preconditioned = []
    for step in range(1, 8001):
        weight.grad = 3.0 * weight.detach()
        optimizer.step()
        second = optimizer.state[weight]["exp_avg_sq"].item() / (1 - 0.995**step)
        preconditioned.append(3.0 / math.sqrt(second))
    ratio = sum(preconditioned[-3000:]) / 3000 / curvature_limit("adam", 1e-2)
    assert 0.9 < ratio < 1.1


@pytest.mark.parametrize("kind", OPTIMIZER_KINDS)
def test_largest_stable_learning_rate_inverts_the_limit(kind):
    options = {"momentum": 0.7, "betas": (0.85, 0.99), "dampening": 0.2, "decoupled_weight_decay": 0.3}
    limit = curvature_limit(kind, 0.05, **options)
    assert largest_stable_learning_rate(kind, limit, **options) == pytest.approx(0.05)


def test_no_positive_curvature_bounds_nothing():
    assert largest_stable_learning_rate("gradient_descent", -3.0) == math.inf


def test_known_numbers():
    assert curvature_limit("gradient_descent", 0.1) == pytest.approx(20)
    assert curvature_limit("heavy_ball", 0.1, momentum=0.9) == pytest.approx(38)
    assert curvature_limit("nesterov", 0.1, momentum=0.9) == pytest.approx(3.8 / 2.8 / 0.1)
    assert curvature_limit("adamw", 1e-3) == pytest.approx(38 / 1e-3)
    assert curvature_limit("rmsprop", 1e-3) == pytest.approx(2 / 1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lion", 0.1, {}), "Unknown kind"),
        (("adam", 0.0, {}), "learning rate has to be positive"),
        (("adam", 0.1, {"betas": (1.0, 0.9)}), "got 1.0"),
        (("heavy_ball", 0.1, {"momentum": 0.5, "dampening": 1.0}), "Dampening"),
        (("adamw", 0.1, {"decoupled_weight_decay": -1.0}), "at least 0"),
    ],
)
def test_refusals_repeat_what_was_received(arguments, message):
    kind, rate, options = arguments
    with pytest.raises(ValueError, match=message):
        curvature_limit(kind, rate, **options)


@pytest.mark.parametrize("name", FORMS)
def test_effective_learning_rate_is_the_drift_under_a_steady_gradient(name):
    kind, options, make_optimizer = FORMS[name]
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = make_optimizer([weight])
    for _ in range(300):
        before = weight.item()
        weight.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    assert before - weight.item() == pytest.approx(effective_learning_rate(kind, 0.1, **options))


def test_decay_that_is_unstable_by_itself_leaves_no_curvature():
    assert curvature_limit("adamw", 1.0, decoupled_weight_decay=3.0) == 0.0


@pytest.mark.parametrize(("curvature", "expected"), [(20.0, 0.1), (0.01, 200.0)])
def test_without_momentum_the_largest_stable_learning_rate_is_that_of_gradient_descent(curvature, expected):
    for kind in ("gradient_descent", "heavy_ball", "nesterov", "rmsprop", "adagrad"):
        assert largest_stable_learning_rate(kind, curvature) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [kind for kind in OPTIMIZER_KINDS if kind != "heavy_ball"])
def test_dampening_changes_the_heavy_ball_alone(kind):
    plain, dampened = ({"momentum": 0.9, "dampening": dampening} for dampening in (0.0, 0.3))
    assert curvature_limit(kind, 0.1, **dampened) == curvature_limit(kind, 0.1, **plain)


@pytest.mark.parametrize("kind", OPTIMIZER_KINDS)
def test_effective_learning_rate_of_every_kind(kind):
    # A buffer that sums gradients moves 1/(1-β) times as far by a steady one; an average of them moves as far.
    sums = kind in ("heavy_ball", "nesterov", "rmsprop")
    found = effective_learning_rate(kind, 0.1, momentum=0.75, betas=(0.8, 0.9))
    assert found == pytest.approx(0.4 if sums else 0.1)
    assert effective_learning_rate(kind, 0.1) == pytest.approx(0.1)
