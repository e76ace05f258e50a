"""Planes through the loss surface: contours with the path of training, and the surface in three dimensions."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import cm
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape_callbacks.figures.style import (
    LABEL,
    Theme,
    count_of_missing,
    dress,
    dress_colorbar,
    dress_legend,
    loss_scale,
    mark_missing,
    new_figure,
    theme_named,
)
from landscape_callbacks.records import Record


def plane_contour(record: Record, *, theme: str = "light") -> Figure:
    """Contours of the loss on a plane, the current weights marked, with the path of training where the record has one.

    Losses that are not finite are left out of the contours and marked with a cross.

    Args:
        record: A record of kind ``"plane"``.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        ValueError: When the record is of another kind.
    """
    look = theme_named(theme)
    x, y, losses = _grid(record)
    figure = new_figure(look, height=4.2)
    axes = figure.add_subplot()
    scale = loss_scale(losses)
    masked = np.ma.masked_invalid(losses)
    levels = np.asarray(scale.inverse(np.linspace(0.0, 1.0, 22)), dtype=np.float64)
    axes.set_facecolor(look.background)
    if masked.count() > 3 and np.ptp(masked.compressed()) > 0:
        axes.contourf(x, y, masked, levels=np.unique(levels), cmap=look.colormap, norm=scale, extend="both")
        axes.contour(x, y, masked, levels=np.unique(levels)[1:-1:3], colors="white", linewidths=0.5, alpha=0.6)
    else:
        axes.pcolormesh(x, y, masked, cmap=look.colormap, norm=scale)
    # Of the scale, not of the contours: these would put a tick with a crooked number at every level.
    dress_colorbar(figure, cm.ScalarMappable(norm=scale, cmap=look.colormap), axes, look, "loss")
    absent = ~np.isfinite(losses)
    if absent.any():
        columns, rows = np.meshgrid(x, y)
        mark_missing(axes, columns[absent], rows[absent], look)
    if "trajectory_x" in record.arrays:
        _draw_path(axes, record, look)
    if record.name != "checkpoints":
        axes.plot(0.0, 0.0, "*", color=look.mark, markeredgecolor="white", markersize=14, label="current weights")
    x_label, y_label = ("\n(".join(label.rsplit(" (", 1)) for label in _labels(record))
    dress(axes, look, title=_title(record, int(absent.sum())), x=x_label, y=y_label, grid=False)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    dress_legend(axes, look, loc="best")
    return figure


def plane_surface(record: Record, *, theme: str = "light") -> Figure:
    """The loss on a plane as a surface in three dimensions. Places that are not finite are left open, and counted.

    The height is logarithmic when the losses span more than two decades.

    Args:
        record: A record of kind ``"plane"``.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        ValueError: When the record is of another kind.
    """
    look = theme_named(theme)
    x, y, losses = _grid(record)
    logarithmic = type(loss_scale(losses)).__name__ == "LogNorm"
    with np.errstate(invalid="ignore", divide="ignore"):
        heights = np.log10(losses) if logarithmic else losses.copy()
    heights[~np.isfinite(heights)] = np.nan
    figure = new_figure(look, height=4.6)
    axes = figure.add_subplot(projection="3d")
    columns, rows = np.meshgrid(x, y)
    scale = loss_scale(heights)
    axes.plot_surface(
        columns,
        rows,
        heights,
        cmap=look.colormap,
        norm=scale,
        rcount=len(y),
        ccount=len(x),
        linewidth=0.2,
        edgecolor=look.missing,
        antialiased=True,
    )
    label = "log₁₀ loss" if logarithmic else "loss"
    dress_colorbar(figure, cm.ScalarMappable(norm=scale, cmap=look.colormap), axes, look, label, shrink=0.6, pad=0.12)
    x_label, y_label = (label.replace(" (", "\n(") for label in _labels(record))
    missing = int((~np.isfinite(losses)).sum())
    dress(axes, look, title=_title(record, missing), x=x_label, y=y_label)
    axes.set_zlabel(label, color=look.text, fontsize=LABEL)
    axes.locator_params(nbins=5)
    axes.xaxis.labelpad = axes.yaxis.labelpad = 15
    axes.zaxis.labelpad = 8
    axes.set_box_aspect(None, zoom=0.82)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((0.0, 0.0, 0.0, 0.0))
        axis._axinfo["grid"].update(color=look.grid, linewidth=0.5)
    at_center = record.name != "checkpoints"
    center = heights[int(np.argmin(np.abs(y))), int(np.argmin(np.abs(x)))]
    if at_center and math.isfinite(center):
        axes.plot([0.0], [0.0], [center], marker="*", color=look.mark, markersize=13, zorder=10)
    axes.view_init(elev=32, azim=-58)
    return figure


def _draw_path(axes: Axes, record: Record, look: Theme) -> None:
    path_x, path_y = record.arrays["trajectory_x"], record.arrays["trajectory_y"]
    if record.name == "checkpoints":
        axes.plot(path_x, path_y, "o", color=look.mark, markeredgecolor="white", markersize=8, label="checkpoints")
        for number, place in enumerate(zip(path_x, path_y, strict=True), start=1):
            outline = {"boxstyle": "round,pad=0.15", "facecolor": look.background, "edgecolor": "none", "alpha": 0.75}
            axes.annotate(
                str(number), place, (7, 5), textcoords="offset points", color=look.text, fontsize=9, bbox=outline
            )
        return
    axes.plot(path_x, path_y, color="black", linewidth=3.2, alpha=0.55)
    axes.plot(path_x, path_y, "o-", color="white", linewidth=1.4, markersize=2.8, label="path of training")
    axes.plot(
        path_x[:1], path_y[:1], "s", color=look.mark, markeredgecolor="white", markersize=7, label="first snapshot"
    )


def _grid(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if record.kind != "plane":
        raise ValueError(f"This figure needs a record of kind 'plane', got '{record.kind}'.")
    return record.arrays["x"], record.arrays["y"], record.arrays["loss"]


def _labels(record: Record) -> tuple[str, str]:
    variance = record.info.get("variance_explained")
    labels = [
        str(record.info.get("x_label") or "first direction"),
        str(record.info.get("y_label") or "second direction"),
    ]
    if variance:
        labels = [f"{label} ({100 * share:.1f} % of variance)" for label, share in zip(labels, variance, strict=True)]
    return labels[0], labels[1]


def _title(record: Record, missing: int) -> str:
    if record.name == "checkpoints":
        return f"plane through three checkpoints{count_of_missing(missing)}"
    return f"{record.name.replace('_', ' ')} plane, step {record.step:,}{count_of_missing(missing)}"
