"""The common base of the monitors: keywords, checks, hooks and state. What a monitor sees is its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from landscape_callbacks.surface.loss_surface import DIFFERENTIATIONS
from landscape_callbacks.surface.sharded import is_sharded
from landscape_callbacks.training import compatibility
from landscape_callbacks.training.cadence import Cadence
from landscape_callbacks.training.coordinator import Coordinator
from landscape_callbacks.training.lightning_namespace import Callback, MisconfigurationException
from landscape_callbacks.training.memory import Memory, vector_memory
from landscape_callbacks.training.replay import LossFunction
from landscape_callbacks.training.reporting import Report
from landscape_callbacks.training.snapshot import Snapshot, SurfaceSettings, select_parameters


class Monitor(Callback):
    """A Lightning callback that looks at the loss surface now and then, and leaves training as it was.

    A subclass says what it measures in :meth:`measure`, and announces in :meth:`prepare` what it will ask of the
    spectrum.

    Args:
        every_n_steps: Smallest distance of two measurements (optimizer steps).
        max_overhead: Share of training time that measurements may take. ``None``: no budget, measure exactly every n
            steps.
        parameters: Regular expression on parameter names (``re.search``); ``None``: all trainable parameters.
        loss_fn: Called as ``loss_fn(pl_module, batch) -> scalar`` instead of replaying ``training_step``.
        eval_mode: Dropout off, batch-norm statistics frozen while measuring.
        batches: Batches to average over: the last ones that passed by. The loader is never touched.
        differentiation: ``"double_backward"``, ``"central_difference"``, or ``"auto"``: the second only where the
            first fails.
        verbose: Print a line a measurement (rank zero).

    Raises:
        MisconfigurationException: When an argument is wrong; in ``setup`` when the trainer cannot be supported.
    """

    measures_snapshots = True
    needs_other_weights = False
    reads_gradients = False

    def __init__(
        self,
        *,
        every_n_steps: int,
        max_overhead: float | None,
        parameters: str | None = None,
        loss_fn: LossFunction | None = None,
        eval_mode: bool = False,
        batches: int = 1,
        differentiation: str = "auto",
        verbose: bool = False,
    ) -> None:
        name = type(self).__name__
        self.every_n_steps = compatibility.require_positive_int(name, "every_n_steps", every_n_steps)
        self.max_overhead = compatibility.require_overhead(name, max_overhead)
        self.settings = SurfaceSettings(
            parameters=compatibility.require_pattern(name, parameters),
            loss_fn=compatibility.require_callable(name, "loss_fn", loss_fn),
            eval_mode=bool(eval_mode),
            batches=compatibility.require_positive_int(name, "batches", batches),
            differentiation=compatibility.require_choice(name, "differentiation", differentiation, DIFFERENTIATIONS),
        )
        self.verbose = bool(verbose)
        self.cadence = Cadence(self.every_n_steps, self.max_overhead)
        self.carried_seconds = 0.0
        self.carried_failures = 0
        self.carried_warm_starts: dict[str, Tensor] = {}
        self._coordinator: Coordinator | None = None
        self._state_key: str | None = None

    @property
    def state_key(self) -> str:
        """Tells two instances with different settings apart in a checkpoint."""
        # Kept: Lightning asks for it in every hook of every batch.
        if self._state_key is None:
            self._state_key = self._generate_state_key(**self.identity())
        return self._state_key

    def identity(self) -> dict[str, Any]:
        """The settings that two instances in one trainer differ by."""
        return {
            "every_n_steps": self.every_n_steps,
            "parameters": self.settings.parameters,
            "eval_mode": self.settings.eval_mode,
            "batches": self.settings.batches,
        }

    @property
    def cadences(self) -> tuple[Cadence, ...]:
        """All that this monitor spends time by."""
        return (self.cadence,)

    @property
    def coordinator(self) -> Coordinator:
        """The coordinator of the trainer that this monitor is set up on."""
        if self._coordinator is None:
            raise RuntimeError(f"{type(self).__name__} is used outside of trainer.fit.")
        return self._coordinator

    def wakes_at(self) -> int:
        """First step from now on at which ``on_train_batch_start`` may have something to do."""
        return min(cadence.earliest for cadence in self.cadences)

    def joins(self, due: Sequence[Monitor]) -> bool:
        """Whether to measure along with monitors that are due, since what they ask of the snapshot is wanted too."""
        return False

    def prepare(self, snapshot: Snapshot) -> None:
        """Announces what :meth:`measure` will ask of the spectrum, by ``snapshot.expect``."""

    def measure(self, trainer: Any, pl_module: Any, snapshot: Snapshot) -> Report:
        """Measures on a snapshot and gives what to log."""
        raise NotImplementedError

    def memory(self, snapshot: Snapshot) -> Memory:
        """What :meth:`measure` takes at its peak, beside activations: the weights as they were, directions, a
        product, and two vectors a batch.
        """
        return vector_memory(snapshot.space, 8 + 2 * self.settings.batches)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuses what cannot be supported, before any training time is spent."""
        if stage != "fit":
            return
        if self.measures_snapshots:
            compatibility.require_supported_trainer(
                type(self).__name__,
                trainer,
                pl_module,
                loss_fn=self.settings.loss_fn,
                needs_other_weights=self.needs_other_weights,
                batches=self.settings.batches,
            )
        elif self.reads_gradients:
            compatibility.require_supported_strategy(type(self).__name__, trainer)
        coordinator = Coordinator.of(trainer)
        if self._coordinator not in (None, coordinator):
            # Another trainer counts its steps from the start again; a checkpoint brings its own state after this.
            for cadence in self.cadences:
                cadence.start_over()
            self.carried_seconds, self.carried_failures, self.carried_warm_starts = 0.0, 0, {}
        self._coordinator = coordinator
        self._coordinator.register(self)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Checks the parameters, which exist from here on."""
        if self.measures_snapshots:
            sharded = any(is_sharded(part) for part in pl_module.modules())
            compatibility.require_supported_shards(
                type(self).__name__, trainer, sharded=sharded, differentiation=self.settings.differentiation
            )
            try:
                select_parameters(pl_module, self.settings.parameters)
            except ValueError as error:
                raise MisconfigurationException(f"{type(self).__name__}: {error}") from error

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts the clock."""
        if self.coordinator.leads(self):
            self.coordinator.start(trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Measures by replay, if due."""
        if self.coordinator.leads(self):
            self.coordinator.batch_starts(trainer, pl_module, batch, batch_idx)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Measures on the live graph, if due and replay is impossible."""
        if self.coordinator.leads(self):
            self.coordinator.before_backward(trainer, pl_module, loss)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Closes the record file, after the last monitor."""
        if self.coordinator.closes(self):
            self.coordinator.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Closes the record file, so that an interrupted run keeps its logs."""
        if self._coordinator is not None:
            self._coordinator.stop()

    def state_dict(self) -> dict[str, Any]:
        """The cadence as plain values, the count of failures, and start vectors of the next measurement as CPU
        tensors.
        """
        running = self._coordinator
        return {
            "cadence": self.cadence.state_dict(),
            "training_seconds": running.clock.training_seconds(time.perf_counter())
            if running
            else self.carried_seconds,
            "failed_measurements": running.failed if running else self.carried_failures,
            "warm_starts": running.warm_starts_to_save(self) if running else self.carried_warm_starts,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the cadence, the budget and the start vectors of the run that was interrupted."""
        self.cadence.load_state_dict(state_dict["cadence"])
        self.carried_seconds = float(state_dict["training_seconds"])
        self.carried_failures = int(state_dict.get("failed_measurements", 0))
        self.carried_warm_starts = dict(state_dict.get("warm_starts", {}))
