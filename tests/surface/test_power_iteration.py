from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from landscape_callbacks.surface import LossSurface, power_iteration
from tests.surface.models import MODELS, Dense, Diagonal, Model, build


@pytest.mark.parametrize("make", MODELS)
def test_both_ends_match_the_dense_hessian(make: Callable[[], Model]) -> None:
    model = build(make)
    pairs = power_iteration(model.surface(), 2, 1, tolerance=1e-4, max_products=20_000)
    reference = np.linalg.eigvalsh(model.hessian())[::-1][[0, 1, -1]]
    assert all(pairs.converged)
    np.testing.assert_allclose(pairs.values, reference, atol=1e-4 * np.abs(reference).max())


def test_residuals_vectors_and_cost_are_what_they_say() -> None:
    matrix = torch.diag(torch.tensor([5.0, 3.0, 1.0, -4.0], dtype=torch.float64))
    pairs = power_iteration(Dense(matrix), 2, 1, tolerance=1e-5)
    np.testing.assert_allclose(pairs.values, [5.0, 3.0, -4.0], atol=1e-4)
    residuals = (pairs.vectors @ matrix - pairs.values[:, None] * pairs.vectors).norm(dim=1)
    torch.testing.assert_close(pairs.residuals, residuals, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(pairs.vectors.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert (pairs.largest, pairs.smallest) == (2, 1)
    assert pairs.errors is pairs.residuals
    assert pairs.values.dtype == torch.float64
    torch.testing.assert_close(pairs.warm_start, pairs.vectors[0] + pairs.vectors[1] + pairs.vectors[2])


def test_one_largest_value_to_a_thousandth_is_what_is_asked_for_by_default() -> None:
    curvatures = torch.tensor([5.0, 4.0, 1.0], dtype=torch.float64)
    pairs = power_iteration(Diagonal(curvatures))
    assert (pairs.largest, pairs.smallest, pairs.converged) == (1, 0, (True,))
    assert float(pairs.values[0]) == pytest.approx(5.0, rel=1e-3)
    assert 1e-6 < float(pairs.residuals[0]) < 5e-3
    slow = power_iteration(Diagonal(torch.linspace(0.0, 1.0, 20_000)), tolerance=1e-12)
    assert (slow.products, slow.converged) == (1000, (False,))


def test_the_lowest_alone_and_no_more_than_there_are() -> None:
    curvatures = torch.tensor([3.0, 1.0, -0.5], dtype=torch.float64)
    lowest = power_iteration(Diagonal(curvatures), 0, 1, tolerance=1e-6)
    assert lowest.values.tolist() == pytest.approx([-0.5], abs=1e-5)
    every = power_iteration(Diagonal(curvatures), 2, 5, tolerance=1e-6)
    assert every.values.tolist() == pytest.approx([3.0, 1.0, -0.5], abs=1e-4)
    assert (every.largest, every.smallest) == (2, 1)
    assert power_iteration(Diagonal(curvatures), max_products=1).products == 2


def test_a_flat_spectrum_below_one_is_told_to_its_own_scale() -> None:
    pairs = power_iteration(Diagonal(torch.tensor([3e-4, 2e-4, 1e-4], dtype=torch.float64)), 1, 1, tolerance=1e-4)
    assert all(pairs.converged)
    np.testing.assert_allclose(pairs.values, [3e-4, 1e-4], atol=1e-7)


def test_opposite_eigenvalues_of_equal_size_are_told_apart() -> None:
    operator = Diagonal(torch.tensor([2.0, -2.0, 0.5], dtype=torch.float64))
    pairs = power_iteration(operator, 1, 1, tolerance=1e-6)
    np.testing.assert_allclose(pairs.values, [2.0, -2.0], atol=1e-5)
    assert all(pairs.converged)
    assert pairs.products == operator.products


def test_a_dominant_negative_eigenvalue_does_not_hide_the_largest() -> None:
    curvatures = torch.tensor([3.0, 1.0, -10.0], dtype=torch.float64)
    pairs = power_iteration(Diagonal(curvatures), 1, 0, tolerance=1e-6)
    assert float(pairs.values[0]) == pytest.approx(3.0, abs=1e-4)


def test_copies_of_an_eigenvalue_are_found_by_deflation() -> None:
    pairs = power_iteration(Diagonal(torch.tensor([3.0, 3.0, 3.0, 1.0], dtype=torch.float64)), 4, tolerance=1e-6)
    np.testing.assert_allclose(pairs.values, [3.0, 3.0, 3.0, 1.0], atol=1e-5)


def test_a_zero_hessian() -> None:
    weight = nn.Parameter(torch.ones(5))
    pairs = power_iteration(LossSurface(lambda: weight.sum(), [weight]), 1, 1)
    assert pairs.values.tolist() == [0.0, 0.0]
    assert all(pairs.converged)


def test_the_budget_is_kept_and_admitted() -> None:
    operator = Diagonal(torch.linspace(0.0, 1.0, 200))
    pairs = power_iteration(operator, 1, tolerance=1e-6, max_products=15)
    assert pairs.products == operator.products <= 16
    assert pairs.converged == (False,)
    assert float(pairs.residuals[0]) > 1e-6


def test_a_product_that_is_not_finite_is_shown() -> None:
    pairs = power_iteration(Diagonal(torch.tensor([1.0, torch.nan, 2.0])), 1, 1)
    assert torch.isnan(pairs.values).all()
    assert pairs.converged == (False, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"largest": 0}, "at least one eigenvalue"),
        ({"largest": 3, "smallest": -1}, "at least one eigenvalue"),
        ({"tolerance": 0.0}, "positive"),
        ({"max_products": 0}, "positive"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        power_iteration(Diagonal(torch.ones(3)), **arguments)
