"""Runs with every kind of record, from a small model that is really trained: what tab and report page are tested on.

A deep linear network learns a map with three strengths, one after the other: loss plateaus at saddles, whose curvature
is known (Saxe et al. 2014). It has 48 weights, so all curvature here is exact, from the dense Hessian.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from landscape_callbacks.records import Record
from landscape_callbacks.surface import LossSurface
from landscape_callbacks.training.record_writer import RecordWriter

ALPHAS = np.linspace(-1.0, 1.0, 21)


def train_sample_run(
    folder: Path,
    *,
    seed: int = 0,
    steps: int = 300,
    every: int = 5,
    learning_rate: float = 0.05,
    tensorboard: bool = True,
) -> list[Record]:
    """Trains, records every few steps as the monitors do, and returns what was recorded."""
    run = _Run(seed, learning_rate)
    summary_writer = SummaryWriter(str(folder)) if tensorboard else None
    records: list[Record] = []
    with RecordWriter(folder, [summary_writer] if summary_writer else []) as writer:
        for step in range(steps + 1):
            if step % every == 0:
                run.decompose()
                new = [*run.slices(step), *run.curvature(step), *run.verdict(step, last=step == steps)]
                for record in new:
                    writer.write(record)
                records += new
                if summary_writer:
                    summary_writer.add_scalar("train_loss", float(run.surface.loss()), step)
                    summary_writer.add_scalar("gradient_length", float(run.surface.gradient().norm()), step)
            run.train_step(step)
        for record in run.planes(steps):
            writer.write(record)
            records.append(record)
    if summary_writer:
        summary_writer.close()
    return records


class _Run:
    def __init__(self, seed: int, learning_rate: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weights = [
            torch.nn.Parameter(0.35 * torch.randn(4, 4, generator=generator, dtype=torch.float64)) for _ in range(3)
        ]
        inputs = torch.linalg.qr(torch.randn(32, 4, generator=generator, dtype=torch.float64))[0] * 32**0.5
        noise = 0.05 * torch.randn(32, 4, generator=generator, dtype=torch.float64)
        strengths = torch.diag(torch.tensor([3.0, 1.4, 0.6, 0.0], dtype=torch.float64))
        self.data = (inputs[:24], inputs[:24] @ strengths + noise[:24])
        self.validation_data = (inputs[24:], inputs[24:] @ strengths + noise[24:])
        self.surface = LossSurface(lambda: self._loss(self.data), self.weights)
        self.validation = LossSurface(lambda: self._loss(self.validation_data), self.weights)
        self.learning_rate = learning_rate
        self.path: list[tuple[int, torch.Tensor, float]] = []
        self.episode: tuple[str, int] | None = None
        self.last_update: torch.Tensor | None = None

    def _loss(self, data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        first, second, third = self.weights
        return 0.5 * ((data[0] @ first @ second @ third - data[1]) ** 2).sum(1).mean()

    def train_step(self, step: int) -> None:
        self.path.append((step, self.surface.space.weights(), float(self.surface.loss())))
        self.last_update = -self.learning_rate * self.surface.gradient()
        with torch.no_grad():
            for weight, part in zip(self.weights, self.surface.space.split(self.last_update), strict=True):
                weight.add_(part)

    def decompose(self) -> None:
        """All eigenvalues (rising) and eigenvectors of the Hessian at the weights of now."""
        size = len(self.surface.gradient())
        rows = [self.surface.hessian_vector_product(row) for row in torch.eye(size, dtype=torch.float64)]
        self.values, self.vectors = torch.linalg.eigh(torch.stack(rows))

    def slices(self, step: int) -> list[Record]:
        gradient = self.surface.gradient()
        directions = {
            "gradient": (-gradient, "gradient steps of size 1"),
            "largest_eigenvector": (self.vectors[:, -1], "unit vectors"),
            "smallest_eigenvector": (self.vectors[:, 0], "unit vectors"),
        }
        if self.last_update is not None:
            directions["update"] = (10 * self.last_update, "10 optimizer steps")
        return [self._slice(name, step, direction, unit) for name, (direction, unit) in directions.items()]

    def _slice(self, name: str, step: int, direction: torch.Tensor, unit: str) -> Record:
        losses = self.surface.losses_along(direction, ALPHAS.tolist()).numpy()
        arrays = {"alpha": ALPHAS, "loss": losses, "loss_error": 0.03 * losses}
        if name == "gradient":
            arrays["validation_loss"] = self.validation.losses_along(direction, ALPHAS.tolist()).numpy()
        curvature = float(direction @ self.surface.hessian_vector_product(direction))
        chord = np.interp(ALPHAS, ALPHAS[[0, -1]], losses[[0, -1]])
        info = {
            "curvature": curvature,
            "curvature_error": abs(curvature) * 1e-9,
            "best_step": float(ALPHAS[losses.argmin()]),
            "best_step_error": 0.05,
            "barrier": float(max(0.0, (losses - chord).max())),
            "unit": unit,
            "nonfinite": 0,
            "direction_norm": float(direction.norm()),
        }
        return Record("slice", name, step, arrays, info)

    def curvature(self, step: int) -> list[Record]:
        values = self.values.numpy()
        largest, smallest = values[::-1][:3], values[:1]
        limit = 2 / self.learning_rate
        info = {
            "loss": float(self.surface.loss()),
            "learning_rate": self.learning_rate,
            "limit": limit,
            "ratio": float(largest[0] / limit),
            "preconditioned": False,
            "converged": True,
            "products": len(values),
        }
        arrays = {
            "largest": largest,
            "largest_error": 0.02 * np.abs(largest),
            "smallest": smallest,
            "smallest_error": [0.05],
        }
        grid = np.linspace(values[0] - 1, values[-1] + 1, 256)
        width = 0.01 * (grid[-1] - grid[0])
        bumps = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
        trace = {"trace": float(values.sum()), "trace_error": 0.0}
        return [
            Record("eigenvalues", "hessian", step, arrays, info),
            Record("density", "hessian", step, {"grid": grid, "density": bumps.mean(1)}, trace),
        ]

    def verdict(self, step: int, last: bool) -> list[Record]:
        lowest = float(self.values[0])
        length = float(self.surface.gradient().norm())
        if length > 0.5:
            verdict = "progressing"
        else:
            verdict = "strict saddle" if lowest < -0.02 else "approximate second-order point"
        ended = []
        if self.episode and (self.episode[0] != verdict or last):
            ended = [self._verdict(*self.episode, step, end=step, lowest=lowest, length=length)]
        if not self.episode or self.episode[0] != verdict:
            self.episode = (verdict, step)
            return [*ended, self._verdict(verdict, step, step, end=None, lowest=lowest, length=length)]
        return ended

    def _verdict(self, verdict: str, start: int, step: int, *, end: int | None, lowest: float, length: float) -> Record:
        suggestions = {"strict saddle": "Keep the learning rate; step along the lowest curvature."}
        info = {
            "verdict": verdict,
            "sentence": f"At step {step} the gradient has length {length:.3g}, the lowest curvature is {lowest:.3g}.",
            "suggestion": suggestions.get(verdict, ""),
            "evidence": [
                {"name": "lowest curvature", "value": lowest, "error": 0.002, "unit": ""},
                {"name": "gradient length", "value": length, "error": 0.01, "unit": ""},
            ],
            "samples": 24 * 48,
            "episode_start": start,
            "episode_end": end,
            "warning": verdict == "strict saddle",
        }
        return Record("verdict", "episode", step, {}, info)

    def planes(self, step: int) -> list[Record]:
        now = self.surface.space.weights()
        moves = torch.stack([weights - now for _, weights, _ in self.path])
        _, sizes, axes = torch.linalg.svd(moves, full_matrices=False)
        along = (moves @ axes[:2].T).numpy()
        explained = (sizes[:2] ** 2 / (sizes**2).sum()).tolist()
        x, y = (np.linspace(axis.min() - 0.5, axis.max() + 0.5, 25) for axis in along.T)
        arrays = {
            "x": x,
            "y": y,
            "loss": self.surface.losses_on_plane(axes[0], axes[1], x.tolist(), y.tolist()).numpy(),
            "trajectory_x": along[:, 0],
            "trajectory_y": along[:, 1],
            "trajectory_step": np.array([step for step, _, _ in self.path]),
            "trajectory_loss": np.array([loss for _, _, loss in self.path]),
        }
        labels = {"x_label": "first direction of the path", "y_label": "second direction of the path"}
        trajectory = Record(
            "plane", "trajectory", step, arrays, {**labels, "variance_explained": explained, "nonfinite": 0}
        )
        self.decompose()
        vectors = self.vectors
        span = np.linspace(-1.0, 1.0, 21)
        losses = self.surface.losses_on_plane(vectors[:, -1], vectors[:, 0], span.tolist(), span.tolist()).numpy()
        labels = {"x_label": "largest eigenvector", "y_label": "smallest eigenvector"}
        info = {**labels, "variance_explained": None, "nonfinite": 0}
        return [trajectory, Record("plane", "eigenvectors", step, {"x": span, "y": span, "loss": losses}, info)]
