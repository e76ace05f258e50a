"""Zero eigenvalues that come several times at an end of a spectrum, against the dense spectrum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape_callbacks.surface.lanczos import extreme_eigenvalues
from landscape_callbacks.surface.loss_surface import LossSurface
from tests.surface.models import Diagonal


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("copies", "asked"), [(3, 2), (40, 3), (2, 3), (1, 2)])
def test_copies_of_the_lowest_eigenvalue_are_found(seed: int, dtype: torch.dtype, copies: int, asked: int) -> None:
    positive = torch.linspace(0.5, 5.0, 200, dtype=torch.float64)
    curvatures = torch.cat([torch.zeros(copies, dtype=torch.float64), positive]).to(dtype)
    for sign in (1.0, -1.0):
        wish = {"smallest": asked, "largest": 1} if sign > 0 else {"smallest": 1, "largest": asked}
        pairs = extreme_eigenvalues(Diagonal(sign * curvatures), **wish, seed=seed, smallest_tolerance=1e-3)
        exact = (sign * curvatures).sort(descending=True).values.double()
        exact = torch.cat([exact[: wish["largest"]], exact[-wish["smallest"] :]])
        assert all(pairs.converged)
        torch.testing.assert_close(pairs.values, exact, rtol=1e-3, atol=1e-3 * 5.0 * 1e-2)
        gram = pairs.vectors @ pairs.vectors.T
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=dtype), atol=1e-3, rtol=0.0)


def test_softmax_regression_has_as_many_zeros_as_asked_for() -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(64, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (64,), generator=generator)
    model = nn.Linear(6, 4).double()
    surface = LossSurface(lambda: nn.functional.cross_entropy(model(inputs), labels), model.parameters())
    pairs = extreme_eigenvalues(surface, largest=1, smallest=4)
    assert all(pairs.converged)
    torch.testing.assert_close(pairs.values[1:], torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0.0)


def test_a_search_that_does_not_end_is_not_called_converged() -> None:
    curvatures = torch.cat([torch.zeros(300), torch.linspace(0.001, 1.0, 2000) ** 3])
    pairs = extreme_eigenvalues(Diagonal(curvatures), largest=0, smallest=2, max_products=40, tolerance=1e-3)
    for value, converged in zip(pairs.values.tolist(), pairs.converged, strict=True):
        assert not converged or abs(value) < 1e-3
