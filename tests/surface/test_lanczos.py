from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape_callbacks.surface import LossSurface, ParameterSpace, extreme_eigenvalues
from landscape_callbacks.surface.eigenpairs import Eigenpairs
from landscape_callbacks.surface.lanczos import _kato_temple, _Stop
from tests.surface.models import MODELS, Dense, Diagonal, Model, build, softmax_regression, softmax_regression_hessian


def spectrum(values: list[float], bulk: int = 500, width: float = 0.05, dtype: torch.dtype = torch.float32) -> Tensor:
    """Outliers beside a normal bulk around zero, as networks have it."""
    return torch.cat([torch.tensor(values), width * torch.randn(bulk)]).to(dtype)


def extremes(curvatures: Tensor, largest: int, smallest: int) -> np.ndarray:
    ordered = np.sort(curvatures.double().numpy())[::-1]
    return np.concatenate([ordered[:largest], ordered[len(ordered) - smallest :]])


@functools.cache
def dense_hessian(make: Callable[[], Model], dtype: torch.dtype) -> np.ndarray:
    return build(make, dtype).hessian()


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance", "accuracy"), [(torch.float64, 1e-6, 1e-6), (torch.float32, 3e-4, 1e-3)])
def test_both_ends_match_the_dense_hessian(
    make: Callable[[], Model], dtype: torch.dtype, tolerance: float, accuracy: float
) -> None:
    model = build(make, dtype)
    pairs = extreme_eigenvalues(
        model.surface(), largest=3, smallest=1, tolerance=tolerance, smallest_tolerance=tolerance, max_products=500
    )
    reference = np.linalg.eigvalsh(dense_hessian(make, dtype))[::-1][[0, 1, 2, -1]]
    assert all(pairs.converged)
    scale = np.abs(reference).max()
    np.testing.assert_allclose(pairs.values, reference, rtol=accuracy, atol=1e-2 * accuracy * scale)


@pytest.mark.parametrize("make", MODELS)
def test_residuals_and_errors_are_what_they_say(make: Callable[[], Model]) -> None:
    model = build(make)
    hessian = dense_hessian(make, torch.float64)
    pairs = extreme_eigenvalues(model.surface(), largest=2, smallest=1)
    vectors = pairs.vectors.numpy()
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-12)
    residuals = np.linalg.norm(vectors @ hessian - pairs.values.numpy()[:, None] * vectors, axis=1)
    np.testing.assert_allclose(pairs.residuals, residuals, rtol=1e-4, atol=1e-8)
    reference = np.linalg.eigvalsh(hessian)[::-1]
    assert (np.abs(pairs.values.numpy() - reference[[0, 1, -1]]) <= pairs.errors.numpy() + 1e-9).all()
    assert (pairs.errors <= pairs.residuals.clamp(min=1e-12)).all()


@pytest.mark.parametrize(
    ("curvatures", "largest", "smallest"),
    [([1.0, 2.0, 3.0, 4.0, 5.0], 3, 2), ([-2.0, -1.0, 3.0, 4.0, 5.0], 2, 2), ([-5.0, 1.0, 2.0], 1, 1)],
)
def test_small_known_spectra(curvatures: list[float], largest: int, smallest: int) -> None:
    operator = Diagonal(torch.tensor(curvatures, dtype=torch.float64))
    pairs = extreme_eigenvalues(operator, largest, smallest)
    np.testing.assert_allclose(pairs.values, extremes(operator.curvatures, largest, smallest), rtol=1e-3)
    assert pairs.products <= len(curvatures)
    assert (pairs.largest, pairs.smallest) == (largest, smallest)


def test_linear_regression_has_the_spectrum_of_its_inputs() -> None:
    inputs, targets = torch.randn(200, 30, dtype=torch.float64), torch.randn(200, 1, dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(30, 1, dtype=torch.float64))
    surface = LossSurface(lambda: (inputs @ weight - targets).square().sum() / 2, [weight])
    pairs = extreme_eigenvalues(surface, 4, 1, tolerance=1e-7, smallest_tolerance=1e-7)
    reference = np.linalg.svd(inputs.numpy(), compute_uv=False) ** 2
    np.testing.assert_allclose(pairs.values, reference[[0, 1, 2, 3, -1]], rtol=1e-7)


