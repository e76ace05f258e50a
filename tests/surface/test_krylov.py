from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape_callbacks.surface.krylov import KrylovSpace, NotFiniteError
from tests.surface.models import Dense, Diagonal


def spread_spectrum(size: int = 60) -> torch.Tensor:
    return torch.linspace(-1.0, 2.0, size, dtype=torch.float64) ** 3


def grown(operator: Diagonal, capacity: int, steps: int) -> KrylovSpace:
    krylov = KrylovSpace(operator, operator.space.random(0), capacity)
    for _ in range(steps):
        if krylov.size == krylov.capacity:
            ritz = krylov.ritz()
            krylov.restart(ritz, np.r_[0:4, krylov.size - 3 : krylov.size])
        krylov.grow()
    return krylov


@pytest.mark.parametrize("steps", [1, 6, 12, 13, 30])
def test_the_basis_is_orthonormal_and_the_krylov_relation_holds(steps: int) -> None:
    operator = Diagonal(spread_spectrum())
    krylov = grown(operator, capacity=12, steps=steps)
    basis = krylov.basis[: krylov.size].numpy()
    np.testing.assert_allclose(basis @ basis.T, np.eye(krylov.size), atol=1e-13)
    ritz = krylov.ritz()
    vectors = ritz.rotation.T @ basis
    images = vectors * operator.curvatures.numpy()
    residuals = images - ritz.values[:, None] * vectors
    next_vector = krylov.basis[krylov.size].numpy()
    np.testing.assert_allclose(residuals, ritz.couplings[:, None] * next_vector, atol=1e-12)
    np.testing.assert_allclose(ritz.residuals, np.linalg.norm(residuals, axis=1), atol=1e-12)
    assert (np.diff(ritz.values) <= 0).all()
    assert krylov.products == operator.products == steps


def test_converged_values_do_not_come_back_as_ghosts() -> None:
    """Plain Lanczos in float32 shows 10, 10, 10, … here after some 50 steps."""
    curvatures = torch.cat([torch.tensor([10.0, 9.0, 8.0]), torch.rand(500)])
    krylov = grown(Diagonal(curvatures), capacity=90, steps=90)
    np.testing.assert_allclose(krylov.ritz().values[:3], [10.0, 9.0, 8.0], rtol=1e-5)
    assert krylov.ritz().values[3] < 1.001


@pytest.mark.parametrize(("steps", "capacity"), [(16, 20), (16, 12), (33, 12)])
def test_start_components_tell_what_the_start_holds_of_an_eigenvector(steps: int, capacity: int) -> None:
    operator = Diagonal(torch.cat([spread_spectrum(), torch.tensor([13.0], dtype=torch.float64)]))
    krylov = grown(operator, capacity, steps)
    ritz = krylov.ritz()
    start = operator.space.random(0)
    start = start / operator.space.norm(start)
    # The top eigenvector is resolved: it lies along the top Ritz vector only, with its last entry.
    assert ritz.residuals[0] < 1e-7
    along = abs(float(ritz.rotation[:, 0] @ krylov.basis[: krylov.size, -1].numpy()))
    assert krylov.start_components(ritz, 0) * along == pytest.approx(abs(float(start[-1])), rel=1e-5)


@pytest.mark.parametrize("kept", [2, 3])
def test_start_components_hold_over_restarts_before_anything_is_known(kept: int) -> None:
    """What an early restart drops still holds some of the eigenvector: one in 40 of its component in the start."""
    operator = Diagonal(torch.cat([spread_spectrum(), torch.tensor([13.0], dtype=torch.float64)]))
    krylov = KrylovSpace(operator, operator.space.random(0), 40)
    for steps in (4, 3, 20):
        for _ in range(steps):
            krylov.grow()
        if steps < 20:
            krylov.restart(krylov.ritz(), np.arange(kept))
    ritz = krylov.ritz()
    start = operator.space.random(0)
    start = start / operator.space.norm(start)
    along = abs(float(ritz.rotation[:, 0] @ krylov.basis[: krylov.size, -1].numpy()))
    assert krylov.start_components(ritz, 0) * along == pytest.approx(abs(float(start[-1])), rel=1e-9)


@pytest.mark.parametrize("steps", [10, 40])
def test_an_asymmetric_operator_shows_in_the_residuals(steps: int) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(40, 40, dtype=torch.float64)
    noisy = Dense(matrix + matrix.T + 0.5 * torch.randn(40, 40, dtype=torch.float64))
    krylov = KrylovSpace(noisy, noisy.space.random(0), 40)
    for _ in range(steps):
        krylov.grow()
    ritz = krylov.ritz()
    vectors = ritz.rotation.T @ krylov.basis[:steps].numpy()
    residuals = np.linalg.norm(vectors @ noisy.matrix.numpy().T - ritz.values[:, None] * vectors, axis=1)
    np.testing.assert_allclose(ritz.residuals, residuals, rtol=1e-9)
    assert krylov.exhausted == (steps == 40)
    assert residuals.min() > 0.1


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_an_invariant_space_is_noticed_and_left_for_a_new_block(scale: float) -> None:
    operator = Diagonal(scale * torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    krylov = KrylovSpace(operator, operator.space.random(0), 6)
    krylov.grow()
    assert not krylov.invariant
    krylov.grow()
    assert krylov.invariant
    assert krylov.block_start == 0
    np.testing.assert_allclose(krylov.ritz().values / scale, [3.0, 1.0])
    krylov.grow()
    krylov.grow()
    assert krylov.invariant
    assert krylov.block_start == 2
    np.testing.assert_allclose(krylov.ritz().values / scale, [3.0, 3.0, 1.0, 1.0])
    np.testing.assert_allclose(krylov.ritz(krylov.block_start).values / scale, [3.0, 1.0])
    krylov.grow()
    krylov.grow()
    assert krylov.exhausted
    np.testing.assert_allclose(krylov.ritz().values / scale, [3.0, 3.0, 3.0, 1.0, 1.0, 1.0])
    basis = krylov.basis[:6].numpy()
    np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=1e-13)


