"""Records reach the record file and the event files, and a bad log directory never stops training."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.tensorboard import SummaryWriter

from landscape_callbacks.records import RECORD_FILE, Record, decode, read_records
from landscape_callbacks.training.record_writer import RecordWriter


def record(step: int, name: str = "gradient", value: float = 1.0) -> Record:
    return Record("slice", name, step, {"loss": np.array([value, np.inf, np.nan])}, {"curvature": value})


def tags_and_steps(folder: Path) -> list[tuple[str, int]]:
    events = [event for path in sorted(folder.glob("*tfevents*")) for event in EventFileLoader(str(path)).Load()]
    return [(value.tag, event.step) for event in events for value in event.summary.value]


def test_both_copies_hold_the_same_record(tmp_path: Path) -> None:
    summary_writer = SummaryWriter(str(tmp_path))
    with RecordWriter(tmp_path, [summary_writer]) as writer:
        writer.write(record(7, value=0.1))
    summary_writer.close()
    (from_file,) = read_records(tmp_path)
    (path,) = tmp_path.glob("*tfevents*")
    values = [value for event in EventFileLoader(str(path)).Load() for value in event.summary.value]
    from_event = decode(values[0].tensor.string_val[0])
    for copy in (from_file, from_event):
        assert (copy.kind, copy.name, copy.step, copy.info) == ("slice", "gradient", 7, {"curvature": 0.1})
        np.testing.assert_array_equal(copy.arrays["loss"], [0.1, np.inf, np.nan])
    assert values[0].metadata.plugin_data.plugin_name == "landscape"


def test_a_tag_never_holds_more_than_eight_records(tmp_path: Path) -> None:
    summary_writer = SummaryWriter(str(tmp_path))
    with RecordWriter(None, [summary_writer]) as writer:
        for step in range(20):
            writer.write(record(step))
            writer.write(record(step, name="a/b"))
    summary_writer.close()
    tags = [tag for tag, _ in tags_and_steps(tmp_path)]
    assert {tag: tags.count(tag) for tag in sorted(set(tags))} == {
        f"slice/{name}/{block:06d}": count for name in ("a/b", "gradient") for block, count in enumerate((8, 8, 4))
    }


def test_a_step_that_does_not_rise_opens_the_next_block(tmp_path: Path) -> None:
    summary_writer = SummaryWriter(str(tmp_path))
    with RecordWriter(None, [summary_writer]) as writer:
        for step in (0, 5, 5, 3):
            writer.write(record(step))
    summary_writer.close()
    assert tags_and_steps(tmp_path) == [
        ("slice/gradient/000000", 0),
        ("slice/gradient/000000", 5),
        ("slice/gradient/000001", 5),
        ("slice/gradient/000002", 3),
    ]


def test_a_resumed_run_continues_the_file_and_the_blocks(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as writer:
        for step in range(3):
            writer.write(record(step))
    with (tmp_path / RECORD_FILE).open("ab") as file:
        file.write(b'{"kind":"slice","name":"gradient","step":3,"arr')  # killed while writing
    summary_writer = SummaryWriter(str(tmp_path))
    with RecordWriter(tmp_path, [summary_writer]) as writer:
        for step in range(3, 10):
            writer.write(record(step))
    summary_writer.close()
    assert [kept.step for kept in read_records(tmp_path)] == list(range(10))
    expected = [(f"slice/gradient/{step // 8:06d}", step) for step in range(3, 10)]
    assert tags_and_steps(tmp_path) == expected


def test_a_directory_that_cannot_be_made_is_reported_once(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    summary_writer = SummaryWriter(str(tmp_path / "events"))
    with RecordWriter(blocked / "run", [summary_writer]) as writer:
        with pytest.warns(RuntimeWarning, match="no longer written to .*Training goes on"):
            writer.write(record(0))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            writer.write(record(1))
    summary_writer.close()
    assert [step for _, step in tags_and_steps(tmp_path / "events")] == [0, 1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_reported_once(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as writer:
        writer.write(record(-1))
        writer._file.close()
        writer._file = Path("/dev/full").open("ab", buffering=0)
        with pytest.warns(RuntimeWarning, match="No space left"):
            writer.write(record(0))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            writer.write(record(1))


def test_a_record_that_fits_only_in_part_leaves_no_trace(tmp_path: Path) -> None:
    """A disk that fills up in the middle of a line: what stands before it stays readable."""
    with RecordWriter(tmp_path) as writer:
        writer.write(record(0))
    size = (tmp_path / RECORD_FILE).stat().st_size
    # In a process of its own, since the limit holds for all files of a process.
    program = (
        "import resource, signal, sys, warnings\n"
        "from landscape_callbacks.records import Record\n"
        "from landscape_callbacks.training.record_writer import RecordWriter\n"
        "writer = RecordWriter(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]) + 20, resource.RLIM_INFINITY))\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    writer.write(Record('slice', 'gradient', 1))\n"
        "print(*(warning.message for warning in caught))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(size)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no space left for the whole record" in answer.stdout
    assert (tmp_path / RECORD_FILE).stat().st_size == size


def test_an_address_is_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        RecordWriter("s3://bucket/run") as writer,
        pytest.warns(RuntimeWarning, match="not written to s3://bucket/run"),
    ):
        writer.write(record(0))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_before_the_first_record(tmp_path: Path) -> None:
    RecordWriter(tmp_path / "run").close()
    assert not (tmp_path / "run").exists()


def test_every_record_is_readable_at_once(tmp_path: Path) -> None:
    """A process that is killed loses nothing that was written."""
    writer = RecordWriter(tmp_path)
    for step in range(3):
        writer.write(record(step))
        assert len(list(read_records(tmp_path))) == step + 1
    writer.close()
