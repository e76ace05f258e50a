from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from landscape_callbacks.surface import LossSurface, spectral_density, trace
from tests.surface.models import MODELS, Diagonal, Model, build


@pytest.mark.parametrize("make", MODELS)
def test_the_trace_of_a_net_is_within_its_error(make: Callable[[], Model]) -> None:
    model = build(make)
    estimate = trace(model.surface(), products=45)
    reference = float(np.trace(model.hessian()))
    assert abs(estimate.value - reference) <= 4 * estimate.error + 1e-8
    assert estimate.products <= 45


def test_the_trace_of_a_low_rank_matrix_is_exact() -> None:
    """The sketch spans the whole range, so that nothing is left for the random part."""
    curvatures = torch.cat([torch.tensor([5.0, 3.0, -2.0]), torch.zeros(400)]).double()
    estimate = trace(Diagonal(curvatures), products=30)
    assert estimate.value == pytest.approx(6.0, rel=1e-9)
    assert estimate.error < 1e-9


def test_the_trace_of_a_dense_matrix_of_low_rank_is_exact() -> None:
    """Of a diagonal one random signs alone would be exact."""
    generator = torch.Generator().manual_seed(3)
    vectors = torch.linalg.qr(torch.randn(200, 3, generator=generator, dtype=torch.float64)).Q
    operator = Diagonal(torch.ones(200, dtype=torch.float64))
    operator.hessian_vector_product = lambda vector: (  # type: ignore[method-assign]
        vectors @ (torch.tensor([5.0, 3.0, -2.0], dtype=torch.float64) * (vectors.T @ vector))
    )
    estimate = trace(operator, products=30)
    assert estimate.value == pytest.approx(6.0, rel=1e-9)
    assert estimate.error < 1e-9


def test_the_standard_error_of_the_trace_is_right() -> None:
    torch.manual_seed(1234)
    matrix = torch.randn(150, 150, dtype=torch.float64)
    matrix = matrix + matrix.T
    operator = Diagonal(torch.ones(150, dtype=torch.float64))
    operator.hessian_vector_product = lambda vector: matrix @ vector  # type: ignore[method-assign]
    scores = []
    for seed in range(100):
        estimate = trace(operator, products=30, seed=1000 * seed)
        scores.append((estimate.value - float(matrix.trace())) / estimate.error)
    # Student's t with 9 degrees of freedom has standard deviation 1.13.
    assert 0.8 < np.std(scores) < 1.5
    assert abs(np.mean(scores)) < 0.4


def test_a_small_space_is_traced_exactly() -> None:
    operator = Diagonal(torch.tensor([1.0, 2.0, 3.0]))
    estimate = trace(operator)
    assert estimate.value == 6.0
    assert estimate.error == 0.0
    assert estimate.products == operator.products == 3


def test_the_trace_shows_what_is_not_finite() -> None:
    assert np.isnan(trace(Diagonal(torch.full((100,), torch.nan))).value)


def test_too_few_products_for_a_trace_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 6"):
        trace(Diagonal(torch.ones(3)), products=5)


def integral(grid: torch.Tensor, values: torch.Tensor) -> float:
    return float(torch.trapezoid(values, grid))


def test_two_clusters_hold_half_the_mass_each() -> None:
    torch.manual_seed(1234)
    curvatures = torch.cat([-3.0 + 0.1 * torch.randn(1000), 5.0 + 0.1 * torch.randn(1000)])
    density = spectral_density(Diagonal(curvatures), runs=8)
    low, high = density.grid < 0, density.grid > 2
    assert integral(density.grid, density.density) == pytest.approx(1.0, abs=1e-3)
    assert integral(density.grid[low], density.density[low]) == pytest.approx(0.5, abs=0.03)
    assert integral(density.grid[high], density.density[high]) == pytest.approx(0.5, abs=0.03)
    assert density.products == 8 * 30


def test_the_moments_are_those_of_the_spectrum() -> None:
    # Not 0: the library's random vectors with seed 0 would be these very numbers.
    torch.manual_seed(1234)
    curvatures = torch.randn(3000, dtype=torch.float64) ** 3
    density = spectral_density(Diagonal(curvatures), runs=16)
    for power in (1, 2, 4):
        exact = float((curvatures**power).mean())
        found = float((density.weights * density.nodes**power).sum())
        error = float((curvatures ** (2 * power)).mean()) ** 0.5 * (2 / (3000 * 16)) ** 0.5
        assert abs(found - exact) < 4 * error


