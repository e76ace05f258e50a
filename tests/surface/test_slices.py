"""Slices against closed forms, a dense Hessian, and pairs of minima whose barrier is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from landscape_callbacks.surface import AverageSurface, LossSurface, loss_slice
from landscape_callbacks.surface.curve_shape import barrier_height, convexity_violation, curvature_at_zero
from landscape_callbacks.surface.directions import direction_between
from landscape_callbacks.surface.loss_curve import LossCurve


def quadratic(size: int = 6, dtype: torch.dtype = torch.float64) -> tuple[LossSurface, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(size, size, generator=generator, dtype=dtype)
    matrix = root @ root.T
    weight = nn.Parameter(torch.randn(size, generator=generator, dtype=dtype))
    return LossSurface(lambda: 0.5 * weight @ matrix @ weight + 3.0, [weight]), matrix


def trained_net(activation: type[nn.Module], dtype: torch.dtype) -> LossSurface:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 3)).to(dtype)
    inputs = torch.randn(64, 6, dtype=dtype)
    labels = torch.randint(0, 3, (64,))
    surface = LossSurface(lambda: nn.functional.cross_entropy(net(inputs), labels), net.named_parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        surface.closure().backward()
        optimizer.step()
    optimizer.zero_grad()
    return surface


def dense_hessian(surface: LossSurface) -> torch.Tensor:
    identity = torch.eye(surface.space.dimension, dtype=surface.space.dtype)
    return torch.stack([surface.hessian_vector_product(row) for row in identity])


@pytest.mark.parametrize("points", [None, 3, 5, 51])
def test_parabola_is_exact_on_quadratics(points: int | None) -> None:
    surface, matrix = quadratic()
    direction = torch.randn(6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    result = loss_slice(surface, direction, points=points, extent=2.0)
    curvature = float(direction @ matrix @ direction)
    best = -float(surface.gradient() @ direction) / curvature
    assert result.curvature == pytest.approx(curvature, rel=1e-9)
    assert result.best_step == pytest.approx(best, abs=1e-8)
    assert result.convexity_violation == pytest.approx(0.0, abs=1e-12)
    at = torch.linspace(-2, 2, 77, dtype=torch.float64)
    torch.testing.assert_close(result.curve(at), surface.losses_along(direction, at), rtol=1e-10, atol=1e-10)
    ends = surface.losses_along(direction, [-2.0, 2.0])
    assert result.barrier == pytest.approx(float(ends.max() - ends.mean()), rel=1e-9)


def test_the_optimizers_own_step_is_the_unit() -> None:
    surface, _ = quadratic(dtype=torch.float32)
    step = -0.01 * surface.gradient()
    result = loss_slice(surface, step, extent=(-1.0, 60.0))
    curvature = float(step @ surface.hessian_vector_product(step))
    best = -float(surface.gradient() @ step) / curvature
    assert result.best_step == pytest.approx(best, rel=1e-3)
    assert abs(result.best_step - best) <= result.best_step_error


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("activation", "curvature"),
    [(nn.Tanh, "difference"), (nn.GELU, "difference"), (nn.Tanh, "product"), (nn.ReLU, "product"), (nn.ReLU, "auto")],
)
@pytest.mark.parametrize("points", [None, 51])
def test_eigenvector_slices_have_the_curvature_of_the_eigenvalue(
    activation: type[nn.Module], curvature: str, points: int | None, dtype: torch.dtype
) -> None:
    surface = trained_net(activation, dtype)
    values, vectors = torch.linalg.eigh(dense_hessian(surface))
    for index in (0, -1):
        value = float(values[index])
        # As far as the parabola rises by a quarter of the loss: the scale on which a slice is looked at.
        reach = float(torch.sqrt(0.5 * surface.loss() / abs(value)))
        direction = vectors[:, index].contiguous()
        result = loss_slice(surface, direction, points=points, extent=reach, curvature=curvature)
        assert result.curvature == pytest.approx(value, rel=0.01)
        assert abs(result.curvature - value) <= result.curvature_error + 1e-6 * abs(value)


def test_kinks_of_relu_count_in_differences_and_not_in_products() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    offsets = torch.linspace(-1.0, 1.0, 400, dtype=torch.float64)
    surface = LossSurface(lambda: torch.relu(weight + offsets).mean(), [weight])
    direction = torch.ones(1, dtype=torch.float64)
    assert loss_slice(surface, direction, points=21, extent=0.5).curvature == pytest.approx(0.5, rel=0.02)
    assert loss_slice(surface, direction, curvature="product").curvature == 0.0
    assert loss_slice(surface, direction).curvature == 0.0, "the graph of the product before is still there"
    surface.release()
    assert loss_slice(surface, direction, points=21, extent=0.5).curvature == pytest.approx(0.5, rel=0.02)


def test_known_curvature_is_reported_and_saves_its_points() -> None:
    surface, matrix = quadratic()
    direction = torch.linalg.eigh(matrix).eigenvectors[:, -1].contiguous()
    asked: list[float] = []
    original = surface.losses_along
    surface.losses_along = lambda d, alphas: (asked.extend(map(float, alphas)), original(d, alphas))[1]  # type: ignore[method-assign]
    result = loss_slice(surface, direction, curvature=(12.5, 0.25))
    assert (result.curvature, result.curvature_error) == (12.5, 0.25)
    assert min(abs(alpha) for alpha in asked if alpha != 0.0) > 0.3


@pytest.mark.parametrize("points", [None, 51])
def test_center_is_the_loss_to_the_bit_and_the_grid_symmetric(points: int | None) -> None:
    surface = trained_net(nn.Tanh, torch.float32)
    weights = surface.space.weights()
    result = loss_slice(surface, surface.space.random(3), points=points)
    center = int((result.alphas == 0.0).nonzero())
    assert float(result.losses[center]) == float(surface.closure().detach())
    assert torch.equal(surface.space.weights(), weights)
    if points:
        assert torch.equal(result.alphas, -result.alphas.flip(0))


def test_curvature_error_covers_the_error_in_float32() -> None:
    surface = trained_net(nn.Tanh, torch.float32)
    for seed in range(5):
        direction = surface.space.random(seed)
        result = loss_slice(surface, direction, extent=0.5, curvature="difference")
        exact = float(direction @ surface.hessian_vector_product(direction))
        assert abs(result.curvature - exact) <= result.curvature_error
        assert result.curvature_error < 0.2 * abs(exact) + 0.05


def test_barrier_of_two_known_minima() -> None:
    weight = nn.Parameter(torch.tensor([-1.0], dtype=torch.float64))
    surface = LossSurface(lambda: ((weight**2 - 1) ** 2).sum(), [weight])
    direction = direction_between(surface.space, torch.tensor([-1.0]), torch.tensor([1.0]))
    result = loss_slice(surface, direction, extent=(0.0, 1.0), max_points=25)
    assert result.barrier == pytest.approx(1.0, abs=1e-3)
    assert result.convexity_violation == pytest.approx(1.0, abs=1e-3)
    assert result.curvature == pytest.approx(8.0 * 4.0, rel=0.05)


def test_barrier_of_a_permutation_symmetric_pair() -> None:
    """Two hidden units exchanged: the same function, with a barrier between that a fine grid knows too."""
    torch.manual_seed(1)
    inputs = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    targets = torch.tanh(3 * inputs) - 0.5 * torch.tanh(-2 * inputs + 1)
    first, bias, second = (
        nn.Parameter(torch.tensor(values, dtype=torch.float64)) for values in ([3.0, -2.0], [0.0, 1.0], [1.0, -0.5])
    )
    surface = LossSurface(
        lambda: ((torch.tanh(inputs * first + bias) @ second[:, None] - targets) ** 2).mean(), [first, bias, second]
    )
    exchanged = [parameter.detach().flip(0) for parameter in (first, bias, second)]
    direction = direction_between(surface.space, surface.space.weights(), surface.space.flatten(exchanged))
    result = loss_slice(surface, direction, extent=(0.0, 1.0), max_points=21)
    fine = surface.losses_along(direction, np.linspace(0, 1, 2001).tolist())
    assert float(fine[0]) == pytest.approx(0.0, abs=1e-20)
    assert float(fine[-1]) == pytest.approx(0.0, abs=1e-20)
    assert result.barrier == pytest.approx(float(fine.max()), rel=1e-3)
    torch.testing.assert_close(fine, fine.flip(0))


def test_no_barrier_and_no_violation_on_a_monotone_convex_line() -> None:
    curve = LossCurve(np.linspace(0, 1, 21), np.exp(-np.linspace(0, 1, 21)))
    assert convexity_violation(curve) < 1e-6
    assert barrier_height(curve) == pytest.approx((1 - np.exp(-1)) / 2)


def test_convexity_violation_is_the_largest_over_all_pairs() -> None:
    alphas = np.linspace(-1, 1, 21)
    losses = np.cos(5 * alphas) + alphas
    curve = LossCurve(alphas, losses)
    x, y = curve.dense()
    worst = 0.0
    for i in range(len(x)):
        for k in range(i + 2, len(x)):
            share = (x[i + 1 : k] - x[i]) / (x[k] - x[i])
            worst = max(worst, float((y[i + 1 : k] - (1 - share) * y[i] - share * y[k]).max()))
    assert convexity_violation(curve) == pytest.approx(worst, rel=1e-12)


def test_several_batches_give_errors_of_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))
    centers = torch.randn(16, generator=generator, dtype=torch.float64) + 1.0
    surfaces = [LossSurface(lambda c=c: (0.5 * (weight - c) ** 2).sum(), [weight]) for c in centers]
    direction = torch.ones(1, dtype=torch.float64)
    result = loss_slice(AverageSurface(surfaces), direction, extent=2.0)
    assert result.best_step == pytest.approx(float(centers.mean()) - 0.3, abs=1e-6)
    assert result.best_step_error == pytest.approx(float(centers.std() / 4), rel=1e-3)
    assert result.loss_error is not None
    assert result.batch_losses.shape == (16, len(result.alphas))
    torch.testing.assert_close(result.loss_error, result.batch_losses.std(dim=0) / 4)
    assert result.curvature == pytest.approx(1.0, rel=1e-6)
    assert result.evaluations == 16 * len(result.alphas)


def test_unequal_batches_are_weighted() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    surfaces = [LossSurface(lambda c=c: ((weight - c) ** 2).sum(), [weight]) for c in (1.0, -1.0)]
    result = loss_slice(AverageSurface(surfaces, [3, 1]), torch.ones(1, dtype=torch.float64))
    assert result.best_step == pytest.approx(0.5, abs=1e-9)


def test_validation_loss_on_the_same_points() -> None:
    surface, _ = quadratic()
    (weight,) = surface.space.parameters
    other = LossSurface(lambda: (weight - 1).abs().sum(), [weight])
    direction = surface.space.random(0)
    result = loss_slice(surface, direction, validation=other)
    assert result.validation_losses is not None
    torch.testing.assert_close(result.validation_losses, other.losses_along(direction, result.alphas))


def test_non_finite_losses_are_counted_and_stay() -> None:
    weight = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    surface = LossSurface(lambda: -torch.log(weight).sum(), [weight])
    result = loss_slice(surface, torch.ones(1, dtype=torch.float64), points=[-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0])
    assert result.nonfinite == 2
    assert torch.isnan(result.losses[0])
    assert torch.isposinf(result.losses[1])
    assert result.best_step == 1.0
    assert result.best_step_error == float("inf")
    assert np.isfinite(result.curvature)
    assert result.barrier == float("inf")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_losses_have_large_errors(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.full((8,), 0.7, dtype=dtype))
    surface = LossSurface(lambda: (weight**2).sum(), [weight])
    result = loss_slice(surface, surface.space.random(0))
    exact = 2 * float(surface.space.random(0).square().sum())
    assert abs(result.curvature - exact) <= result.curvature_error


def test_bad_input_is_named() -> None:
    surface, _ = quadratic()
    direction = surface.space.random(0)
    with pytest.raises(ValueError, match=r"shape \(6,\), got \(5,\)"):
        loss_slice(surface, direction[:5])
    with pytest.raises(ValueError, match="length 0"):
        loss_slice(surface, torch.zeros_like(direction))
    with pytest.raises(ValueError, match="length nan"):
        loss_slice(surface, direction * float("nan"))
    with pytest.raises(ValueError, match="max_points of at least 9, got 5"):
        loss_slice(surface, direction, max_points=5)
    with pytest.raises(ValueError, match="3, 5, 7"):
        loss_slice(surface, direction, points=50)
    with pytest.raises(ValueError, match="got extent"):
        loss_slice(surface, direction, extent=(0.5, 1.0))
    with pytest.raises(ValueError, match="got 'exact'"):
        loss_slice(surface, direction, curvature="exact")
    with pytest.raises(ValueError, match="two different"):
        loss_slice(surface, direction, points=[0.0])


def test_curvature_beside_the_middle_of_the_grid() -> None:
    alphas = np.array([-0.1, 0.0, 0.13, 0.4, 0.7, 1.0])
    value, error, _ = curvature_at_zero(LossCurve(alphas, np.exp(alphas)))
    assert value == pytest.approx(1.0, abs=1e-3)
    assert 1e-6 < error < 1e-2
    assert np.isnan(curvature_at_zero(LossCurve(alphas + 0.5, np.exp(alphas)))[0])


def test_weights_come_back_after_an_exception() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -0.0]))
    calls = iter(range(100))

    def closure() -> torch.Tensor:
        if next(calls) == 4:
            raise RuntimeError("out of memory")
        return (weight**2).sum()

    before = weight.detach().clone()
    with pytest.raises(RuntimeError, match="out of memory"):
        loss_slice(LossSurface(closure, [weight]), torch.ones(2))
    assert torch.equal(weight.view(torch.int32), before.view(torch.int32))


@pytest.mark.parametrize("curvature", ["product", "difference"])
def test_two_batches_give_errors_of_the_mean(curvature: str) -> None:
    """The batches curve by 1 and 3: 2 ± 1. Their losses differ by α² at each point, so the error is half of that."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    surfaces = [LossSurface(lambda c=c: (c * weight**2 / 2).sum(), [weight]) for c in (1.0, 3.0)]
    result = loss_slice(AverageSurface(surfaces), torch.ones(1, dtype=torch.float64), curvature=curvature)
    assert result.curvature == pytest.approx(2.0, rel=1e-6)
    assert result.curvature_error == pytest.approx(1.0, rel=1e-6)
    assert result.loss_error is not None
    torch.testing.assert_close(result.loss_error, result.alphas**2 / 2)


