"""What a run left in TensorBoard's event files: landscape records and scalars.

TensorBoard's own reader checks a checksum a byte at a time in Python, which takes minutes for a large file. Here a
record is trusted when it parses, and what was cut off at the end is passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from landscape_callbacks.tensorboard_plugin.event_reader import PLUGIN_NAME

EVENT_FILES = "*tfevents*"

_LENGTH = struct.Struct("<Q")


def read_events(folder: Path) -> Iterator[Any]:
    """The events of all event files of a folder, file by file in the order of their names."""
    from tensorboard.compat.proto.event_pb2 import Event

    for path in sorted(folder.glob(EVENT_FILES)):
        for content in _records(path):
            try:
                yield Event.FromString(content)
            except Exception:
                # Protobuf's DecodeError: the rest of a damaged file cannot be told from noise.
                break


def landscape_texts(events: Iterator[Any]) -> Iterator[tuple[str, int, bytes]]:
    """(tag, step, text) of the landscape records among events."""
    ours = set()
    for event in events:
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == PLUGIN_NAME:
                ours.add(value.tag)
            if value.tag in ours and value.tensor.string_val:
                yield value.tag, event.step, value.tensor.string_val[0]


def scalars(events: Iterator[Any]) -> Iterator[tuple[str, int, float]]:
    """(tag, step, value) of the scalars among events, as torch's SummaryWriter writes them."""
    for event in events:
        for value in event.summary.value:
            if value.HasField("simple_value"):
                yield value.tag, event.step, value.simple_value


def _records(path: Path) -> Iterator[bytes]:
    """The contents of a TFRecord file: each after its length and a checksum, and before another checksum."""
    with path.open("rb") as file:
        while len(head := file.read(_LENGTH.size + 4)) == _LENGTH.size + 4:
            (length,) = _LENGTH.unpack_from(head)
            content = file.read(min(length, path.stat().st_size))
            if len(content) < length or len(file.read(4)) < 4:
                return
            yield content
