"""Paths with a known plane, the memory bound, projections with their stated error."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from landscape_callbacks.surface import ParameterSpace
from landscape_callbacks.surface.directions import orthogonalized
from landscape_callbacks.surface.projection import ProjectedTrajectory, RandomProjection
from landscape_callbacks.surface.trajectory import (
    Trajectory,
    coordinates_on_plane,
    distances_from_inner_products,
    snapshot_inner_products,
    trajectory_plane,
)


def spiral(
    dimension: int = 500, steps: int = 60, dtype: torch.dtype = torch.float64
) -> tuple[ParameterSpace, list[torch.Tensor], torch.Tensor]:
    """A space, the weights of a path that lies in a plane, and its two coordinates there."""
    weight = nn.Parameter(torch.zeros(dimension, dtype=dtype))
    space = ParameterSpace([weight])
    first = space.random(1) / space.norm(space.random(1))
    second = orthogonalized(space, space.random(2), [first])
    second = second / space.norm(second)
    t = torch.linspace(0, 4, steps, dtype=dtype)
    known = torch.stack([3 * torch.exp(-t) * torch.cos(2 * t), 2 * torch.exp(-t) * torch.sin(2 * t)])
    offset = space.random(3)
    return space, [offset + x * first + y * second for x, y in known.T], known


def follow(trajectory: Trajectory | ProjectedTrajectory, path: list[torch.Tensor]) -> None:
    (weight,) = (trajectory.space if isinstance(trajectory, Trajectory) else trajectory.projection.space).parameters
    for step, weights in enumerate(path):
        weight.data.copy_(weights)
        trajectory.offer(step, loss=float(step))


def test_plane_of_a_planar_path_recovers_it() -> None:
    space, path, known = spiral()
    trajectory = Trajectory(space, max_snapshots=100)
    follow(trajectory, path)
    plane = trajectory_plane(trajectory)
    assert sum(plane.variance_explained) == pytest.approx(1.0, abs=1e-12)
    assert plane.variance_explained[0] > plane.variance_explained[1] > 0
    torch.testing.assert_close(
        torch.cdist(torch.stack([plane.x, plane.y]).T, torch.stack([plane.x, plane.y]).T),
        torch.cdist(known.T, known.T),
        atol=1e-6,
        rtol=1e-6,
    )
    current = space.weights()
    for x, y, weights in zip(plane.x, plane.y, path, strict=True):
        torch.testing.assert_close(current + x * plane.first + y * plane.second, weights)
    assert float(plane.x[-1]) == pytest.approx(0.0, abs=1e-9)
    assert plane.steps == tuple(range(60))
    assert plane.losses == tuple(map(float, range(60)))


def test_variance_explained_equals_that_of_a_dense_decomposition() -> None:
    weight = nn.Parameter(torch.zeros(40, dtype=torch.float64))
    space = ParameterSpace([weight])
    trajectory = Trajectory(space)
    steps = torch.randn(30, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = (steps * torch.linspace(3, 0.1, 40)).cumsum(dim=0)
    follow(trajectory, list(path))
    plane = trajectory_plane(trajectory)
    centered = path - path.mean(dim=0)
    singular, rows = torch.linalg.svd(centered, full_matrices=False)[1:]
    expected = (singular**2 / (singular**2).sum())[:2].tolist()
    assert plane.variance_explained == pytest.approx(expected)
    assert abs(float(plane.first @ rows[0])) == pytest.approx(1.0)
    assert abs(float(plane.second @ rows[1])) == pytest.approx(1.0)


def test_half_precision_snapshots_in_float32_space() -> None:
    space, path, _ = spiral(dtype=torch.float32)
    trajectory = Trajectory(space, dtype=torch.bfloat16)
    follow(trajectory, path)
    assert trajectory.bytes == len(trajectory) * 500 * 2
    assert sum(trajectory_plane(trajectory).variance_explained) > 0.98


def test_memory_stays_under_its_bound_for_ten_thousand_snapshots() -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(1000))])
    bound = 100_000
    trajectory = Trajectory(space, max_snapshots=1000, max_bytes=bound)
    for step in range(10_000):
        trajectory.offer(step)
        assert trajectory.bytes <= bound
    assert 12 <= len(trajectory) <= 25
    gaps = {b - a for a, b in zip(trajectory.steps, trajectory.steps[1:], strict=False)}
    assert gaps == {trajectory.stride}
    assert trajectory.steps[0] == 0
    assert trajectory.steps[-1] >= 10_000 - trajectory.stride


def test_snapshots_are_copies() -> None:
    weight = nn.Parameter(torch.ones(3))
    trajectory = Trajectory(ParameterSpace([weight]))
    given = torch.full((3,), 5.0)
    trajectory.offer(0)
    trajectory.offer(1, weights=given)
    weight.data.zero_()
    given.zero_()
    assert [row.tolist() for row in trajectory.snapshots()] == [[1.0] * 3, [5.0] * 3]


def test_it_goes_on_from_its_state() -> None:
    space, path, _ = spiral()
    whole, half = Trajectory(space, max_snapshots=8), Trajectory(space, max_snapshots=8)
    follow(whole, path)
    follow(half, path[:23])
    resumed = Trajectory(space, max_snapshots=8)
    resumed.load_state_dict(half.state_dict())
    for step, weights in enumerate(path[23:], start=23):
        resumed.offer(step, weights=weights)
    assert resumed.steps == whole.steps
    assert all(torch.equal(a, b) for a, b in zip(resumed.snapshots(), whole.snapshots(), strict=True))


def test_no_room_and_no_plane_are_named() -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(1000))])
    with pytest.raises(ValueError, match="room for 2 of 4,000 bytes"):
        Trajectory(space, max_bytes=8000)
    trajectory = Trajectory(space)
    trajectory.offer(0)
    with pytest.raises(ValueError, match="at least 3 snapshots, got 1"):
        trajectory_plane(trajectory)
    for step in (1, 2):
        trajectory.offer(step, weights=torch.full((1000,), float(step)))
    with pytest.raises(ValueError, match="lie on a line"):
        trajectory_plane(trajectory)


def test_coordinates_in_oblique_directions() -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(5))])
    first, second = torch.tensor([2.0, 0, 0, 0, 0]), torch.tensor([1.0, 1.0, 0, 0, 0])
    trajectory = Trajectory(space)
    trajectory.offer(0, weights=3 * first - 2 * second)
    trajectory.offer(1, weights=0.5 * first + second + torch.tensor([0, 0, 9.0, 0, 0]))
    x, y = coordinates_on_plane(trajectory, first, second)
    assert x.tolist() == pytest.approx([3.0, 0.5])
    assert y.tolist() == pytest.approx([-2.0, 1.0])


def test_distances_between_snapshots() -> None:
    space, path, known = spiral()
    trajectory = Trajectory(space, max_snapshots=100)
    follow(trajectory, path)
    distances = distances_from_inner_products(snapshot_inner_products(trajectory))
    torch.testing.assert_close(distances, torch.cdist(known.T, known.T), atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match="no snapshot"):
        snapshot_inner_products(Trajectory(space))


def test_projection_is_linear_unbiased_and_as_noisy_as_it_says() -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(5000, dtype=torch.float64))])
    u, v = space.random(1), space.random(2)
    v = v + 0.5 * u
    projections = [RandomProjection(space, dimensions=64, seed=seed) for seed in range(300)]
    torch.testing.assert_close(projections[0](2 * u - v), 2 * projections[0](u) - projections[0](v))
    estimates = torch.stack([projection(u) @ projection(v) for projection in projections])
    exact = float(u @ v)
    stated = math.sqrt((float(u @ u) * float(v @ v) + exact**2) / 64)
    assert abs(float(estimates.mean()) - exact) < 3 * stated / math.sqrt(300)
    assert 0.7 * stated < float(estimates.std()) < 1.1 * stated
    squares = torch.stack([projection(u).square().sum() for projection in projections]) / float(u @ u)
    assert (
        0.7 * projections[0].squared_distance_error
        < float(squares.std())
        < 1.15 * projections[0].squared_distance_error
    )


def test_projection_of_entries_that_stand_in_the_same_column() -> None:
    """Without the random shifts, entries k apart would always meet in the same sum."""
    space = ParameterSpace([nn.Parameter(torch.zeros(64 * 50, dtype=torch.float64))])
    vector = torch.zeros(64 * 50, dtype=torch.float64)
    vector[::64] = 1.0
    squares = torch.stack([RandomProjection(space, 64, seed)(vector).square().sum() for seed in range(400)])
    assert float(squares.mean()) == pytest.approx(50.0, rel=0.05)
    assert float(squares.std()) < 1.15 * 50.0 * math.sqrt(2 / 64)


def test_projected_path_is_within_its_error() -> None:
    space, path, _ = spiral(dimension=20_000)
    exact, projected = Trajectory(space, max_snapshots=100), ProjectedTrajectory(RandomProjection(space, 2048), 100)
    follow(exact, path)
    follow(projected, path)
    plane = trajectory_plane(exact)
    estimate = projected.coordinates(plane.first, plane.second)
    assert float((estimate.x - plane.x).abs().max()) < 4 * estimate.error[0]
    assert float((estimate.y - plane.y).abs().max()) < 4 * estimate.error[1]
    assert estimate.error[0] < 0.2
    ratio = projected.inner_products()[-1, -1] / snapshot_inner_products(exact)[-1, -1]
    assert abs(float(ratio) - 1) < 4 * projected.projection.squared_distance_error


def test_projected_trajectory_is_bounded() -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(100))])
    trajectory = ProjectedTrajectory(RandomProjection(space, 16), max_snapshots=10)
    for step in range(1000):
        trajectory.offer(step)
        assert len(trajectory) < 10
    assert trajectory.steps[0] == 0
    with pytest.raises(ValueError, match="at least 4, got 3"):
        ProjectedTrajectory(RandomProjection(space, 16), max_snapshots=3)
    with pytest.raises(ValueError, match="positive, got 0"):
        RandomProjection(space, 0)


def test_each_entry_goes_to_one_sum_with_a_sign_and_those_of_a_run_to_different_ones() -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(20, dtype=torch.float64))])
    projection = RandomProjection(space, dimensions=8, seed=2)
    images = torch.stack([projection(entry) for entry in torch.eye(20, dtype=torch.float64)])
    assert (images.abs().sum(dim=1) == 1).all()
    assert set(images[images != 0].tolist()) == {-1.0, 1.0}
    for run in (images[:8], images[8:16], images[16:]):
        assert (run.abs().sum(dim=0) <= 1).all()


def test_the_same_seed_gives_the_same_projection_whatever_the_global_stream() -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(200, dtype=torch.float64))])
    vector = space.random(1)
    expected = RandomProjection(space, 16, seed=0)(vector)
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    assert torch.equal(RandomProjection(space, 16)(vector), expected)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(RandomProjection(space, 16, seed=1)(vector), expected)
    assert RandomProjection(space).dimensions == 4096
    assert abs(float(RandomProjection(space, 1)(vector)[0])) <= float(vector.abs().sum())


def test_coordinates_of_a_projected_path_are_in_units_of_the_directions_as_are_their_errors() -> None:
    space, path, _ = spiral(dimension=300, steps=7)
    trajectory = ProjectedTrajectory(RandomProjection(space, 64), max_snapshots=8)
    follow(trajectory, path)
    first, second = space.random(5), 3 * space.random(6)
    found = trajectory.coordinates(first, second)
    project = trajectory.projection
    offsets = torch.stack([project(weights) - project(path[-1]) for weights in path])
    inner = torch.stack([offsets @ project(first), offsets @ project(second)])
    basis = torch.stack([first, second])
    torch.testing.assert_close(torch.stack([found.x, found.y]), torch.linalg.solve(basis @ basis.T, inner))
    for direction, along, error in zip(basis, inner, found.error, strict=True):
        square = direction.square().sum()
        variance = (offsets.square().sum(dim=1) * square + along.square()) / 64
        assert error == pytest.approx(float(variance.sqrt().max() / square))
    rows = torch.stack([project(weights) - project(path[0]) for weights in path])
    torch.testing.assert_close(trajectory.inner_products(), rows @ rows.T)


def test_four_snapshots_are_room_enough() -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(10))])
    for trajectory in (Trajectory(space, max_snapshots=4), ProjectedTrajectory(RandomProjection(space, 5), 4)):
        for step in range(10):
            trajectory.offer(step)
        assert trajectory.steps == [0, 4, 8]
    with pytest.raises(ValueError, match="room for 3"):
        Trajectory(space, max_snapshots=3)


@pytest.mark.parametrize("seed", range(8))
def test_paths_end_to_the_right_of_their_start_and_above_it(seed: int) -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(30, dtype=torch.float64))])
    trajectory = Trajectory(space)
    generator = torch.Generator().manual_seed(seed)
    follow(trajectory, list(torch.randn(4, 30, generator=generator, dtype=torch.float64)))
    plane = trajectory_plane(trajectory)
    assert plane.x[-1] > plane.x[0]
    assert plane.y[-1] > plane.y[0]


def test_a_tiny_path_has_its_plane_too() -> None:
    space, path, _ = spiral(dimension=30, steps=10)
    tiny, plain = Trajectory(space), Trajectory(space)
    follow(plain, path)
    shares = trajectory_plane(plain).variance_explained
    follow(tiny, [1e-9 * (weights - path[-1]) for weights in path])
    assert trajectory_plane(tiny).variance_explained == pytest.approx(shares)


def test_directions_are_orthogonal_also_where_the_path_hardly_leaves_its_line() -> None:
    space = ParameterSpace([nn.Parameter(torch.zeros(400))])
    along, aside = space.random(1), space.random(2)
    trajectory = Trajectory(space)
    follow(trajectory, [step * along + 2e-4 * (-1) ** step * aside for step in range(6)])
    plane = trajectory_plane(trajectory)
    assert abs(float(plane.first.double() @ plane.second.double())) < 1e-6
    assert float(plane.second.norm()) == pytest.approx(1.0, rel=1e-6)


def test_inner_products_of_more_entries_than_are_taken_at_once() -> None:
    weight = nn.Parameter(torch.zeros((1 << 20) + 100))
    trajectory = Trajectory(ParameterSpace([weight]))
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(len(weight), generator=generator) for _ in range(2)]
    for step, row in enumerate([torch.zeros(len(weight)), *rows]):
        trajectory.offer(step, weights=row)
    expected = torch.tensor([[float(a.double() @ b.double()) for a in rows] for b in rows], dtype=torch.float64)
    torch.testing.assert_close(snapshot_inner_products(trajectory)[1:, 1:], expected)


def test_steps_that_are_passed_by_as_unwanted_change_nothing_in_what_is_kept() -> None:
    weight = nn.Parameter(torch.zeros(2))
    every, sparse = (Trajectory(ParameterSpace([weight]), max_snapshots=5) for _ in range(2))
    assert every.last_offered == -1
    step = 0
    while step < 100:
        unwanted = sparse.unwanted()
        for passed in range(step, step + unwanted):
            assert not every.offer(passed, loss=float(passed), weights=torch.full((2,), float(passed)))
            assert every.last_offered == passed
        sparse.pass_by(unwanted)
        step += unwanted
        for path in (every, sparse):
            assert path.offer(step, loss=float(step), weights=torch.full((2,), float(step)))
        step += 1
        assert sparse.steps == every.steps
        assert sparse.offered == every.offered == step
    assert every.losses == [float(step) for step in every.steps]
    assert [float(row[0]) for row in every.snapshots()] == every.losses
