"""The Landscape tab in a real browser: what the page and its pixels show, against the numbers that were logged."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from landscape_callbacks.records import Record
from landscape_callbacks.training.record_writer import RecordWriter, _add_string_tensor
from tests.tensorboard_plugin.browser import Tab, expect, frame_address, tab_address, tensorboard
from tests.tensorboard_plugin.conftest import SampleRuns, wait_for_runs

if TYPE_CHECKING:
    from playwright.sync_api import Locator

OpenPage = Callable[..., Tab]
HOSTILE = '"><img src=x onerror="window.hacked=1"><script>window.hacked=2<!-- \u202e'


@pytest.fixture
def tab(open_page: OpenPage, sample_runs: SampleRuns) -> Tab:
    """The tab with the run "slow" alone, at its last step."""
    tab = open_page(frame_address(sample_runs.address))
    settle(tab)
    return tab


def settle(tab: Tab) -> None:
    """Leaves the run "slow" alone, and waits until everything of its last step is drawn."""
    tab.frame.locator("[data-run=fast] input").uncheck()
    tab.wait_for_step(300)
    tab.frame.wait_for_selector("#planes .card")


def plot_of(tab: Tab, card: str, index: int = 0) -> Locator:
    plot = tab.frame.locator(".card", has=tab.frame.locator("h3", has_text=card)).locator(".plot").nth(index)
    plot.scroll_into_view_if_needed()
    tab.page.wait_for_timeout(150)
    return plot


def pixels(plot: Locator) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(plot.screenshot())).convert("RGB")).astype(int)


def rows_of(image: np.ndarray, column: int, color: str, reach: int = 40) -> np.ndarray:
    """Rows of a column whose pixels come near a colour."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return np.flatnonzero(np.abs(image[:, column] - wanted).sum(-1) < reach)


def css(tab: Tab, name: str) -> str:
    return tab.frame.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('{name}').trim()")


def check_numbers(tab: Tab, runs: SampleRuns, step: int) -> None:
    eigenvalues = runs.record("slow", "eigenvalues", "hessian", step)
    piece = runs.record("slow", "slice", "gradient", step)
    assert tab.number("Hessian eigenvalues", "largest") == pytest.approx(eigenvalues.arrays["largest"][0], rel=2e-3)
    assert tab.number("Hessian eigenvalues", "stability limit") == pytest.approx(eigenvalues.info["limit"], rel=1e-3)
    assert tab.number("Stability ratio", "ratio") == pytest.approx(eigenvalues.info["ratio"], rel=2e-2)
    assert tab.number("Along the gradient", "loss at α = 0") == pytest.approx(eigenvalues.info["loss"], rel=1e-3)
    assert tab.number("Along the gradient", "curvature") == pytest.approx(piece.info["curvature"], rel=1e-3)
    trace = runs.record("slow", "density", "hessian", step).info["trace"]
    assert tab.number("At this step", "trace") == pytest.approx(trace, rel=1e-3)


def test_the_last_step_is_shown_as_it_was_logged(open_page: OpenPage, sample_runs: SampleRuns) -> None:
    """In TensorBoard's own page; the other tests open the frame in it by itself."""
    tab = open_page(tab_address(sample_runs.address))
    settle(tab)
    check_numbers(tab, sample_runs, 300)
    verdict = sample_runs.record("slow", "verdict", "episode", 300)
    diagnosis = tab.frame.locator("#diagnosis .card")
    assert diagnosis.locator("strong").inner_text() == verdict.info["verdict"]
    assert diagnosis.locator(".sentence").inner_text() == verdict.info["sentence"]
    assert f"from step {verdict.info['episode_start']}" in diagnosis.locator(".when").inner_text()
    assert diagnosis.locator(".evidence dt").all_inner_texts() == ["lowest curvature", "gradient length"]


