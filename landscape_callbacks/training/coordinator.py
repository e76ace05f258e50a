"""One coordinator a trainer: it runs the measurements of all monitors at a step on one snapshot."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from landscape_callbacks.surface.sharded import sharded_module
from landscape_callbacks.training.bookkeeping import ENOUGH, INDIVISIBLE, Bookkeeping
from landscape_callbacks.training.cadence import Cadence, Clock
from landscape_callbacks.training.distributed import largest_of_ranks
from landscape_callbacks.training.handed_batch import batch_state
from landscape_callbacks.training.memory import Economy, together
from landscape_callbacks.training.microbatches import couples_samples, split_batch
from landscape_callbacks.training.reporting import Report, current_step
from landscape_callbacks.training.seen_batch import SeenBatch, samples_in
from landscape_callbacks.training.snapshot import Snapshot, SurfaceSettings, live_snapshot, open_snapshot
from landscape_callbacks.training.warm_starts import WarmStarts

if TYPE_CHECKING:
    from landscape_callbacks.training.monitor import Monitor

_coordinators: WeakKeyDictionary[Any, Coordinator] = WeakKeyDictionary()

# A batch of more entries (a list of strings) is not looked through at every step.
_MOST_ENTRIES = 32


class Coordinator(Bookkeeping):
    """Runs all monitors of one trainer.

    Monitors pass their hooks on; the first one registered leads, so that each hook acts once however many monitors
    there are.

    Attributes:
        monitors: The monitors that measure, in the order of the trainer's callbacks.
        asleep_until: First step at which one of them may have something to do when a batch starts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.monitors: list[Monitor] = []
        self._recent: deque[tuple[Any, int, Any]] = deque(maxlen=1)
        self._warm_starts: dict[SurfaceSettings, WarmStarts] = {}
        self._economy: dict[SurfaceSettings, Economy] = {}
        self._live_due: list[Monitor] = []
        self.asleep_until = 0

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
        cadences = self._cadences()
        self.spent = sum(one.spent for one in cadences)
        self.budget = sum(one.max_overhead or 0.0 for one in cadences)
        self.between, self.asleep_until = 0.0, 0
        self.failed = max([self.failed, *(monitor.carried_failures for monitor in self.monitors)])
        for monitor in self.monitors:
            if monitor.carried_warm_starts:
                self._warm_start(monitor.settings).load_state_dict(monitor.carried_warm_starts)
                monitor.carried_warm_starts = {}
        self.open(trainer)

    def stop(self) -> None:
        """Ends a fit, also by an exception: everything written is on disk, and nothing of the run is held."""
        self._recent.clear()
        self._live_due = []
        self.close()

    def batch_starts(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Measures on a snapshot if a monitor is due; called once a batch, before the training step."""
        step = current_step(trainer)
        self.pass_by(step, batch, batch_idx)
        if batch_idx % trainer.accumulate_grad_batches != 0:
            return
        able = [monitor for monitor in self.monitors if monitor.measures_snapshots]
        due = [
            monitor
            for monitor in able
            if self.is_due(trainer, monitor.cadence, step) and not self._economy_of(monitor.settings).off
        ]
        if not due:
            return
        due = [monitor for monitor in able if monitor in due or monitor.joins(due)]
        self._live_due = [
            monitor for monitor in due if monitor.settings.loss_fn is None and not pl_module.automatic_optimization
        ]
        replayed = [monitor for monitor in due if monitor not in self._live_due]
        self._measure(trainer, pl_module, replayed, step, self._opener(trainer, pl_module, step))

    def pass_by(self, step: int, batch: Any, batch_idx: int) -> None:
        """Remembers a batch; all that a step takes on which nothing is due."""
        self._recent.append((batch, batch_idx, batch_state(batch, _MOST_ENTRIES)))
        self.clock.steps = max(self.clock.steps, step)
        self._live_due = []

    def sleep(self) -> None:
        """Finds out until which step no monitor has anything to do when a batch starts."""
        self.asleep_until = min(monitor.wakes_at() for monitor in self.monitors)

    def wake_for(self, monitor: Monitor) -> None:
        """Sleeps no longer than one monitor does, as after it asked for a measurement."""
        self.asleep_until = min(self.asleep_until, monitor.wakes_at())

    def seconds_left(self) -> float:
        """What all budgets together still hold. Near the end of a fit, when nobody else needs it any more, all of it
        can go to what comes last. Negative when more was spent.
        """
        outside = sum(one.spent for one in self._cadences() if one.max_overhead is None)
        training = self.clock.training_seconds(time.perf_counter())
        return self.budget * training - (self.spent - outside)

    def _cadences(self) -> list[Cadence]:
        return list({id(one): one for monitor in self.monitors for one in monitor.cadences}.values())

    def measure_now(self, trainer: Any, pl_module: Any, monitor: Monitor) -> None:
        """Measures between batches, as at the end of an epoch, on the last batches that passed by; nothing when none
        did.
        """
        if self._last_batches(monitor.settings.batches) and not self._economy_of(monitor.settings).off:
            step = current_step(trainer)
            self._measure(trainer, pl_module, [monitor], step, self._opener(trainer, pl_module, step))

    def _last_batches(self, count: int) -> list[SeenBatch]:
        recent = list(self._recent)[-count:]
        whole = [(batch, index) for batch, index, state in recent if state == batch_state(batch, _MOST_ENTRIES)]
        if len(whole) < len(recent):
            self.warn(
                "edited batches",
                "training_step edits its batches, so that those it was called with before cannot be looked at any "
                "more: only that of the step itself is. Let it edit a copy.",
            )
        return [SeenBatch(batch, index, samples_in(batch)) for batch, index in whole]

    def _opener(
        self, trainer: Any, pl_module: Any, step: int
    ) -> Callable[[SurfaceSettings], AbstractContextManager[Snapshot]]:
        def opened(settings: SurfaceSettings) -> AbstractContextManager[Snapshot]:
            batches = self._last_batches(settings.batches)
            return open_snapshot(
                trainer, pl_module, settings, batches, step, self._warm_start(settings), self._economy_of(settings)
            )

        return opened

    def before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Measures on the live graph of the first loss of a batch, where the step cannot be replayed."""
        due, self._live_due = self._live_due, []
        if not due or not loss.requires_grad:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        unscaled = loss / scaler.get_scale() if scaler is not None else loss
        step = current_step(trainer)
        # The step may have edited it already; what is measured is on the graph.
        batch, index, _ = self._recent[-1]

        def opened(settings: SurfaceSettings) -> AbstractContextManager[Snapshot]:
            return live_snapshot(
                trainer,
                pl_module,
                settings,
                unscaled,
                SeenBatch(batch, index, samples_in(batch)),
                step,
                self._warm_start(settings),
                self._economy_of(settings),
            )

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
            need = reduce(together, needs)
            need = replace(need, beside_parameters=need.beside_parameters + snapshot.held_bytes)
            rank_zero_info(need.sentence(snapshot.space, [type(monitor).__name__ for monitor in group]))

    def _economy_of(self, settings: SurfaceSettings) -> Economy:
        return self._economy.get(settings, Economy())

    def _back_off(self, trainer: Any, pl_module: Any, settings: SurfaceSettings) -> None:
        """Makes measurements on a surface more sparing after memory has run out in one, on any rank."""
        (memory,) = largest_of_ranks(trainer, [self._memory])
        self._memory = ENOUGH
        if memory == ENOUGH:
            return
        batch = self._recent[-1][0]
        can_split = (
            memory < INDIVISIBLE
            and (pl_module.automatic_optimization or settings.loss_fn is not None)
            and sharded_module(pl_module) is None
            and not couples_samples(pl_module, settings.eval_mode)
            and split_batch(batch, samples_in(batch), 2 * self._economy_of(settings).microbatches) is not None
        )
        # Ranks may hold batches of unequal size; all split, or none.
        (cannot,) = largest_of_ranks(trainer, [float(not can_split)])
        self._economy[settings] = self._economy_of(settings).next(not cannot)
        rank_zero_info(f"After running out of memory in a measurement: {self._economy[settings].describe()}.")

    def warm_starts_to_save(self, monitor: Monitor) -> dict[str, Tensor]:
        """The start vectors that a monitor's checkpoint holds; of monitors that share them, the first one's."""
        sharing = [other for other in self.monitors if other.measures_snapshots and other.settings == monitor.settings]
        return self._warm_start(monitor.settings).state_dict() if sharing and sharing[0] is monitor else {}

    def _warm_start(self, settings: SurfaceSettings) -> WarmStarts:
        return self._warm_starts.setdefault(settings, WarmStarts())