def test_a_product_of_zero_starts_a_new_block() -> None:
    operator = Diagonal(torch.zeros(5, dtype=torch.float64))
    krylov = KrylovSpace(operator, operator.space.random(0), 3)
    for step in range(3):
        krylov.grow()
        assert krylov.invariant
        assert krylov.block_start == step
    basis = krylov.basis[:3].numpy()
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-13)


def test_a_restart_makes_one_block_of_all() -> None:
    operator = Diagonal(torch.tensor([3.0, 3.0, 2.0, 2.0, 1.0, 1.0], dtype=torch.float64))
    krylov = KrylovSpace(operator, operator.space.random(0), 5)
    for _ in range(4):
        krylov.grow()
    assert krylov.block_start == 3
    krylov.restart(krylov.ritz(), np.arange(2))
    krylov.grow()
    last = krylov.ritz(krylov.block_start)
    assert len(last.values) == krylov.size == 3
    assert last.values[0] == pytest.approx(3.0, rel=1e-12)


class OfItsOwnDtype(Diagonal):
    """Takes vectors of the space's dtype only, as autograd does."""

    def hessian_vector_product(self, vector: torch.Tensor) -> torch.Tensor:
        assert vector.dtype == self.space.dtype
        return super().hessian_vector_product(vector)


@pytest.mark.parametrize(
    ("dtype", "basis_dtype"),
    [(torch.float32, torch.float64), (torch.float32, None), (torch.float64, torch.float32)],
)
def test_a_basis_of_another_dtype_is_as_orthogonal_as_that_allows(
    dtype: torch.dtype, basis_dtype: torch.dtype | None
) -> None:
    # Three values, so that there is more than one block.
    operator = OfItsOwnDtype(torch.tensor([3.0, 2.0, -1.0] * 20, dtype=dtype))
    krylov = KrylovSpace(operator, operator.space.random(0), 6, dtype=basis_dtype)
    for _ in range(6):
        krylov.grow()
    assert krylov.basis.dtype == (basis_dtype or dtype)
    basis = krylov.basis[:6].double().numpy()
    np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=10 * torch.finfo(krylov.basis.dtype).eps)
    ritz = krylov.ritz()
    np.testing.assert_allclose(ritz.values, [3.0, 3.0, 2.0, 2.0, -1.0, -1.0], rtol=1e-5)
    combined = krylov.combine(ritz.rotation[:, 0])
    vectors = krylov.extract(ritz.rotation[:, :2])
    assert combined.dtype == vectors.dtype == dtype
    torch.testing.assert_close(vectors[0], combined)


def test_the_whole_space_is_exhausted() -> None:
    operator = Diagonal(torch.tensor([3.0, 2.0, -1.0], dtype=torch.float64))
    krylov = KrylovSpace(operator, operator.space.random(0), 50)
    for _ in range(3):
        krylov.grow()
    assert krylov.exhausted
    np.testing.assert_allclose(krylov.ritz().values, [3.0, 2.0, -1.0])
    np.testing.assert_allclose(krylov.ritz().residuals, 0.0, atol=1e-14)


def test_a_non_finite_product_is_an_error() -> None:
    krylov = KrylovSpace(
        operator := Diagonal(torch.tensor([1.0, float("inf"), 2.0])), operator.space.random(0), capacity=3
    )
    with pytest.raises(NotFiniteError):
        krylov.grow()
    assert krylov.products == 1


def test_memory_is_laid_out_once() -> None:
    operator = Diagonal(spread_spectrum(1000))
    krylov = KrylovSpace(operator, operator.space.random(0), 12)
    address = krylov.basis.data_ptr()
    for _ in range(40):
        if krylov.size == krylov.capacity:
            krylov.restart(krylov.ritz(), np.arange(6))
        krylov.grow()
    assert krylov.basis.data_ptr() == address
    assert krylov.basis.shape == (13, 1000)


def test_vectors_are_handed_out_without_the_basis() -> None:
    krylov = grown(Diagonal(spread_spectrum()), capacity=12, steps=10)
    ritz = krylov.ritz()
    combined = krylov.combine(ritz.rotation[:, 1])
    vectors = krylov.extract(ritz.rotation[:, :2])
    torch.testing.assert_close(vectors[1], combined)
    assert vectors.untyped_storage().nbytes() == 2 * 60 * 8
