"""Draw the loss between checkpoints: are these minima connected?"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

from landscape_callbacks.commands.loading import batches_of, module_of, step_loss
from landscape_callbacks.interpolate import (
    CheckpointPlane,
    interpolate_line,
    interpolate_plane,
    load_weights,
)
from landscape_callbacks.records import Record
from landscape_callbacks.surface.batch_norm import has_batch_norm
from landscape_callbacks.surface.slices import SliceResult
from landscape_callbacks.training.record_writer import RecordWriter

_LINE_POINTS = 25
_PLANE_POINTS = 15
EXAMPLE = """example:
  python -m landscape_callbacks interpolate a.ckpt b.ckpt --module train.py:Net --data train.py:loader
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLE
    parser.add_argument("checkpoints", nargs="+", type=Path, help="two checkpoints (a line) or three (a plane)")
    parser.add_argument(
        "--module",
        required=True,
        metavar="FILE.py:NAME",
        help="LightningModule class (given the hyperparameters in the first checkpoint), or a function that gives a "
        "module: a file or a dotted module, then ':' and the name",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE.py:NAME",
        help="LightningDataModule class (its train_dataloader is used), or a function that gives a loader, or batches",
    )
    parser.add_argument("--batches", type=int, default=8, help="batches to evaluate on, from the start (8)")
    parser.add_argument(
        "--step", choices=("training", "validation"), default="training", help="whose loss, in eval mode (training)"
    )
    parser.add_argument(
        "--batch-norm",
        choices=("recalibrated", "batch", "frozen"),
        default="recalibrated",
        help="statistics of batch norm (recalibrated at every point)",
    )
    parser.add_argument("--points", type=int, help="points along each axis (line: adaptive, at most 25; plane: 15)")
    parser.add_argument("--device", default="cpu", help="where to evaluate (cpu)")
    parser.add_argument("--output", type=Path, default=Path("interpolation"), help="folder for figures and data")
    parser.add_argument("--theme", choices=("light", "dark"), default="light", help="of the figures (light)")


def main(arguments: argparse.Namespace) -> int:
    """Evaluates, writes figures and data, and prints whether the checkpoints are connected."""
    try:
        return _run(arguments)
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _run(arguments: argparse.Namespace) -> int:
    count = len(arguments.checkpoints)
    if count not in (2, 3):
        raise ValueError(f"Give two checkpoints for a line or three for a plane, got {count}.")
    module = module_of(arguments.module, arguments.checkpoints[0]).to(arguments.device)
    batches = batches_of(arguments.data, arguments.batches, arguments.device)
    loss_fn = step_loss(arguments.step)
    weights = [load_weights(path) for path in arguments.checkpoints]
    recalibrates = arguments.batch_norm == "recalibrated" and has_batch_norm(module)
    most = _most_points(count, arguments.points)
    with _progress((1 + recalibrates) * most * len(batches)) as bar:
        common = {"batch_norm": arguments.batch_norm, "on_evaluation": bar.update}
        if count == 2:
            line = interpolate_line(
                module, weights, batches, loss_fn, points=arguments.points, max_points=_LINE_POINTS, **common
            )
            record, text = _line_record(line), _line_text(line, arguments.checkpoints)
        else:
            plane = interpolate_plane(
                module, weights, batches, loss_fn, points=arguments.points or _PLANE_POINTS, **common
            )
            record, text = _plane_record(plane), _plane_text(plane)
        _complete(bar)
    files = _write(record, arguments.output, arguments.theme)
    sys.stdout.write(f"{text}\nwritten: {', '.join(str(path) for path in files)}\n")
    return 0


def _most_points(checkpoints: int, points: int | None) -> int:
    """Most points of a line or a plane. Even grids get the places of the checkpoints besides, where they miss them."""
    if checkpoints == 2:
        return _LINE_POINTS if points is None else points + 2
    return ((points or _PLANE_POINTS) + 1) ** 2


def _progress(passes: int) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=passes, unit=" forward passes", desc="evaluating", file=sys.stderr)


