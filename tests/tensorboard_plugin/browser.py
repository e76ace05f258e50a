"""A real browser and a real TensorBoard: fixtures for tests of what a person sees."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Frame, Locator, LocatorAssertions, Page

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 30.0


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium of the system. In CI a missing browser is a failure, elsewhere these tests are left out."""
    if not os.environ.get("CI"):
        pytest.importorskip("playwright.sync_api")
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None and not os.environ.get("CI"):
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium).")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@dataclass
class Tab:
    """An open page of ours: the frame with the front end, and everything the console said was wrong."""

    page: Page
    frame: Frame
    errors: list[str] = field(default_factory=list)

    def step(self) -> int:
        """The chosen step, as the page has drawn it."""
        return int(self.frame.evaluate("Number(document.documentElement.dataset.step)"))

    def wait_for_step(self, step: int) -> None:
        """Waits until the page has drawn a step."""
        self.frame.wait_for_selector(f'html[data-step="{step}"]')

    def readout(self, card: str, label: str) -> str:
        """The value with a label under the plot of the card with a heading."""
        entry = self.frame.locator(".card", has=self.frame.locator("h3", has_text=card)).locator(".readout div")
        return entry.filter(has=self.frame.locator(f"dt:text-is('{label}')")).locator("dd").first.inner_text()

    def number(self, card: str, label: str) -> float:
        """The number of a readout, without its error."""
        return float(self.readout(card, label).split(" ±")[0].replace("−", "-"))


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """Opens an address and waits for the front end. No console error may occur until the test ends."""
    tabs: list[Tab] = []

    def open_at(
        address: str, *, ready: str = ".timeline", width: int = 1600, height: int = 1000, dark: bool = False
    ) -> Tab:
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        page.set_default_timeout(SECONDS * 1000)
        errors: list[str] = []
        page.on("console", lambda message: errors.extend(_error(message)))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        frame = page.main_frame
        if address.endswith("#landscape"):
            frame = page.wait_for_selector("iframe").content_frame()
        tabs.append(Tab(page, frame, errors))
        frame.wait_for_selector(ready)
        return tabs[-1]

    yield open_at
    errors = "\n".join(error for tab in tabs for error in tab.errors)
    for tab in tabs:
        tab.page.close()
    if errors:
        pytest.fail(f"The console said: {errors}", pytrace=False)


def _error(message: ConsoleMessage) -> list[str]:
    """What the console said, if it is an error of ours: TensorBoard names the icon only in its own page."""
    address = message.location.get("url", "")
    return [f"{message.text} {address}"] if message.type == "error" and not address.endswith("/favicon.ico") else []


@contextmanager
def tensorboard(logdir: Path, *options: str) -> Iterator[str]:
    """Runs TensorBoard on a directory; gives its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0", "--host", "localhost"]
    log = logdir.parent / f"{logdir.name}-tensorboard.log"
    with log.open("w") as output:
        process = subprocess.Popen([*command, "--reload_interval", "1", *options], stdout=output, stderr=output)
    try:
        yield _address(log, process)
    finally:
        process.terminate()
        process.wait(SECONDS)


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := re.search(r"at (http://localhost:\d+)/", log.read_text()):
            return found[1]
        assert process.poll() is None, f"TensorBoard ended at once:\n{log.read_text()}"
        time.sleep(0.1)
    raise AssertionError(f"TensorBoard did not start:\n{log.read_text()}")


def tab_address(address: str) -> str:
    """The address of TensorBoard with the Landscape tab open."""
    return f"{address}/#landscape"


def expect(locator: Locator) -> LocatorAssertions:
    """Assertions that wait. ``wait_for_function`` evaluates text when it has to ask twice, which the page forbids."""
    from playwright.sync_api import expect

    return expect(locator)


def frame_address(address: str) -> str:
    """The address of the tab's frame alone, which TensorBoard puts into its page: opens faster."""
    return f"{address}/data/plugin_entry.html?name=landscape"
