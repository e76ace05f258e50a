"""Heat maps over training: one column a measurement, so the whole run is in the last picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import AsinhLocator

from landscape_callbacks.figures.style import (
    LABEL,
    Array,
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
from landscape_callbacks.surface.loss_curve import LossCurve

_ROWS = 161
_MUCH = 3.0  # times the reach of another slice
_DECADES = 30.0  # times the change of another slice


def slice_heat_map(records: Sequence[Record], *, theme: str = "light") -> Figure:
    """The loss along one direction over training: x step, y distance, colour loss; below, its change from distance 0.

    The current weights are the line at distance 0, the lowest loss of each column is a dot. Losses that are not finite
    are grey, with a cross where they were measured.

    Args:
        records: Records of kind ``"slice"`` of one direction.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        ValueError: When there is no record, or they are of several directions.
    """
    look = theme_named(theme)
    ordered = _of_one_name(records, "slice")
    ends = np.array([record.arrays["alpha"][[0, -1]] for record in ordered])
    reaches = np.abs(ends).max(axis=1)
    stretched = bool(reaches.max() > _MUCH * reaches.min())
    linear = float(reaches.min() if stretched else 1e3 * reaches.max())
    low, high = _squeeze(np.array([ends.min(), ends.max()]), linear)
    borders = _stretch(np.linspace(low, high, _ROWS + 1), linear)
    rows = (borders[1:] + borders[:-1]) / 2
    curves = [LossCurve(record.arrays["alpha"], record.arrays["loss"]) for record in ordered]
    values = np.stack([curve(rows) for curve in curves], axis=1)
    looked_at = (rows[:, None] >= ends[:, 0]) & (rows[:, None] <= ends[:, 1])
    with np.errstate(invalid="ignore"):
        changes = values - np.array([float(curve(0.0)) for curve in curves])
    scale_of_changes, said = _scale_of_changes(changes)
    figure = new_figure(look, height=5.6)
    upper, lower = figure.subplots(2, 1, sharex=True)
    missing = sum(int((~np.isfinite(record.arrays["loss"])).sum()) for record in ordered)
    title = f"loss along {ordered[0].name.replace('_', ' ')}{count_of_missing(missing)}"
    edges = _spans([record.step for record in ordered])
    for axes, shown, norm, colormap, label in (
        (upper, values, loss_scale(values), look.colormap, "loss"),
        (lower, changes, scale_of_changes, look.diverging, f"change from distance 0{said}"),
    ):
        drawn = axes.pcolormesh(edges, borders, np.ma.masked_invalid(shown), cmap=colormap, norm=norm)
        broken = np.ma.masked_array(np.zeros_like(shown), ~looked_at | np.isfinite(shown))
        axes.pcolormesh(edges, borders, broken, cmap=ListedColormap([look.missing]), zorder=drawn.get_zorder() - 0.1)
        dress_colorbar(figure, drawn, axes, look, label, extend="neither" if axes is upper or said else "both")
        _mark_columns(axes, ordered, look)
        dress(axes, look, title=title if axes is upper else "", x="" if axes is upper else "step", y="", grid=False)
        if stretched:
            axes.set_yscale("asinh", linear_width=linear, base=0)
            axes.yaxis.set_major_locator(AsinhLocator(linear, numticks=7, base=0))
            axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlim(edges[0], edges[-1])
        axes.use_sticky_edges = False
        axes.margins(y=0.04)  # room for marks at the ends
    unit = ordered[-1].info.get("unit") or "units of the direction"
    squeezed = ", asinh scale" if stretched else ""
    figure.supylabel(f"distance ({unit}){squeezed}", color=look.text, fontsize=LABEL)
    dress_legend(upper, look, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2)  # on no column
    return figure


def _mark_columns(axes: Axes, ordered: Sequence[Record], look: Theme) -> None:
    axes.axhline(0.0, color=look.mark, linewidth=1.4, label="current weights")
    steps = [record.step for record in ordered if _finite(record.info.get("best_step"))]
    best = [float(record.info["best_step"]) for record in ordered if _finite(record.info.get("best_step"))]
    axes.plot(
        steps, best, "o", color=look.mark, markersize=5, markeredgecolor="white", label="lowest loss", clip_on=False
    )
    for record in ordered:
        absent = ~np.isfinite(record.arrays["loss"])
        mark_missing(axes, np.full(int(absent.sum()), record.step), record.arrays["alpha"][absent], look)


def _scale_of_changes(changes: Array) -> tuple[Normalize, str]:
    """Colours symmetric around 0, and what the label says about them.

    Every column counts the same, however far it reaches. Where the largest changes of the columns differ by decades,
    one scale would leave all columns but one white: it is logarithmic then, but for a linear part around 0.
    """
    finite = np.where(np.isfinite(changes), np.abs(changes), 0.0).max(axis=0)
    largest = finite[finite > 0]
    if not largest.size:
        return Normalize(-1.0, 1.0), ""
    low, high = np.quantile(largest, 0.1), float(largest.max())
    if high > _DECADES * low:
        return SymLogNorm(low / 3, vmin=-high, vmax=high), ", log scale"
    reach = float(np.quantile(largest, 0.9))
    return Normalize(-reach, reach), ""


def density_heat_map(records: Sequence[Record], *, eigenvalues: Sequence[Record] = (), theme: str = "light") -> Figure:
    """The spectral density of the Hessian over training: x step, y eigenvalue, colour log density.

    What was measured at a step is shown until the next measurement.
    The eigenvalue axis is linear around 0 and logarithmic beyond, so that the bulk and the outliers are both seen.

    Args:
        records: Records of kind ``"density"``.
        eigenvalues: Records of kind ``"eigenvalues"``: their largest eigenvalue and stability limit are drawn in.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        ValueError: When there is no record of a density.
    """
    look = theme_named(theme)
    ordered = _of_one_name(records, "density")
    low = min(float(record.arrays["grid"].min()) for record in ordered)
    high = max(float(record.arrays["grid"].max()) for record in ordered)
    linear = (high - low) / 100
    bottom, top = _squeeze(np.array([low, high]), linear)
    rows = np.linspace(bottom, top, 241)
    columns = []
    for record in ordered:
        grid, density = record.arrays["grid"], record.arrays["density"]
        columns.append(np.interp(_stretch(rows, linear), grid, density, left=0.0, right=0.0))
    values = np.stack(columns, axis=1)
    floor = max(float(values.max()) * 1e-6, 1e-300)
    logs = np.log10(np.maximum(values, floor))
    figure = new_figure(look)
    axes = figure.add_subplot()
    edges = _spans([record.step for record in ordered])
    drawn = axes.pcolormesh(
        edges, _stretch(_edges(rows), linear), logs, cmap=look.colormap, norm=Normalize(math.log10(floor), logs.max())
    )
    axes.set_yscale("symlog", linthresh=linear, linscale=1.0)
    steps = [record.step for record in eigenvalues]
    lines: list[float] = []
    if steps:
        largest = [float(record.arrays["largest"][0]) for record in eigenvalues]
        axes.plot(steps, largest, color=look.mark, linewidth=1.5, label="largest eigenvalue")
        limits = [(r.step, float(r.info["limit"])) for r in eigenvalues if _finite(r.info.get("limit"))]
        if limits:
            axes.plot(*zip(*limits, strict=True), color=look.mark, linestyle=(0, (4, 2)), label="stability limit")
        lines = [*largest, *(limit for _, limit in limits)]
    dress(axes, look, title="spectral density of the Hessian", x="step", y="eigenvalue (loss / weight²)", grid=False)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(low, max([high, *(1.3 * value for value in lines)]))
    dress_legend(axes, look, loc="lower right")
    dress_colorbar(figure, drawn, axes, look, "log₁₀ density")
    return figure


def _squeeze(values: Array, linear: float) -> Array:
    """To an axis that is linear up to about ``linear`` from 0 and logarithmic beyond; :func:`_stretch` goes back."""
    return np.asarray(np.arcsinh(values / linear), dtype=np.float64)


def _stretch(values: Array, linear: float) -> Array:
    return np.asarray(np.sinh(values) * linear, dtype=np.float64)


def _edges(centers: Array) -> Array:
    """Borders between neighbouring rows, half-way; the outer ones as far out as the next are in."""
    middle = (centers[1:] + centers[:-1]) / 2
    return np.concatenate(([2 * centers[0] - middle[0]], middle, [2 * centers[-1] - middle[-1]]))


def _spans(steps: Sequence[int]) -> Array:
    """Borders of columns that hold from one measurement to the next; the last as wide as the one before."""
    return np.array([*steps, steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)], dtype=np.float64)


def _of_one_name(records: Sequence[Record], kind: str) -> list[Record]:
    last_of_step = {record.step: record for record in records if record.kind == kind}
    names = {record.name for record in last_of_step.values()}
    if len(names) != 1:
        raise ValueError(f"This figure needs records of kind '{kind}' of one name, got {sorted(names) or 'none'}.")
    return [last_of_step[step] for step in sorted(last_of_step)]


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