def _complete(bar: Any) -> None:
    """Ends a bar full: an adaptive line stops where its error is small, most often before its last point."""
    bar.total = bar.n
    bar.refresh()


def _line_record(result: SliceResult) -> Record:
    arrays = {"alpha": result.alphas.numpy(), "loss": result.losses.numpy()}
    if result.loss_error is not None:
        arrays["loss_error"] = result.loss_error.numpy()
    info = {
        "barrier": result.barrier,
        "convexity_violation": result.convexity_violation,
        "best_step": result.best_step,
        "best_step_error": result.best_step_error,
        "curvature": result.curvature,
        "curvature_error": result.curvature_error,
        "error": result.error,
        "unit": "0: first checkpoint, 1: second",
        "nonfinite": result.nonfinite,
        "direction_norm": result.direction_norm,
    }
    return Record("slice", "checkpoints", 0, arrays, info)


def _line_text(result: SliceResult, checkpoints: list[Path]) -> str:
    at_ends = [float(loss) for loss in result.curve([0.0, 1.0])]
    inside = (result.alphas >= 0.0) & (result.alphas <= 1.0)
    losses = result.losses[inside]
    noise = 0.0 if result.loss_error is None else float(result.loss_error[inside][losses.argmax()])
    uncertainty = float(np.hypot(0.0 if np.isnan(result.error) else result.error, noise))
    # Frankle's barrier counts from the mean of the ends; a hill rises above the higher one.
    hill = result.barrier + sum(at_ends) / 2 - max(at_ends)
    lines = [f"loss at {path}: {loss:.6g}" for path, loss in zip(checkpoints, at_ends, strict=True)]
    lines.append(f"barrier (highest loss between them minus the mean of the two): {result.barrier:.4g}")
    lines.append(f"hill above the higher one: {hill:.4g}, known to about {uncertainty:.2g}")
    if not np.isfinite(hill):
        lines.append("Not connected by the straight line: some losses between them are not finite.")
    elif hill <= 2 * uncertainty or hill <= 1e-3 * max(map(abs, at_ends)):
        lines.append("Connected by the straight line, as far as these batches tell.")
    else:
        lines.append("Not connected by the straight line: a hill stands between them.")
    return "\n".join(lines)


def _plane_record(result: CheckpointPlane) -> Record:
    plane = result.plane
    arrays = {
        "x": plane.x.numpy(),
        "y": plane.y.numpy(),
        "loss": plane.losses.numpy(),
        "trajectory_x": np.array(result.x),
        "trajectory_y": np.array(result.y),
    }
    info = {
        "x_label": "from the first checkpoint to the second (weights)",
        "y_label": "at right angles, towards the third (weights)",
        "nonfinite": plane.nonfinite,
    }
    return Record("plane", "checkpoints", 0, arrays, info)


def _plane_text(result: CheckpointPlane) -> str:
    finite = result.plane.losses[result.plane.losses.isfinite()]
    found = f"losses from {float(finite.min()):.6g} to {float(finite.max()):.6g}" if len(finite) else "no finite loss"
    return f"plane of {result.plane.losses.numel()} points, {found}, {result.plane.nonfinite} not finite"


def _write(record: Record, folder: Path, theme: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with RecordWriter(folder) as writer:
        writer.write(record)
    files = [folder / "landscape.jsonl", folder / f"{record.kind}.npz"]
    np.savez(files[1], **dict(record.arrays))  # type: ignore[arg-type]
    if importlib.util.find_spec("matplotlib") is None:
        sys.stderr.write("no figures: matplotlib is not installed (pip install 'landscape-callbacks[figures]')\n")
        return files
    from landscape_callbacks.figures.planes import plane_contour, plane_surface
    from landscape_callbacks.figures.slices import slices_figure

    figures = (
        {"line": slices_figure([record], theme=theme)}
        if record.kind == "slice"
        else {"contour": plane_contour(record, theme=theme), "surface": plane_surface(record, theme=theme)}
    )
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1])
    return files