@pytest.mark.parametrize("length", [1e-2, 1.0, 1e3])
def test_a_product_is_known_to_rounding(length: float) -> None:
    surface, matrix = quadratic()
    direction = length * torch.linalg.eigh(matrix).eigenvectors[:, -1]
    result = loss_slice(surface, direction, curvature="product")
    assert result.direction_norm == pytest.approx(length)
    assert result.curvature_error == pytest.approx(2.0**-52 * result.curvature, rel=1e-9)
    assert result.loss_error is None


def test_the_barrier_lies_between_the_two_distances_that_are_given() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    surface = LossSurface(lambda: ((weight**2 - 1) ** 2).sum(), [weight])
    direction = torch.ones(1, dtype=torch.float64)
    result = loss_slice(surface, direction, extent=2.0, max_points=25, barrier_between=(-0.97, 0.97))
    assert {-0.97, 0.97} <= set(result.alphas.tolist())
    assert result.barrier == pytest.approx(1 - (1 - 0.97**2) ** 2, abs=5e-3)


def test_adaptive_points_follow_the_tolerance_up_to_their_bound() -> None:
    weight = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))
    surface = LossSurface(lambda: torch.sin(6 * weight).sum(), [weight])
    direction = torch.ones(1, dtype=torch.float64)
    points = {
        (tolerance, bound): len(loss_slice(surface, direction, tolerance=tolerance, max_points=bound).alphas)
        for tolerance in (1e-12, 0.1)
        for bound in (9, 40)
    }
    assert points[1e-12, 9] == 9
    assert points[1e-12, 40] == 40
    assert points[0.1, 40] < 40


