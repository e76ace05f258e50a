"""What figures draw: their data, labels, units and marks, in both themes; and that they leave no state behind."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.colors import LogNorm, SymLogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from landscape_callbacks.figures.embedding import tsne_coordinates, tsne_figure
from landscape_callbacks.figures.heat_maps import density_heat_map, slice_heat_map
from landscape_callbacks.figures.planes import plane_contour, plane_surface
from landscape_callbacks.figures.slices import slices_figure
from landscape_callbacks.figures.style import THEMES, loss_scale
from landscape_callbacks.records import Record

ALPHAS = np.linspace(-1, 2, 9)


def a_slice(step: int, name: str = "gradient", broken: bool = False) -> Record:
    losses = 1 + (ALPHAS - 0.5) ** 2 * (1 + step / 100)
    if broken:
        losses = losses.copy()
        losses[[0, -1]] = np.nan, np.inf
    arrays = {"alpha": ALPHAS, "loss": losses, "loss_error": np.full(9, 0.1), "validation_loss": losses + 0.3}
    return Record("slice", name, step, arrays, {"unit": "optimizer steps", "best_step": 0.5})


def a_plane(broken: bool = False, scale: float = 1.0) -> Record:
    x, y = np.linspace(-1, 1, 11), np.linspace(-2, 2, 9)
    losses = scale * (x[None, :] ** 2 + y[:, None] ** 2) + 0.001
    if broken:
        losses[0, :3] = np.nan
    path = np.linspace(0.9, 0.0, 6)
    arrays = {"x": x, "y": y, "loss": losses, "trajectory_x": path, "trajectory_y": path**2}
    info = {"x_label": "first component", "y_label": "second component", "variance_explained": [0.8, 0.15]}
    return Record("plane", "trajectory", 40, arrays, info)


def a_density(step: int) -> Record:
    grid = np.linspace(-1, 10, 200)
    return Record("density", "hessian", step, {"grid": grid, "density": np.exp(-(grid**2))})


def text_of(figure: Figure) -> str:
    parts = [text.get_text() for text in figure.findobj(Text)]
    return "\n".join(parts)


FIGURES: dict[str, Callable[[str], Figure]] = {
    "slices": lambda theme: slices_figure([a_slice(0), a_slice(10, broken=True), a_slice(10, "random")], theme=theme),
    "heat map": lambda theme: slice_heat_map([a_slice(step, broken=step == 20) for step in (0, 10, 20)], theme=theme),
    "density": lambda theme: density_heat_map([a_density(step) for step in (0, 10)], theme=theme),
    "contour": lambda theme: plane_contour(a_plane(broken=True), theme=theme),
    "surface": lambda theme: plane_surface(a_plane(broken=True), theme=theme),
    "t-SNE": lambda theme: tsne_figure(np.random.default_rng(0).normal(size=(8, 2)), range(8), theme=theme),
}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.filterwarnings("error", "ignore::DeprecationWarning")  # matplotlib 3.8 uses deprecated parts of pyparsing
def test_figures_render_readable_and_outside_of_pyplot(name: str, theme: str) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = FIGURES[name](theme)
    buffer = io.BytesIO()
    figure.savefig(buffer)
    assert len(buffer.getvalue()) > 5000
    assert plt.get_fignums() == before
    assert contrast(THEMES[theme].text, THEMES[theme].background) > 7
    assert contrast(THEMES[theme].mark, THEMES[theme].background) > 3
    for axes in figure.axes:
        if axes.get_xlabel():
            assert axes.xaxis.label.get_color() == THEMES[theme].text


def contrast(first: str, second: str) -> float:
    """Contrast ratio of the Web Content Accessibility Guidelines 2.1; 7 is its level AAA for text, 3 for graphics."""

    def luminance(color: str) -> float:
        values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_series_can_be_told_from_the_background(theme: str) -> None:
    assert min(contrast(color, THEMES[theme].background) for color in THEMES[theme].series[:4]) > 2.9


def test_slices_show_points_error_bars_and_the_unit() -> None:
    figure = slices_figure([a_slice(step) for step in range(0, 80, 10)])
    (axes,) = figure.axes
    words = text_of(figure)
    assert "distance (optimizer steps)" in words
    assert "± standard error over batches" in words
    assert "validation" in words
    steps = [text.get_text() for text in axes.get_legend().get_texts() if text.get_text().startswith("step")]
    assert steps == ["step 30", "step 40", "step 50", "step 60", "step 70"]
    (container,) = axes.containers
    np.testing.assert_allclose(container.lines[0].get_xdata(), ALPHAS)
    np.testing.assert_allclose(container.lines[0].get_ydata(), a_slice(70).arrays["loss"])


def test_non_finite_losses_are_marked_and_counted() -> None:
    assert "(2 non-finite: ×)" in text_of(slices_figure([a_slice(5, broken=True)]))
    heat = slice_heat_map([a_slice(0), a_slice(10, broken=True)])
    assert "(2 non-finite: ×)" in text_of(heat)
    crosses = [line for line in heat.axes[0].lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert [tuple(line.get_ydata()) for line in crosses] == [(-1.0, 2.0)]
    contour = plane_contour(a_plane(broken=True))
    assert "(3 non-finite: ×)" in text_of(contour)
    (cross,) = [line for line in contour.axes[0].lines if line.get_marker() == "x"]
    np.testing.assert_allclose(cross.get_xdata(), [-1.0, -0.8, -0.6])
    np.testing.assert_allclose(cross.get_ydata(), [-2.0] * 3)


def test_random_lines_share_a_panel_with_their_spread() -> None:
    records = [a_slice(10, name) for name in ("random", "random_2", "random_3")] + [a_slice(10)]
    figure = slices_figure(records)
    assert len(figure.axes) == 2
    assert "median of 3" in text_of(figure)


def test_heat_maps_hold_each_measurement_until_the_next_as_the_tab_does() -> None:
    steps = [1, 1300, 1350, 1700]
    density = density_heat_map([a_density(step) for step in steps])
    for axes in (*slice_heat_map([a_slice(step) for step in steps]).axes[:2], density.axes[0]):
        borders = axes.collections[0].get_coordinates()[0, :, 0]
        np.testing.assert_allclose(borders, [1, 1300, 1350, 1700, 2050])
        assert axes.get_xlim() == (1, 2050)
    lone = slice_heat_map([a_slice(7)]).axes[0]
    np.testing.assert_allclose(lone.collections[0].get_coordinates()[0, :, 0], [7, 8])


def test_marks_at_the_ends_of_the_distances_are_whole() -> None:
    for axes in slice_heat_map([a_slice(0), a_slice(10)]).axes[:2]:
        low, high = axes.get_ylim()
        assert low < ALPHAS[0] - 0.1 and high > ALPHAS[-1] + 0.1


def a_shrunk_slice(step: int, reach: float, change: float) -> Record:
    losses = 1.0 + change * (ALPHAS / 2) ** 2
    return Record("slice", "largest_eigenvector", step, {"alpha": reach / 2 * ALPHAS, "loss": losses}, {})


def test_changes_that_differ_by_decades_are_all_seen_and_the_scale_is_said() -> None:
    figure = slice_heat_map([a_shrunk_slice(0, 0.2, 2.0), a_shrunk_slice(10, 0.2, 0.01), a_shrunk_slice(20, 0.2, 0.01)])
    mesh = figure.axes[1].collections[0]
    assert isinstance(mesh.norm, SymLogNorm)
    assert "change from distance 0, log scale" in text_of(figure)
    shares = np.abs(mesh.norm(mesh.get_array()) - 0.5).max(axis=0)
    assert shares.min() > 0.15  # of 0.5: no column is white
    alike = slice_heat_map([a_shrunk_slice(0, 0.2, 0.02), a_shrunk_slice(10, 0.2, 0.01)])
    assert not isinstance(alike.axes[1].collections[0].norm, SymLogNorm)
    assert "log scale" not in text_of(alike)


def test_one_slice_of_wide_reach_leaves_room_for_the_narrow_ones() -> None:
    figure = slice_heat_map([a_shrunk_slice(0, 0.25, 1.0), a_shrunk_slice(10, 0.02, 1.0)])
    assert "asinh scale" in text_of(figure)
    mesh = figure.axes[0].collections[0]
    seen = ~np.ma.getmaskarray(mesh.get_array())[:, 1]
    assert seen.mean() > 0.2  # on a linear axis 8 %
    rows = mesh.get_coordinates()[:, 0, 1]
    assert (rows[0], rows[-1]) == pytest.approx((-0.125, 0.25))
    assert "asinh" not in text_of(slice_heat_map([a_shrunk_slice(0, 0.25, 1.0), a_shrunk_slice(10, 0.2, 1.0)]))


def test_what_was_not_looked_at_is_open_and_what_is_no_number_is_grey() -> None:
    narrow = Record("slice", "gradient", 10, {"alpha": ALPHAS / 2, "loss": np.ones(9)}, {})
    figure = slice_heat_map([a_slice(0, broken=True), narrow])
    axes = figure.axes[0]
    assert axes.get_facecolor() == to_rgba(THEMES["light"].background)
    grey = ~np.ma.getmaskarray(axes.collections[1].get_array())
    assert grey[0, 0] and grey[-1, 0]
    assert not grey[:, 1].any()
    assert axes.collections[1].cmap(0.0) == to_rgba(THEMES["light"].missing)


@pytest.mark.parametrize("name", FIGURES)
def test_letters_can_be_read_on_a_card_of_400_pixels(name: str) -> None:
    figure = FIGURES[name]("light")
    figure.draw_without_rendering()
    per_point = figure.dpi / 72 * min(1.0, 400 / (figure.get_figwidth() * figure.dpi))
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(sizes) * per_point > 6.5  # exponents of ticks; all else is larger
    assert np.median(sizes) * per_point > 10


def test_heat_map_columns_are_the_steps() -> None:
    steps = [0, 1, 4, 30]
    figure = slice_heat_map([a_slice(step) for step in steps])
    mesh = figure.axes[0].collections[0]
    assert mesh.get_array().shape == (161, 4)
    np.testing.assert_allclose(mesh.get_array()[:, 2].min(), 1.0, atol=1e-3)
    assert "current weights" in text_of(figure)


def test_one_measurement_is_enough() -> None:
    assert slice_heat_map([a_slice(7)]).axes
    assert density_heat_map([a_density(7)]).axes


def test_density_shows_the_limit_also_above_the_grid() -> None:
    eigenvalues = [
        Record("eigenvalues", "hessian", step, {"largest": np.array([9.0])}, {"limit": 20.0}) for step in (0, 10)
    ]
    figure = density_heat_map([a_density(0), a_density(10)], eigenvalues=eigenvalues)
    assert figure.axes[0].get_ylim()[1] > 20.0
    assert "stability limit" in text_of(figure)
    unknown = [Record("eigenvalues", "hessian", 0, {"largest": np.array([9.0])}, {"limit": None})]
    assert "stability limit" not in text_of(density_heat_map([a_density(0)], eigenvalues=unknown))


def test_plane_says_how_much_variance_it_shows_and_draws_the_path() -> None:
    figure = plane_contour(a_plane())
    words = text_of(figure).replace("\n(", " (")
    assert "first component (80.0 % of variance)" in words
    assert "second component (15.0 % of variance)" in words
    assert any(len(line.get_xdata()) == 6 for line in figure.axes[0].lines)


def test_a_constant_plane_and_one_without_a_finite_loss() -> None:
    constant = a_plane(scale=0.0)
    assert plane_contour(constant).axes
    empty = Record("plane", "random", 0, {**constant.arrays, "loss": np.full((9, 11), np.nan)}, {})
    assert "(99 non-finite: ×)" in text_of(plane_contour(empty))
    assert plane_surface(constant).axes


def test_scale_is_logarithmic_over_decades_of_positive_losses_only() -> None:
    assert isinstance(loss_scale(np.array([1e-3, 1.0, np.nan])), LogNorm)
    assert not isinstance(loss_scale(np.array([1.0, 2.0])), LogNorm)
    assert not isinstance(loss_scale(np.array([-1e-3, 1.0])), LogNorm)


def test_tsne_keeps_neighbours_together_and_is_seeded() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(10, 50)), rng.normal(size=(10, 50)) + 20])
    layout = tsne_coordinates(points @ points.T)
    centers = layout[:10].mean(axis=0), layout[10:].mean(axis=0)
    own = np.linalg.norm(layout[:10] - centers[0], axis=1).max()
    assert np.linalg.norm(centers[0] - centers[1]) > 2 * own
    np.testing.assert_allclose(tsne_coordinates(points @ points.T), layout)
    with pytest.raises(ValueError, match="at least 4 snapshots, got 3"):
        tsne_coordinates(np.eye(3))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="got 'blue'"):
        slices_figure([a_slice(0)], theme="blue")
    with pytest.raises(ValueError, match="at least one record"):
        slices_figure([])
    with pytest.raises(ValueError, match="one name"):
        slice_heat_map([a_slice(0), a_slice(1, "update")])
    with pytest.raises(ValueError, match="kind 'plane', got 'slice'"):
        plane_contour(a_slice(0))
