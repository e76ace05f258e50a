"""Scalars that a run logged, such as its loss: what the landscape is looked at beside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorboard.data.provider import DataProvider, RunTagFilter

SCALARS_PLUGIN = "scalars"
POINTS = 1000


def read_metrics(
    provider: DataProvider, context: Any, experiment: str, run: str, tags: Sequence[str]
) -> dict[str, Any]:
    """What scalars a run has, and the points of some.

    Args:
        provider: TensorBoard's data provider.
        context: Request context of TensorBoard.
        experiment: Experiment id of TensorBoard.
        run: Name of the run.
        tags: Tags to read; unknown ones are passed over.

    Returns:
        ``{"available": [tag, …], "points": {tag: {"steps": […], "values": […]}}}``, at most 1,000 points a tag; values
        that are not finite as words.
    """
    place = {"experiment_id": experiment, "plugin_name": SCALARS_PLUGIN}
    listing = provider.list_scalars(context, **place, run_tag_filter=RunTagFilter(runs=[run])).get(run, {})
    known = [tag for tag in tags if tag in listing]
    points: dict[str, Any] = {}
    if known:
        wanted = RunTagFilter(runs=[run], tags=known)
        read = provider.read_scalars(context, **place, downsample=POINTS, run_tag_filter=wanted).get(run, {})
        for tag in known:
            data = read.get(tag, ())
            points[tag] = series_of([datum.step for datum in data], [datum.value for datum in data])
    return {"available": sorted(listing), "points": points}


def series_of(steps: Sequence[int], values: Sequence[float]) -> dict[str, list[Any]]:
    """Steps and values that JSON can hold."""
    return {"steps": list(steps), "values": [_plain(float(value)) for value in values]}


def _plain(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