def test_logged_metrics_stand_beside(tab: Tab, sample_runs: SampleRuns) -> None:
    """The training loss is shown by itself; others can be added and taken away."""
    loss = sample_runs.record("slow", "eigenvalues", "hessian", 300).info["loss"]
    assert tab.number("train_loss", "train_loss") == pytest.approx(loss, rel=1e-3)
    choice = tab.frame.get_by_label("Add or remove a metric")
    choice.select_option("gradient_length")
    tab.frame.locator("#metrics h3", has_text="gradient_length").wait_for()
    tab.frame.locator("#metrics .readout dt", has_text="gradient_length").wait_for()
    assert choice.locator("option").all_inner_texts() == ["add or remove …", "✓ gradient_length", "✓ train_loss"]
    choice.select_option("train_loss")
    tab.frame.locator("#metrics h3", has_text="train_loss").wait_for(state="detached")


def test_the_slider_moves_all_views_by_keys_and_by_mouse(tab: Tab, sample_runs: SampleRuns) -> None:
    slider = tab.frame.get_by_label("Step", exact=True)
    slider.focus()
    for _ in range(3):
        slider.press("ArrowLeft")
    tab.wait_for_step(270)
    check_numbers(tab, sample_runs, 270)
    slider.press("Home")
    tab.wait_for_step(0)
    check_numbers(tab, sample_runs, 0)
    box = slider.bounding_box()
    tab.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_step(150)
    check_numbers(tab, sample_runs, 150)
    verdict = sample_runs.record("slow", "verdict", "episode", 150)
    assert tab.frame.locator("#diagnosis strong").inner_text() == verdict.info["verdict"] == "strict saddle"
    assert tab.frame.locator("#diagnosis .suggestion").inner_text() == f"What to do: {verdict.info['suggestion']}"


def test_arrow_keys_work_without_the_slider_and_a_step_can_be_typed(tab: Tab) -> None:
    tab.frame.locator("h2", has_text="What is going on").click()
    tab.page.keyboard.press("ArrowLeft")
    tab.wait_for_step(290)
    tab.page.keyboard.press("Shift+ArrowLeft")
    tab.wait_for_step(190)
    tab.frame.get_by_label("Go to step").fill("123")
    tab.frame.get_by_label("Go to step").press("Enter")
    tab.wait_for_step(120)


def test_a_click_on_a_plot_over_training_chooses_its_step(tab: Tab) -> None:
    plot = plot_of(tab, "Hessian eigenvalues")
    box = plot.bounding_box()
    plot.click(position={"x": box["width"] - 15, "y": 100})
    tab.wait_for_step(300)
    plot.click(position={"x": box["width"] * 0.5, "y": 100})
    assert (
        100
        < tab.frame.evaluate("new Promise(done => setTimeout(() => done(+document.documentElement.dataset.step), 200))")
        < 200
    )


@pytest.mark.slow
def test_playing_goes_through_the_run_and_stops_at_its_end(tab: Tab) -> None:
    tab.frame.get_by_label("Pace").select_option("slow")
    tab.frame.get_by_label("Play").click()
    tab.frame.wait_for_selector("html:not([data-step='300']):not([data-step='0'])")
    tab.frame.get_by_label("Pause").click()
    paused = tab.step()
    tab.page.wait_for_timeout(400)
    assert tab.step() == paused < 300
    tab.frame.get_by_label("Pace").select_option("fast")
    tab.frame.get_by_label("Play").click()
    tab.wait_for_step(300)
    tab.frame.get_by_label("Play").wait_for()


def test_runs_are_overlaid_or_side_by_side(tab: Tab, sample_runs: SampleRuns) -> None:
    tab.frame.locator("[data-run=fast] input").check()
    card = tab.frame.locator("#curvature .card").first
    card.locator("dt:text-is('fast: largest')").wait_for()
    fast = sample_runs.record("fast", "eigenvalues", "hessian", 300)
    assert tab.number("Hessian eigenvalues", "fast: largest") == pytest.approx(fast.arrays["largest"][0], rel=2e-3)
    assert card.locator(".chip").all_inner_texts() == ["fast", "slow"]
    overlaid = tab.frame.locator("#curvature .card").count()
    tab.frame.get_by_role("button", name="side by side").click()
    expect(tab.frame.locator("#curvature .card")).to_have_count(2 * overlaid)
    assert tab.frame.locator("#curvature .card").first.locator(".chip").all_inner_texts() == ["fast"]
    tab.frame.locator("[data-run=slow] input").uncheck()
    tab.wait_for_step(200)
    assert tab.number("Hessian eigenvalues", "largest") == pytest.approx(fast.arrays["largest"][0], rel=2e-3)


