"""Properties of every loss surface, on random small networks: layers, parameter filters, dtypes, batch shapes and
losses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from landscape_callbacks.surface import AverageSurface, LossSurface, extreme_eigenvalues, loss_slice
from landscape_callbacks.surface.central_difference import InaccurateDifferenceError
from landscape_callbacks.surface.microbatched_surface import MicrobatchedSurface

EXAMPLES = settings(max_examples=30, deadline=None, derandomize=True)
SMOOTH: tuple[Callable[[], nn.Module], ...] = (nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Softplus)


@dataclass
class Problem:
    """A network, a batch, a loss, and the parameters that are looked at."""

    module: nn.Module
    inputs: Tensor
    loss_of: Callable[[Tensor], Tensor]
    named: list[tuple[str, nn.Parameter]]

    def loss(self) -> Tensor:
        return self.loss_of(self.module(self.inputs))

    def surface(self, **options: Any) -> LossSurface:
        return LossSurface(self.loss, self.named, **options)


@st.composite
def problems(
    draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64), kinks: bool = False
) -> Problem:
    """Networks of one to three layers with a few dozen parameters."""
    torch.manual_seed(draw(st.integers(0, 10_000)))
    dtype = draw(st.sampled_from(dtypes))
    width = draw(st.integers(1, 4))
    shape = draw(st.sampled_from([(), (3,), (2, 2)]))
    batch = draw(st.integers(1, 5))
    layers: list[nn.Module] = []
    inputs = width
    for _ in range(draw(st.integers(1, 3))):
        outputs = draw(st.integers(1, 4))
        layers.append(nn.Linear(inputs, outputs, bias=draw(st.booleans())))
        layers.append(draw(st.sampled_from([nn.ReLU, nn.LeakyReLU] if kinks else list(SMOOTH)))())
        if draw(st.booleans()):
            layers.append(nn.LayerNorm(outputs, bias=draw(st.booleans())))
        inputs = outputs
    layers.append(nn.Linear(inputs, 2))
    module = nn.Sequential(*layers).to(dtype)
    x = torch.randn(batch, *shape, width, dtype=dtype)
    kind = draw(st.sampled_from(["classes", "squares", "sum"]))
    labels = torch.randint(0, 2, (batch, *shape))

    def loss_of(output: Tensor) -> Tensor:
        if kind == "classes":
            return F.cross_entropy(output.reshape(-1, 2), labels.reshape(-1))
        return output.square().mean() if kind == "squares" else output.sin().sum()

    every = list(module.named_parameters())
    kept = draw(st.lists(st.sampled_from(every), min_size=1, max_size=len(every), unique_by=lambda entry: entry[0]))
    for name, parameter in every:
        if draw(st.booleans()) and len(kept) > 1 and name == kept[-1][0]:
            parameter.requires_grad_(False)
    return Problem(module, x, loss_of, kept)


def dense_hessian(problem: Problem) -> np.ndarray:
    """By fourth-order differences of plain gradients in float64."""
    twin = Problem(copy.deepcopy(problem.module).double(), problem.inputs.double(), problem.loss_of, [])
    named = dict(twin.module.named_parameters())
    parameters = [named[name] for name, parameter in problem.named if parameter.requires_grad]
    start, size = nn.utils.parameters_to_vector(parameters).detach(), 1e-4

    def gradient(at: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(at, parameters)
        twin.module.zero_grad()
        twin.loss().backward()
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])

    rows = []
    for unit in size * torch.eye(len(start), dtype=torch.float64):
        near, far = (
            gradient(start + unit) - gradient(start - unit),
            gradient(start + 2 * unit) - gradient(start - 2 * unit),
        )
        rows.append((8 * near - far) / (12 * size))
    return torch.stack(rows).numpy()


def bits(problem: Problem) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in problem.module.parameters()]


@EXAMPLES
@given(problems(kinks=True), st.integers(0, 1000))
def test_products_are_symmetric_and_linear(problem: Problem, seed: int) -> None:
    surface = problem.surface()
    space = surface.space
    u, v = space.random(seed), space.random(seed + 1)
    hu, hv = surface.hessian_vector_product(u), surface.hessian_vector_product(v)
    rounding = 200 * torch.finfo(space.dtype).eps
    scale = float(hu.norm() * v.norm() + hv.norm() * u.norm()) + 1e-30
    assert abs(float(space.dot(u, hv) - space.dot(v, hu))) <= rounding * scale
    both = surface.hessian_vector_product(2 * u - 3 * v)
    assert float((both - (2 * hu - 3 * hv)).norm()) <= rounding * float(2 * hu.norm() + 3 * hv.norm() + 1e-30)


@EXAMPLES
@given(problems())
def test_products_are_those_of_the_dense_hessian(problem: Problem) -> None:
    surface = problem.surface()
    dense = dense_hessian(problem)
    columns = [
        surface.hessian_vector_product(unit) for unit in torch.eye(surface.space.dimension, dtype=surface.space.dtype)
    ]
    allowed = (1e-4 if surface.space.dtype == torch.float32 else 1e-7) * max(np.abs(dense).max(), 1e-2)
    assert np.abs(torch.stack(columns).double().numpy() - dense).max() <= allowed


@EXAMPLES
@given(problems(dtypes=(torch.float64,)))
def test_extreme_eigenvalues_are_those_of_the_dense_hessian(problem: Problem) -> None:
    dense = dense_hessian(problem)
    pairs = extreme_eigenvalues(problem.surface(), 1, 1, tolerance=1e-6, smallest_tolerance=1e-6)
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    found = pairs.values.numpy()
    assert abs(found[0] - values[-1]) <= 1e-6 * np.abs(values).max() + 1e-8
    if len(values) > 1:
        assert abs(found[1] - values[0]) <= 1e-6 * np.abs(values).max() + 1e-8


@EXAMPLES
@given(problems(kinks=True), st.floats(1e-3, 10.0), st.integers(0, 1000))
def test_weights_come_back_and_the_slice_goes_through_the_loss(problem: Problem, extent: float, seed: int) -> None:
    surface, before = problem.surface(), bits(problem)
    loss = float(surface.loss())
    direction = surface.space.random(seed)
    result = loss_slice(surface, direction, extent=extent)
    at_zero = int((result.alphas == 0.0).nonzero())
    assert float(result.losses[at_zero]) == loss == float(problem.loss().detach())
    surface.losses_on_plane(direction, surface.space.random(seed + 1), [-extent, 0.0, extent], [0.0, extent])
    assert all(torch.equal(now, then) for now, then in zip(bits(problem), before, strict=True))
    assert all(parameter.grad is None for parameter in problem.module.parameters())


@EXAMPLES
@given(problems(kinks=True), st.integers(1, 6), st.integers(0, 1000))
def test_weights_come_back_after_an_exception(problem: Problem, calls: int, seed: int) -> None:
    before, count = bits(problem), [0]

    def closure() -> Tensor:
        count[0] += 1
        if count[0] == calls:
            raise RuntimeError("on purpose")
        return problem.loss()

    surface = LossSurface(closure, problem.named)
    try:
        surface.hessian_vector_product(surface.space.random(seed))
        loss_slice(surface, surface.space.random(seed))
    except RuntimeError as error:
        assert "on purpose" in str(error)  # noqa: PT017 - with six calls allowed it need not be raised
    assert all(torch.equal(now, then) for now, then in zip(bits(problem), before, strict=True))


@EXAMPLES
@given(problems(dtypes=(torch.float64,)), st.integers(0, 1000))
def test_central_differences_agree_with_double_backward_within_their_own_estimate(problem: Problem, seed: int) -> None:
    exact, approximate = problem.surface(), problem.surface(differentiation="central_difference")
    vector = exact.space.random(seed)
    product = exact.hessian_vector_product(vector)
    try:
        found = approximate.hessian_vector_product(vector)
    except InaccurateDifferenceError:
        # Refused is right where there is nothing but rounding.
        assert float(product.norm()) < 1e-8
        return
    assert approximate.approximation is not None
    estimate = max(approximate.approximation.relative_error, 1e-6)
    assert float((found - product).norm()) <= 10 * estimate * float(product.norm()) + 1e-7


@EXAMPLES
@given(problems(dtypes=(torch.float64,)), st.integers(0, 1000))
def test_a_batch_in_parts_is_the_batch(problem: Problem, seed: int) -> None:
    """Rows of the batch one by one, as an average and as microbatches, where the loss is a mean over rows."""

    def row_loss(row: Tensor) -> Tensor:
        return problem.module(row).square().mean()

    rows = list(problem.inputs.split(1))
    closures = [lambda row=row: row_loss(row) for row in rows]
    whole = LossSurface(lambda: row_loss(problem.inputs), problem.named)
    average = AverageSurface([LossSurface(closure, whole.space) for closure in closures])
    parts = MicrobatchedSurface(closures, [1.0] * len(closures), whole.space)
    vector = whole.space.random(seed)
    for other in (average, parts):
        assert torch.allclose(other.loss(), whole.loss())
        assert torch.allclose(other.gradient(), whole.gradient(), atol=1e-12)
        assert torch.allclose(other.hessian_vector_product(vector), whole.hessian_vector_product(vector), atol=1e-10)
