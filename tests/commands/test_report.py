"""The report page: everything in one file, the same numbers as in the records, and nothing that could run from them."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from landscape_callbacks.commands.report import add_arguments, main
from landscape_callbacks.commands.run_metrics import read_run_metrics
from landscape_callbacks.records import RECORD_FILE, Record
from landscape_callbacks.training.record_writer import RecordWriter
from tests.tensorboard_plugin.browser import Tab
from tests.tensorboard_plugin.sample_runs import train_sample_run

OpenPage = Callable[..., Tab]
HOSTILE = '</script><img src=x onerror="window.hacked=1"><!--<script>'


def run_command(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args([str(word) for word in words]))


def write_eigenvalues(folder: Path, steps: int = 1) -> None:
    with RecordWriter(folder) as writer:
        for step in range(steps):
            writer.write(Record("eigenvalues", "hessian", step, {"largest": np.array([1.0 + step])}))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """A trained run without TensorBoard, as CSVLogger leaves one behind."""
    folder = tmp_path_factory.mktemp("logs") / "version_0"
    return folder, train_sample_run(folder, steps=60, every=10, tensorboard=False)


def test_the_page_of_a_csv_run_shows_its_numbers(
    open_page: OpenPage, sample: tuple[Path, list[Record]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, records = sample
    assert run_command(folder, "-o", tmp_path / "page.html") == 0
    assert f"1 runs, {len(records)} records" in capsys.readouterr().out
    tab = open_page(f"file://{tmp_path}/page.html", ready="#planes .card")
    tab.wait_for_step(60)
    tab.frame.get_by_label("Step", exact=True).press("ArrowLeft")
    tab.wait_for_step(50)
    largest = next(r for r in records if r.kind == "eigenvalues" and r.step == 50).arrays["largest"][0]
    assert tab.number("Hessian eigenvalues", "largest") == pytest.approx(largest, rel=2e-3)
    assert tab.frame.locator(".run-name").inner_text() == "version_0"


def test_scalars_come_from_the_csv_file_or_from_event_files(tmp_path: Path) -> None:
    write_eigenvalues(tmp_path / "csv")
    (tmp_path / "csv" / "metrics.csv").write_text("epoch,loss,step,val\n0,2.5,0,\n0,nan,5,\n1,,7,3.5\n")
    expected = {"loss": {"steps": [0, 5], "values": [2.5, "NaN"]}, "val": {"steps": [7], "values": [3.5]}}
    assert read_run_metrics(tmp_path / "csv") == expected
    summary_writer = SummaryWriter(str(tmp_path / "events"))
    for step in range(2500):
        summary_writer.add_scalar("loss", step / 2, step)
    summary_writer.close()
    (metric,) = read_run_metrics(tmp_path / "events").values()
    assert 800 < len(metric["steps"]) <= 1000
    assert (metric["steps"][-1], metric["values"][-1]) == (2499, 1249.5)
    assert metric["values"] == [step / 2 for step in metric["steps"]]
    (path,) = (tmp_path / "events").glob("*tfevents*")
    path.write_bytes(path.read_bytes()[:-7])  # cut off in the middle of an event
    assert read_run_metrics(tmp_path / "events")["loss"]["steps"][-1] == 2498


def test_the_page_asks_for_nothing_outside(sample: tuple[Path, list[Record]], tmp_path: Path) -> None:
    run_command(sample[0], "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    outside = re.findall(r"""(?:src|href)\s*=\s*["'][^"']*|https?://[^\s"'<)]+|@import[^;]*|url\([^)]*\)""", page)
    assert [found for found in outside if "www.w3.org/2000/svg" not in found] == []
    assert "default-src 'none'" in page
    assert str(tmp_path) not in page


def test_hostile_names_and_texts_do_nothing(open_page: OpenPage, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / '"><img src=x onerror=alert(1)>'
    curve = {"alpha": np.array([-1.0, 0.0, 1.0]), "loss": np.array([1.0, 0.5, 1.0])}
    with RecordWriter(folder) as writer:
        writer.write(Record("slice", HOSTILE, 0, curve, {"unit": HOSTILE}))
        writer.write(Record("verdict", "episode", 0, {}, {"verdict": HOSTILE, "sentence": HOSTILE, "episode_start": 0}))
    assert run_command(tmp_path / "logs", "-o", tmp_path / "page.html", "--title", HOSTILE) == 0
    tab = open_page(f"file://{tmp_path}/page.html", ready="#slices .card")
    assert tab.frame.locator("h1").inner_text() == HOSTILE
    assert tab.frame.locator("#diagnosis .sentence").inner_text() == HOSTILE
    assert tab.frame.locator(".run-name").inner_text() == folder.name
    assert tab.frame.evaluate("[window.hacked, document.querySelectorAll('img').length]") == [None, 0]


def test_several_runs_share_a_page(open_page: OpenPage, tmp_path: Path) -> None:
    for name in ("a/version_0", "b/version_0"):
        write_eigenvalues(tmp_path / "logs" / name)
    assert run_command(tmp_path / "logs", "-o", tmp_path / "page.html") == 0
    tab = open_page(f"file://{tmp_path}/page.html", ready="#curvature .card")
    assert tab.frame.locator(".run-name").all_inner_texts() == ["a/version_0", "b/version_0"]


def test_a_long_run_is_thinned_evenly_and_says_so(open_page: OpenPage, tmp_path: Path) -> None:
    write_eigenvalues(tmp_path / "logs", steps=500)
    size = (tmp_path / "logs" / RECORD_FILE).stat().st_size
    assert run_command(tmp_path / "logs", "-o", tmp_path / "page.html", "--max-megabytes", size / 5e6) == 0
    tab = open_page(f"file://{tmp_path}/page.html", ready="#curvature .card")
    assert tab.frame.locator(".report-head p").inner_text().startswith("100 of 500 records, evenly spaced")
    slider = tab.frame.get_by_label("Step", exact=True)
    assert slider.get_attribute("max") == "99"
    tab.wait_for_step(499)
    slider.press("ArrowLeft")
    tab.wait_for_step(494)
    assert tab.number("Hessian eigenvalues", "largest") == 495.0


def test_event_files_serve_where_there_is_no_record_file(open_page: OpenPage, tmp_path: Path) -> None:
    summary_writer = SummaryWriter(str(tmp_path / "logs"))
    with RecordWriter(None, [summary_writer]) as writer:
        for step in range(20):
            writer.write(Record("eigenvalues", "hessian", step, {"largest": np.array([step + 0.5])}))
    summary_writer.add_scalar("loss", 1.0, 0)
    summary_writer.close()
    assert run_command(tmp_path / "logs", "-o", tmp_path / "page.html") == 0
    tab = open_page(f"file://{tmp_path}/page.html", ready="#curvature .card")
    tab.wait_for_step(19)
    assert tab.number("Hessian eigenvalues", "largest") == 19.5


def test_a_cut_off_line_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_eigenvalues(tmp_path, steps=3)
    with (tmp_path / RECORD_FILE).open("ab") as file:
        file.write(b'{"kind":"eigenvalues","name":"hessian","step":3,"arr')
    assert run_command(tmp_path, "-o", tmp_path / "page.html") == 0
    assert "3 records" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("nowhere", "nowhere is not a directory. Give the log directory"),
        ("", "Add LandscapeMonitor() to the callbacks"),
    ],
)
def test_without_records_it_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str, sentence: str
) -> None:
    assert run_command(tmp_path / folder, "-o", tmp_path / "page.html") == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_eigenvalues(tmp_path)
    assert run_command(tmp_path, "-o", tmp_path / "no" / "page.html") == 1
    assert "could not be written" in capsys.readouterr().err


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    write_eigenvalues(tmp_path)
    command = [
        sys.executable,
        "-m",
        "landscape_callbacks.commands.report",
        str(tmp_path),
        "-o",
        str(tmp_path / "page.html"),
    ]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
