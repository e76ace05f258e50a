"""Fixtures of the tests of the tab: one trained pair of runs, one TensorBoard on it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from landscape_callbacks.records import Record
from tests.tensorboard_plugin.browser import SECONDS, tensorboard
from tests.tensorboard_plugin.sample_runs import train_sample_run


@dataclass(frozen=True)
class SampleRuns:
    """Two trained runs and the TensorBoard that shows them."""

    address: str
    records: dict[str, list[Record]]

    def record(self, run: str, kind: str, name: str, step: int) -> Record:
        """The record that holds at a step."""
        return [r for r in self.records[run] if (r.kind, r.name) == (kind, name) and r.step <= step][-1]


@pytest.fixture(scope="session")
def sample_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SampleRuns]:
    """The runs "slow", which stays far from the stability limit, and "fast", which hovers at it."""
    folder = tmp_path_factory.mktemp("runs")
    records = {
        "slow": train_sample_run(folder / "slow", seed=0, steps=300, every=10),
        "fast": train_sample_run(folder / "fast", seed=1, steps=200, every=10, learning_rate=0.12),
    }
    with tensorboard(folder) as address:
        wait_for_runs(address, 2)
        yield SampleRuns(address, records)


def ask(address: str, route: str, method: str = "GET", **query: object) -> tuple[int, str, str]:
    """(status, content type, text) of a request to the plugin."""
    url = f"{address}/data/plugin/landscape/{route}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def wait_for_runs(address: str, count: int, steps: int = 0) -> list[dict[str, object]]:
    """Waits until TensorBoard has read so many runs, up to a step; gives the listing."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        status, _, text = ask(address, "runs")
        runs = json.loads(text)["runs"] if status == 200 else []
        if len(runs) >= count and all(max(s["last_step"] for s in run["series"]) >= steps for run in runs):
            return runs
        time.sleep(0.2)
    raise AssertionError(f"TensorBoard has read {len(runs)} of {count} runs.")


@pytest.fixture
def event_folder(tmp_path: Path) -> Path:
    """A log directory of its own."""
    return tmp_path / "runs"
