"""What a new reader of the page takes from it: when things were measured, which curve is which, what lies outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landscape_callbacks.commands.report import build_page
from landscape_callbacks.commands.run_records import find_runs
from landscape_callbacks.records import Record
from landscape_callbacks.training.record_writer import RecordWriter
from tests.tensorboard_plugin.browser import Tab, expect
from tests.tensorboard_plugin.test_tab import css, pixels, plot_of, rows_of

STEPS = [1, 500, 510, 520, 530, 540]


def verdict(step: int, end: int | None, loss: float, **info: Any) -> Record:
    evidence = [{"name": "loss", "value": loss, "error": 0.1, "unit": "loss"}]
    plain = {"verdict": "noise floor", "sentence": "It has settled.", "evidence": evidence, "samples": 1024}
    return Record(
        "verdict", "episode", step, {}, {**plain, "cost": 32768.0, "episode_start": 510, "episode_end": end, **info}
    )


def curvature(step: int, limit: float) -> Record:
    arrays = {"largest": [10.0 + step / 100], "largest_error": [0.1], "smallest": [-1.0], "smallest_error": [0.1]}
    return Record("eigenvalues", "hessian", step, arrays, {"limit": limit, "ratio": 10.0 / limit})


def line(step: int, reach: float, lowest: float) -> Record:
    alpha = np.linspace(-reach, reach, 9)
    loss = 1.0 + (alpha / reach - lowest) ** 2
    arrays = {"alpha": alpha, "loss": loss, "validation_loss": loss + 0.3, "regularized_loss": loss + 0.6}
    info = {"curvature": 2 / reach**2, "best_step": lowest * reach, "direction_norm": 1.0, "unit": "unit vectors"}
    return Record("slice", "largest_eigenvector", step, arrays, info)


def plane(step: int) -> Record:
    axis = np.linspace(-1.0, 1.0, 11)
    path = np.array([-0.8, -0.4, 0.0])
    arrays = {"x": axis, "y": axis, "loss": 1.0 + axis[:, None] ** 2 + axis**2, "trajectory_x": path}
    arrays |= {"trajectory_y": path, "trajectory_step": np.array([0.0, 270.0, 540.0])}
    return Record("plane", "trajectory", step, arrays, {"x_label": "first", "y_label": "second"})


@pytest.fixture
def page(open_page: Callable[..., Tab], tmp_path: Path) -> Tab:
    """The report of two runs: "long" with a limit far above its curvature, "once" with a single short line."""
    known = {"measured_step": 520, "samples_a_step": 64}
    records = {
        "long": [
            *(curvature(step, 400.0) for step in STEPS),
            *(line(step, 2.0, 0.25) for step in STEPS),
            verdict(510, None, 2.0, **known | {"measured_step": 510}),
            verdict(520, None, 1.0, **known),
            verdict(540, 540, 1.0, **known),
            plane(540),
        ],
        "once": [curvature(540, 15.0), line(540, 0.01, 1.0), verdict(510, None, 3.0), verdict(540, 540, 3.0)],
    }
    for name, entries in records.items():
        with RecordWriter(tmp_path / "runs" / name, []) as writer:
            for record in sorted(entries, key=lambda entry: entry.step):
                writer.write(record)
    text, _ = build_page(find_runs(tmp_path / "runs"), "Readings", budget=10**7)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    tab = open_page(f"file://{tmp_path}/page.html", ready="#planes .card")
    tab.wait_for_step(540)
    return tab


def leave(page: Tab, run: str) -> None:
    other = {"long": "once", "once": "long"}[run]
    page.frame.locator(f"[data-run={other}] input").uncheck()
    expect(page.frame.locator("#curvature .chip")).to_have_count(2)


def swatch_of(page: Tab, card: str, label: str) -> str:
    entry = page.frame.locator(".card", has=page.frame.locator("h3", has_text=card)).locator(".readout dt")
    swatch = entry.filter(has_text=label).first.locator(".swatch")
    return swatch.evaluate("node => node.style.getPropertyValue('--swatch')")


def test_a_verdict_says_when_it_was_measured_and_its_cost_in_steps(page: Tab) -> None:
    """The record at the end of an episode repeats an earlier look; an old record does not say which."""
    known, old = page.frame.locator("#diagnosis .cost").all_inner_texts()
    work = "The diagnosis looked at 1\u2009024 samples, as much work as"
    assert known == f"Measured at step 520. {work} 512 training steps."
    assert old == f"Measured at step 510. {work} 32\u2009768 samples of training."
    leave(page, "long")
    plot = plot_of(page, "Hessian eigenvalues")
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] - 16, "y": 100})
    assert "measured at step\n520" in page.frame.locator(".tooltip").inner_text()


def test_a_heat_map_of_one_measurement_shows_it_and_says_so(page: Tab) -> None:
    leave(page, "once")
    caption = page.frame.locator("#slices .heat-map figcaption").inner_text()
    assert "one measurement so far, at step 540" in caption
    image = pixels(plot_of(page, "Along the sharpest direction", 1))
    colourful = (image.max(-1) - image.min(-1) > 60).sum(0)
    assert 10 <= (colourful > 100).sum() <= 20


def test_swatches_are_pieces_of_their_curves(page: Tab) -> None:
    leave(page, "long")
    card = "Along the sharpest direction"
    swatches = {
        label: swatch_of(page, card, label)
        for label in ("loss at α = 0", "validation", "with weight decay", "curvature", "lowest at α", "earlier")
    }
    assert swatches["loss at α = 0"] == css(page, "--curve")
    assert len(set(swatches.values())) == len(swatches)
    parabola = css(page, "--parabola")
    assert swatches["curvature"] == f"repeating-linear-gradient(to right, {parabola} 0px 2px, transparent 2px 5px)"
    assert "to bottom" in swatches["lowest at α"]
    assert page.number(card, "with weight decay") == pytest.approx(1.0625 + 0.6, rel=1e-3)
    limit = css(page, "--limit")
    dots = f"repeating-linear-gradient(to right, {limit} 0px 2px, transparent 2px 5px)"
    assert swatch_of(page, "Hessian eigenvalues", "stability limit") == dots


def test_the_lowest_place_at_the_end_of_a_line_is_no_minimum(page: Tab) -> None:
    leave(page, "once")
    assert page.readout("Along the sharpest direction", "lowest") == "at the end of the line (α 0.01)"
    image = pixels(plot_of(page, "Along the sharpest direction"))
    assert not any(len(rows_of(image, column, css(page, "--best-step"))) for column in range(image.shape[1]))


def test_a_limit_far_above_is_named_at_the_edge(page: Tab) -> None:
    leave(page, "long")
    plot = plot_of(page, "Hessian eigenvalues")
    assert "The stability limit lies above the diagram." in plot.get_attribute("aria-label")
    image = pixels(plot)
    rows = {row for column in range(image.shape[1]) for row in rows_of(image, column, css(page, "--limit"))}
    assert rows and max(rows) < 40
    largest = {row for column in range(image.shape[1]) for row in rows_of(image, column, css(page, "--eigenvalue-0"))}
    assert min(largest) < 80
    page.frame.get_by_role("button", name="symlog").first.click()
    assert "lies above" not in plot_of(page, "Hessian eigenvalues").get_attribute("aria-label")


def test_long_gaps_between_measurements_are_no_full_lines(page: Tab) -> None:
    leave(page, "long")
    shade = css(page, "--eigenvalue-0")
    image = pixels(plot_of(page, "Hessian eigenvalues"))
    width = image.shape[1]
    inked = [len(rows_of(image, column, shade, reach=200)) > 0 for column in range(width // 5, 4 * width // 5)]
    assert 0.05 < np.mean(inked) < 0.8
    assert page.readout("Hessian eigenvalues", "long between measurements") == ""


def test_lines_of_very_different_length_are_each_seen_in_full(page: Tab) -> None:
    card = "Along the sharpest direction"
    note = page.frame.locator("#slices .note")
    assert note.inner_text().endswith("so 1 is another α for each: long ±2, once ±0.01.")
    orange = css(page, "--run-1")

    def columns() -> int:
        image = pixels(plot_of(page, card))
        return sum(len(rows_of(image, column, orange)) > 0 for column in range(image.shape[1]))

    apart = columns()
    page.frame.get_by_role("button", name="same α").click()
    expect(note).to_contain_text("“own α” shows")
    assert columns() < 0.1 * apart
    leave(page, "long")
    assert not note.is_visible()
    assert not page.frame.get_by_role("button", name="same α").is_visible()


def test_the_surface_marks_where_training_is(page: Tab) -> None:
    leave(page, "long")
    surface = plot_of(page, "Plane of the trajectory", 1)
    image = pixels(surface)
    red = [int(css(page, "--path")[i : i + 2], 16) for i in (1, 3, 5)]
    near = np.abs(image - red).sum(-1) < 30
    squares = [near[row : row + 7, column : column + 7].all() for row, column in np.argwhere(near)]
    assert any(squares)
    assert page.readout("Plane of the trajectory", "from step") == "0"
    muted = rows_inside_left(image, css(page, "--text-muted"))
    assert len(muted) > 20


def rows_inside_left(image: np.ndarray, color: str) -> set[int]:
    """Rows with ink of a colour in the left half above the floor: the ticks of the height."""
    half = range(image.shape[1] // 2)
    return {row for column in half for row in rows_of(image[: image.shape[0] // 2], column, color, reach=120)}
