"""Records: what a monitor saw at one step, in one form for event files, record files and the report page.

A record is small, self-describing and append-only: a JSON object in which arrays are base64 of little-endian float64, so that
infinities and NaN survive. This file needs numpy only: TensorBoard loads it without torch or Lightning.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RECORD_FILE = "landscape.jsonl"


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
    content = {"kind": record.kind, "name": record.name, "step": int(record.step), "arrays": arrays, "info": _plain(record.info)}
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
