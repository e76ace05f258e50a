"""The look of all figures: two themes, colours for the colour-blind too, marks for what is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

# The image cards of TensorBoard are about 400 pixels wide and take every second or third pixel of what is wider: few
# pixels and large letters, so that labels can be read there.
WIDTH = 5.0  # inches
_DOTS_PER_INCH = 110
TITLE, LABEL, TICK = 11, 10.5, 9.5  # points


@dataclass(frozen=True)
class Theme:
    """Colours of one theme. The series are after Okabe and Ito 2008, lightened for the dark background.

    Attributes:
        background: Of the figure and its axes.
        text: Labels and ticks.
        grid: Lines behind the data.
        mark: What has to be seen on any colour of a map: current weights, limits, paths.
        missing: Losses that are NaN or infinite.
        series: One colour a curve.
        colormap: For losses; perceptually uniform, also in grey and for the colour-blind.
        diverging: For differences; purple below 0, orange above.
    """

    background: str
    text: str
    grid: str
    mark: str
    missing: str
    series: tuple[str, ...]
    colormap: str = "cividis"
    diverging: str = "PuOr_r"


THEMES = {
    "light": Theme(
        background="#ffffff",
        text="#222222",
        grid="#d9d9d9",
        mark="#d55e00",
        missing="#b0b0b0",
        series=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9"),
    ),
    "dark": Theme(
        background="#1e1f22",
        text="#e4e4e4",
        grid="#45474d",
        mark="#ff8c42",
        missing="#6f7278",
        series=("#56b4e9", "#ff8c42", "#2fd3a2", "#e79fc7", "#f0e442", "#a8d5ff"),
    ),
}


def theme_named(theme: str) -> Theme:
    """The theme of a name.

    Raises:
        ValueError: When there is none of that name.
    """
    if theme not in THEMES:
        raise ValueError(f"theme has to be 'light' or 'dark', got {theme!r}.")
    return THEMES[theme]


def new_figure(theme: Theme, width: float = WIDTH, height: float = 3.6) -> Figure:
    """An empty figure (inches). It is not registered with pyplot, so nothing has to be closed and no window opens."""
    return Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, facecolor=theme.background, layout="constrained")


def dress(axes: Any, theme: Theme, *, title: str, x: str, y: str, grid: bool = True) -> None:
    """Title, axis labels with units, and the colours of the theme."""
    axes.set_facecolor(theme.background)
    axes.set_title(title, color=theme.text, fontsize=TITLE, loc="left")
    axes.set_xlabel(x, color=theme.text, fontsize=LABEL)
    axes.set_ylabel(y, color=theme.text, fontsize=LABEL)
    axes.tick_params(colors=theme.text, labelsize=TICK, which="both")
    for spine in axes.spines.values():
        spine.set_color(theme.grid)
    if grid:
        axes.grid(True, color=theme.grid, linewidth=0.5)
        axes.set_axisbelow(True)


def dress_legend(axes: Axes, theme: Theme, **options: Any) -> None:
    """A legend in the colours of the theme; none when nothing has a label."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        legend = axes.legend(
            handles,
            labels,
            fontsize=TICK,
            facecolor=theme.background,
            edgecolor=theme.grid,
            framealpha=0.75,
            **options,
        )
        for text in legend.get_texts():
            text.set_color(theme.text)


def dress_colorbar(figure: Figure, drawn: Any, axes: Any, theme: Theme, label: str, **options: Any) -> None:
    """A colour bar with its unit, in the colours of the theme."""
    bar = figure.colorbar(drawn, ax=axes, **options)
    bar.set_label(label, color=theme.text, fontsize=LABEL)
    bar.ax.tick_params(colors=theme.text, labelsize=TICK, which="both")
    bar.outline.set_edgecolor(theme.grid)


def loss_scale(losses: Array) -> Normalize:
    """A colour scale for losses: logarithmic when all are positive and they span more than two decades."""
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return Normalize(0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    if low > 0.0 and high > 100.0 * low:
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + max(abs(low), 1.0) * 1e-6)


def mark_missing(axes: Axes, x: Sequence[float] | Array, y: Sequence[float] | Array, theme: Theme) -> None:
    """A cross at every place whose loss is NaN or infinite."""
    axes.plot(x, y, linestyle="none", marker="x", color=theme.text, markersize=6, markeredgewidth=1.2, zorder=4)


def count_of_missing(nonfinite: int) -> str:
    """What a title says about losses that are not finite."""
    return f"   ({nonfinite} non-finite: ×)" if nonfinite else ""
