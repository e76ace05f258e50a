"""What a record costs to write, and how long a run of 100 MB takes to open in the Landscape tab and as a report page.

Run with ``python benchmarks/landscape_tab.py [--steps N] [--repeats N]`` on a quiet machine; needs Chromium. The tab is
timed from its address to its cards, after TensorBoard has read the event file, which takes its own time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright
from torch.utils.tensorboard import SummaryWriter

sys.path.insert(0, str(Path(__file__).parent.parent))

from landscape_callbacks.commands.report import build_page
from landscape_callbacks.commands.run_records import find_runs
from landscape_callbacks.records import Record
from landscape_callbacks.training.record_writer import RecordWriter
from tests.tensorboard_plugin.browser import CHROMIUM_FLAGS, frame_address, tensorboard
from tests.tensorboard_plugin.conftest import wait_for_runs

DIRECTIONS = ("gradient", "update", "random", "largest_eigenvector", "smallest_eigenvector")
ALPHAS = np.linspace(-1.0, 1.0, 41)
# Seconds from the address until the first diagrams and until all are on the page, noted by the page at each frame.
WATCH = """
window.seen = {};
const look = () => {
  for (const [name, card] of [["first", "#slices .card"], ["all", "#planes .card"]]) {
    if (!(name in window.seen) && document.querySelector(card)) window.seen[name] = performance.now() / 1000;
  }
  if (!("all" in window.seen)) requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""


def records_of(step: int, generator: np.random.Generator) -> list[Record]:
    """What all monitors emit at one step: 48 KB."""
    curve = {"alpha": ALPHAS, "loss": 0.1 + ALPHAS**2, "validation_loss": 0.2 + ALPHAS**2}
    info = {"curvature": 2.0, "curvature_error": 0.1, "best_step": 0.0, "best_step_error": 0.1, "unit": "steps"}
    values = np.sort(generator.exponential(size=3))[::-1]
    grid = np.linspace(-1.0, 10.0, 512)
    plane = np.add.outer(np.linspace(-1, 1, 51) ** 2, np.linspace(-1, 1, 51) ** 2) + 0.1
    axis = np.linspace(-1.0, 1.0, 51)
    return [
        *(Record("slice", name, step, curve, info) for name in DIRECTIONS),
        Record("eigenvalues", "hessian", step, {"largest": values, "largest_error": 0.1 * values}, {"limit": 20.0}),
        Record("density", "hessian", step, {"grid": grid, "density": np.exp(-np.abs(grid))}),
        Record("plane", "random", step, {"x": axis, "y": axis, "loss": plane}),
    ]


def write_run(folder: Path, steps: int) -> dict[str, float]:
    """Writes the run; median milliseconds of :meth:`RecordWriter.write` a kind."""
    generator = np.random.default_rng(0)
    summary_writer = SummaryWriter(str(folder))
    times: dict[str, list[float]] = {}
    with RecordWriter(folder, [summary_writer]) as writer:
        for step in range(steps):
            for record in records_of(10 * step, generator):
                started = time.perf_counter()
                writer.write(record)
                times.setdefault(record.kind, []).append(1e3 * (time.perf_counter() - started))
    summary_writer.close()
    return {kind: statistics.median(each) for kind, each in times.items()}


def seconds_to_open(browser: Browser, address: str, repeats: int) -> dict[str, list[float]]:
    """Seconds from the address to the first and to all cards, for a new page each time."""
    times: dict[str, list[float]] = {"first": [], "all": []}
    for _ in range(repeats):
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.add_init_script(WATCH)
        page.goto(address)
        page.wait_for_selector("#planes .card")
        page.wait_for_timeout(500)
        for name, seconds in page.evaluate("window.seen").items():
            times[name].append(seconds)
        page.close()
    return times


def row(name: str, times: list[float]) -> str:
    return f"| {name} | {times[0]:.2f} | {statistics.median(times):.2f} | {max(times):.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2100)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name) / "runs"
        written = write_run(folder / "run", arguments.steps)
        print("| record | written in ms (median) |\n|---|---|")
        for kind, milliseconds in written.items():
            print(f"| {kind} | {milliseconds:.2f} |")
        size = sum(path.stat().st_size for path in (folder / "run").glob("*tfevents*")) / 1e6
        executable = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = driver.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        print(f"\n| {size:.0f} MB of events | first (s) | median (s) | slowest (s) |\n|---|---|---|---|")
        with tensorboard(folder) as address:
            wait_for_runs(address, 1, steps=10 * (arguments.steps - 1))
            for cards, times in seconds_to_open(browser, frame_address(address), arguments.repeats).items():
                print(row(f"tab, {cards} cards", times))
        started = time.perf_counter()
        page = Path(name) / "report.html"
        page.write_text(build_page(find_runs(folder), "run", budget=20_000_000)[0], encoding="utf-8")
        print(row("writing the report page", [time.perf_counter() - started]))
        for cards, times in seconds_to_open(browser, f"file://{page}", arguments.repeats).items():
            print(row(f"report page, {cards} cards", times))
        browser.close()


if __name__ == "__main__":
    main()
