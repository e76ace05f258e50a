"""Curves of the loss along lines: the latest ones, how they came about, how sure they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape_callbacks.figures.style import (
    WIDTH,
    Theme,
    count_of_missing,
    dress,
    dress_legend,
    mark_missing,
    new_figure,
    theme_named,
)
from landscape_callbacks.records import Record
from landscape_callbacks.surface.loss_curve import LossCurve

_EARLIER = 4
_ONE_ABOVE_THE_OTHER = 4  # panels


def slices_figure(records: Sequence[Record], *, theme: str = "light") -> Figure:
    """The loss along each direction: the latest curve with error bars over batches, up to four earlier ones behind it.

    Several random lines (``random``, ``random_2``, …) share one panel with the band that they span. The loss on
    validation data along the same line is dashed, the loss with weight decay dotted.

    Args:
        records: Records of kind ``"slice"``, of any directions and steps.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        ValueError: When there is no slice, or the theme is unknown.
    """
    look = theme_named(theme)
    families: dict[str, list[Record]] = {}
    for record in records:
        if record.kind == "slice":
            families.setdefault(_family(record.name), []).append(record)
    if not families:
        raise ValueError("A figure of slices needs at least one record of kind 'slice', got none.")
    # Side by side, letters would be too small on a card.
    columns = 1 if len(families) <= _ONE_ABOVE_THE_OTHER else 2
    rows = -(-len(families) // columns)
    figure = new_figure(look, WIDTH * columns, 3.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes in panels[len(families) :]:
        axes.remove()
    for axes, (name, own) in zip(panels, sorted(families.items()), strict=False):
        _panel(axes, name, own, look)
    return figure


def _panel(axes: Axes, name: str, records: list[Record], theme: Theme) -> None:
    latest = max(record.step for record in records)
    now = [record for record in records if record.step == latest]
    earlier = sorted({record.step for record in records} - {latest})[-_EARLIER:]
    for place, step in enumerate(earlier):
        for record in (record for record in records if record.step == step and record.name == now[0].name):
            x, y = _curve(record)
            shade = 0.25 + 0.35 * place / max(len(earlier) - 1, 1)
            axes.plot(x, y, color=theme.series[0], alpha=shade, linewidth=1.0, label=f"step {step:,}")
    if len(now) > 1:
        _band(axes, now, theme)
    else:
        _latest(axes, now[0], theme)
    for marked in (0.0, 1.0) if name == "checkpoints" else (0.0,):
        axes.axvline(marked, color=theme.mark, linewidth=0.8, linestyle=(0, (1, 2)))
    missing = sum(int((~np.isfinite(record.arrays["loss"])).sum()) for record in now)
    dress(
        axes,
        theme,
        title=f"{_title(name, latest)}{count_of_missing(missing)}",
        x=f"distance ({now[0].info.get('unit') or 'units of the direction'})",
        y="loss",
    )
    dress_legend(axes, theme)


def _title(name: str, step: int) -> str:
    return "between two checkpoints" if name == "checkpoints" else f"{name.replace('_', ' ')}, step {step:,}"


def _latest(axes: Axes, record: Record, theme: Theme) -> None:
    alphas, losses = record.arrays["alpha"], record.arrays["loss"]
    x, y = _curve(record)
    axes.plot(x, y, color=theme.series[0], linewidth=1.8, label=_label(record))
    errors = record.arrays.get("loss_error")
    keep = np.isfinite(losses)
    if errors is not None:
        bars = np.where(np.isfinite(errors), errors, 0.0)
        axes.errorbar(
            alphas[keep],
            losses[keep],
            yerr=bars[keep],
            fmt="o",
            color=theme.series[0],
            markersize=3,
            capsize=2,
            elinewidth=1,
            label="± standard error over batches",
        )
    else:
        axes.plot(alphas[keep], losses[keep], "o", color=theme.series[0], markersize=3)
    for key, style, label in (
        ("validation_loss", (0, (5, 2)), "validation"),
        ("regularized_loss", (0, (1, 1)), "with weight decay"),
    ):
        if key in record.arrays:
            other_x, other_y = _curve(record, key)
            color = theme.series[1] if key == "validation_loss" else theme.series[2]
            axes.plot(other_x, other_y, color=color, linewidth=1.5, linestyle=style, label=label)
    if keep.any() and not keep.all():
        mark_missing(axes, alphas[~keep], np.full((~keep).sum(), losses[keep].max()), theme)


def _label(record: Record) -> str:
    return "loss" if record.name == "checkpoints" else f"step {record.step:,}"


def _band(axes: Axes, records: Sequence[Record], theme: Theme) -> None:
    low = max(float(record.arrays["alpha"][0]) for record in records)
    high = min(float(record.arrays["alpha"][-1]) for record in records)
    x = np.linspace(low, high, 201)
    curves = np.stack([LossCurve(record.arrays["alpha"], record.arrays["loss"])(x) for record in records])
    for curve in curves:
        axes.plot(x, curve, color=theme.series[0], linewidth=0.8, alpha=0.6)
    # A place where one line is not finite has no median: it would be that of the others.
    axes.plot(x, np.median(curves, axis=0), color=theme.series[0], linewidth=2.0, label=f"median of {len(records)}")
    axes.fill_between(
        x, curves.min(axis=0), curves.max(axis=0), color=theme.series[0], alpha=0.18, linewidth=0, label="range"
    )


def _curve(record: Record, key: str = "loss") -> tuple[np.ndarray, np.ndarray]:
    return LossCurve(record.arrays["alpha"], record.arrays[key]).dense(12)


def _family(name: str) -> str:
    return re.sub(r"_\d+$", "", name)