def test_without_a_graph_the_curvature_is_a_difference() -> None:
    surface, _ = quadratic()
    direction = surface.space.random(0)
    result, expected = loss_slice(surface, direction), loss_slice(surface, direction, curvature="difference")
    assert torch.equal(result.alphas, expected.alphas)
    assert (result.curvature, result.curvature_error) == (expected.curvature, expected.curvature_error)


def test_a_direction_of_another_dtype() -> None:
    surface, _ = quadratic(dtype=torch.float32)
    direction = surface.space.random(0)
    assert torch.equal(loss_slice(surface, direction.double()).losses, loss_slice(surface, direction).losses)


def test_rounding_is_not_taken_for_a_violation_of_convexity() -> None:
    surface, _ = quadratic(dtype=torch.float32)
    assert loss_slice(surface, surface.space.random(1), points=51, extent=1e-2).convexity_violation == 0.0


@pytest.mark.parametrize("extent", [(-1.0, 0.0), (0.0, 1.0)])
def test_a_slice_may_end_at_the_weights(extent: tuple[float, float]) -> None:
    surface, _ = quadratic()
    alphas = loss_slice(surface, surface.space.random(1), extent=extent).alphas.tolist()
    assert (alphas[0], alphas[-1]) == extent


def test_an_extent_of_zero_is_refused_and_two_points_are_enough() -> None:
    surface, _ = quadratic()
    direction = surface.space.random(1)
    with pytest.raises(ValueError, match="got extent"):
        loss_slice(surface, direction, extent=(0.0, 0.0))
    assert loss_slice(surface, direction, points=[0.0, 1.0]).alphas.tolist() == [0.0, 1.0]


def test_a_slice_without_a_finite_loss() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    result = loss_slice(LossSurface(lambda: (weight * torch.nan).sum(), [weight]), torch.ones(1), points=5)
    assert result.nonfinite == 5
    assert np.isnan([result.best_step, result.best_loss, result.curvature, result.error]).all()