def test_logistic_regression_closed_form() -> None:
    inputs = torch.randn(100, 8, dtype=torch.float64)
    labels = (torch.arange(100) % 2).double()
    weight = nn.Parameter(torch.randn(8, dtype=torch.float64))
    surface = LossSurface(lambda: nn.functional.binary_cross_entropy_with_logits(inputs @ weight, labels), [weight])
    probability = torch.sigmoid(inputs @ weight.detach())
    hessian = inputs.T @ (inputs * (probability * (1 - probability))[:, None]) / 100
    pairs = extreme_eigenvalues(surface, 2, 2, tolerance=1e-9, smallest_tolerance=1e-9)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(hessian.numpy())[[7, 6, 1, 0]], rtol=1e-9)


def test_softmax_regression_closed_form() -> None:
    model = build(softmax_regression)
    pairs = extreme_eigenvalues(model.surface(), 3, 0, tolerance=1e-8)
    reference = np.linalg.eigvalsh(softmax_regression_hessian(model))[::-1]
    np.testing.assert_allclose(pairs.values, reference[:3], rtol=1e-8)


def test_wishart_matrix() -> None:
    data = torch.randn(300, 450, dtype=torch.float64)
    matrix = data @ data.T / 450
    pairs = extreme_eigenvalues(Dense(matrix), 3, 1, tolerance=1e-6, smallest_tolerance=1e-6, max_products=600)
    reference = np.linalg.eigvalsh(matrix.numpy())[::-1]
    np.testing.assert_allclose(pairs.values, reference[[0, 1, 2, -1]], rtol=1e-6)
    assert all(pairs.converged)


@pytest.mark.parametrize(
    ("function", "point", "expected"),
    [
        (lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4, [0.0, 0.0], [2.0, -2.0]),
        (lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4, [0.0, 2**0.5], [4.0, 2.0]),
        (lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2, [1.0, 1.0], [501 + 250601**0.5, 501 - 250601**0.5]),
        (lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2, [0.0, 0.0], [0.0, 0.0]),
    ],
    ids=["saddle", "minimum", "Rosenbrock", "monkey saddle"],
)
def test_functions_of_two_variables(
    function: Callable[[Tensor], Tensor], point: list[float], expected: list[float]
) -> None:
    weight = nn.Parameter(torch.tensor(point, dtype=torch.float64))
    pairs = extreme_eigenvalues(LossSurface(lambda: function(weight), [weight]), 1, 1)
    np.testing.assert_allclose(pairs.values, expected, rtol=1e-7)
    assert all(pairs.converged)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_saddles_of_a_deep_linear_net(rank: int) -> None:
    """Saxe et al. 2014: at the saddle where k modes are learned the lowest curvature is −s_{k+1}."""
    modes = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    learned = torch.where(torch.arange(3) < rank, modes, 0.0).sqrt().diag()
    first, second = nn.Parameter(learned.clone()), nn.Parameter(learned.clone())
    surface = LossSurface(lambda: 0.5 * (second @ first - modes.diag()).square().sum(), [first, second])
    pairs = extreme_eigenvalues(surface, 0, 1, tolerance=1e-8, smallest_tolerance=1e-8)
    assert float(pairs.values[0]) == pytest.approx(-float(modes[rank]), rel=1e-7)


def test_dead_units_give_a_zero_hessian() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        module[0].bias.fill_(-100.0)
    inputs = torch.randn(10, 3)
    surface = LossSurface(lambda: module(inputs).square().mean(), module.parameters())
    pairs = extreme_eigenvalues(surface, 2, 1)
    assert pairs.values.tolist() == [0.0, 0.0, 0.0]
    assert pairs.residuals.tolist() == [0.0, 0.0, 0.0]
    assert all(pairs.converged)
    torch.testing.assert_close(pairs.vectors @ pairs.vectors.T, torch.eye(3), atol=1e-5, rtol=0)