def test_a_semicircle() -> None:
    torch.manual_seed(1234)
    matrix = torch.randn(600, 600, dtype=torch.float64)
    curvatures = torch.linalg.eigvalsh((matrix + matrix.T) / (2 * 600) ** 0.5)
    density = spectral_density(Diagonal(curvatures), runs=8, relative_width=0.03)
    exact = torch.where(density.grid.abs() < 2, (4 - density.grid**2).clamp(min=0).sqrt() / (2 * torch.pi), 0.0)
    inside = density.grid.abs() < 1.5
    assert float((density.density - exact)[inside].abs().mean()) < 0.03


def test_a_zero_hessian_is_a_peak_at_zero() -> None:
    weight = nn.Parameter(torch.ones(50))
    density = spectral_density(LossSurface(lambda: weight.sum(), [weight]), runs=2)
    assert density.products == 2
    assert float(density.grid[density.density.argmax()]) == pytest.approx(0.0, abs=0.01)
    assert integral(density.grid, density.density) == pytest.approx(1.0, abs=1e-3)


def test_one_run_has_no_error_to_tell() -> None:
    density = spectral_density(Diagonal(torch.rand(100)), runs=1)
    assert torch.isnan(density.error).all()


def test_the_error_is_the_spread_over_runs() -> None:
    torch.manual_seed(1234)
    operator = Diagonal(torch.randn(2000))
    few, many = spectral_density(operator, runs=4), spectral_density(operator, runs=64)
    assert float(many.error.mean()) < 0.6 * float(few.error.mean())


def test_scaling_the_loss_scales_the_grid() -> None:
    torch.manual_seed(1234)
    curvatures = torch.randn(500)
    plain, scaled = (spectral_density(Diagonal(factor * curvatures)) for factor in (1.0, 1e-8))
    torch.testing.assert_close(scaled.grid, 1e-8 * plain.grid, rtol=1e-3, atol=1e-12)


def test_a_density_shows_what_is_not_finite() -> None:
    density = spectral_density(Diagonal(torch.full((100,), torch.inf)))
    assert torch.isnan(density.density).all()
    assert density.density.shape == density.grid.shape == (512,)
    assert density.products == 1


def test_a_density_that_fails_late_says_what_it_has_spent() -> None:
    operator = Diagonal(torch.linspace(1.0, 2.0, 100))
    exact = operator.hessian_vector_product

    def fails(vector: torch.Tensor) -> torch.Tensor:
        product = exact(vector)
        return product * torch.nan if operator.products == 17 else product

    operator.hessian_vector_product = fails  # type: ignore[method-assign]
    density = spectral_density(operator, runs=3, steps=10)
    assert torch.isnan(density.error).all()
    assert torch.isnan(density.nodes).all()
    assert density.products == operator.products == 17


def test_global_random_stream_is_left_alone() -> None:
    curvatures = torch.rand(100)
    state = torch.get_rng_state()
    spectral_density(Diagonal(curvatures), runs=2, steps=5)
    trace(Diagonal(curvatures))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("arguments", [{"runs": 0}, {"steps": 1}, {"points": 3}, {"relative_width": 0.0}])
def test_wrong_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Need runs"):
        spectral_density(Diagonal(torch.ones(3)), **arguments)


@pytest.mark.parametrize("runs", [2, 3])
def test_the_error_of_a_density_is_known_at_every_point(runs: int) -> None:
    density = spectral_density(Diagonal(torch.linspace(-1, 2, 300, dtype=torch.float64)), runs=runs)
    assert density.error.shape == density.density.shape
    assert torch.isfinite(density.error).all()
    assert float(density.error.std()) > 0.0


def test_the_grid_reaches_five_widths_beyond_the_nodes() -> None:
    density = spectral_density(Diagonal(torch.linspace(-1, 2, 300, dtype=torch.float64)), relative_width=0.02)
    low, high = float(density.nodes.min()), float(density.nodes.max())
    assert density.width == pytest.approx(0.02 * (high - low))
    assert float(density.grid[0]) == pytest.approx(low - 5 * density.width)
    assert float(density.grid[-1]) == pytest.approx(high + 5 * density.width)
    assert density.grid.dtype == torch.float64


def test_the_fewest_that_are_allowed() -> None:
    operator = Diagonal(torch.linspace(-1, 2, 300, dtype=torch.float64))
    assert np.isfinite(trace(operator, products=6).error)
    density = spectral_density(operator, runs=1, steps=2, points=16)
    assert len(density.nodes) == density.products == 2
    assert len(density.grid) == 16


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_scaling_the_loss_scales_the_trace(factor: float) -> None:
    curvatures = torch.linspace(-1, 2, 300, dtype=torch.float64)
    operator = Diagonal(factor * curvatures)
    plain, scaled = trace(Diagonal(curvatures)), trace(operator)
    assert scaled.value == pytest.approx(factor * plain.value, rel=1e-6)
    assert scaled.error == pytest.approx(factor * plain.error, rel=1e-6)
    assert scaled.products == plain.products == operator.products
