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


def estimates(gradients: torch.Tensor, batch_size: float) -> tuple[float, float]:
    """Mean inner product of different rows, and the summed variance of a sample."""
    products = gradients @ gradients.T
    pairs = products[~torch.eye(len(gradients), dtype=torch.bool)]
    return float(pairs.mean()), batch_size * float(gradients.var(dim=0).sum())


def leave_one_out_error(values: list[float]) -> float:
    spread = torch.tensor(values, dtype=torch.float64).std(correction=0)
    return math.sqrt(len(values) - 1) * float(spread)


def drawn(seed: int, count: int, signal: float) -> tuple[ParameterSpace, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    space = ParameterSpace([torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))])
    return space, signal + 0.1 * torch.randn(count, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_noise_scale_and_its_errors_by_hand(count: int) -> None:
    space, gradients = drawn(0, count, signal=0.2)
    found = gradient_noise_scale(space, list(gradients), 4)
    norm, trace = estimates(gradients, 4)
    left_out = [estimates(gradients[torch.arange(count) != k], 4) for k in range(count)]
    assert found.squared_norm == pytest.approx(norm)
    assert found.covariance_trace == pytest.approx(trace)
    assert found.squared_norm_error == pytest.approx(leave_one_out_error([n for n, _ in left_out]))
    assert found.value == pytest.approx(trace / norm)
    assert found.error == pytest.approx(leave_one_out_error([t / n for n, t in left_out]))


@pytest.mark.parametrize("opposite", [False, True])
def test_two_microbatches_give_a_noise_scale_without_an_error(opposite: bool) -> None:
    space, gradients = drawn(4, 2, signal=0.2)
    gradients[1] *= -1 if opposite else 1
    found = gradient_noise_scale(space, list(gradients), 4)
    norm, trace = estimates(gradients, 4)
    assert found.squared_norm == pytest.approx(norm)
    assert found.value == pytest.approx(math.nan if opposite else trace / norm, nan_ok=True)
    assert math.isnan(found.error)
    assert math.isnan(found.squared_norm_error)


def test_a_noise_scale_needs_a_squared_norm_of_more_than_two_standard_errors() -> None:
    ratios = []
    for seed in range(60):
        space, gradients = drawn(seed, 5, signal=0.06)
        found = gradient_noise_scale(space, list(gradients), 4)
        ratios.append(found.squared_norm / found.squared_norm_error)
        assert math.isnan(found.value) == math.isnan(found.error) == (ratios[-1] <= 2)
    assert sum(0 < ratio < 2 for ratio in ratios) > 5
    assert sum(2 < ratio < 3 for ratio in ratios) > 5


@pytest.mark.parametrize("count", [2, 4])
def test_gradients_of_zero_have_no_noise_scale(count: int) -> None:
    space = ParameterSpace([torch.nn.Parameter(torch.zeros(3))])
    found = gradient_noise_scale(space, [torch.zeros(3)] * count, 8)
    assert math.isnan(found.value)
    assert (found.squared_norm, found.covariance_trace) == (0, 0)


def test_no_gradients_have_no_norms() -> None:
    assert gradient_norms([]).shape == (0,)
    assert gradient_norms([]).dtype == torch.float64
