"""Zero eigenvalues that come several times at an end of a spectrum, against the dense spectrum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape_callbacks.surface.eigenpairs import Eigenpairs, SymmetricOperator
from landscape_callbacks.surface.lanczos import extreme_eigenvalues
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.repeated_zero import with_repeated_zero
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


def test_the_scale_of_the_loss_does_not_matter() -> None:
    curvatures = 1e-6 * torch.cat([torch.zeros(3, dtype=torch.float64), torch.linspace(0.5, 5.0, 200)])
    pairs = extreme_eigenvalues(Diagonal(curvatures), largest=0, smallest=3)
    assert all(pairs.converged)
    assert pairs.values.abs().max() < 1e-12


CURVATURES = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64)


def seen_by_a_krylov_space(asked: int, sign: float = 1.0) -> Eigenpairs:
    """The lowest values of :data:`CURVATURES`, each once, with marks to know them by."""
    rows = [0, 3, 4, 5][:asked][::-1]
    marks = torch.tensor(rows, dtype=torch.float64)
    pairs = Eigenpairs(
        values=CURVATURES[rows],
        vectors=torch.eye(6, dtype=torch.float64)[rows],
        residuals=0.1 + marks,
        errors=0.2 + marks,
        converged=(True,) * asked,
        products=10,
        largest=0,
        warm_start=torch.ones(6, dtype=torch.float64),
    )
    if sign > 0:
        return pairs
    turned = {name: getattr(pairs, name).flip(0) for name in ("vectors", "residuals", "errors")}
    return Eigenpairs(
        values=-pairs.values.flip(0),
        **turned,
        converged=pairs.converged,
        products=10,
        largest=asked,
        warm_start=pairs.warm_start,
    )


class Search:
    """Finds the outermost pair by dense algebra; it costs 7 products."""

    def __init__(self, gives_up_at: int = 99) -> None:
        self.calls: list[tuple[int, int, int]] = []
        self.gives_up_at = gives_up_at

    def __call__(self, operator: SymmetricOperator, largest: int, smallest: int, copies: int) -> Eigenpairs:
        self.calls.append((largest, smallest, copies))
        matrix = torch.stack([operator.hessian_vector_product(row) for row in torch.eye(6, dtype=torch.float64)])
        values, vectors = torch.linalg.eigh(matrix)
        place = -1 if largest else 0
        return Eigenpairs(
            values=values[[place]],
            vectors=vectors[:, [place]].T,
            residuals=torch.tensor([20.0 + copies]),
            errors=torch.tensor([30.0 + copies]),
            converged=(copies < self.gives_up_at,),
            products=7,
            largest=largest,
            warm_start=vectors[0],
        )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_each_copy_is_searched_for_in_the_complement_of_those_before(sign: float) -> None:
    search = Search()
    pairs = with_repeated_zero(Diagonal(sign * CURVATURES), seen_by_a_krylov_space(4, sign), 3.0, search)
    outwards = (lambda values: values.flip(0).tolist()) if sign > 0 else (lambda values: values.tolist())
    assert search.calls == [(int(sign < 0), int(sign > 0), copies) for copies in (1, 2, 3)]
    assert outwards(sign * pairs.values) == pytest.approx([0.0, 0.0, 0.0, 1.0], abs=1e-12)
    assert outwards(pairs.residuals) == pytest.approx([0.1, 21.0, 22.0, 3.1])
    assert outwards(pairs.errors) == pytest.approx([0.2, 31.0, 32.0, 3.2])
    assert pairs.converged == (True,) * 4
    assert pairs.products == 10 + 3 * 7
    torch.testing.assert_close(pairs.vectors @ pairs.vectors.T, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(CURVATURES * pairs.vectors, (sign * pairs.values)[:, None] * pairs.vectors)
    assert torch.equal(pairs.warm_start, torch.ones(6, dtype=torch.float64))


def test_as_many_copies_as_were_asked_for_end_the_search() -> None:
    search = Search()
    pairs = with_repeated_zero(Diagonal(CURVATURES), seen_by_a_krylov_space(2), 3.0, search)
    assert search.calls == [(0, 1, 1)]
    assert pairs.values.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    assert pairs.products == 17


def test_where_a_search_fails_only_the_copies_found_are_known() -> None:
    pairs = with_repeated_zero(Diagonal(CURVATURES), seen_by_a_krylov_space(4), 3.0, Search(gives_up_at=2))
    assert pairs.converged == (False, False, True, True)
    assert pairs.values.tolist() == pytest.approx([2.0, 1.0, 0.0, 0.0], abs=1e-12)
    assert pairs.products == 24


def test_without_a_zero_at_the_end_nothing_is_searched() -> None:
    search, pairs = Search(), seen_by_a_krylov_space(1)
    assert with_repeated_zero(Diagonal(CURVATURES), pairs, 3.0, search) is not None
    assert search.calls == []
    shifted = Eigenpairs(**{**vars(seen_by_a_krylov_space(3)), "values": torch.tensor([4.0, 2.0, 1.0])})
    assert with_repeated_zero(Diagonal(CURVATURES), shifted, 3.0, search) is shifted
    assert search.calls == []
