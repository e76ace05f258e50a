"""Records: what a monitor saw at one step, in one form for event files, record files and the report page.

A record is small, self-describing and append-only: a JSON object in which arrays are base64 of little-endian float64,
so that infinities and NaN survive. This file needs numpy only: TensorBoard loads it without torch or Lightning.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RECORD_FILE = "landscape.jsonl"

_HEAD = re.compile(rb'\{"kind":("(?:[^"\\]|\\.)*"),"name":("(?:[^"\\]|\\.)*"),"step":(-?\d+)')


@dataclass(frozen=True)
class Record:
    """What one monitor saw at one step.

    Attributes:
        kind: What it is: ``"slice"``, ``"plane"``, ``"eigenvalues"``, ``"density"``, ``"verdict"``, …
        name: Which one, such as the direction of a slice.
        step: Step of the x axis that scalars are logged at.
        arrays: Named arrays; stored as float64.
        info: Plain JSON values. Non-finite floats become the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``.
    """

    kind: str
    name: str
    step: int
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


def encode(record: Record) -> str:
    """One line of JSON without a line break."""
    arrays = {}
    for key, value in record.arrays.items():
        array = np.ascontiguousarray(value, dtype="<f8")
        arrays[key] = {"shape": list(array.shape), "float64": base64.b64encode(array.tobytes()).decode("ascii")}
    head = {"kind": record.kind, "name": record.name, "step": int(record.step)}
    content = {**head, "arrays": arrays, "info": _plain(record.info)}
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def decode(line: str | bytes) -> Record:
    """The record of one line.

    Raises:
        ValueError: When the line is not a record.
    """
    try:
        content = json.loads(line)
        arrays = {
            key: np.frombuffer(base64.b64decode(value["float64"]), dtype="<f8").reshape(value["shape"])
            for key, value in content["arrays"].items()
        }
        return Record(content["kind"], content["name"], int(content["step"]), arrays, content["info"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"Not a landscape record: {error}") from error


def read_records(path: str | Path) -> Iterator[Record]:
    """The records of a run, in the order in which they were written.

    Args:
        path: A log directory, or the record file in it. A last line that was cut off (a killed process) is passed over.
    """
    path = Path(path)
    path = path / RECORD_FILE if path.is_dir() else path
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                try:
                    yield decode(line)
                except ValueError:
                    if line.endswith(b"\n"):
                        raise


@dataclass(frozen=True)
class RecordPlace:
    """Where a record lies in a record file.

    Attributes:
        kind: Its kind; empty for a line that is no record.
        name: Its name.
        step: Its step.
        offset: Bytes before its line.
        length: Bytes of its line, without the line break.
        complete: False for a last line that was cut off.
    """

    kind: str
    name: str
    step: int
    offset: int
    length: int
    complete: bool


def index_records(path: str | Path) -> Iterator[RecordPlace]:
    """What a record file holds, without decoding any array: 100 MB take a fraction of a second.

    Args:
        path: The record file.
    """
    offset = 0
    with Path(path).open("rb") as lines:
        for line in lines:
            length = len(line.rstrip(b"\n"))
            head = _HEAD.match(line)
            kind, name, step = (json.loads(part) for part in head.groups()) if head else ("", "", 0)
            if length:
                yield RecordPlace(kind, name, step, offset, length, complete=line.endswith(b"\n"))
            offset += len(line)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
