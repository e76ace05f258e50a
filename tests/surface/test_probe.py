"""The probe against dense linear algebra and closed-form moments, and its error rates."""

import math

import pytest
import torch

from landscape_callbacks.diagnosis import student
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.metric import MetricSurface
from landscape_callbacks.surface.probe import probe_surface
from tests import cases


def surfaces_of(case, theta, microbatches, batch_size, seed=0):
    """Surfaces on fresh batches at these weights, and the parameter that holds them."""
    weight = torch.nn.Parameter(theta.clone())
    generator = torch.Generator().manual_seed(seed)

    def surface(rows):
        return LossSurface(lambda: case.loss(weight, rows), [weight])

    rows = [torch.randint(case.samples, (batch_size,), generator=generator) for _ in range(microbatches)]
    return [surface(row) for row in rows], weight


def whole_surface(case, theta):
    weight = torch.nn.Parameter(theta.clone())
    return LossSurface(lambda: case.loss(weight), [weight])


def sample_gradients(case, theta):
    return torch.stack([case.gradient(theta, torch.tensor([row])) for row in range(case.samples)])


def test_whole_loss_against_dense_algebra():
    case = cases.tanh_net(0)
    found = probe_surface([whole_surface(case, case.start)], case.samples, whole_loss=True, tolerance=1e-6).measurement
    values = torch.linalg.eigvalsh(case.hessian(case.start))
    gradient = case.gradient(case.start)
    assert found.loss == pytest.approx(float(case.loss(case.start)))
    assert found.squared_gradient == pytest.approx(float(gradient @ gradient))
    assert found.largest_curvature == pytest.approx(float(values[-1]), rel=1e-3)
    assert found.lowest_curvature == pytest.approx(float(values[0]), rel=1e-2)
    assert found.weight_norm == pytest.approx(float(case.start.norm()))
    assert (found.squared_gradient_error, found.lowest_curvature_error, found.loss_error) == (0, 0, 0)
    assert math.isinf(found.degrees_of_freedom)


def test_whole_loss_in_parts_is_the_whole_loss():
    case = cases.tanh_net(1)
    weight = torch.nn.Parameter(case.start.clone())
    parts = [LossSurface(lambda rows=rows: case.loss(weight, rows), [weight]) for rows in torch.arange(512).chunk(8)]
    in_parts = probe_surface(parts, 64, whole_loss=True, tolerance=1e-6).measurement
    at_once = probe_surface([whole_surface(case, case.start)], 512, whole_loss=True, tolerance=1e-6).measurement
    for name in ("loss", "squared_gradient", "largest_curvature", "lowest_curvature"):
        assert getattr(in_parts, name) == pytest.approx(getattr(at_once, name), rel=1e-4), name


def test_squared_gradient_and_noise_are_unbiased_with_honest_errors():
    case = cases.tanh_net(2, size=2, hidden=3, samples=128)
    gradients = sample_gradients(case, case.start)
    deviations = gradients - gradients.mean(dim=0)
    covariance = deviations.T @ deviations / len(deviations)
    curved = torch.trace(case.hessian(case.start) @ covariance)
    found = [
        probe_surface(surfaces_of(case, case.start, 8, 8, seed)[0], 8, max_products=4).measurement
        for seed in range(150)
    ]
    squared = torch.tensor([one.squared_gradient for one in found])
    traces = torch.tensor([one.noise_trace for one in found])
    curves = torch.tensor([one.curved_noise for one in found])
    error = squared.std() / math.sqrt(len(found))
    assert abs(squared.mean() - gradients.mean(dim=0).square().sum()) < 3 * error
    assert abs(traces.mean() - torch.trace(covariance)) < 3 * traces.std() / math.sqrt(len(found))
    assert abs(curves.mean() - curved) < 3 * curves.std() / math.sqrt(len(found))
    stated = torch.tensor([one.squared_gradient_error for one in found]).square().mean().sqrt()
    assert float(stated / squared.std()) == pytest.approx(1, abs=0.35)
    spreads = torch.tensor([one.loss_spread for one in found]).square().mean().sqrt()
    assert float(spreads) == pytest.approx(float(case.sample_losses(case.start, *case.data).std()), rel=0.15)


