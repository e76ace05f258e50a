"""The series of landscape records that a run holds: what one monitor wrote under one name, as the gradient's slices.

A long series is answered by evenly spaced records and the steps of all; the front end fetches the record of a step that
it lacks when a person goes there. The steps and sizes of a block are remembered until the block changes. Before a long
series has been read once, a preview shows one record of some blocks, which is known from the listing.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tensorboard.data.provider import DataProvider

from landscape_callbacks.tensorboard_plugin.event_reader import UNREADABLE, BlockTag, EventReader, Place

__all__ = ["LandscapeData", "Place", "SeriesPart", "SeriesSummary", "UnknownSeriesError"]

BYTES_KEPT_WHILE_SCANNING = 32_000_000


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
        preview: Whether the steps are those of the last record of each block only.
    """

    first: int
    steps: list[int]
    positions: list[int]
    lines: list[bytes]
    preview: bool = False


@dataclass(frozen=True)
class _ReadBlock:
    """What is remembered of a block that was read."""

    seen: BlockTag
    steps: tuple[int, ...]
    sizes: tuple[int, ...]


class LandscapeData:
    """The records of all runs that a data provider knows. Safe to use from several threads."""

    def __init__(self, provider: DataProvider) -> None:
        self._reader = EventReader(provider)
        self._known: dict[tuple[str, str, str], _ReadBlock] = {}
        self._lock = threading.Lock()

    def runs(self, context: Any, experiment: str) -> dict[str, list[SeriesSummary]]:
        """The series of each run that holds landscape data."""
        return {run: list(_summaries(blocks)) for run, blocks in self._reader.blocks(context, experiment).items()}

    def records(self, place: Place, kind: str, name: str, *, first: int = 0, budget: int = 4_000_000) -> SeriesPart:
        """Records of a series.

        Args:
            place: The run.
            kind: Kind of the series.
            name: Name of the series.
            first: Position to begin at: the number of records that the caller has. When the series has become shorter
                than that (the run was started anew), the answer begins at 0.
            budget: Bytes of records to answer with. A longer series is thinned evenly; the last record is always there.

        Raises:
            UnknownSeriesError: When there is no such series.
        """
        blocks, fresh = self._scan(place, kind, name)
        steps = [step for block in blocks for step in block.steps]
        sizes = [size for block in blocks for size in block.sizes]
        first = first if 0 <= first <= len(steps) else 0
        positions = range(first, len(steps))
        total = sum(sizes[position] for position in positions)
        chosen = _backwards(positions, 1 if total <= budget else -(-total // max(budget, 1)))
        return SeriesPart(first, steps[first:], chosen, self._lines(place, blocks, chosen, fresh))

    def preview(self, place: Place, kind: str, name: str, *, budget: int = 4_000_000) -> SeriesPart:
        """The last record of evenly spaced blocks, the last one among them: an eighth of the reading or less.

        Raises:
            UnknownSeriesError: When there is no such series.
        """
        blocks = self._blocks(place, kind, name)
        ((_, last),) = self._reader.read(place, [blocks[-1].tag], last_only=True)
        size = len(last[0][1]) if last else 0
        chosen = _backwards(range(len(blocks)), -(-len(blocks) * size // max(budget, 1)) or 1)
        events = dict(self._reader.read(place, [blocks[position].tag for position in chosen], last_only=True))
        lines = [events[blocks[position].tag] for position in chosen]
        texts = [line[-1][1] if line else UNREADABLE for line in lines]
        return SeriesPart(0, [block.last_step for block in blocks], chosen, texts, preview=True)

    def record(self, place: Place, kind: str, name: str, position: int) -> bytes:
        """One record of a series as JSON.

        Raises:
            UnknownSeriesError: When there is no such series, or it has fewer records.
        """
        blocks, fresh = self._scan(place, kind, name)
        if not 0 <= position < sum(len(block.steps) for block in blocks):
            raise UnknownSeriesError(f"The series {kind}/{name} of this run has no record {position}.")
        return self._lines(place, blocks, [position], fresh)[0]

    def _blocks(self, place: Place, kind: str, name: str) -> list[BlockTag]:
        listing = self._reader.blocks(place.context, place.experiment, place.run)
        if place.run not in listing:
            raise UnknownSeriesError("TensorBoard knows no run of this name with landscape data. Was it removed?")
        blocks = [block for block in listing[place.run] if (block.kind, block.name) == (kind, name)]
        if not blocks:
            raise UnknownSeriesError(f"This run has no series {kind}/{name}.")
        return blocks

    def _scan(self, place: Place, kind: str, name: str) -> tuple[list[_ReadBlock], dict[str, list[bytes]]]:
        """The blocks of a series, and the lines of those that had to be read (dropped when they are many)."""
        blocks = self._blocks(place, kind, name)
        with self._lock:
            known = {block.tag: self._known.get((place.experiment, place.run, block.tag)) for block in blocks}
        stale = {block.tag: block for block in blocks if (read := known[block.tag]) is None or read.seen != block}
        fresh: dict[str, list[bytes]] = {}
        kept = 0
        for tag, events in self._reader.read(place, list(stale)):
            lines = [line for _, line in events]
            known[tag] = _ReadBlock(stale[tag], tuple(step for step, _ in events), tuple(map(len, lines)))
            kept += sum(map(len, lines))
            if kept <= BYTES_KEPT_WHILE_SCANNING:
                fresh[tag] = lines
        read_blocks = [read for block in blocks if (read := known[block.tag]) is not None]
        with self._lock:
            self._known.update({(place.experiment, place.run, read.seen.tag): read for read in read_blocks})
        return read_blocks, fresh

    def _lines(
        self, place: Place, blocks: Sequence[_ReadBlock], positions: Sequence[int], fresh: dict[str, list[bytes]]
    ) -> list[bytes]:
        places = [(block.seen.tag, index) for block in blocks for index in range(len(block.steps))]
        wanted = dict.fromkeys(places[position][0] for position in positions)
        lines = dict(fresh)
        for tag, events in self._reader.read(place, [tag for tag in wanted if tag not in fresh]):
            lines[tag] = [line for _, line in events]
        answer = []
        for position in positions:
            tag, index = places[position]
            answer.append(lines[tag][index] if index < len(lines.get(tag, ())) else UNREADABLE)
        return answer


def _summaries(blocks: Sequence[BlockTag]) -> Iterator[SeriesSummary]:
    for (kind, name), group in itertools.groupby(blocks, key=lambda block: (block.kind, block.name)):
        own = list(group)
        last_step, last_time = max(block.last_step for block in own), max(block.last_time for block in own)
        yield SeriesSummary(kind, name, len(own), last_step, last_time)


def _backwards(positions: Iterable[int], stride: int) -> list[int]:
    """Every so many positions, the last one among them."""
    return list(positions)[::-1][::stride][::-1]
