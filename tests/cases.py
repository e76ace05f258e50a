"""Problems with known truth: loss surfaces, spectra, plateaus and noise that have a closed form.

Each is a mean of per-sample losses over a small data set, a function of one flat parameter vector, seeded and float64,
and uses nothing of the package. ``tests/diagnosis/test_cases.py`` checks each closed form against dense algebra.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import lfilter
from torch import Tensor


@dataclass
class Case:
    """A training problem.

    Attributes:
        name: Of the family.
        start: Initial parameters, shape (n,).
        data: Tensors with one row a sample.
        sample_losses: ``(theta, *rows) -> losses`` of shape (rows,).
        batch_gradients: The gradients in closed form, several runs at once: ``(thetas, *columns) -> gradients`` with
            thetas (R, n) and columns (R, B, …). For simulations of many steps; tests hold it against autograd.
    """

    name: str
    start: Tensor
    data: tuple[Tensor, ...]
    sample_losses: Callable[..., Tensor]
    batch_gradients: Callable[..., Tensor]

    @property
    def samples(self) -> int:
        return len(self.data[0])

    def loss(self, theta: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        return self.sample_losses(theta, *(column[rows] for column in self.data)).mean()

    def gradient(self, theta: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        theta = theta.detach().requires_grad_()
        return torch.autograd.grad(self.loss(theta, rows), theta)[0]

    def gradients(self, thetas: Tensor, rows: Tensor | None = None) -> Tensor:
        """Gradients of R runs at weights (R, n), each on its own rows (R, B), or on all of them."""
        if rows is None:
            return self.batch_gradients(thetas, *(column.expand(len(thetas), *column.shape) for column in self.data))
        return self.batch_gradients(thetas, *(column[rows] for column in self.data))

    def hessian(self, theta: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        return torch.autograd.functional.hessian(lambda t: self.loss(t, rows), theta.detach(), vectorize=True)


def autoregressive(seed, correlation: float, length: int) -> np.ndarray:
    """AR(1) noise with standard deviation 1, at its stationary distribution from the first value on."""
    generator = np.random.default_rng(seed)
    start = generator.standard_normal()
    shocks = generator.standard_normal(length) * math.sqrt(1 - correlation**2)
    return lfilter([1.0], [1.0, -correlation], shocks, zi=[correlation * start])[0]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _centered(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=0)


def _orthogonal(generator: torch.Generator, size: int) -> Tensor:
    return torch.linalg.qr(_normal(generator, size, size))[0]


def _least_squares(thetas: Tensor, x: Tensor, y: Tensor) -> Tensor:
    error = (x @ thetas[:, :, None])[..., 0] - y
    return (x.mT @ error[:, :, None])[..., 0] / x.shape[1]


def _two_layers(size: int, hidden: int, activation, slope):
    def gradients(thetas: Tensor, x: Tensor, y: Tensor) -> Tensor:
        weights, outer = thetas[:, :-hidden].reshape(-1, hidden, size), thetas[:, -hidden:]
        value = activation(x @ weights.mT)
        error = ((value @ outer[:, :, None])[..., 0] - y)[:, :, None] / x.shape[1]
        inner = (error * slope(value) * outer[:, None, :]).mT @ x
        return torch.cat([inner.reshape(len(thetas), -1), (value * error).sum(dim=1)], dim=1)

    return gradients


def quadratic(seed: int, eigenvalues: Tensor, noise: float = 0.0, samples: int = 512, distance: float = 1.0) -> Case:
    """½θᵀHθ with a chosen spectrum in a random basis; sample i adds nᵢᵀθ with zero-mean nᵢ of standard deviation noise.

    The gradient noise has covariance noise²·1 at every θ. SGD at rate η with momentum β and batch size B settles at
    ½η(noise²/B)(1+β)/(1-β)·Σ 1/(2(1+β) - ηh): see :func:`noise_floor`.
    """
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis = _orthogonal(generator, size)
    matrix = basis @ torch.diag(eigenvalues.double()) @ basis.T
    kicks = _centered(_normal(generator, samples, size)) * noise
    start = basis @ _normal(generator, size) * distance

    def losses(theta: Tensor, kick: Tensor) -> Tensor:
        return 0.5 * theta @ matrix @ theta + kick @ theta

    def gradients(thetas: Tensor, kick: Tensor) -> Tensor:
        return thetas @ matrix + kick.mean(dim=1)

    return Case("quadratic", start, (kicks,), losses, gradients)


def noise_floor(
    eigenvalues: Tensor, rate: float, momentum: float, gradient_variance: float, batch_size: float
) -> float:
    """Mean excess loss of heavy-ball SGD on a quadratic, once settled."""
    terms = (1 / (2 * (1 + momentum) - rate * eigenvalues)).sum()
    return float(0.5 * rate * gradient_variance / batch_size * (1 + momentum) / (1 - momentum) * terms)


def quartic_saddle(seed: int, noise: float = 0.0, samples: int = 512, start: tuple[float, float] = (0.5, 1e-3)) -> Case:
    """x² - y² + y⁴/4: eigenvalues ±2 at the saddle 0; 2 and 4 at the minima y = ±√2, where it is -1."""
    generator = torch.Generator().manual_seed(seed)
    kicks = _centered(_normal(generator, samples, 2)) * noise

    def losses(theta: Tensor, kick: Tensor) -> Tensor:
        x, y = theta[0], theta[1]
        return x**2 - y**2 + y**4 / 4 + kick @ theta

    def gradients(thetas: Tensor, kick: Tensor) -> Tensor:
        x, y = thetas.T
        return torch.stack([2 * x, y**3 - 2 * y], dim=1) + kick.mean(dim=1)

    return Case("quartic saddle", torch.tensor(start, dtype=torch.float64), (kicks,), losses, gradients)


def rosenbrock(start: tuple[float, float] = (-1.0, 1.0)) -> Case:
    """(1-x)² + 100(y-x²)²: minimum 0 at (1, 1) with eigenvalues 0.39936 and 1001.60064."""

    def losses(theta: Tensor, row: Tensor) -> Tensor:
        return ((1 - theta[0]) ** 2 + 100 * (theta[1] - theta[0] ** 2) ** 2).expand(len(row))

    def gradients(thetas: Tensor, row: Tensor) -> Tensor:
        x, y = thetas.T
        return torch.stack([2 * (x - 1) - 400 * x * (y - x**2), 200 * (y - x**2)], dim=1)

    return Case("Rosenbrock", torch.tensor(start, dtype=torch.float64), (torch.zeros(1, 1),), losses, gradients)


def monkey_saddle(start: tuple[float, float] = (0.0, 0.0)) -> Case:
    """x³ - 3xy²: at the origin gradient and Hessian vanish, and it is no minimum."""

    def losses(theta: Tensor, row: Tensor) -> Tensor:
        return (theta[0] ** 3 - 3 * theta[0] * theta[1] ** 2).expand(len(row))

    def gradients(thetas: Tensor, row: Tensor) -> Tensor:
        x, y = thetas.T
        return torch.stack([3 * x**2 - 3 * y**2, -6 * x * y], dim=1)

    return Case("monkey saddle", torch.tensor(start, dtype=torch.float64), (torch.zeros(1, 1),), losses, gradients)


def deep_linear(
    seed: int,
    strengths: tuple[float, ...] = (2.0, 0.5),
    scale: float = 1e-3,
    depth: int = 2,
    label_noise: float = 0.0,
    samples: int = 512,
) -> Case:
    """A linear net W_L⋯W₁ with exactly whitened inputs and the map diag(strengths) to learn (Saxe et al. 2014).

    With depth 2 and balanced small weights u₀ along the modes, mode s is learned at time ln(s/u₀ - 1)/(2s) (rate times
    steps). Before mode k+1 the loss rests at ½Σ_{j>k} s_j² (plus label noise), at a saddle with λmin = -s_{k+1}. The
    start is √u₀ = ``scale`` on the modes, so u₀ = scale².
    """
    generator = torch.Generator().manual_seed(seed)
    size = len(strengths)
    inputs = _centered(_normal(generator, samples, size))
    inputs = torch.linalg.qr(inputs)[0] * math.sqrt(samples)
    target = torch.diag(torch.tensor(strengths, dtype=torch.float64))
    # Label noise orthogonal to the inputs leaves the map to learn as it is.
    label = _normal(generator, samples, size)
    label = label - inputs @ (inputs.T @ label) / samples
    outputs = inputs @ target + label_noise * label

    def losses(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        prediction = x
        for layer in theta.reshape(depth, size, size):
            prediction = prediction @ layer
        return 0.5 * ((prediction - y) ** 2).sum(dim=1)

    start = torch.eye(size, dtype=torch.float64).repeat(depth, 1, 1).reshape(-1) * scale

    def gradients(thetas: Tensor, x: Tensor, y: Tensor) -> Tensor:
        layers = thetas.reshape(-1, depth, size, size).unbind(dim=1)
        signals = [x]
        for layer in layers:
            signals.append(signals[-1] @ layer)
        error, found = (signals[-1] - y) / x.shape[1], []
        for signal, layer in zip(signals[-2::-1], layers[::-1], strict=True):
            found.append(signal.mT @ error)
            error = error @ layer.mT
        return torch.stack(found[::-1], dim=1).reshape(len(thetas), -1)

    return Case("deep linear", start, (inputs, outputs), losses, gradients)


def linear_regression(
    seed: int, size: int = 10, samples: int = 512, label_noise: float = 0.5, decay: float = 1.0
) -> Case:
    """½(xᵀθ - y)²: the Hessian is XᵀX/N at every θ. Input variances fall as (1 + j)^-decay."""
    generator = torch.Generator().manual_seed(seed)
    inputs = _normal(generator, samples, size) * (1 + torch.arange(size, dtype=torch.float64)) ** (-decay / 2)
    outputs = inputs @ _normal(generator, size) + label_noise * _normal(generator, samples)

    def losses(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (x @ theta - y) ** 2

    return Case("linear regression", torch.zeros(size, dtype=torch.float64), (inputs, outputs), losses, _least_squares)


def softmax_regression(
    seed: int, size: int = 8, classes: int = 4, samples: int = 512, temperature: float = 1.0
) -> Case:
    """Cross-entropy of a linear model; labels drawn from one: label noise. The Hessian is the Gauss-Newton one."""
    generator = torch.Generator().manual_seed(seed)
    inputs = _normal(generator, samples, size)
    logits = inputs @ _normal(generator, size, classes) / temperature
    labels = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator)[:, 0]

    def losses(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(x @ theta.reshape(size, classes), y, reduction="none")

    def gradients(thetas: Tensor, x: Tensor, y: Tensor) -> Tensor:
        error = torch.softmax(x @ thetas.reshape(-1, size, classes), dim=-1)
        error = error - torch.nn.functional.one_hot(y, classes)
        return (x.mT @ error / x.shape[1]).reshape(len(thetas), -1)

    start = torch.zeros(size * classes, dtype=torch.float64)
    return Case("softmax regression", start, (inputs, labels), losses, gradients)


def tanh_net(
    seed: int, size: int = 4, hidden: int = 4, teacher: int = 4, samples: int = 512, label_noise: float = 0.1
) -> Case:
    """Σ_j a_j tanh(w_jᵀx) fitted to a teacher of the same form; theta holds the rows w_j, then the a_j."""
    generator = torch.Generator().manual_seed(seed)
    inputs = _normal(generator, samples, size)
    outer = 1 + torch.rand(teacher, generator=generator, dtype=torch.float64)
    outputs = torch.tanh(inputs @ (_normal(generator, size, teacher) / math.sqrt(size) * 2)) @ outer
    outputs = outputs + label_noise * _normal(generator, samples)

    def losses(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        weights, outer = theta[:-hidden].reshape(hidden, size), theta[-hidden:]
        return 0.5 * (torch.tanh(x @ weights.T) @ outer - y) ** 2

    start = torch.cat([_normal(generator, hidden * size) / math.sqrt(size), _normal(generator, hidden) / hidden])
    gradients = _two_layers(size, hidden, torch.tanh, lambda value: 1 - value**2)
    return Case("tanh net", start, (inputs, outputs), losses, gradients)


def duplicated_neurons(seed: int, label_noise: float = 0.1, samples: int = 512, size: int = 4) -> Case:
    """A tanh net whose two neurons are the same at the start: its training stays on w₁ = w₂, a₁ = a₂.

    Its minimum within that subspace is, for one sign of the residual's curvature, a saddle of the whole (Fukumizu &
    Amari 2000): the Hessian's antisymmetric block in the w has the matrix ½·a·E[r·tanh''(wᵀx)·xxᵀ] for a = a₁ + a₂ and
    residual r (in the normalised direction (δ, -δ)/√2, at a₁ = a₂ = a/2).
    """
    case = tanh_net(seed, size=size, hidden=2, teacher=2, samples=samples, label_noise=label_noise)
    weights, outer = case.start[:-2].reshape(2, size), case.start[-2:]
    case.start = torch.cat([weights[:1].repeat(2, 1).reshape(-1), outer[:1].repeat(2)])
    case.name = "duplicated neurons"
    return case


def interpolating(seed: int, size: int = 30, samples: int = 10) -> Case:
    """Linear regression with fewer samples than parameters, started at a minimum: λmin = 0, rank = samples, loss 0."""
    generator = torch.Generator().manual_seed(seed)
    inputs, truth = _normal(generator, samples, size), _normal(generator, size)

    def losses(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (x @ theta - y) ** 2

    return Case("interpolating", truth, (inputs, inputs @ truth), losses, _least_squares)


def dead_relu(seed: int, size: int = 4, hidden: int = 6, samples: int = 512) -> Case:
    """A ReLU net without outer bias whose units are off on every sample: gradient and Hessian are zero."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(samples, size, generator=generator, dtype=torch.float64)
    outputs = inputs.sum(dim=1) + 0.1 * _normal(generator, samples)

    def losses(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        weights, outer = theta[:-hidden].reshape(hidden, size), theta[-hidden:]
        return 0.5 * (torch.relu(x @ weights.T) @ outer - y) ** 2

    start = torch.cat(
        [-torch.rand(hidden * size, generator=generator, dtype=torch.float64) - 0.1, _normal(generator, hidden)]
    )
    gradients = _two_layers(size, hidden, torch.relu, lambda value: (value > 0).double())
    return Case("dead ReLU", start, (inputs, outputs), losses, gradients)