def true_minimum_with_label_noise(seed):
    """A tanh teacher's own weights, labels noisy: of the whole distribution a minimum, of every sample of it none."""
    size, hidden = 3, 3
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(hidden * size + hidden, generator=generator, dtype=torch.float64)

    def losses(theta, x, noise):
        weights, outer = theta[:-hidden].reshape(hidden, size), theta[-hidden:]
        truth = torch.tanh(x @ teacher[:-hidden].reshape(hidden, size).T) @ teacher[-hidden:]
        return 0.5 * (torch.tanh(x @ weights.T) @ outer - truth - noise) ** 2

    teacher = theta.clone()
    inputs = torch.randn(4096, size, generator=generator, dtype=torch.float64)
    noise = torch.randn(4096, generator=generator, dtype=torch.float64)
    return cases.Case("teacher", theta, (inputs, noise), losses, None)


def test_label_noise_at_a_true_minimum_is_not_taken_for_negative_curvature():
    alarms, naive = 0, 0
    for seed in range(20):
        case = true_minimum_with_label_noise(seed)
        found = probe_surface(surfaces_of(case, case.start, 16, 8, seed)[0], 8).measurement
        naive += found.lowest_ritz_value < 0
        alarms += student.tail(-found.lowest_curvature / found.lowest_curvature_error, found.degrees_of_freedom) < 0.01
    assert naive >= 15  # the rule that looks at the Ritz value alone
    assert alarms <= 2  # at a rate of 1 % exceeded with probability 0.1 %


def test_negative_curvature_of_minus_one_is_found():
    for seed in range(10):
        case = cases.deep_linear(seed, (1.0, 0.6), scale=1e-2, label_noise=0.5)
        found = probe_surface(surfaces_of(case, case.start, 16, 32, seed)[0], 32).measurement
        assert found.lowest_curvature == pytest.approx(-1, abs=4 * found.lowest_curvature_error)
        assert student.tail(-found.lowest_curvature / found.lowest_curvature_error, found.degrees_of_freedom) < 0.01
        assert found.escape_decrease > 3 * found.escape_decrease_error
        # Along the mode the loss is ½(1 - u²/2·…)², lowest where the mode is learned: ½ in all.
        assert 0.1 < found.escape_decrease < 0.6


def test_escape_lowers_the_loss_as_stated():
    case = cases.quartic_saddle(0)
    probe = probe_surface([whole_surface(case, torch.tensor([0.0, 1e-3]).double())], 1, whole_loss=True)
    found = probe.measurement
    weight = torch.nn.Parameter(torch.tensor([0.0, 1e-3]).double())
    surface = LossSurface(lambda: case.loss(weight), [weight])
    here, moved = surface.losses_along(probe.lowest_direction, [0.0, found.escape_distance]).tolist()
    assert here - moved == pytest.approx(found.escape_decrease)
    assert found.escape_decrease > 0.3


def test_in_the_metric_of_a_preconditioner_nothing_depends_on_the_units_of_parameters():
    case = cases.tanh_net(3)
    scale = torch.linspace(0.2, 5, len(case.start), dtype=torch.float64)

    def in_other_units(theta, x, y):
        return case.sample_losses(theta / scale, x, y)

    other = cases.Case("rescaled", case.start * scale, case.data, in_other_units, None)
    plain = probe_surface([whole_surface(case, case.start)], 512, whole_loss=True, tolerance=1e-6).measurement
    found = probe_surface(
        [whole_surface(other, other.start)], 512, whole_loss=True, tolerance=1e-6, preconditioner=scale**-2
    ).measurement
    for name in ("squared_gradient", "largest_curvature", "lowest_curvature", "weight_norm", "escape_decrease"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name), rel=0.02), name


def test_weight_decay_is_part_of_the_surface():
    eigenvalues = torch.tensor([2.0, 1.0, -0.5])
    case = cases.quadratic(0, eigenvalues)
    found = probe_surface(
        [whole_surface(case, case.start)], 512, whole_loss=True, tolerance=1e-8, weight_decay=0.25
    ).measurement
    gradient = case.gradient(case.start) + 0.25 * case.start
    assert found.squared_gradient == pytest.approx(float(gradient @ gradient))
    assert found.largest_curvature == pytest.approx(2.25)
    assert found.lowest_curvature == pytest.approx(-0.25)
    metric = MetricSurface(whole_surface(case, case.start), weight_decay=0.25)
    direction = torch.ones(3, dtype=torch.float64)

    def total(theta):
        return float(case.loss(theta) + 0.125 * theta @ theta)

    losses = metric.losses_along(direction, [0.0, 0.7])
    assert float(losses[1] - losses[0]) == pytest.approx(total(case.start + 0.7 * direction) - total(case.start))