def test_hovering_an_episode_shows_its_evidence(tab: Tab, sample_runs: SampleRuns) -> None:
    plot = plot_of(tab, "Hessian eigenvalues")
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] * 0.55, "y": 60})
    tooltip = tab.frame.locator(".tooltip")
    tooltip.wait_for()
    step = int(tooltip.locator(".tooltip-title").inner_text().split()[1])
    verdict = sample_runs.record("slow", "verdict", "episode", step)
    text = tooltip.inner_text()
    assert verdict.info["verdict"] == "strict saddle"
    assert "strict saddle" in text
    assert "lowest curvature" in text
    assert verdict.info["sentence"] in text
    largest = sample_runs.record("slow", "eigenvalues", "hessian", step).arrays["largest"][0]
    assert f"{largest:.4g}" in text or f"{largest:.1f}" in text


def test_the_lines_lie_where_the_numbers_are(tab: Tab, sample_runs: SampleRuns) -> None:
    """Distances between the two largest and the smallest eigenvalue in pixels are in proportion to their values."""
    image = pixels(plot_of(tab, "Hessian eigenvalues"))
    record = sample_runs.record("slow", "eigenvalues", "hessian", 200)
    found = {"--eigenvalue-1": [], "--eigenvalue-0": [], "--eigenvalue-smallest": []}
    for column in range(image.shape[1] // 2, image.shape[1] // 2 + 60):
        for name, rows in found.items():
            rows.extend(rows_of(image[20:], column, css(tab, name)))
    second, largest, smallest = (np.median(rows) for rows in found.values())
    ratio = (largest - second) / (smallest - second)
    low = record.arrays["smallest"][0]
    first_value, second_value = record.arrays["largest"][:2]
    expected = (second_value - first_value) / (second_value - low)
    assert ratio == pytest.approx(expected, abs=0.02)


def test_episodes_are_shaded_in_their_colours(tab: Tab, sample_runs: SampleRuns) -> None:
    image = pixels(plot_of(tab, "Hessian eigenvalues"))
    starts = {
        record.info["episode_start"]: record.info["verdict"]
        for record in sample_runs.records["slow"]
        if record.kind == "verdict"
    }
    variables = {
        "progressing": "--verdict-progressing",
        "strict saddle": "--verdict-strict-saddle",
        "approximate second-order point": "--verdict-second-order",
    }
    strips = {
        verdict: np.flatnonzero(
            (np.abs(image - [int(css(tab, variables[verdict])[i : i + 2], 16) for i in (1, 3, 5)]).sum(-1) < 12)[
                :20
            ].any(0)
        )
        for verdict in starts.values()
    }
    left = min(columns.min() for columns in strips.values())
    right = max(columns.max() for columns in strips.values())
    for start, verdict in starts.items():
        assert strips[verdict].min() == pytest.approx(left + (right - left) * start / 300, abs=4)


def test_the_surface_turns_by_mouse_and_keys(tab: Tab) -> None:
    surface = plot_of(tab, "Plane of the trajectory", 1)
    before = pixels(surface)
    box = surface.bounding_box()
    tab.page.mouse.move(box["x"] + 200, box["y"] + 150)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 320, box["y"] + 150, steps=4)
    tab.page.mouse.up()
    dragged = pixels(surface)
    assert (np.abs(dragged - before).sum(-1) > 60).mean() > 0.05
    yaw = float(surface.get_attribute("data-yaw"))
    assert yaw == pytest.approx(0.3, abs=0.02)
    surface.focus()
    surface.press("ArrowLeft")
    assert float(surface.get_attribute("data-yaw")) == pytest.approx(yaw - 0.1, abs=1e-3)
    assert tab.step() == 300


def test_the_plane_shows_where_training_was(tab: Tab, sample_runs: SampleRuns) -> None:
    """The plane was measured at the end: before that the card says so, and at the end the marker has the last loss."""
    record = sample_runs.record("slow", "plane", "trajectory", 300)
    shown = tab.readout("Plane of the trajectory", "training at step 300")
    assert shown.endswith(f"loss {record.arrays['trajectory_loss'][-1]:.4g}")
    tab.frame.get_by_label("Step", exact=True).press("ArrowLeft")
    tab.wait_for_step(290)
    assert tab.frame.locator("#planes .missing").first.is_visible()


