"""Read landscape records through TensorBoard's data provider.

A series is what one monitor wrote under one name, such as the slices along the gradient. Its records lie in blocks, one
a tag (see :mod:`landscape_callbacks.training.record_writer`). Reading a block is what costs time, so the steps and
sizes of a block are remembered until the block changes, and a long series is answered by evenly spaced records plus the
steps of all: the front end fetches the record of a step that it lacks when a person goes there.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tensorboard.data.provider import DataProvider, RunTagFilter

PLUGIN_NAME = "landscape"
EVENTS_PER_TAG = 1000
TAGS_PER_REQUEST = 64
BYTES_KEPT_WHILE_SCANNING = 32_000_000
UNREADABLE = b"null"

logger = logging.getLogger(__name__)


class UnknownSeriesError(LookupError):
    """What was asked for is not in the event files that TensorBoard has read."""


@dataclass(frozen=True)
class SeriesSummary:
    """A series of a run, as far as it is known without reading it.

    Attributes:
        kind: Such as ``"slice"``.
        name: Such as ``"gradient"``.
        blocks: Number of blocks, of at most 8 records each.
        last_step: Highest step.
        last_time: Wall time of the latest record, seconds since 1970; changes whenever a record arrives.
    """

    kind: str
    name: str
    blocks: int
    last_step: int
    last_time: float


@dataclass(frozen=True)
class SeriesPart:
    """Some records of a series, and the steps of all.

    Attributes:
        first: Position in the series that ``steps`` begins at.
        steps: Steps of the records from there on, in the order in which they were written.
        positions: Positions in the series of the records in ``lines``.
        lines: Records as JSON, one each; ``null`` for an event that is not text.
    """

    first: int
    steps: list[int]
    positions: list[int]
    lines: list[bytes]


@dataclass(frozen=True)
class _Block:
    tag: str
    signature: tuple[int, float]
    steps: tuple[int, ...]
    sizes: tuple[int, ...]


class LandscapeData:
    """The records of all runs that a data provider knows. Safe to use from several threads."""

    def __init__(self, provider: DataProvider) -> None:
        self._provider = provider
        self._blocks: dict[tuple[str, str, str], _Block] = {}
        self._lock = threading.Lock()

    def runs(self, context: Any, experiment: str) -> dict[str, list[SeriesSummary]]:
        """The series of each run that holds landscape data."""
        listing = self._provider.list_tensors(context, experiment_id=experiment, plugin_name=PLUGIN_NAME)
        return {run: list(_summaries(tags)) for run, tags in listing.items()}

    def records(
        self, context: Any, experiment: str, run: str, kind: str, name: str, *, first: int = 0, budget: int = 4_000_000
    ) -> SeriesPart:
        """Records of a series.

        Args:
            context: Request context of TensorBoard.
            experiment: Experiment id of TensorBoard.
            run: Name of the run.
            kind: Kind of the series.
            name: Name of the series.
            first: Position to begin at: the number of records that the caller has. When the series has become shorter
                than that (the run was started anew), the answer begins at 0.
            budget: Bytes of records to answer with. A longer series is thinned evenly; the last record is always there.

        Raises:
            UnknownSeriesError: When there is no such series.
        """
        blocks, fresh = self._scan(context, experiment, run, kind, name)
        steps = [step for block in blocks for step in block.steps]
        sizes = [size for block in blocks for size in block.sizes]
        first = first if 0 <= first <= len(steps) else 0
        positions = _evenly(range(first, len(steps)), sizes, budget)
        lines = self._lines(context, experiment, run, blocks, positions, fresh)
        return SeriesPart(first, steps[first:], positions, lines)

    def record(self, context: Any, experiment: str, run: str, kind: str, name: str, position: int) -> bytes:
        """One record of a series as JSON.

        Raises:
            UnknownSeriesError: When there is no such series, or it has fewer records.
        """
        blocks, fresh = self._scan(context, experiment, run, kind, name)
        if not 0 <= position < sum(len(block.steps) for block in blocks):
            raise UnknownSeriesError(f"The series {kind}/{name} of this run has no record {position}.")
        return self._lines(context, experiment, run, blocks, [position], fresh)[0]

    def _scan(
        self, context: Any, experiment: str, run: str, kind: str, name: str
    ) -> tuple[list[_Block], dict[str, list[bytes]]]:
        """The blocks of a series in order, and the lines of those that had to be read (dropped when they are many)."""
        listing = self._provider.list_tensors(
            context, experiment_id=experiment, plugin_name=PLUGIN_NAME, run_tag_filter=RunTagFilter(runs=[run])
        )
        if run not in listing:
            raise UnknownSeriesError("TensorBoard knows no run of this name with landscape data. Was it removed?")
        numbers = {tag: parts[2] for tag in listing[run] if (parts := _parse(tag)) and parts[:2] == (kind, name)}
        signatures = {tag: (listing[run][tag].max_step, listing[run][tag].max_wall_time) for tag in numbers}
        if not signatures:
            raise UnknownSeriesError(f"This run has no series {kind}/{name}.")
        with self._lock:
            known = {tag: self._blocks.get((experiment, run, tag)) for tag in signatures}
        stale = [tag for tag, block in known.items() if block is None or block.signature != signatures[tag]]
        fresh: dict[str, list[bytes]] = {}
        kept = 0
        for tag, events in self._read(context, experiment, run, stale):
            lines = [line for _, line in events]
            sizes = tuple(map(len, lines))
            known[tag] = _Block(tag, signatures[tag], tuple(step for step, _ in events), sizes)
            kept += sum(sizes)
            if kept <= BYTES_KEPT_WHILE_SCANNING:
                fresh[tag] = lines
        blocks = sorted((block for block in known.values() if block), key=lambda block: numbers[block.tag])
        with self._lock:
            self._blocks.update({(experiment, run, block.tag): block for block in blocks})
        return blocks, fresh

    def _lines(
        self,
        context: Any,
        experiment: str,
        run: str,
        blocks: Sequence[_Block],
        positions: Sequence[int],
        fresh: dict[str, list[bytes]],
    ) -> list[bytes]:
        places = [(block.tag, index) for block in blocks for index in range(len(block.steps))]
        wanted = dict.fromkeys(places[position][0] for position in positions)
        lines = dict(fresh)
        for tag, events in self._read(context, experiment, run, [tag for tag in wanted if tag not in fresh]):
            lines[tag] = [line for _, line in events]
        answer = []
        for position in positions:
            tag, index = places[position]
            answer.append(lines[tag][index] if index < len(lines.get(tag, ())) else UNREADABLE)
        return answer

    def _read(
        self, context: Any, experiment: str, run: str, tags: Sequence[str]
    ) -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
        """(tag, [(step, line)]) of each tag, a few tags a request. A tag that cannot be read has no events."""

        def request(some: Sequence[str]) -> dict[str, Any]:
            answer = self._provider.read_tensors(
                context,
                experiment_id=experiment,
                plugin_name=PLUGIN_NAME,
                downsample=EVENTS_PER_TAG,
                run_tag_filter=RunTagFilter(runs=[run], tags=list(some)),
            )
            return dict(answer.get(run, {}))

        for start in range(0, len(tags), TAGS_PER_REQUEST):
            some = tags[start : start + TAGS_PER_REQUEST]
            try:
                answer = request(some)
            except Exception:
                # One tensor that is no tensor must not hide the others.
                answer = {}
                for tag in some:
                    try:
                        answer.update(request([tag]))
                    except Exception:
                        logger.warning("A landscape tag of run %r cannot be read: %r", run, tag, exc_info=True)
            for tag in some:
                yield tag, [(datum.step, _line(datum.numpy)) for datum in answer.get(tag, ())]


def _summaries(tags: dict[str, Any]) -> Iterator[SeriesSummary]:
    parsed = sorted((parts, series) for tag, series in tags.items() if (parts := _parse(tag)))
    for (kind, name), group in itertools.groupby(parsed, key=lambda entry: entry[0][:2]):
        series = [entry[1] for entry in group]
        yield SeriesSummary(
            kind,
            name,
            len(series),
            max(entry.max_step for entry in series),
            max(entry.max_wall_time for entry in series),
        )


def _parse(tag: str) -> tuple[str, str, int] | None:
    """(kind, name, block) of a tag, ``None`` for one that the record writer did not write; names may hold slashes."""
    kind, _, rest = tag.partition("/")
    name, slash, block = rest.rpartition("/")
    return (kind, name, int(block)) if slash and block.isascii() and block.isdigit() else None


def _line(tensor: Any) -> bytes:
    """The text of an event on one line."""
    try:
        value = tensor.item()
        text = value.decode("utf-8") if isinstance(value, bytes) else value
        return text.encode("utf-8") if isinstance(text, str) and "\n" not in text else UNREADABLE
    except (ValueError, AttributeError):
        return UNREADABLE


def _evenly(positions: range, sizes: Sequence[int], budget: int) -> list[int]:
    """Evenly spaced positions, the last one among them, whose sizes add up to about the budget at most."""
    if not positions:
        return []
    total = sum(sizes[position] for position in positions)
    stride = 1 if total <= budget else -(-total // max(budget, 1))
    return _backwards(positions, stride)


def _backwards(positions: Iterable[int], stride: int) -> list[int]:
    return list(positions)[::-1][::stride][::-1]
