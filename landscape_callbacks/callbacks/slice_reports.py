"""What :class:`LossSliceMonitor` makes of a slice: scalars, a record, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from landscape_callbacks.callbacks.lines import Line
from landscape_callbacks.records import Record
from landscape_callbacks.surface.penalty import penalty_along
from landscape_callbacks.surface.slices import SliceResult
from landscape_callbacks.training.figure_logging import Drawing
from landscape_callbacks.training.snapshot import Snapshot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scalars_of(line: Line, result: SliceResult) -> dict[str, float]:
    """The numbers of one slice a tag. Curvature is per unit length, so that it compares with eigenvalues."""
    square = result.direction_norm**2
    return {
        f"slice/{line.name}/curvature": result.curvature / square,
        f"slice/{line.name}/curvature_error": result.curvature_error / square,
        f"slice/{line.name}/best_step": result.best_step - line.origin,
        f"slice/{line.name}/best_step_error": result.best_step_error,
        f"slice/{line.name}/barrier": result.barrier,
        f"slice/{line.name}/convexity_violation": result.convexity_violation,
    }


def record_of(
    line: Line, result: SliceResult, snapshot: Snapshot, decays: Sequence[float], batch_norm: str | None = None
) -> Record:
    """The curve of one slice, with the same loss on validation data and with weight decay where there are such."""
    arrays = {"alpha": result.alphas.numpy(), "loss": result.losses.numpy()}
    if result.loss_error is not None:
        arrays["loss_error"] = result.loss_error.numpy()
    if result.validation_losses is not None:
        arrays["validation_loss"] = result.validation_losses.numpy()
    if any(decays):
        penalty = penalty_along(snapshot.space, line.direction, result.alphas, decays)
        arrays["regularized_loss"] = (result.losses + penalty).numpy()
    info = {
        "curvature": result.curvature,
        "curvature_error": result.curvature_error,
        "best_step": result.best_step,
        "best_step_error": result.best_step_error,
        "barrier": result.barrier,
        "convexity_violation": result.convexity_violation,
        "error": result.error,
        "unit": line.unit,
        "nonfinite": result.nonfinite,
        "direction_norm": result.direction_norm,
        "evaluations": result.evaluations,
        "batch_norm": batch_norm,
    }
    return Record("slice", line.name, snapshot.step, arrays, info)


def slice_drawings(records: Mapping[str, Sequence[Record]], theme: str) -> dict[str, Drawing]:
    """The latest slices, and the history of each direction. Further random lines are in the first figure only."""
    every = [record for own in records.values() for record in own]

    def latest() -> Figure:
        from landscape_callbacks.figures.slices import slices_figure

        return slices_figure(every, theme=theme)

    drawings = {"landscape/slices": Drawing(latest)}
    for name, own in records.items():
        if not name.startswith("random_"):
            drawings[f"landscape/slice/{name}"] = Drawing(partial(_history, own, theme), _arrays(own))
    return drawings


def _history(records: Sequence[Record], theme: str) -> Figure:
    from landscape_callbacks.figures.heat_maps import slice_heat_map

    return slice_heat_map(records, theme=theme)


def _arrays(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Steps, distances and losses of all columns, padded with NaN to the longest: shape (steps, points)."""
    longest = max(len(record.arrays["alpha"]) for record in records)
    table = {key: np.full((len(records), longest), np.nan) for key in ("alpha", "loss")}
    for row, record in enumerate(records):
        for key, values in table.items():
            values[row, : len(record.arrays[key])] = record.arrays[key]
    return {"step": np.array([record.step for record in records]), **table}
