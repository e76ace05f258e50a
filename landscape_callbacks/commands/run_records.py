"""The records of runs on disk: from record files, or from TensorBoard's event files where there is no record file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from landscape_callbacks.commands.event_files import EVENT_FILES, landscape_texts, read_events
from landscape_callbacks.records import RECORD_FILE, index_records


@dataclass(frozen=True)
class _Entry:
    step: int
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class RunRecords:
    """The records of one run, read only when they are asked for.

    Attributes:
        name: The run's directory, relative to the one that was searched.
        folder: The run's directory.
        changed: When the run's file was last written, seconds since 1970.
        series: The entries of each (kind, name), in the order in which they were written.
    """

    name: str
    folder: Path
    changed: float
    series: dict[tuple[str, str], list[_Entry]] = field(default_factory=dict)

    def size(self, key: tuple[str, str]) -> int:
        """Bytes of all records of a series."""
        return sum(entry.size for entry in self.series[key])

    def thinned(self, key: tuple[str, str], budget: int) -> tuple[list[int], list[str]]:
        """Steps and lines of evenly spaced records, the last one among them, of about ``budget`` bytes at most."""
        entries = self.series[key]
        stride = -(-self.size(key) // budget) if self.size(key) > budget else 1
        kept = entries[::-1][::stride][::-1]
        lines = [entry.read().decode("utf-8", "replace").replace("\n", " ") for entry in kept]
        return [entry.step for entry in kept], lines


def find_runs(folder: Path) -> list[RunRecords]:
    """The runs with landscape records in a folder and below it, by name."""
    with_files = {path.parent for path in folder.rglob(RECORD_FILE)}
    with_events = {path.parent for path in folder.rglob(EVENT_FILES)} - with_files
    runs = []
    for directory in sorted(with_files | with_events):
        name = directory.relative_to(folder).as_posix()
        name = folder.resolve().name if name == "." else name
        run = _from_record_file(name, directory) if directory in with_files else _from_event_files(name, directory)
        if run.series:
            runs.append(run)
    return runs


def _from_record_file(name: str, directory: Path) -> RunRecords:
    path = directory / RECORD_FILE
    run = RunRecords(name, directory, path.stat().st_mtime)
    for place in index_records(path):
        if place.kind and place.complete:
            entry = _Entry(place.step, place.length, partial(_read_part, path, place.offset, place.length))
            run.series.setdefault((place.kind, place.name), []).append(entry)
    return run


def _read_part(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _from_event_files(name: str, directory: Path) -> RunRecords:
    run = RunRecords(name, directory, max(path.stat().st_mtime for path in directory.glob(EVENT_FILES)))
    for tag, step, text in landscape_texts(read_events(directory)):
        kind, _, rest = tag.partition("/")
        series, slash, _ = rest.rpartition("/")
        if slash:
            run.series.setdefault((kind, series), []).append(_Entry(step, len(text), partial(bytes, text)))
    return run
