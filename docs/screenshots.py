"""Takes the manual's pictures of TensorBoard from a run of the demo. By ``make screenshots``; needs Chromium.

The run in ``--log-dir`` is used if there is one, and made by ``examples/mnist.py`` otherwise.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


@contextmanager
def tensorboard(log_dir: Path) -> Iterator[str]:
    """The address of a TensorBoard on a log directory."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir), "--port", "0", "--host", "localhost"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"http://localhost:\d+/", line):
                    yield found.group()
                    return
            raise RuntimeError("TensorBoard ended before it said its address.")
        finally:
            process.terminate()


def take(browser: Browser, address: str, target: Path, *, dark: bool = False, ready: str, height: int = 1000) -> None:
    """One picture, once what is waited for is drawn."""
    page = browser.new_page(
        viewport={"width": 1600, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    page.set_default_timeout(60_000)
    page.goto(address)
    frame = page.wait_for_selector("iframe").content_frame() if address.endswith("#landscape") else page.main_frame
    frame.wait_for_selector(ready)
    if settings := page.query_selector("button:has-text('Settings')"):
        settings.click()  # closes the pane that TensorBoard opens beside scalars
    page.wait_for_timeout(3000)
    page.screenshot(path=target)
    page.close()
    print(target)


def main() -> None:
    """Reads the command line and takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log-dir", type=Path, default=ROOT / "build" / "screenshots" / "lightning_logs")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "pictures")
    arguments = parser.parse_args()
    if not list(arguments.log_dir.glob("*/landscape.jsonl")):
        demo = [sys.executable, str(ROOT / "examples" / "mnist.py"), "--log-dir", str(arguments.log_dir)]
        subprocess.run(demo, check=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tensorboard(arguments.log_dir) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        for name, dark in (("landscape_tab", False), ("landscape_tab_dark", True)):
            take(browser, f"{address}#landscape", arguments.output / f"{name}.png", dark=dark, ready=".timeline")
        tags = "train_loss|diagnosis/plateau|gradient/norm$|hessian/(largest|smallest)_eigenvalue$|stability/ratio"
        scalars = f"{address}?tagFilter={tags}&smoothing=0#timeseries"
        take(browser, scalars, arguments.output / "scalars.png", ready="scalar-card")
        browser.close()


if __name__ == "__main__":
    main()
