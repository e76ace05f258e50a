"""Blocks of landscape records as TensorBoard's data provider gives them.

The record writer puts at most 8 records under one tag ``<kind>/<name>/<block>`` (see
:mod:`landscape_callbacks.training.record_writer`). Listing tags is cheap; reading them is what costs time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tensorboard.data.provider import DataProvider, RunTagFilter

PLUGIN_NAME = "landscape"
EVENTS_PER_TAG = 1000
TAGS_PER_REQUEST = 64
UNREADABLE = b"null"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Whose data are meant: what every question to the data provider needs.

    Attributes:
        context: Request context of TensorBoard.
        experiment: Experiment id of TensorBoard.
        run: Name of the run.
    """

    context: Any
    experiment: str
    run: str


@dataclass(frozen=True, order=True)
class BlockTag:
    """A block that is known, but not read.

    Attributes:
        kind: Kind of the series that it is part of.
        name: Name of the series; may hold slashes.
        number: Where it stands in its series.
        tag: Its tag.
        last_step: Highest step in it.
        last_time: Wall time of its latest record, seconds since 1970.
    """

    kind: str
    name: str
    number: int
    tag: str
    last_step: int
    last_time: float


class EventReader:
    """Lists and reads blocks through a data provider."""

    def __init__(self, provider: DataProvider) -> None:
        self._provider = provider

    def blocks(self, context: Any, experiment: str, run: str | None = None) -> dict[str, list[BlockTag]]:
        """The blocks of each run that has landscape data, or of one run, in order. Other tags are passed over."""
        chosen = RunTagFilter(runs=[run]) if run is not None else None
        listing = self._provider.list_tensors(
            context, experiment_id=experiment, plugin_name=PLUGIN_NAME, run_tag_filter=chosen
        )
        return {
            each: sorted(
                BlockTag(*parts, tag, series.max_step, series.max_wall_time)
                for tag, series in tags.items()
                if (parts := _parse(tag))
            )
            for each, tags in listing.items()
        }

    def read(
        self, place: Place, tags: Sequence[str], *, last_only: bool = False
    ) -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
        """(tag, [(step, line)]) of each tag, or only its last record. A tag that cannot be read has no records."""
        events = 1 if last_only else EVENTS_PER_TAG
        for start in range(0, len(tags), TAGS_PER_REQUEST):
            some = tags[start : start + TAGS_PER_REQUEST]
            answer = self._request(place, some, events)
            for tag in some:
                yield tag, [(datum.step, _line(datum.numpy)) for datum in answer.get(tag, ())]

    def _request(self, place: Place, tags: Sequence[str], events: int) -> dict[str, Any]:
        try:
            answer = self._provider.read_tensors(
                place.context,
                experiment_id=place.experiment,
                plugin_name=PLUGIN_NAME,
                downsample=events,
                run_tag_filter=RunTagFilter(runs=[place.run], tags=list(tags)),
            )
            return dict(answer.get(place.run, {}))
        except Exception:
            if len(tags) == 1:
                logger.warning("A landscape tag of run %r cannot be read: %r", place.run, tags[0], exc_info=True)
                return {}
        # One tensor that is no tensor must not hide the others.
        return {tag: data for each in tags for tag, data in self._request(place, [each], events).items()}


def _parse(tag: str) -> tuple[str, str, int] | None:
    """(kind, name, block) of a tag; ``None`` for one that the record writer did not write."""
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