def test_parameters_that_do_not_move_are_left_out():
    case = cases.quadratic(0, torch.tensor([2.0, 1.0, -0.5]))
    preconditioner = torch.tensor([1.0, 1.0, math.inf]).double()
    metric = MetricSurface(whole_surface(case, case.start), preconditioner)
    assert float(metric.gradient()[2]) == 0
    assert metric.weight_norm() == pytest.approx(float(case.start[:2].norm()))


def test_weights_gradients_and_the_random_stream_are_left_as_they_were():
    case = cases.tanh_net(4)
    surfaces, weight = surfaces_of(case, case.start, 4, 8)
    weight.grad = torch.ones_like(weight)
    random = torch.random.get_rng_state()
    first = probe_surface(surfaces, 8, seed=3).measurement
    assert torch.equal(weight, case.start)
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert torch.equal(torch.random.get_rng_state(), random)
    assert probe_surface(surfaces, 8, seed=3).measurement == first


def test_cost_counts_the_work():
    case = cases.tanh_net(5)
    calls = []
    weight = torch.nn.Parameter(case.start.clone())

    def surface(rows):
        def closure():
            calls.append(len(rows))
            return case.loss(weight, rows)

        return LossSurface(closure, [weight])

    rows = torch.arange(64).chunk(8)
    found = probe_surface([surface(row) for row in rows], 8).measurement
    assert found.samples == 64
    assert found.microbatches == 8
    assert found.cost > 64 + 4 * 8 * 2  # the gradients, and at least one product on half of the probe
    assert sum(calls) / 3 < found.cost


def test_a_loss_that_is_no_number_is_reported_not_raised():
    weight = torch.nn.Parameter(torch.ones(3))
    found = probe_surface([LossSurface(lambda: (weight / 0.0).sum(), [weight]) for _ in range(4)], 8).measurement
    assert not math.isfinite(found.loss)
    assert math.isnan(found.lowest_curvature)
    assert found.samples == 32


def test_one_parameter_is_enough():
    weight = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    surface = LossSurface(lambda: (weight**4 / 4 - weight**2 / 2).sum(), [weight])
    found = probe_surface([surface], 1, whole_loss=True).measurement
    assert found.lowest_curvature == found.largest_curvature == pytest.approx(3 * 0.25 - 1)


def test_too_few_microbatches_are_refused():
    case = cases.tanh_net(0)
    with pytest.raises(ValueError, match=r"at least 4 microbatches.*got 3"):
        probe_surface(surfaces_of(case, case.start, 3, 8)[0], 8)


def decreases_by_definition(losses_at, distances):
    """Means and standard errors of the decrease at each distance: forth, back and of both; shape (3, distances)."""
    forth = torch.stack([losses_at(0.0) - losses_at(distance) for distance in distances])
    back = torch.stack([losses_at(0.0) - losses_at(-distance) for distance in distances])
    ways = torch.stack([forth, back, (forth + back) / 2])  # (ways, distances, surfaces)
    return ways.mean(dim=-1), ways.std(dim=-1) / math.sqrt(ways.shape[-1])


