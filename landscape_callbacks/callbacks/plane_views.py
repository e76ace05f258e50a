"""The planes that :class:`LossPlaneMonitor` looks at: which directions span them, how far, what the axes say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from landscape_callbacks.records import Record
from landscape_callbacks.surface.planes import PlaneResult, random_plane_directions
from landscape_callbacks.surface.projection import ProjectedTrajectory
from landscape_callbacks.surface.trajectory import Trajectory, coordinates_on_plane, trajectory_plane
from landscape_callbacks.training.snapshot import Snapshot

PLANES = ("random", "eigenvectors", "trajectory")
Path = Trajectory | ProjectedTrajectory


@dataclass(frozen=True)
class View:
    """One plane through the current weights.

    Attributes:
        name: One of ``PLANES``.
        first: Direction of the x axis: flat, shape (n,).
        second: Direction of the y axis: flat, shape (n,).
        x: Distances along the first.
        y: Distances along the second.
        labels: What the axes say, with units.
        variance_explained: Share of the path's variance along each axis; ``None`` but for the path's own plane.
    """

    name: str
    first: Tensor
    second: Tensor
    x: list[float]
    y: list[float]
    labels: tuple[str, str]
    variance_explained: tuple[float, float] | None = None


def view_of(name: str, snapshot: Snapshot, trajectory: Path, *, points: int, seed: int) -> View | None:
    """The plane of a name; ``None`` while the path is too short to span one."""
    if name == "random":
        first, second = random_plane_directions(snapshot.space, seed)
        axis = grid_around(-1.0, 1.0, points)
        labels = "first random direction (filter norms)", "second random direction (filter norms)"
        return View(name, first, second, axis, axis, labels)
    if name == "eigenvectors":
        pairs = snapshot.eigenpairs()
        axes = [_reach(snapshot.loss(), float(pairs.values[index])) for index in (0, 1)]
        x, y = (grid_around(-reach, reach, points) for reach in axes)
        labels = "eigenvector of the largest eigenvalue (weights)", "eigenvector of the second largest (weights)"
        return View(name, pairs.vectors[0], pairs.vectors[1], x, y, labels)
    if len(trajectory) < 3 or isinstance(trajectory, ProjectedTrajectory):
        return None
    try:
        plane = trajectory_plane(trajectory)
    except ValueError:
        return None
    x, y = (_grid_over(path, points) for path in (plane.x, plane.y))
    labels = "first principal component (weights)", "second principal component (weights)"
    return View(name, plane.first, plane.second, x, y, labels, plane.variance_explained)


def plane_record(view: View, result: PlaneResult, trajectory: Path, step: int, batch_norm: str | None = None) -> Record:
    """The losses on a plane, and the path of training projected onto it."""
    arrays: dict[str, np.ndarray] = {"x": result.x.numpy(), "y": result.y.numpy(), "loss": result.losses.numpy()}
    error: list[float] | None = None
    if len(trajectory):
        if isinstance(trajectory, ProjectedTrajectory):
            path = trajectory.coordinates(view.first, view.second)
            path_x, path_y, error = path.x, path.y, list(path.error)
        else:
            path_x, path_y = coordinates_on_plane(trajectory, view.first, view.second)
        arrays["trajectory_x"], arrays["trajectory_y"] = path_x.numpy(), path_y.numpy()
        arrays["trajectory_step"] = np.array(trajectory.steps, dtype=np.float64)
        arrays["trajectory_loss"] = np.array(trajectory.losses, dtype=np.float64)
    info: dict[str, Any] = {
        "x_label": view.labels[0],
        "y_label": view.labels[1],
        "variance_explained": view.variance_explained,
        "nonfinite": result.nonfinite,
        "direction_norms": list(result.norms),
        "cosine": result.cosine,
        "evaluations": result.evaluations,
        "trajectory_error": error,
        "batch_norm": batch_norm,
    }
    return Record("plane", view.name, step, arrays, info)


def grid_around(low: float, high: float, points: int) -> list[float]:
    """Evenly spaced distances that cover [low, high], about ``points`` of them, and hold 0 exactly."""
    spacing = (high - low) / (points - 1)
    # A hair inside: rounding must not add a row beyond an end that a multiple of the spacing meets.
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    return [index * spacing for index in range(min(first, 0), max(last, 0) + 1)]


def _grid_over(path: Tensor, points: int) -> list[float]:
    low, high = min(float(path.min()), 0.0), max(float(path.max()), 0.0)
    margin = 0.2 * (high - low)
    return grid_around(low - margin, high + margin, points)


def _reach(loss: float, eigenvalue: float) -> float:
    """Where the parabola along an eigenvector has changed by the loss itself."""
    reach = math.sqrt(2 * (abs(loss) or 1.0) / abs(eigenvalue)) if eigenvalue else 1.0
    return reach if math.isfinite(reach) and reach > 0 else 1.0
