from __future__ import annotations

import math

import pytest
import torch

from landscape_callbacks.surface.gradients import gradient_noise_scale, gradient_norms
from landscape_callbacks.surface.vectors import ParameterSpace


def test_norms_are_summed_in_single_precision_for_half_precision_gradients() -> None:
    gradient = torch.full((100_000,), 0.01, dtype=torch.bfloat16)
    expected = float(gradient.double().norm())
    assert float(gradient_norms([gradient])[0]) == pytest.approx(expected, rel=1e-4)


def test_the_norm_of_a_large_tensor_does_not_lose_its_small_terms() -> None:
    gradient = torch.randn(8_000_000, generator=torch.Generator().manual_seed(1))
    assert float(gradient_norms([gradient])[0]) == pytest.approx(float(gradient.double().norm()), rel=2e-6)


def test_sparse_gradients_count_repeated_rows_once_summed() -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1, 1, 3])).sum().backward()
    norms = gradient_norms([embedding.weight.grad])
    assert float(norms[0]) == pytest.approx(float(embedding.weight.grad.to_dense().norm()))


def test_non_finite_norms_are_returned_as_they_are() -> None:
    norms = gradient_norms([torch.tensor([math.inf]), torch.tensor([math.nan]), torch.ones(4)]).tolist()
    assert math.isinf(norms[0])
    assert math.isnan(norms[1])
    assert norms[2] == 2.0


def test_noise_scale_recovers_a_known_signal_and_noise() -> None:
    """Gradients G + noise of variance σ² an entry and sample: |G|² = n·g², tr(Σ) = n·σ²."""
    space = ParameterSpace([torch.nn.Parameter(torch.zeros(400, dtype=torch.float64))])
    generator = torch.Generator().manual_seed(4)
    batch, count, signal, noise = 16, 64, 0.3, 2.0
    gradients = [
        signal + noise / math.sqrt(batch) * torch.randn(400, generator=generator, dtype=torch.float64)
        for _ in range(count)
    ]
    scale = gradient_noise_scale(space, gradients, batch)
    assert abs(scale.squared_norm - 400 * signal**2) < 4 * scale.squared_norm_error
    assert scale.covariance_trace == pytest.approx(400 * noise**2, rel=0.05)
    assert abs(scale.value - (noise / signal) ** 2) < 4 * scale.error
    assert scale.error < 0.1 * scale.value
    assert scale.samples == batch * count


def test_the_jackknife_error_covers_the_spread_of_the_estimate() -> None:
    space = ParameterSpace([torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))])
    generator = torch.Generator().manual_seed(5)
    values, errors = [], []
    for _ in range(200):
        gradients = [0.5 + torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(12)]
        scale = gradient_noise_scale(space, gradients, 1)
        values.append(scale.squared_norm)
        errors.append(scale.squared_norm_error)
    spread = float(torch.tensor(values).std())
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.15)


def test_pure_noise_gives_no_noise_scale() -> None:
    space = ParameterSpace([torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))])
    generator = torch.Generator().manual_seed(6)
    gradients = [torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(8)]
    assert math.isnan(gradient_noise_scale(space, gradients, 4).value)


def test_one_microbatch_is_refused() -> None:
    space = ParameterSpace([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(ValueError, match="at least 2 microbatches, got 1"):
        gradient_noise_scale(space, [torch.ones(2)], 4)


@pytest.mark.filterwarnings("error")
def test_squares_that_overflow_do_not_make_a_finite_gradient_infinite() -> None:
    norms = gradient_norms([torch.tensor([3e25, 4e25]), torch.tensor([math.inf]), torch.tensor([math.nan, 1.0])])
    assert norms[0] == pytest.approx(5e25)
    assert norms[1] == math.inf
    assert math.isnan(norms[2])


def test_long_tensors_keep_their_digits() -> None:
    for size in (3 << 19, 1 << 22):
        values = torch.rand(size, generator=torch.Generator().manual_seed(0)) + 0.5
        assert float(gradient_norms([values])[0]) == pytest.approx(float(values.double().norm()), rel=1e-6)
