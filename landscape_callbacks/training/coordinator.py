"""One coordinator a trainer: it runs the measurements of all monitors at a step on one snapshot, and keeps time, faults and logs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import reduce
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from landscape_callbacks.surface.out_of_memory import free_after, is_out_of_memory
from landscape_callbacks.surface.sharded import sharded_module
from landscape_callbacks.training.cadence import Cadence, Clock
from landscape_callbacks.training.distributed import all_ranks_know, has_to_speak, largest_of_ranks, rank_average
from landscape_callbacks.training.figure_logging import log_figure
from landscape_callbacks.training.memory import Economy, together
from landscape_callbacks.training.microbatches import NotSplittableError, couples_samples, split_batch
from landscape_callbacks.training.record_writer import RecordWriter
from landscape_callbacks.training.replay import StepSkipped
from landscape_callbacks.training.reporting import Report, WarnOnce, current_step, log_scalars, log_text, open_record_writer
from landscape_callbacks.training.snapshot import SeenBatch, Snapshot, SurfaceSettings, WarmStarts, live_snapshot, open_snapshot, samples_in

if TYPE_CHECKING:
    from landscape_callbacks.training.monitor import Monitor

# What measurements found of the memory; ranks agree on the largest.
_ENOUGH, _RAN_OUT, _INDIVISIBLE = 0.0, 1.0, 2.0

_coordinators: WeakKeyDictionary[Any, Coordinator] = WeakKeyDictionary()


class Coordinator:
    """Runs all monitors of one trainer.

    Monitors pass their hooks on; the first one registered leads, so that each hook acts once however many monitors there are.

    Attributes:
        monitors: The monitors that measure, in the order of the trainer's callbacks.
        failed: Measurements that failed so far.
        spent: Seconds spent on measurements so far.
        log_dir: Directory that records are written to; ``None`` without a logger and off rank zero.
    """

    def __init__(self) -> None:
        self.monitors: list[Monitor] = []
        self.failed = 0
        self.spent = 0.0
        self.clock = Clock(time.perf_counter())
        self.warn = WarnOnce()
        self._recent: deque[SeenBatch] = deque(maxlen=1)
        self._warm_starts: dict[SurfaceSettings, WarmStarts] = {}
        self._economy: dict[SurfaceSettings, Economy] = {}
        self._memory = _ENOUGH
        self._guards = 0
        self._live_due: list[Monitor] = []
        self._writer: RecordWriter | None = None
        self.log_dir: Any = None
        self._drawing = 0.0

    @classmethod
    def of(cls, trainer: Any) -> Coordinator:
        """The coordinator of a trainer, made on first use."""
        return _coordinators.setdefault(trainer, cls())

    def register(self, monitor: Monitor) -> None:
        """Adds a monitor that measures on this trainer."""
        if monitor not in self.monitors:
            self.monitors.append(monitor)

    def closes(self, monitor: Monitor) -> bool:
        """Whether this monitor is the last one, after whose last hook nothing is measured any more."""
        return bool(self.monitors) and self.monitors[-1] is monitor

    def leads(self, monitor: Monitor) -> bool:
        """Whether this monitor is the one whose hooks drive the others."""
        return bool(self.monitors) and self.monitors[0] is monitor

    def start(self, trainer: Any) -> None:
        """Begins a fit: starts the clock and opens the record file."""
        self._recent = deque(maxlen=max((monitor.settings.batches for monitor in self.monitors), default=1))
        carried = max((monitor.carried_seconds for monitor in self.monitors), default=0.0)
        self.clock = Clock(time.perf_counter(), carried, current_step(trainer))
        self.spent = sum({id(one): one.spent for monitor in self.monitors for one in monitor.cadences}.values())
        self.failed = max([self.failed, *(monitor.carried_failures for monitor in self.monitors)])
        for monitor in self.monitors:
            if monitor.carried_warm_starts:
                self._warm_start(monitor.settings).load_state_dict(monitor.carried_warm_starts)
                monitor.carried_warm_starts = {}
        self._writer = open_record_writer(trainer)
        self.log_dir = None if self._writer is None else self._writer.log_dir

    def stop(self) -> None:
        """Ends a fit, also one that an exception ends: everything written is on disk, and nothing of the run is held."""
        self._recent.clear()
        self._live_due = []
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def batch_starts(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Measures on a snapshot if a monitor is due; called once a batch, before the training step."""
        seen = SeenBatch(batch, batch_idx, samples_in(batch))
        self._recent.append(seen)
        step = current_step(trainer)
        self.clock.steps = max(self.clock.steps, step)
        self._live_due = []
        if batch_idx % trainer.accumulate_grad_batches != 0:
            return
        able = [monitor for monitor in self.monitors if monitor.measures_snapshots and not self._economy_of(monitor.settings).off]
        due = [monitor for monitor in able if self.is_due(trainer, monitor.cadence, step)]
        self._live_due = [monitor for monitor in due if monitor.settings.loss_fn is None and not pl_module.automatic_optimization]
        replayed = [monitor for monitor in due if monitor not in self._live_due]
        self._measure(trainer, pl_module, replayed, step, self._opener(trainer, pl_module, step))

    def measure_now(self, trainer: Any, pl_module: Any, monitor: Monitor) -> None:
        """Measures between batches, as at the end of an epoch, on the last batches that passed by; nothing when none did."""
        if self._recent and not self._economy_of(monitor.settings).off:
            step = current_step(trainer)
            self._measure(trainer, pl_module, [monitor], step, self._opener(trainer, pl_module, step))

    def _opener(self, trainer: Any, pl_module: Any, step: int) -> Callable[[SurfaceSettings], AbstractContextManager[Snapshot]]:
        def opened(settings: SurfaceSettings) -> AbstractContextManager[Snapshot]:
            batches = list(self._recent)[-settings.batches :]
            return open_snapshot(trainer, pl_module, settings, batches, step, self._warm_start(settings), self._economy_of(settings))

        return opened

    def before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Measures on the live graph of the first loss of a batch, where the step cannot be replayed."""
        due, self._live_due = self._live_due, []
        if not due or not loss.requires_grad:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        unscaled = loss / scaler.get_scale() if scaler is not None else loss
        step = current_step(trainer)

        def opened(settings: SurfaceSettings) -> AbstractContextManager[Snapshot]:
            return live_snapshot(trainer, pl_module, settings, unscaled, self._recent[-1], step, self._warm_start(settings), self._economy_of(settings))

        self._measure(trainer, pl_module, due, step, opened)

    def _measure(
        self,
        trainer: Any,
        pl_module: Any,
        due: Sequence[Monitor],
        step: int,
        opened: Callable[[SurfaceSettings], AbstractContextManager[Snapshot]],
    ) -> None:
        for settings in dict.fromkeys(monitor.settings for monitor in due):
            group = [monitor for monitor in due if monitor.settings == settings]
            reports: list[Report] = []
            failed = self.failed
            with self.timed(trainer, [monitor.cadence for monitor in group], step):
                with self.guarded(type(group[0]).__name__, trainer, step), opened(settings) as snapshot:
                    for monitor in group:
                        monitor.prepare(snapshot)
                    self._state_memory(settings, group, snapshot)
                    for monitor in group:
                        with self.guarded(type(monitor).__name__, trainer, step):
                            reports.append(monitor.measure(trainer, pl_module, snapshot))
                if self.failed > failed:
                    self._back_off(trainer, pl_module, settings)
                for report in reports:
                    self.log(trainer, report, step)

    def _state_memory(self, settings: SurfaceSettings, group: Sequence[Monitor], snapshot: Snapshot) -> None:
        """Says once a surface, before its first measurement, how much memory measuring takes."""
        if settings not in self._economy:
            self._economy[settings] = Economy()
            needs = [monitor.memory(snapshot) for monitor in group]
            rank_zero_info(reduce(together, needs).sentence(snapshot.space))

    def _economy_of(self, settings: SurfaceSettings) -> Economy:
        return self._economy.get(settings, Economy())

    def _back_off(self, trainer: Any, pl_module: Any, settings: SurfaceSettings) -> None:
        """Makes measurements on a surface more sparing after memory has run out in one, on any rank."""
        (memory,) = largest_of_ranks(trainer, [self._memory])
        self._memory = _ENOUGH
        if memory == _ENOUGH:
            return
        batch = self._recent[-1].batch
        can_split = (
            memory < _INDIVISIBLE
            and (pl_module.automatic_optimization or settings.loss_fn is not None)
            and sharded_module(pl_module) is None
            and not couples_samples(pl_module, settings.eval_mode)
            and split_batch(batch, samples_in(batch), 2 * self._economy_of(settings).microbatches) is not None
        )
        # Ranks may hold batches of unequal size; all split, or none.
        (cannot,) = largest_of_ranks(trainer, [float(not can_split)])
        self._economy[settings] = self._economy_of(settings).next(not cannot)
        rank_zero_info(f"After running out of memory in a measurement: {self._economy[settings].describe()}.")

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
                self._memory = max(self._memory, _INDIVISIBLE if isinstance(error, NotSplittableError) else _RAN_OUT)
                free_after(error)
                self.warn(
                    "out of memory",
                    f"{name} ran out of memory at step {step} ({reason}). Training goes on untouched. The next measurements make do with less: fewer "
                    "vectors, then microbatches where the batch can be split, then none.",
                    every_rank=has_to_speak(error),
                )
                return
            self.warn(
                f"{name} {type(error).__name__}",
                f"{name} {'failed' if alone else 'could not measure'} at step {step} ({reason}). Training goes on untouched; further failures of this kind are "
                "counted in 'landscape/failed_measurements'.",
                every_rank=has_to_speak(error),
            )
        finally:
            self._guards -= 1

    @contextmanager
    def timed(self, trainer: Any, cadences: Sequence[Cadence], step: int, already: float = 0.0) -> Iterator[None]:
        """Books the time of the block, and ``already`` seconds before it, on the cadences, and lets them plan their next step."""
        _synchronize(trainer)
        started = time.perf_counter()
        self._drawing = 0.0
        # No ``finally``: what ends the run (an interrupt) ends it at once, without a word to ranks that may not be listening.
        yield
        _synchronize(trainer)
        now = time.perf_counter()
        seconds = now - started + already
        self.clock.paused(seconds)
        self.spent += seconds
        unique = list({id(cadence): cadence for cadence in cadences}.values())
        if not unique:
            return
        own = [seconds, self._drawing, -self.clock.training_seconds(now), self.clock.seconds_per_step(now)]
        spent, drawing, less_training, pace = largest_of_ranks(trainer, own)
        for cadence in unique:
            cadence.measured(step, spent / len(unique), rare=drawing / len(unique))
            cadence.plan(step, -less_training, pace)

    def log(self, trainer: Any, report: Report, step: int) -> None:
        """Sends a report to the loggers and the record file, with what measuring has cost so far. A logger that raises is a failed log."""
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
        own = [-self.clock.training_seconds(now), self.clock.seconds_per_step(now), cadence.expected]
        less_training, pace, cadence.expected = largest_of_ranks(trainer, own)
        if cadence.affords(step, -less_training):
            return True
        cadence.plan(step, -less_training, pace)
        return False

    def seconds_per_step(self) -> float:
        """Mean training time of one step so far, without measurements."""
        return self.clock.seconds_per_step(time.perf_counter())

    def overhead(self) -> float:
        """Share of the run's time that measurements took so far."""
        training = self.clock.training_seconds(time.perf_counter())
        return self.spent / (training + self.spent) if training + self.spent > 0.0 else 0.0

    def warm_starts_to_save(self, monitor: Monitor) -> dict[str, Tensor]:
        """The start vectors that a monitor's checkpoint holds; of monitors that share them, the first one's."""
        sharing = [other for other in self.monitors if other.measures_snapshots and other.settings == monitor.settings]
        return self._warm_start(monitor.settings).state_dict() if sharing and sharing[0] is monitor else {}

    def _warm_start(self, settings: SurfaceSettings) -> WarmStarts:
        return self._warm_starts.setdefault(settings, WarmStarts())


def _synchronize(trainer: Any) -> None:
    """Waits for the accelerator, so that training work in flight is not booked as measuring, nor measuring as training."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