@pytest.mark.parametrize("count", [4, 6])
def test_every_figure_of_a_probe_by_dense_algebra_on_its_two_halves(count):
    case = cases.tanh_net(2, size=2, hidden=3, samples=128)
    decay, size = 0.3, 8
    preconditioner = torch.linspace(0.5, 2, len(case.start), dtype=torch.float64)
    scale = preconditioner.rsqrt()
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(case.samples, (size,), generator=generator) for _ in range(count)]
    surfaces, _ = surfaces_of(case, case.start, count, size)
    probe = probe_surface(
        surfaces, size, preconditioner=preconditioner, weight_decay=decay, tolerance=1e-9, smallest_tolerance=1e-9
    )
    found = probe.measurement

    gradients = torch.stack([scale * (case.gradient(case.start, row) + decay * case.start) for row in rows])
    unit = torch.eye(len(scale), dtype=torch.float64)
    hessians = torch.stack([scale[:, None] * (case.hessian(case.start, row) + decay * unit) * scale for row in rows])
    losses = torch.stack([case.loss(case.start, row) for row in rows])
    values, vectors = torch.linalg.eigh(hessians[::2].mean(dim=0))
    assert found.lowest_ritz_value == pytest.approx(float(values[0]))
    assert found.largest_ritz_value == pytest.approx(float(values[-1]))
    assert found.search_converged
    for direction, vector, value, error in (
        (probe.lowest_direction, vectors[:, 0], found.lowest_curvature, found.lowest_curvature_error),
        (probe.largest_direction, vectors[:, -1], found.largest_curvature, found.largest_curvature_error),
    ):
        assert abs(float(direction / scale @ vector)) == pytest.approx(1)
        curvatures = torch.stack([vector @ hessian @ vector for hessian in hessians[1::2]])
        assert value == pytest.approx(float(curvatures.mean()))
        assert error == pytest.approx(float(curvatures.std()) / math.sqrt(count // 2))
    assert found.loss == pytest.approx(float(losses.mean()))
    assert found.loss_error == pytest.approx(float(losses.std()) / math.sqrt(count))
    assert found.loss_spread == pytest.approx(float(losses.std()) * math.sqrt(size), rel=1e-12)

    def squared(some):
        products = some @ some.T
        return float(products[~torch.eye(len(some), dtype=torch.bool)].mean())

    assert found.squared_gradient == pytest.approx(squared(gradients))
    left_out = torch.tensor([squared(gradients[torch.arange(count) != k]) for k in range(count)])
    assert found.squared_gradient_error == pytest.approx(float(left_out.std(correction=0)) * math.sqrt(count - 1))
    assert found.noise_trace == pytest.approx(size * float(gradients.var(dim=0).sum()))
    chosen = gradients[::2]
    deviations = (chosen - chosen.mean(dim=0)) * math.sqrt(len(chosen) / (len(chosen) - 1))
    curved = torch.stack([d @ hessian @ d for d, hessian in zip(deviations, hessians[1::2], strict=True)])
    assert found.curved_noise == pytest.approx(size * float(curved.mean()))
    assert found.weight_norm == pytest.approx(float((case.start / scale).norm()))
    assert (found.degrees_of_freedom, found.microbatches, found.samples) == (count // 2 - 1, count, count * size)

    def losses_on(half):
        def at(distance):
            theta = case.start + distance * probe.lowest_direction
            return torch.stack([case.loss(theta, row) for row in half]) + 0.5 * decay * theta @ theta

        return at

    assert values[0] < 0
    start = math.sqrt(2 * float(losses[::2].std()) * math.sqrt(size) / -float(values[0]))
    mean, error = decreases_by_definition(losses_on(rows[::2]), [start * 2.0**k for k in range(-8, 2)])
    way, index = divmod(int((mean - 2 * error).argmax()), 10)
    assert index < 9  # not at the end of the line, from where it would be extended
    shorter = [start * 2.0 ** (index - 8 - k) for k in range(4)]
    mean, error = (part[[way, 2]] for part in decreases_by_definition(losses_on(rows[1::2]), shorter))
    kind, place = divmod(int((mean - 3 * error).argmax()), 4)
    assert found.escape_distance == pytest.approx(-shorter[place] if way == 1 else shorter[place])
    assert found.escape_decrease == pytest.approx(float(mean[kind, place]))
    assert found.escape_decrease_error == pytest.approx(float(error[kind, place]))


def two_wells(offset=0.0, parts=1):
    """Surfaces of x² - y² + y⁴/4 at its saddle: the curvature along y is -2, and it is lowest, by 1, at ±√2."""
    weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    return [
        LossSurface(lambda: weight[0] ** 2 - weight[1] ** 2 + weight[1] ** 4 / 4 + offset, [weight])
        for _ in range(parts)
    ]


@pytest.mark.parametrize(
    ("offset", "options", "distance"),
    [
        # The search goes by powers of two of √(2·scale/2); the scale is, in this order:
        (5.0, {"sample_losses": torch.tensor([1.0, 3.0, 5.0]), "loss_scale": 3.0}, math.sqrt(2)),  # their deviation
        (5.0, {"sample_losses": torch.tensor([1.0, 1.5, 2.0]), "loss_scale": 3.0}, math.sqrt(2)),
        (5.0, {"loss_scale": 3.0}, math.sqrt(3)),
        (5.0, {"sample_losses": torch.ones(3), "loss_scale": 3.0}, math.sqrt(3)),
        (5.0, {}, math.sqrt(5) / 2),  # the loss
        (-5.0, {}, math.sqrt(5) / 2),
        (0.0, {}, math.sqrt(2)),  # the curvature
    ],
)
def test_the_distances_that_are_searched_follow_the_scale_of_the_loss(offset, options, distance):
    found = probe_surface(two_wells(offset), 1, whole_loss=True, **options).measurement
    assert abs(found.escape_distance) == pytest.approx(distance)
    assert found.escape_decrease == pytest.approx(distance**2 - distance**4 / 4)


def test_without_negative_curvature_there_is_no_way_out():
    for curvature in (0.5, 0.0):
        weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        surface = LossSurface(lambda c=curvature, w=weight: 0.5 * c * (w**2).sum() + w.sum(), [weight])
        found = probe_surface([surface], 1, whole_loss=True).measurement
        assert (found.escape_distance, found.escape_decrease, found.escape_decrease_error) == (0, 0, 0)


def test_the_half_that_tests_may_confirm_a_shorter_step():
    # Lowest at ±4 for the half that chooses, and at ±1, by a half, for the one that tests.
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    surfaces = [LossSurface(lambda c=c: (c * weight**4 - weight**2).sum(), [weight]) for c in (1 / 32, 1 / 2) * 2]
    found = probe_surface(surfaces, 8, loss_scale=16.0).measurement
    assert abs(found.escape_distance) == pytest.approx(1.0)
    assert (found.escape_decrease, found.escape_decrease_error) == pytest.approx((0.5, 0.0))


def test_noise_of_a_whole_loss_in_parts():
    case = cases.tanh_net(1, size=2, hidden=3, samples=32)
    weight = torch.nn.Parameter(case.start.clone())
    halves = torch.arange(32).chunk(2)
    parts = [LossSurface(lambda rows=rows: case.loss(weight, rows), [weight]) for rows in halves]
    found = probe_surface(parts, 16, whole_loss=True).measurement
    first, second = (case.gradient(case.start, rows) for rows in halves)
    difference, hessian = first - second, case.hessian(case.start)
    assert found.noise_trace == pytest.approx(16 * float(difference @ difference) / 2)
    assert found.curved_noise == pytest.approx(16 * float(difference @ hessian @ difference) / 2)
    losses = torch.stack([case.loss(case.start, rows) for rows in halves])
    assert found.loss_spread == pytest.approx(float(losses.std()) * 4, rel=1e-12)
    alone = probe_surface([whole_surface(case, case.start)], 32, whole_loss=True).measurement
    assert (alone.noise_trace, alone.curved_noise) == (0, 0)
    assert math.isnan(alone.loss_spread)


class Counted(LossSurface):
    """Counts what it is asked for; in gradients, a product is two and a forward a third."""

    work = 0.0
    products = 0

    def gradient(self, **options):
        self.work += 1
        return super().gradient(**options)

    def hessian_vector_product(self, vector):
        self.work += 2
        self.products += 1
        return super().hessian_vector_product(vector)

    def losses_along(self, direction, alphas):
        self.work += len(alphas) / 3
        return super().losses_along(direction, alphas)


def counted(case, count, size=8):
    weight = torch.nn.Parameter(case.start.clone())
    rows = torch.arange(case.samples).split(size)[:count]
    return [Counted(lambda row=row: case.loss(weight, row), [weight]) for row in rows]


@pytest.mark.parametrize(("count", "whole"), [(6, False), (3, True), (1, True)])
def test_the_cost_is_all_the_work_that_was_asked_for(count, whole):
    surfaces = counted(cases.tanh_net(2, size=2, hidden=3, samples=128), count)
    found = probe_surface(surfaces, 8, whole_loss=whole).measurement
    assert found.escape_distance != 0
    assert found.cost == pytest.approx(8 * sum(surface.work for surface in surfaces))


def test_a_search_takes_its_start_its_bounds_and_its_seed():
    case = cases.quadratic(0, torch.linspace(-0.5, 1.0, 20), noise=0.1, samples=32)

    def products(**options):
        surfaces = counted(case, 4)
        probe = probe_surface(surfaces, 8, **options)
        return surfaces[0].products, probe

    plain, probe = products()
    assert probe.measurement == products(seed=0)[1].measurement
    assert probe.measurement != products(seed=1)[1].measurement
    few, cut = products(max_products=3)
    assert few == 3
    assert not cut.measurement.search_converged
    assert products(initial=probe.warm_start)[0] < plain
    assert products(smallest_tolerance=1e-6)[0] > plain
    assert products(tolerance=1e-8)[0] > plain


@pytest.mark.parametrize("bad", [0, 1])
def test_where_a_gradient_is_no_number_the_loss_is_all_that_is_said(bad):
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def surface(index):
        return LossSurface(lambda: (weight.sqrt() if index == bad else weight).sum() + index, [weight])

    probe = probe_surface([surface(index) for index in range(4)], 8)
    found = probe.measurement
    assert found.loss == pytest.approx(1.0 if bad == 0 else 1.5)  # of the half that chooses, or of all
    assert (found.microbatches, found.samples, found.cost, found.search_converged) == (4, 32, 32.0, False)
    assert math.isnan(found.squared_gradient)
    for direction in (probe.lowest_direction, probe.largest_direction, probe.warm_start):
        assert direction.shape == (3,)
        assert torch.isnan(direction).all()