def test_more_values_than_parameters() -> None:
    operator = Diagonal(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    pairs = extreme_eigenvalues(operator, largest=2, smallest=5)
    assert (pairs.largest, pairs.smallest) == (2, 1)
    np.testing.assert_allclose(pairs.values, [3.0, 2.0, 1.0])


def test_one_parameter() -> None:
    pairs = extreme_eigenvalues(Diagonal(torch.tensor([-7.0])), 1, 0)
    assert pairs.values.tolist() == [-7.0]
    assert pairs.converged == (True,)


def test_multiples_of_the_identity() -> None:
    pairs = extreme_eigenvalues(Diagonal(torch.full((50,), 4.0)), largest=3, smallest=1)
    np.testing.assert_allclose(pairs.values, 4.0, rtol=1e-6)
    assert all(pairs.converged)
    torch.testing.assert_close(pairs.vectors @ pairs.vectors.T, torch.eye(4), atol=1e-5, rtol=0)


def test_copies_are_counted_when_the_space_becomes_invariant() -> None:
    curvatures = torch.tensor([3.0, 3.0, 1.0, 1.0, -2.0] * 10, dtype=torch.float64)
    pairs = extreme_eigenvalues(Diagonal(curvatures), largest=3, smallest=2)
    np.testing.assert_allclose(pairs.values, [3.0, 3.0, 3.0, -2.0, -2.0])
    assert all(pairs.converged)


def test_a_dominant_negative_eigenvalue_does_not_hide_the_largest() -> None:
    curvatures = spectrum([-10.0, -9.95, 5.0, 4.9, 3.0])
    pairs = extreme_eigenvalues(Diagonal(curvatures), 2, 1)
    np.testing.assert_allclose(pairs.values, [5.0, 4.9, -10.0], rtol=1e-3)


NEAR = {
    "pair 0.7 % apart": [5.0, 4.965, 3.0, 2.6, 1.9, 1.6, 1.1],
    "three within 5 %": [10.0, 9.93, 9.5, 6.0, 5.9, 1.0],
    "four within 6 %": [5.0, 4.9, 4.8, 4.7, 1.9, 1.6],
    "second pair close": [5.0, 4.3, 3.0, 1.913, 1.9, 1.6, 1.1],
}


@pytest.mark.parametrize("name", NEAR)
@pytest.mark.parametrize(("largest", "smallest"), [(1, 0), (2, 0), (5, 0), (1, 1)])
def test_converged_is_never_false_in_50_seeded_runs(name: str, largest: int, smallest: int) -> None:
    allowed = np.array([1e-3] * largest + [0.05] * smallest)
    for seed in range(50):
        torch.manual_seed(1000 + seed)
        curvatures = spectrum(NEAR[name], bulk=400)
        pairs = extreme_eigenvalues(Diagonal(curvatures), largest, smallest, seed=seed)
        reference = extremes(curvatures, largest, smallest)
        errors = np.abs(pairs.values.numpy() - reference) / np.maximum(np.abs(reference), 0.01 * reference.max())
        assert (errors[list(pairs.converged)] <= allowed[list(pairs.converged)]).all(), (seed, pairs.values, reference)
        assert all(pairs.converged[:largest]), seed


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_scaling_the_loss_scales_the_values_and_nothing_else(factor: float) -> None:
    curvatures = spectrum([5.0, 4.0, -1.0])
    plain = extreme_eigenvalues(Diagonal(curvatures), 2, 1)
    scaled = extreme_eigenvalues(Diagonal(factor * curvatures), 2, 1)
    assert scaled.products == plain.products
    assert scaled.converged == plain.converged
    np.testing.assert_allclose(scaled.values, factor * plain.values, rtol=1e-5)


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_a_scaled_loss_of_a_network(factor: float) -> None:
    model = build(MODELS[0], torch.float32)
    surface = LossSurface(lambda: factor * model.loss(), model.module.parameters())
    pairs = extreme_eigenvalues(surface, 2, 1)
    reference = factor * np.linalg.eigvalsh(model.hessian())[::-1]
    np.testing.assert_allclose(pairs.values[:2], reference[:2], rtol=1e-3)
    assert float(pairs.values[2]) == pytest.approx(reference[-1], rel=0.05)


def test_a_product_that_is_not_finite_is_shown() -> None:
    curvatures = torch.ones(30)
    curvatures[3] = torch.nan
    pairs = extreme_eigenvalues(Diagonal(curvatures), 2, 1)
    assert pairs.converged == (False, False, False)
    assert (pairs.largest, pairs.smallest) == (2, 1)
    for tensor in (pairs.values, pairs.residuals, pairs.errors, pairs.vectors, pairs.warm_start):
        assert torch.isnan(tensor).all()
    for tensor in (pairs.values, pairs.residuals, pairs.errors):
        assert tensor.dtype == torch.float64
    assert pairs.products == 1
    assert pairs.vectors.shape == (3, 30)


def test_what_is_not_reached_is_not_called_converged() -> None:
    curvatures = spectrum([5.0, 4.9, 4.8, 4.7])
    pairs = extreme_eigenvalues(Diagonal(curvatures), 3, 0, max_products=4)
    assert pairs.products == 4
    assert not any(pairs.converged)
    reference = extremes(curvatures, 3, 0)
    nearest = np.abs(pairs.values.numpy()[:, None] - curvatures.double().numpy()).min(1)
    assert (nearest <= pairs.errors.numpy()).all()
    assert (pairs.values.numpy() <= reference + 1e-5).all()


def test_fewer_products_than_values() -> None:
    pairs = extreme_eigenvalues(Diagonal(spectrum([5.0, 4.0])), 3, 0, max_products=2)
    assert torch.isnan(pairs.values).tolist() == [False, False, True]
    assert pairs.converged == (False, False, False)
    assert pairs.vectors.shape == (3, 502)


def test_tolerance_is_relative_to_each_value() -> None:
    curvatures = spectrum([1000.0, 30.0, 29.0, 20.0], dtype=torch.float64)
    pairs = extreme_eigenvalues(Diagonal(curvatures), 4, 0, tolerance=1e-3)
    np.testing.assert_allclose(pairs.values, [1000.0, 30.0, 29.0, 20.0], rtol=1e-3)


def test_restarts_are_exercised_by_a_hard_spectrum() -> None:
    curvatures = torch.linspace(-1.0, 1.0, 400, dtype=torch.float64)
    pairs = extreme_eigenvalues(Diagonal(curvatures), 2, 2, tolerance=1e-5, smallest_tolerance=1e-5, max_products=900)
    assert pairs.products > 60
    assert all(pairs.converged)
    np.testing.assert_allclose(pairs.values, extremes(curvatures, 2, 2), rtol=1e-5)


def test_the_same_seed_gives_the_same_result_and_no_global_stream_moves() -> None:
    curvatures = spectrum([5.0, 4.0])
    state = torch.get_rng_state()
    first, second = (extreme_eigenvalues(Diagonal(curvatures), 1, 1, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.vectors, second.vectors)
    assert not torch.equal(first.vectors, extreme_eigenvalues(Diagonal(curvatures), 1, 1, seed=4).vectors)


class TestWarmStart:
    def test_costs_less(self) -> None:
        torch.manual_seed(0)
        curvatures = spectrum([5.0, 4.6, 4.0, 3.0, 2.0, 1.5, 1.0], width=0.3, bulk=3000)
        cold = extreme_eigenvalues(Diagonal(curvatures), 1)
        warm = extreme_eigenvalues(Diagonal(curvatures), 1, initial=cold.warm_start, seed=1)
        assert warm.products < cold.products
        assert float(warm.values[0]) == pytest.approx(5.0, rel=1e-3)

    def test_one_guard_and_a_distance_of_thirty_percent_are_what_saves_products(self) -> None:
        """Ten spectra: 91 products in all; with three guards, or with a new value excluded nearer by, 103 to 122."""
        products = 0
        for seed in range(10):
            torch.manual_seed(seed)
            curvatures = spectrum([5.0, 4.6, 4.0, 3.0, 2.0, 1.5, 1.0], width=0.3, bulk=3000)
            before = extreme_eigenvalues(Diagonal(curvatures), 2, tolerance=1e-2, seed=seed)
            after = extreme_eigenvalues(
                Diagonal(1.01 * curvatures), 2, tolerance=1e-2, initial=before.warm_start, seed=seed + 50
            )
            assert after.converged == (True, True)
            np.testing.assert_allclose(after.values, [5.05, 4.646], rtol=1e-2)
            products += after.products
        assert products <= 97

    def test_does_not_miss_a_new_direction(self) -> None:
        """The earlier vector holds nothing at all of the direction that is now the steepest."""
        for seed in range(50):
            torch.manual_seed(seed)
            curvatures = spectrum([5.0, 4.3, 3.0, 2.6, 1.9, 1.6, 1.1, 0.9])
            before = extreme_eigenvalues(Diagonal(curvatures), 1, seed=seed)
            curvatures[-1] = 6.0
            after = extreme_eigenvalues(Diagonal(curvatures), 1, initial=before.warm_start, seed=seed + 1)
            assert after.converged == (True,)
            assert float(after.values[0]) == pytest.approx(6.0, rel=1e-3)

    @pytest.mark.parametrize("seed", [5, 6, 7, 8])
    def test_what_only_the_random_part_finds_has_to_be_excluded(self, seed: int) -> None:
        """The warm start holds the guard as well as the value: within three products both stand still, far from all."""
        curvatures = torch.linspace(0, 1e-3, 20000, dtype=torch.float64)
        curvatures[:3] = torch.tensor([1.0, 0.7, 1.4])
        known = torch.zeros_like(curvatures)
        known[:2] = 1.0
        pairs = extreme_eigenvalues(Diagonal(curvatures), 1, tolerance=0.05, initial=known, seed=seed)
        assert pairs.converged == (True,)
        assert float(pairs.values[0]) == pytest.approx(1.4, rel=1e-3)

    @pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
    def test_a_useless_vector_is_as_a_cold_start(self, value: float) -> None:
        curvatures = spectrum([5.0, 4.0])
        cold = extreme_eigenvalues(Diagonal(curvatures), 1)
        warm = extreme_eigenvalues(Diagonal(curvatures), 1, initial=torch.full((502,), value))
        assert torch.equal(warm.values, cold.values)
        assert warm.products == cold.products

    def test_takes_a_vector_of_another_dtype(self) -> None:
        curvatures = spectrum([5.0, 4.0])
        cold = extreme_eigenvalues(Diagonal(curvatures), 1)
        warm = extreme_eigenvalues(Diagonal(curvatures), 1, initial=cold.warm_start.double())
        assert float(warm.values[0]) == pytest.approx(5.0, rel=1e-3)

    def test_a_wrong_shape_is_refused(self) -> None:
        with pytest.raises(ValueError, match="flat vector of 502 entries"):
            extreme_eigenvalues(Diagonal(spectrum([5.0, 4.0])), 1, initial=torch.ones(3))


def test_a_wider_basis() -> None:
    curvatures = spectrum([5.0, 4.0])
    pairs = extreme_eigenvalues(Diagonal(curvatures), 1, basis_dtype=torch.float64, basis_device="cpu")
    assert pairs.vectors.dtype == torch.float32
    assert float(pairs.values[0]) == pytest.approx(5.0, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"largest": 0}, "at least one eigenvalue"),
        ({"largest": -1, "smallest": 2}, "largest=-1"),
        ({"tolerance": 0.0}, "between 0 and 1"),
        ({"tolerance": float("nan")}, "between 0 and 1"),
        ({"smallest_tolerance": 2.0}, "between 0 and 1"),
        ({"max_products": 0}, "max_products"),
        ({"basis_dtype": torch.bfloat16}, "torch.bfloat16"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extreme_eigenvalues(Diagonal(torch.ones(3)), **arguments)


class HeldTwice(ParameterSpace):
    """Every entry is held twice and counts half, as on two processes that share replicated parameters."""

    def coefficients(self, basis: Tensor, vector: Tensor) -> Tensor:
        return (basis @ vector) / 2

    def dot(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.dot(first, second) / 2

    def random(self, seed: int, distribution: str = "normal") -> Tensor:
        half = ParameterSpace([nn.Parameter(torch.zeros(self.local_dimension // 2, dtype=self.dtype))]).random(seed)
        return torch.cat([half, half])


def test_all_inner_products_go_through_the_space() -> None:
    curvatures = spectrum([5.0, 4.0, -1.0], dtype=torch.float64)
    plain = extreme_eigenvalues(Diagonal(curvatures), 2, 1)
    space = HeldTwice([nn.Parameter(torch.zeros(2 * len(curvatures), dtype=torch.float64))])
    space.dimension = len(curvatures)
    twice = SimpleNamespace(
        space=space, hessian_vector_product=lambda vector: torch.cat([curvatures, curvatures]) * vector
    )
    pairs = extreme_eigenvalues(twice, 2, 1)
    assert pairs.products == plain.products
    torch.testing.assert_close(pairs.values, plain.values)
    torch.testing.assert_close(pairs.residuals, plain.residuals, rtol=1e-3, atol=1e-12)
    # The sign of an eigenvector is nobody's promise: it differs from one processor's LAPACK to another's.
    halves = pairs.vectors[:, : len(curvatures)]
    torch.testing.assert_close(halves * (halves * plain.vectors).sum(dim=1, keepdim=True).sign(), plain.vectors)


def test_relative_errors() -> None:
    pairs = extreme_eigenvalues(Diagonal(torch.tensor([4.0, -2.0], dtype=torch.float64)), 1, 1)
    assert isinstance(pairs, Eigenpairs)
    torch.testing.assert_close(pairs.relative_errors, pairs.errors / torch.tensor([4.0, 2.0], dtype=torch.float64))


def test_half_precision_parameters() -> None:
    model = build(MODELS[0], torch.bfloat16)
    pairs = extreme_eigenvalues(model.surface(), 1, 1, tolerance=0.05)
    reference = np.linalg.eigvalsh(model.hessian())
    assert float(pairs.values[0]) == pytest.approx(reference[-1], rel=0.05)
    assert pairs.vectors.dtype == torch.float32


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_copies_at_one_end_alone_are_counted(sign: int, scale: float) -> None:
    curvatures = sign * scale * torch.tensor([3.0, 3.0, 3.0] + [1.0, -2.0] * 20, dtype=torch.float64)
    pairs = extreme_eigenvalues(Diagonal(curvatures), *(3, 0)[::sign])
    np.testing.assert_allclose(pairs.values, sign * scale * 3.0)
    assert all(pairs.converged)


def test_copies_are_complete_when_the_last_block_has_none() -> None:
    curvatures = torch.tensor([3.0, 3.0] + [1.0] * 48, dtype=torch.float64)
    pairs = extreme_eigenvalues(Diagonal(curvatures), largest=3)
    np.testing.assert_allclose(pairs.values, [3.0, 3.0, 1.0])
    assert pairs.products <= 6


def test_errors_are_the_squared_residual_over_the_gap() -> None:
    curvatures = spectrum([10.0, 9.0, 5.0, 4.5, 3.0, 2.0, 1.5], dtype=torch.float64)
    pairs = extreme_eigenvalues(Diagonal(curvatures), 4, 0)
    assert all(pairs.converged)
    gaps = np.array([1.0, 1.0, 0.5, 0.5])
    np.testing.assert_allclose(pairs.errors, np.maximum(pairs.residuals.numpy() ** 2 / gaps, 2.3e-15), rtol=0.05)


def test_a_gap_ends_where_the_residual_of_the_neighbour_begins() -> None:
    values, residuals = np.array([10.0, 7.0, 5.0, 4.9]), np.array([1.0, 0.5, 0.25, 0.2])
    # Gaps: 10 - 7 - 0.5; 7 - 5 - 0.25, less than 3 - 1; and the last two are not told apart.
    np.testing.assert_allclose(_kato_temple(values, residuals), [1 / 2.5, 0.25 / 1.75, 0.25, 0.2])
    np.testing.assert_allclose(_kato_temple(values, residuals[[3, 2, 1, 0]]), [0.04 / 2.75, 0.0625 / 1.5, 0.5, 1.0])
    assert _kato_temple(np.array([3.0]), np.array([0.5])) == pytest.approx(0.0)


@dataclass
class Skewed:
    """A symmetric diagonal and a skew part, as a wrong derivative leaves it."""

    curvatures: Tensor
    skew: Tensor

    def __post_init__(self) -> None:
        self.space = Diagonal(self.curvatures).space

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        return self.curvatures * vector + self.skew @ vector


@pytest.mark.parametrize("size", [0.02, 0.2])
def test_an_operator_that_is_not_symmetric_is_known_by_its_asymmetry_and_left(size: float) -> None:
    torch.manual_seed(0)
    curvatures = spectrum([5.0, 4.0, 3.0], bulk=100, dtype=torch.float64)
    skew = torch.randn(len(curvatures), len(curvatures), dtype=torch.float64)
    skew = (skew - skew.T) * (5.0 * size / 2 / torch.linalg.matrix_norm(skew, 2))
    pairs = extreme_eigenvalues(Skewed(curvatures, skew), 1, 1, tolerance=1e-4, max_products=100)
    assert pairs.converged == (False, False)
    assert 0.05 * size < pairs.asymmetry < 2 * size
    # What more products cannot mend ends them.
    assert pairs.products < 50
    symmetric = extreme_eigenvalues(Skewed(curvatures, torch.zeros_like(skew)), 1, 1, tolerance=1e-4)
    assert symmetric.converged == (True, True)
    assert symmetric.asymmetry < 1e-12
    assert abs(float(pairs.values[0]) - 5.0) < float(pairs.errors[0])


def test_an_asymmetry_below_the_tolerance_is_no_hindrance() -> None:
    torch.manual_seed(0)
    curvatures = spectrum([5.0, 4.0, 3.0], bulk=100, dtype=torch.float64)
    skew = torch.randn(len(curvatures), len(curvatures), dtype=torch.float64)
    skew = (skew - skew.T) * (1e-4 / torch.linalg.matrix_norm(skew, 2))
    pairs = extreme_eigenvalues(Skewed(curvatures, skew), 1, 0, tolerance=1e-3)
    assert pairs.converged == (True,)
    assert float(pairs.values[0]) == pytest.approx(5.0, rel=1e-3)


def test_one_largest_value_within_three_hundred_products_is_what_is_asked_for_by_default() -> None:
    pairs = extreme_eigenvalues(Diagonal(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)))
    assert (pairs.largest, pairs.smallest) == (1, 0)
    hard = extreme_eigenvalues(Diagonal(torch.linspace(0.0, 1.0, 200_000, dtype=torch.float64)), tolerance=1e-12)
    assert (hard.products, hard.converged) == (300, (False,))


def test_the_first_seed_is_zero() -> None:
    curvatures = spectrum([5.0, 4.0])
    default, first = (extreme_eigenvalues(Diagonal(curvatures), **seed) for seed in ({}, {"seed": 0}))
    assert torch.equal(default.vectors, first.vectors)


@pytest.mark.parametrize(
    "arguments",
    [{"tolerance": 1.0}, {"tolerance": 1e-3, "smallest_tolerance": 0.0}, {"smallest_tolerance": 1.0}],
    ids=str,
)
def test_tolerances_at_the_ends_of_their_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares between 0 and 1"):
        extreme_eigenvalues(Diagonal(torch.ones(3)), 1, 1, **arguments)


def test_the_fewest_products_and_vectors_that_are_allowed() -> None:
    operator = Diagonal(torch.linspace(0.0, 1.0, 50, dtype=torch.float64))
    one = extreme_eigenvalues(operator, 1, 2, max_products=1)
    assert one.products == 1
    # One product gives one value; the others are not known, and said so.
    assert torch.isfinite(one.values).tolist() == [True, False, False]
    assert torch.isnan(one.errors).tolist() == [False, True, True]
    assert one.errors.dtype == torch.float64
    assert one.converged == (False, False, False)
    assert extreme_eigenvalues(operator, extra_vectors=6).converged == (True,)


@pytest.mark.parametrize(("tolerance", "expected"), [(1e-4, 5e-3), (1e-3, 5e-2), (1e-2, 5e-2), (0.2, 0.2)])
def test_the_lower_end_is_given_fifty_times_the_tolerance_up_to_five_percent(
    tolerance: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []

    def noted(*arguments: Any) -> _Stop:
        found.append(arguments[3])
        return _Stop(*arguments)

    monkeypatch.setattr("landscape_callbacks.surface.lanczos._Stop", noted)
    extreme_eigenvalues(Diagonal(torch.arange(1.0, 40.0)), 1, 1, tolerance=tolerance)
    assert found[0] == pytest.approx(expected)


def test_a_restart_keeps_the_wanted_and_half_of_the_others_at_the_ends_that_are_wanted() -> None:
    def kept(largest: int, smallest: int, size: int = 20) -> list[int]:
        return _Stop(largest, smallest, 1e-3, 1e-3, None).keep(size).tolist()

    assert kept(2, 0) == list(range(11))
    assert kept(0, 2) == list(range(9, 20))
    assert kept(2, 2) == [*range(6), *range(14, 20)]
