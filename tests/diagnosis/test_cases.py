"""The closed forms of the problems with known truth, against dense linear algebra and against simulation."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests import cases


def eigenvalues(case, theta):
    return torch.linalg.eigvalsh(case.hessian(theta))


def descend(case, rate, steps, theta=None, momentum=0.0, batch_size=None, seed=0):
    """Weights and full losses along a run; on batches drawn with replacement when a batch size is given."""
    generator = torch.Generator().manual_seed(seed)
    theta = case.start.clone() if theta is None else theta.clone()
    velocity, losses = torch.zeros_like(theta), []
    for _ in range(steps):
        rows = None if batch_size is None else torch.randint(case.samples, (1, batch_size), generator=generator)
        losses.append(float(case.loss(theta)))
        velocity = momentum * velocity + case.gradients(theta[None], rows)[0]
        theta = theta - rate * velocity
    return theta, np.array(losses)


@pytest.mark.parametrize(
    "case",
    [
        cases.quadratic(0, torch.tensor([1.0, -0.5]), noise=1.0),
        cases.quartic_saddle(0, noise=0.5),
        cases.rosenbrock(),
        cases.monkey_saddle((0.3, -0.4)),
        cases.deep_linear(0, depth=3, scale=0.5, label_noise=0.1),
        cases.linear_regression(0),
        cases.softmax_regression(0),
        cases.tanh_net(0),
        cases.duplicated_neurons(0),
        cases.interpolating(0),
        dataclasses.replace(cases.dead_relu(0), start=torch.linspace(-1, 1, 30, dtype=torch.float64)),
    ],
    ids=lambda case: case.name,
)
def test_gradients_in_closed_form_agree_with_autograd(case):
    generator = torch.Generator().manual_seed(0)
    thetas = case.start + 0.3 * torch.randn(3, len(case.start), generator=generator, dtype=torch.float64)
    rows = torch.randint(case.samples, (3, 5), generator=generator)
    found, whole = case.gradients(thetas, rows), case.gradients(thetas)
    for theta, row, on_rows, on_all in zip(thetas, rows, found, whole, strict=True):
        torch.testing.assert_close(on_rows, case.gradient(theta, row))
        torch.testing.assert_close(on_all, case.gradient(theta))


def test_quadratic_has_the_spectrum_that_was_asked_for():
    wanted = torch.tensor([5.0, 1.0, 0.2, -0.3])
    found = eigenvalues(cases.quadratic(0, wanted), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(found, wanted.double().sort()[0])


def test_quartic_saddle():
    case = cases.quartic_saddle(0, noise=0.5)
    torch.testing.assert_close(eigenvalues(case, torch.zeros(2).double()), torch.tensor([-2.0, 2.0]).double())
    minimum = torch.tensor([0.0, math.sqrt(2)], dtype=torch.float64)
    torch.testing.assert_close(eigenvalues(case, minimum), torch.tensor([2.0, 4.0]).double())
    assert float(case.loss(minimum)) == pytest.approx(-1)
    assert float(case.gradient(minimum).norm()) < 1e-12


def test_rosenbrock_and_monkey_saddle():
    minimum = torch.ones(2, dtype=torch.float64)
    found = eigenvalues(cases.rosenbrock(), minimum)
    torch.testing.assert_close(found, torch.tensor([0.39936, 1001.60064]).double(), rtol=1e-5, atol=1e-5)
    case = cases.monkey_saddle()
    assert float(case.gradient(case.start).norm()) == 0
    assert float(case.hessian(case.start).norm()) == 0
    assert float(case.loss(torch.tensor([-0.1, 0.0]).double())) < 0


def test_deep_linear_net_exit_time_plateau_and_curvature():
    strengths, scale, rate = (2.0, 0.5), 1e-3, 0.01
    case = cases.deep_linear(0, strengths, scale, label_noise=0.2)
    residual = float(case.loss(torch.zeros(8).double())) - 0.5 * (4 + 0.25)
    _, losses = descend(case, rate, 1500)
    # Mode s is half learned at t = ln(s/u0 - 1)/(2s); for the second that lies beyond this run.
    half = math.log(strengths[0] / scale**2 - 1) / (2 * strengths[0]) / rate
    crossing = int(np.argmax(losses < residual + 0.5 * (1.0**2 + 0.25)))
    assert crossing == pytest.approx(half, rel=0.02)
    assert losses[700] == pytest.approx(residual + 0.5 * 0.25, rel=0.01)
    plateau, _ = descend(case, rate, 700)
    assert float(eigenvalues(case, plateau)[0]) == pytest.approx(-0.5, rel=0.01)
    start_values = eigenvalues(case, case.start)
    assert float(start_values[0]) == pytest.approx(-2.0, rel=0.01)


def test_depth_three_is_blind_at_the_origin():
    case = cases.deep_linear(0, depth=3)
    origin = torch.zeros_like(case.start)
    assert float(case.hessian(origin).norm()) == 0


def test_regressions_have_their_closed_form_hessians():
    case = cases.linear_regression(1)
    inputs = case.data[0]
    torch.testing.assert_close(case.hessian(case.start), inputs.T @ inputs / len(inputs))
    case = cases.softmax_regression(1, size=3, classes=4, samples=50)
    theta = torch.linspace(-1, 1, 12, dtype=torch.float64)
    inputs = case.data[0]
    probabilities = torch.softmax(inputs @ theta.reshape(3, 4), dim=1)
    blocks = torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None, :]
    expected = torch.einsum("ni,nj,nab->iajb", inputs, inputs, blocks).reshape(12, 12) / 50
    torch.testing.assert_close(case.hessian(theta), expected)


def test_duplicated_neurons_have_the_antisymmetric_block():
    case = cases.duplicated_neurons(3)
    theta, _ = descend(case, 0.1, 3000)
    weights, outer = theta[:8].reshape(2, 4), theta[8:]
    torch.testing.assert_close(weights[0], weights[1])
    inputs, outputs = case.data
    hidden = torch.tanh(inputs @ weights[0])
    residual = hidden * outer.sum() - outputs
    second = -2 * hidden * (1 - hidden**2)
    block = 0.5 * outer.sum() * (inputs.T * (residual * second)) @ inputs / len(inputs)
    antisymmetric = torch.cat([torch.eye(4), -torch.eye(4)]).double() / math.sqrt(2)
    found = antisymmetric.T @ case.hessian(theta)[:8, :8] @ antisymmetric
    torch.testing.assert_close(found, block, rtol=1e-8, atol=1e-10)


def test_interpolating_minimum_has_the_rank_of_its_samples():
    case = cases.interpolating(0)
    values = eigenvalues(case, case.start)
    assert float(case.loss(case.start)) < 1e-20
    assert int((values > 1e-8).sum()) == case.samples
    assert float(values[0]) == pytest.approx(0, abs=1e-12)


def test_dead_relu_is_flat():
    case = cases.dead_relu(0)
    assert float(case.gradient(case.start).norm()) == 0
    assert float(case.hessian(case.start).norm()) == 0


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_noise_floor_of_heavy_ball_on_a_quadratic(momentum):
    spectrum = torch.tensor([1.0, 0.5, 0.3])
    case = cases.quadratic(0, spectrum, noise=1.0, distance=0.0)
    variance = float(case.data[0].var(dim=0, unbiased=False).mean())
    _, losses = descend(case, 0.2, 6000, momentum=momentum, batch_size=4)
    predicted = cases.noise_floor(spectrum, 0.2, momentum, variance, 4)
    assert losses[200:].mean() == pytest.approx(predicted, rel=0.2)


def test_autoregressive_noise_has_its_correlation():
    noise = cases.autoregressive(0, 0.9, 200_000)
    assert noise.std() == pytest.approx(1, rel=0.03)
    assert np.corrcoef(noise[:-1], noise[1:])[0, 1] == pytest.approx(0.9, abs=0.01)
