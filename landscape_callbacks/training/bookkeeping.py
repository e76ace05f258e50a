"""The books of a run: time spent on measurements, faults, and what goes to the loggers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info

from landscape_callbacks.surface.out_of_memory import free_after, is_out_of_memory
from landscape_callbacks.training.cadence import Cadence, Clock
from landscape_callbacks.training.distributed import all_ranks_know, has_to_speak, largest_of_ranks, rank_average
from landscape_callbacks.training.figure_logging import log_figure
from landscape_callbacks.training.microbatches import NotSplittableError
from landscape_callbacks.training.record_writer import RecordWriter
from landscape_callbacks.training.replay import StepSkipped
from landscape_callbacks.training.reporting import Report, WarnOnce, log_scalars, log_text, open_record_writer

# What measurements found of the memory; ranks agree on the largest.
ENOUGH, RAN_OUT, INDIVISIBLE = 0.0, 1.0, 2.0
# What a hook displaces from the processor's caches slows the step around it by about as much as the hook itself takes:
# fits with and without, in turns of 50 steps, differ by 1.7 to 2.0 times what hooks take by the clock.
# Not so a long one: caches are filled again in this many seconds.
_LONGEST_REFILL = 5e-4
_STEPS_TO_KNOW = 500


class Bookkeeping:
    """Guards measurements, books their time, and logs what they gave.

    Attributes:
        failed: Measurements that failed so far.
        spent: Seconds spent on measurements so far, and on the hooks of steps without one.
        between: The part of it that no measurement took: hooks at every step, and the trend of the loss.
        budget: What all cadences together may take of the training time; 0 when none has a budget.
        clock: Time of the run, without measurements.
        warn: Gives each warning once.
        log_dir: Directory that records are written to; ``None`` without a logger and off rank zero.
    """

    def __init__(self) -> None:
        self.failed = 0
        self.spent = 0.0
        self.between = 0.0
        self.budget = 0.0
        self.clock = Clock(time.perf_counter())
        self.warn = WarnOnce()
        self.log_dir: Any = None
        self._memory = ENOUGH
        self._said = False
        self._guards = 0
        self._writer: RecordWriter | None = None
        self._drawing = 0.0

    def open(self, trainer: Any) -> None:
        """Opens the record file. On every rank: Lightning broadcasts the log directory."""
        self._writer = open_record_writer(trainer)
        self.log_dir = None if self._writer is None else self._writer.log_dir

    def close(self) -> None:
        """Closes the record file: everything written is on disk."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @contextmanager
    def guarded(self, name: str, trainer: Any, step: int, *, alone: bool = False) -> Iterator[None]:
        """A measurement that fails inside the block warns once with its reason and is counted; training goes on.

        All ranks enter and leave the block together: when one fails in it, all do. See :class:`RankAverage`.

        Args:
            name: Who measures.
            trainer: The trainer.
            step: Step of the x axis.
            alone: The block holds nothing that ranks do together (logging), so that each rank fails for itself.
        """
        average = None if alone else rank_average(trainer)
        if average is not None and self._guards:
            average.agree()
        self._guards += 1
        try:
            try:
                yield
            except Exception as error:
                if average is not None and not all_ranks_know(error):
                    average.agree(error)
                raise
            else:
                if average is not None:
                    average.agree()
        except StepSkipped:
            return
        except Exception as error:
            self.failed += 1
            reason = f"{type(error).__name__}: {error}"
            if is_out_of_memory(error) or isinstance(error, NotSplittableError):
                self._memory = max(self._memory, INDIVISIBLE if isinstance(error, NotSplittableError) else RAN_OUT)
                free_after(error)
                self.warn(
                    "out of memory",
                    f"{name} ran out of memory at step {step} ({reason}). Training goes on untouched. The next "
                    "measurements make do with less: fewer "
                    "vectors, then microbatches where the batch can be split, then none.",
                    every_rank=has_to_speak(error),
                )
                return
            self.warn(
                f"{name} {type(error).__name__}",
                f"{name} {'failed' if alone else 'could not measure'} at step {step} ({reason}). Training goes on "
                "untouched; further failures of this kind are "
                "counted in 'landscape/failed_measurements'.",
                every_rank=has_to_speak(error),
            )
        finally:
            self._guards -= 1

    @contextmanager
    def timed(self, trainer: Any, cadences: Sequence[Cadence], step: int, already: float = 0.0) -> Iterator[None]:
        """Books the time of the block, and ``already`` seconds before it, on the cadences, and lets them plan their
        next step.
        """
        _synchronize(trainer)
        started = time.perf_counter()
        self._drawing = 0.0
        # No ``finally``: what ends the run (an interrupt) ends it at once, without a word to ranks that may not be
        # listening.
        yield
        _synchronize(trainer)
        now = time.perf_counter()
        seconds = now - started + already
        self.clock.paused(seconds)
        self.spent += seconds
        unique = list({id(cadence): cadence for cadence in cadences}.values())
        if not unique:
            return
        own = [seconds, self._drawing, -self._seconds_to_spend_on(now), self.clock.seconds_per_step(now)]
        spent, drawing, less_training, pace = largest_of_ranks(trainer, own)
        for cadence in unique:
            cadence.measured(step, spent / len(unique), rare=drawing / len(unique))
            cadence.plan(step, -less_training, pace)

    def log(self, trainer: Any, report: Report, step: int) -> None:
        """Sends a report to the loggers and the record file, with what measuring has cost so far. A logger that
        raises is a failed log.
        """
        scalars = {**report.scalars, "landscape/overhead": self.overhead()}
        if self.failed:
            scalars["landscape/failed_measurements"] = float(self.failed)
        with self._logging("scalars", trainer, step):
            log_scalars(trainer, scalars, step)
        with self._logging("texts", trainer, step):
            for tag, text in report.texts.items():
                log_text(trainer, tag, text, step)
        with self._logging("records", trainer, step):
            if self._writer is not None:
                for record in report.records:
                    self._writer.write(record)
        started = time.perf_counter()
        with self._logging("figures", trainer, step):
            for tag, drawing in report.drawings.items():
                log_figure(trainer, tag, drawing, step)
        self._drawing += time.perf_counter() - started

    def _logging(self, what: str, trainer: Any, step: int) -> AbstractContextManager[None]:
        return self.guarded(f"Logging of {what}", trainer, step, alone=True)

    def is_due(self, trainer: Any, cadence: Cadence, step: int) -> bool:
        """Whether a cadence measures at ``step``: the step has come and the budget allows it, on every rank.

        Where it does not, the measurement is planned anew, so that ranks need no word at each of the steps that follow.
        """
        if not cadence.is_due(step):
            return False
        if cadence.max_overhead is None:
            return True
        now = time.perf_counter()
        own = [-self._seconds_to_spend_on(now), self.clock.seconds_per_step(now), cadence.expected]
        less_training, pace, cadence.expected = largest_of_ranks(trainer, own)
        if cadence.affords(step, -less_training):
            return True
        cadence.plan(step, -less_training, pace)
        return False

    def took_since(self, started: float, spent: float) -> None:
        """Books the time of a hook that runs at every step, and that of filling the caches again after it.
        Measurements have to make up for both.

        Args:
            started: When the hook began (``time.perf_counter``).
            spent: What was booked until then: what measurements in the hook booked for themselves is left out.
        """
        seconds = max(0.0, time.perf_counter() - started - (self.spent - spent))
        seconds += min(seconds, _LONGEST_REFILL)
        self.clock.paused(seconds)
        self.spent += seconds
        self.between += seconds
        if not self._said and self.clock.steps >= _STEPS_TO_KNOW:
            self._say_if_hooks_take_it_all()

    def _say_if_hooks_take_it_all(self) -> None:
        training = self.clock.training_seconds(time.perf_counter())
        if 0.0 < self.budget * training <= self.between:
            self._said = True
            share = self.between / (training + self.between)
            rank_zero_info(
                f"At {1e3 * self.seconds_per_step():.2g} ms a step, following the run takes {share:.1%} of the time, "
                "which is all of max_overhead: little more is measured. Raise max_overhead, or follow less "
                "(LandscapeMonitor: diagnosis=False)."
            )

    def _seconds_to_spend_on(self, now: float) -> float:
        """Training time, less what hooks at every step have used up of its budget."""
        return self.clock.training_seconds(now) - (self.between / self.budget if self.budget else 0.0)

    def seconds_per_step(self) -> float:
        """Mean training time of one step so far, without measurements."""
        return self.clock.seconds_per_step(time.perf_counter())

    def overhead(self) -> float:
        """Share of the run's time that measurements took so far."""
        training = self.clock.training_seconds(time.perf_counter())
        return self.spent / (training + self.spent) if training + self.spent > 0.0 else 0.0


def _synchronize(trainer: Any) -> None:
    """Waits for the accelerator, so that training work in flight is not booked as measuring, nor measuring as
    training.
    """
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