def test_heat_maps_are_bright_where_the_loss_is_high(tab: Tab, sample_runs: SampleRuns) -> None:
    """The slice along the sharpest direction is a valley: its middle is darker than its ends, at every step."""
    image = pixels(plot_of(tab, "Along the sharpest direction", 1)).sum(-1)
    middle = image[:, image.shape[1] // 2]
    inside = np.flatnonzero(rows_inside(middle))
    rows = range(inside[0], inside[-1])
    darkest = rows[int(np.argmin(middle[rows.start : rows.stop]))]
    assert darkest == pytest.approx((rows.start + rows.stop) / 2, abs=6)


def rows_inside(column: np.ndarray) -> np.ndarray:
    """Where a column of pixels is neither paper nor text: inside the heat map."""
    return column < 650


def test_dark_mode_follows_the_browser(open_page: OpenPage, sample_runs: SampleRuns) -> None:
    tab = open_page(frame_address(sample_runs.address), dark=True)
    settle(tab)
    plot = plot_of(tab, "Hessian eigenvalues")
    assert np.median(pixels(plot)) < 60
    assert tab.frame.evaluate("getComputedStyle(document.body).color") == "rgb(228, 232, 238)"
    tab.page.emulate_media(color_scheme="light")
    tab.page.wait_for_timeout(300)
    assert np.median(pixels(plot)) > 235


def test_everything_can_be_reached_and_is_named(tab: Tab) -> None:
    unnamed = tab.frame.evaluate(
        """() => [...document.querySelectorAll('button, input, select, [tabindex], [role=img]')]
            .filter((node) => !node.hidden && node.offsetParent)
            .filter((node) => !node.getAttribute('aria-label') && !node.textContent.trim())
            .filter((node) => !node.closest('label')?.textContent.trim())
            .map((node) => node.outerHTML)"""
    )
    assert unnamed == []
    tab.frame.locator(".runs input[type=checkbox]").first.focus()
    visited = []
    for _ in range(14):
        tab.page.keyboard.press("Tab")
        visited.append(
            tab.frame.evaluate(
                "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
            )
        )
    for name in ("Play", "Pace", "Step", "Go to step", "symlog", "log loss"):
        assert name in visited or any(name in text for text in visited), visited
    label = plot_of(tab, "Along the gradient").get_attribute("aria-label")
    assert "at step 300: loss" in label


def test_hostile_names_and_texts_are_shown_as_text(open_page: OpenPage, event_folder: Path) -> None:
    name = HOSTILE.replace("/", "")
    summary_writer = SummaryWriter(str(event_folder / name))
    curve = {"alpha": np.array([-1.0, 0.0, 1.0]), "loss": np.array([1.0, 0.5, 1.0])}
    info = {
        "verdict": HOSTILE,
        "sentence": HOSTILE,
        "suggestion": HOSTILE,
        "evidence": [{"name": HOSTILE, "value": "Infinity", "error": HOSTILE, "unit": HOSTILE}, None, 7],
        "episode_start": 0,
        "episode_end": None,
    }
    with RecordWriter(None, [summary_writer]) as writer:
        writer.write(Record("slice", HOSTILE, 0, curve, {"unit": HOSTILE, "curvature": "NaN"}))
        writer.write(Record("verdict", "episode", 0, {}, info))
        writer.write(Record("__proto__", "constructor", 0, curve))
        writer.write(Record("slice", "constructor", 0, {**curve, "__proto__": np.zeros(3)}))
        writer.write(Record("plane", "__proto__", 0, {"x": np.zeros(3)}, {"x_label": HOSTILE}))
    summary_writer.close()
    with tensorboard(event_folder) as address:
        wait_for_runs(address, 1)
        tab = open_page(frame_address(address), ready="#slices .card")
        tab.frame.wait_for_selector("#diagnosis .card")
        assert tab.frame.locator(".run-name").inner_text() == name
        titles = tab.frame.locator("#slices h3").all_inner_texts()
        assert titles == [f"Along {HOSTILE}", "Along constructor"]
        assert tab.frame.locator("#diagnosis .sentence").inner_text() == HOSTILE
        assert tab.frame.locator(".evidence dd").first.inner_text() == f"∞ {HOSTILE}"
        tab.frame.locator("#diagnosis strong").hover()
        assert tab.frame.evaluate(
            "[window.hacked, top.hacked, document.querySelectorAll('img, main script').length]"
        ) == [None, None, 0]


def test_broken_events_are_counted_and_left_out(open_page: OpenPage, event_folder: Path) -> None:
    summary_writer = SummaryWriter(str(event_folder / "run"))
    curve = {"alpha": np.array([-1.0, 0.0, 1.0]), "loss": np.array([1.0, 0.5, 1.0])}
    with RecordWriter(None, [summary_writer]) as writer:
        writer.write(Record("slice", "gradient", 1, curve))
        writer.write(Record("slice", "update", 1, {"alpha": np.zeros(2)}))
        writer.write(
            Record("eigenvalues", "hessian", 1, {"largest": np.array([np.nan, np.inf])}, {"limit": "Infinity"})
        )
        writer.write(Record("density", "hessian", 1, {"grid": np.array([np.inf, 1.0])}))
    for step in (2, 3):
        _add_string_tensor(summary_writer, "slice/gradient/000001", '{"kind": "slice", "arrays": 3}', step)
    summary_writer.close()
    with tensorboard(event_folder) as address:
        wait_for_runs(address, 1, steps=3)
        tab = open_page(frame_address(address), ready="#slices .card")
        tab.frame.wait_for_selector(".problems p")
        assert tab.frame.locator(".problems").inner_text() == "Run run: 2 records could not be read and are left out."
        assert tab.number("Along the gradient", "loss at α = 0") == 0.5


def write_one_curvature(event_folder: Path, losses: Iterable[float] = ()) -> None:
    """A run that measured once, at step 5, and logged a loss at each of its steps."""
    summary_writer = SummaryWriter(str(event_folder / "run"))
    for step, loss in enumerate(losses):
        summary_writer.add_scalar("train_loss", loss, step)
    with RecordWriter(None, [summary_writer]) as writer:
        writer.write(Record("eigenvalues", "hessian", 5, {"largest": np.array([3.0])}))
    summary_writer.close()


def test_metrics_go_on_after_the_last_measurement(open_page: OpenPage, event_folder: Path) -> None:
    write_one_curvature(event_folder, losses=[1 / (1 + step) for step in range(10)])
    with tensorboard(event_folder) as address:
        wait_for_runs(address, 1)
        tab = open_page(frame_address(address), ready="#metrics .card")
        tab.wait_for_step(9)
        assert tab.number("train_loss", "train_loss") == pytest.approx(0.1)
        assert tab.number("Hessian eigenvalues", "largest") == 3.0


def test_an_empty_section_names_the_monitor_to_add(open_page: OpenPage, event_folder: Path) -> None:
    write_one_curvature(event_folder)
    with tensorboard(event_folder) as address:
        wait_for_runs(address, 1)
        tab = open_page(frame_address(address), ready="#curvature .card")
        monitors = {"diagnosis": "SaddlePointMonitor", "slices": "LossSliceMonitor", "planes": "LossPlaneMonitor"}
        for section, monitor in monitors.items():
            assert f"callbacks=[{monitor}()]" in tab.frame.locator(f"#{section} .empty").inner_text()
        assert tab.number("Hessian eigenvalues", "largest") == 3.0


@pytest.mark.slow
def test_without_any_run_the_page_says_how_to_begin(open_page: OpenPage, event_folder: Path) -> None:
    """Also under a path prefix, where all addresses have to be relative."""
    event_folder.mkdir()
    with tensorboard(event_folder, "--path_prefix=/board") as address:
        tab = open_page(frame_address(f"{address}/board"), ready=".empty")
        assert "Trainer(callbacks=[LandscapeMonitor()])" in tab.frame.locator("pre").inner_text()
        summary_writer = SummaryWriter(str(event_folder / "run"))
        with RecordWriter(None, [summary_writer]) as writer:
            writer.write(Record("eigenvalues", "hessian", 5, {"largest": np.array([3.0])}))
        summary_writer.close()
        tab.wait_for_step(5)
        assert tab.number("Hessian eigenvalues", "largest") == 3.0


def test_a_record_that_was_thinned_out_is_fetched_when_it_is_looked_at(open_page: OpenPage, event_folder: Path) -> None:
    summary_writer = SummaryWriter(str(event_folder / "run"))
    alpha = np.linspace(-1, 1, 401)
    with RecordWriter(None, [summary_writer]) as writer:
        for step in range(400):
            writer.write(Record("slice", "gradient", step, {"alpha": alpha, "loss": alpha**2 + step}))
    summary_writer.close()
    with tensorboard(event_folder) as address:
        wait_for_runs(address, 1, steps=399)
        tab = open_page(frame_address(address), ready="#slices .card")
        tab.wait_for_step(399)
        slider = tab.frame.get_by_label("Step", exact=True)
        assert slider.get_attribute("max") == "399"
        for step in (398, 101, 102, 0):
            slider.fill(str(step))
            value = tab.frame.locator("#slices dd").first
            value.filter(has_text=re.compile(f"^{step}$")).wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("load_fast", ["true", "false"])
def test_a_run_is_followed_while_it_trains(open_page: OpenPage, event_folder: Path, load_fast: str) -> None:
    """1,000 steps are all on the slider; those that come later appear by themselves."""
    summary_writer = SummaryWriter(str(event_folder / "run"))
    writer = RecordWriter(None, [summary_writer])
    for step in range(1000):
        writer.write(Record("eigenvalues", "hessian", step, {"largest": np.array([1000.0 + step])}))
    writer.flush()
    with tensorboard(event_folder, f"--load_fast={load_fast}") as address:
        wait_for_runs(address, 1, steps=999)
        tab = open_page(frame_address(address), ready="#curvature .card")
        tab.wait_for_step(999)
        slider = tab.frame.get_by_label("Step", exact=True)
        # A preview is drawn first; the slider grows to all steps a moment later.
        tab.frame.wait_for_selector('input[aria-label="Step"][max="999"]')
        assert slider.get_attribute("max") == "999"
        for step in (0, 1, 8, 500, 993):
            slider.fill(str(step))
            tab.wait_for_step(step)
            assert tab.number("Hessian eigenvalues", "largest") == 1000.0 + step
        slider.fill("999")
        writer.write(Record("eigenvalues", "hessian", 1234, {"largest": np.array([7.0])}))
        writer.flush()
        tab.wait_for_step(1234)
        assert tab.number("Hessian eigenvalues", "largest") == 7.0
        assert slider.get_attribute("max") == "1000"
    writer.close()
    summary_writer.close()


@pytest.mark.slow
def test_a_stopped_tensorboard_is_said(open_page: OpenPage, event_folder: Path) -> None:
    summary_writer = SummaryWriter(str(event_folder / "run"))
    with RecordWriter(None, [summary_writer]) as writer:
        writer.write(Record("eigenvalues", "hessian", 5, {"largest": np.array([3.0])}))
    summary_writer.close()
    with tensorboard(event_folder) as address:
        wait_for_runs(address, 1)
        tab = open_page(frame_address(address), ready="#curvature .card")
    tab.frame.wait_for_selector(".problems p")
    assert tab.frame.locator(".problems").inner_text().startswith("TensorBoard does not answer.")
    assert tab.number("Hessian eigenvalues", "largest") == 3.0
    tab.errors[:] = [error for error in tab.errors if "ERR_CONNECTION_REFUSED" not in error]


def test_the_spline_is_the_one_that_slices_were_measured_with(tab: Tab) -> None:
    from scipy.interpolate import CubicSpline

    generator = np.random.default_rng(0)
    for points in (4, 5, 12, 41):
        x = np.sort(generator.uniform(-1, 1, points))
        y = np.cosh(3 * x) + generator.normal(size=points)
        xs, ys = tab.frame.evaluate(
            """async ([x, y]) => {
                const { splineCurve } = await import("/data/plugin/landscape/static/plot/spline.js");
                const { xs, ys } = splineCurve(Float64Array.from(x), Float64Array.from(y));
                return [[...xs], [...ys]];
            }""",
            [x.tolist(), y.tolist()],
        )
        np.testing.assert_allclose(ys, CubicSpline(x, y, bc_type="not-a-knot")(xs), rtol=1e-8, atol=1e-8)
