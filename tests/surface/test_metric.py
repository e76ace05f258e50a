"""The surface in the metric of an optimizer, against dense algebra."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape_callbacks.surface import LossSurface, extreme_eigenvalues
from landscape_callbacks.surface.metric import MetricSurface
from tests.surface.models import MODELS, Model, build

ALPHAS = [-0.5, 0.0, 0.3, 1.0]


@pytest.fixture(params=["number", "vector"])
def decay(request: pytest.FixtureRequest) -> Callable[[int], float | Tensor]:
    return lambda n: 0.3 if request.param == "number" else torch.linspace(0.0, 0.5, n, dtype=torch.float64)


def diagonal(n: int) -> Tensor:
    return torch.rand(n, dtype=torch.float64) * 3 + 0.1


def as_matrix(decay: float | Tensor, n: int) -> np.ndarray:
    return np.diag(np.broadcast_to(np.asarray(decay), n))


@pytest.fixture
def model() -> Model:
    return build(MODELS[0])


def test_gradient_and_products_are_those_of_the_scaled_coordinates(model: Model, decay) -> None:
    surface = model.surface()
    n = surface.space.dimension
    precondition, w = diagonal(n), decay(n)
    metric = MetricSurface(surface, precondition, w)
    root = np.diag(precondition.numpy() ** -0.5)
    weights, vector = surface.space.weights(), torch.randn(n, dtype=torch.float64)
    gradient = root @ (surface.gradient().numpy() + as_matrix(w, n) @ weights.numpy())
    np.testing.assert_allclose(metric.gradient(), gradient, rtol=1e-8, atol=1e-12)
    product = root @ (model.hessian() + as_matrix(w, n)) @ root @ vector.numpy()
    np.testing.assert_allclose(metric.hessian_vector_product(vector), product, rtol=1e-8, atol=1e-9)
    assert float(metric.loss()) == float(surface.loss())


def test_its_spectrum_is_that_of_the_preconditioned_hessian(model: Model) -> None:
    surface = model.surface()
    precondition = diagonal(surface.space.dimension)
    pairs = extreme_eigenvalues(MetricSurface(surface, precondition), 2, 2, tolerance=1e-6, smallest_tolerance=1e-6)
    reference = np.sort(np.linalg.eigvals(model.hessian() / precondition.numpy()[:, None]).real)[::-1]
    np.testing.assert_allclose(pairs.values, reference[[0, 1, -2, -1]], rtol=1e-6)


def test_losses_along_a_line_hold_the_decay_as_a_difference(model: Model, decay) -> None:
    surface = model.surface()
    n = surface.space.dimension
    precondition, w = diagonal(n), decay(n)
    metric = MetricSurface(surface, precondition, w)
    direction = torch.randn(n, dtype=torch.float64)
    inner = direction * precondition**-0.5
    assert torch.equal(metric.to_weights(direction), direction * precondition.rsqrt())
    weights = surface.space.weights()

    def penalty(alpha: float) -> float:
        return float(0.5 * (torch.as_tensor(w) * (weights + alpha * inner) ** 2).sum())

    expected = surface.losses_along(inner, ALPHAS) + torch.tensor([penalty(a) - penalty(0.0) for a in ALPHAS])
    torch.testing.assert_close(metric.losses_along(direction, ALPHAS), expected, rtol=1e-6, atol=1e-6)
    at = torch.tensor(ALPHAS)
    assert torch.equal(metric.losses_along(direction, at), metric.losses_along(direction, at.tolist()))
    assert float(metric.losses_along(direction, [0.0])) == float(surface.loss())


def test_without_a_metric_it_is_the_surface_itself(model: Model) -> None:
    surface = model.surface()
    metric = MetricSurface(surface)
    vector = torch.randn(surface.space.dimension, dtype=torch.float64)
    assert metric.to_weights(vector) is vector
    assert torch.equal(metric.gradient(), surface.gradient())
    assert torch.equal(metric.hessian_vector_product(vector), surface.hessian_vector_product(vector))
    assert torch.equal(metric.losses_along(vector, ALPHAS), surface.losses_along(vector, ALPHAS))
    assert metric.weight_norm() == pytest.approx(float(surface.space.weights().norm()))


def test_the_norm_of_the_weights_is_that_of_the_parameters_that_move() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 5.0, 7.0], dtype=torch.float64))
    surface = LossSurface(lambda: (weight**2).sum(), [weight])
    held = torch.tensor([4.0, torch.inf, 1.0], dtype=torch.float64)
    metric = MetricSurface(surface, held)
    assert metric.weight_norm() == pytest.approx((4 * 9 + 49) ** 0.5)
    # What does not move has neither gradient nor curvature.
    assert metric.gradient().tolist() == [3.0, 0.0, 14.0]
    assert metric.hessian_vector_product(torch.ones(3, dtype=torch.float64)).tolist() == [0.5, 0.0, 2.0]


def test_release_reaches_the_surface(model: Model) -> None:
    surface = model.surface()
    released = []
    surface.release = lambda: released.append(True)  # type: ignore[method-assign]
    MetricSurface(surface).release()
    assert released == [True]


def test_a_weight_decay_of_one_is_one() -> None:
    weight = nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    metric = MetricSurface(LossSurface(lambda: (weight**2).sum(), [weight]), weight_decay=1.0)
    assert metric.gradient().tolist() == [9.0]
    # 9 + ½·3² - ½·3² at 0, and to the last digit at a distance that single precision does not hold.
    alphas = [0.0, 0.1]
    expected = [9.0, 3.1**2 + 0.5 * (3.1**2 - 9)]
    assert metric.losses_along(torch.ones(1, dtype=torch.float64), alphas).tolist() == pytest.approx(
        expected, abs=1e-12
    )
