"""Scalars of a run on disk: from ``metrics.csv`` of Lightning's CSVLogger, else from TensorBoard's event files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from landscape_callbacks.commands.event_files import read_events, scalars
from landscape_callbacks.tensorboard_plugin.metrics import POINTS, series_of

METRICS_FILE = "metrics.csv"


def read_run_metrics(folder: Path) -> dict[str, dict[str, list[Any]]]:
    """``{tag: {"steps": […], "values": […]}}``, at most 1,000 evenly spaced points a tag, the last one among them."""
    path = folder / METRICS_FILE
    points: dict[str, list[tuple[int, float]]] = {}
    for tag, step, value in _from_csv(path) if path.is_file() else scalars(read_events(folder)):
        points.setdefault(tag, []).append((step, value))
    series = {}
    for tag, all_of_tag in sorted(points.items()):
        kept = all_of_tag[::-1][:: -(-len(all_of_tag) // POINTS)][::-1]
        series[tag] = series_of([step for step, _ in kept], [value for _, value in kept])
    return series


def _from_csv(path: Path) -> Iterator[tuple[str, int, float]]:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            step = _number(row.get("step"))
            if step is None:
                continue
            for tag, text in row.items():
                if tag not in (None, "step", "epoch") and (value := _number(text)) is not None:
                    yield tag, int(step), value


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
