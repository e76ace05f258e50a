"""Batch sharpness against dense linear algebra, and at the limit where training by small batches settles."""

import math

import pytest
import torch

from landscape_callbacks.surface.batch_sharpness import batch_sharpness
from landscape_callbacks.surface.loss_surface import LossSurface
from tests import cases


def surfaces_at(case, theta, batches, size, seed=0):
    weight = torch.nn.Parameter(theta.clone())
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(case.samples, (size,), generator=generator) for _ in range(batches)]
    return [LossSurface(lambda row=row: case.loss(weight, row), [weight]) for row in rows], rows


def test_against_dense_hessians():
    case = cases.tanh_net(0)
    surfaces, rows = surfaces_at(case, case.start, 5, 8)
    curvatures = []
    for row in rows:
        gradient, hessian = case.gradient(case.start, row), case.hessian(case.start, row)
        curvatures.append(float(gradient @ hessian @ gradient / (gradient @ gradient)))
    found = batch_sharpness(surfaces)
    expected = torch.tensor(curvatures, dtype=torch.float64)
    assert found.value == pytest.approx(float(expected.mean()))
    assert found.error == pytest.approx(float(expected.std()) / math.sqrt(5))
    assert (found.batches, found.products) == (5, 5)


def test_in_the_metric_of_the_optimizer_with_its_decay():
    case = cases.quadratic(0, torch.tensor([3.0, 1.0]))
    preconditioner = torch.tensor([4.0, 0.25], dtype=torch.float64)
    found = batch_sharpness(surfaces_at(case, case.start, 1, 512)[0], preconditioner=preconditioner, weight_decay=0.5)
    scale = preconditioner.rsqrt()
    gradient = scale * (case.gradient(case.start) + 0.5 * case.start)
    hessian = scale[:, None] * (case.hessian(case.start) + 0.5 * torch.eye(2)) * scale
    assert found.value == pytest.approx(float(gradient @ hessian @ gradient / (gradient @ gradient)))
    assert math.isnan(found.error)


def test_exceeds_the_curvature_of_the_mean_loss_for_small_batches():
    # Linear regression on Gaussian inputs, one sample a batch: g is along x and the curvature along it is ‖x‖².
    case = cases.linear_regression(0, size=10, decay=0.0)
    found = batch_sharpness(surfaces_at(case, case.start, 60, 1)[0])
    assert found.value == pytest.approx(10, abs=4 * found.error)
    assert found.value > 3 * float(torch.linalg.eigvalsh(case.hessian(case.start))[-1])


def test_zero_gradients_do_not_count():
    case = cases.dead_relu(0)
    found = batch_sharpness(surfaces_at(case, case.start, 3, 4)[0])
    assert math.isnan(found.value)
    assert found.batches == 0


def test_refuses_nothing_at_all():
    with pytest.raises(ValueError, match="got none"):
        batch_sharpness([])


def test_two_batches_are_enough_for_an_error_and_zero_gradients_for_none():
    case = cases.tanh_net(1)
    surfaces, rows = surfaces_at(case, case.start, 2, 8)
    curvatures = torch.stack(
        [
            gradient @ case.hessian(case.start, row) @ gradient / (gradient @ gradient)
            for row, gradient in ((row, case.gradient(case.start, row)) for row in rows)
        ]
    )
    found = batch_sharpness(surfaces)
    assert found.value == pytest.approx(float(curvatures.mean()))
    assert found.error == pytest.approx(float(curvatures.std()) / math.sqrt(2))
    dead = cases.dead_relu(0)
    nothing = batch_sharpness(surfaces_at(dead, dead.start, 3, 4)[0])
    assert math.isnan(nothing.error)
    assert nothing.products == 0
