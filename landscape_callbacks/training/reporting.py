"""What monitors saw, to every logger at one x axis, and into ``trainer.callback_metrics``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_only, rank_zero_warn

from landscape_callbacks.records import Record
from landscape_callbacks.training.figure_logging import Drawing
from landscape_callbacks.training.record_writer import RecordWriter


@dataclass(frozen=True)
class Report:
    """What one measurement of one monitor gives to the loggers.

    Attributes:
        scalars: Value a metric tag.
        records: Curves, planes and verdicts, for the record file and the Landscape tab.
        texts: Markdown a tag, for loggers that show text.
        drawings: Figures a tag, drawn on rank zero when they are logged.
    """

    scalars: Mapping[str, float] = field(default_factory=dict)
    records: Sequence[Record] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    drawings: Mapping[str, Drawing] = field(default_factory=dict)


def current_step(trainer: Any) -> int:
    """The x axis of Lightning's own ``self.log``: batches that stepped.

    It differs from ``global_step`` with several optimizers.
    """
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def log_scalars(trainer: Any, scalars: Mapping[str, float], step: int) -> None:
    """Sends scalars to every logger and into ``trainer.callback_metrics``; non-finite values go as they are.

    ``self.log`` would not do: a value logged now and then is repeated at every flush, and lands on flush steps only. A
    logger that raises does not keep the others from their values; its exception comes last.
    """
    if not scalars:
        return
    values = {tag: float(value) for tag, value in scalars.items()}
    # Not through the property ``callback_metrics``, which computes the user's own metrics as a side effect.
    trainer._logger_connector._callback_metrics.update(
        {
            tag: torch.tensor(value, dtype=torch.float64 if _needs_double(value) else torch.float32)
            for tag, value in values.items()
        }
    )
    failure: Exception | None = None
    for logger in trainer.loggers:
        try:
            logger.log_metrics(values, step=step)
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure


@rank_zero_only
def log_text(trainer: Any, tag: str, markdown: str, step: int) -> None:
    """Writes Markdown to loggers that show text (TensorBoard's text tab)."""
    for logger in trainer.loggers:
        add_text = getattr(getattr(logger, "experiment", None), "add_text", None)
        if callable(add_text) and type(logger).__name__ == "TensorBoardLogger":
            add_text(tag, markdown, global_step=step)


def open_record_writer(trainer: Any) -> RecordWriter | None:
    """A writer into the log directory of the run and the event files of its TensorBoard loggers; ``None`` off rank
    zero.

    Call it on every rank: Lightning broadcasts the log directory.
    """
    log_dir = trainer.log_dir
    if not trainer.is_global_zero:
        return None
    if trainer.fast_dev_run or not trainer.loggers:
        return RecordWriter(None)
    writers = []
    for logger in trainer.loggers:
        if type(logger).__name__ == "TensorBoardLogger":
            try:
                writers.append(logger.experiment)
            except OSError as error:
                rank_zero_warn(
                    f"Landscape records are not written to TensorBoard's event file: {error}.", category=RuntimeWarning
                )
    return RecordWriter(log_dir, writers)


class WarnOnce:
    """Warns on rank zero, once a reason."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def __call__(self, reason: str, message: str, *, every_rank: bool = False) -> None:
        """Gives ``message`` unless a warning for the same ``reason`` was given before.

        Args:
            reason: What it is about.
            message: What to say.
            every_rank: Say it on whichever rank this is called on.
        """
        if reason not in self._given:
            self._given.add(reason)
            if every_rank:
                warnings.warn(f"[rank {getattr(rank_zero_only, 'rank', 0)}] {message}", RuntimeWarning, stacklevel=4)
            else:
                rank_zero_warn(message, category=RuntimeWarning, stacklevel=4)


def _needs_double(value: float) -> bool:
    return math.isfinite(value) and value != 0.0 and not 1e-30 < abs(value) < 1e30
