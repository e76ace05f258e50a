"""Adjust the learning rate on detected plateaus."""

from __future__ import annotations

import math
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from landscape_callbacks.diagnosis.learning_rate_policy import (
    POLICIES,
    LearningRatePolicy,
    PolicyDecision,
    PolicyEvidence,
    PolicyState,
    decide,
)
from landscape_callbacks.diagnosis.trend import LossTrend
from landscape_callbacks.records import Record
from landscape_callbacks.training.compatibility import require_choice, require_positive, require_positive_int
from landscape_callbacks.training.learning_rate import (
    learning_rates,
    peak_learning_rates,
    plateau_schedulers,
    scale_learning_rate,
    unknown_schedulers,
)
from landscape_callbacks.training.lightning_namespace import MisconfigurationException, module_of
from landscape_callbacks.training.loss_history import LossHistory, loss_of_outputs
from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.reporting import Report, current_step


class PlateauLearningRateAdjuster(Monitor):
    """Adjusts the learning rate when training has reached a plateau, and says why.

    ``ReduceLROnPlateau`` cuts when the loss has not improved for a while, which is what every noisy or slow phase looks
    like. This callback cuts only where the *upper* confidence bound of the decrease is too small to wait for. With
    ``policy="trend"`` that is all: one statistical test on the loss. All learning rates are multiplied by one factor,
    in the optimizer and in every scheduler, so that the rest of the schedule keeps its shape and a checkpoint holds the
    change by itself.

    Nothing happens to training while nothing acts. Actions are bounded in number, kept within ``min_lr`` and
    ``max_lr``, logged with their reason, and undone by :meth:`revert`.

    Args:
        monitor: Metric to watch, as in ``ReduceLROnPlateau``; read after each validation that logs it, else after each
            epoch. ``None``: the training loss of every step, which tells sooner.
        policy: ``"trend"``.
        factor: What a cut multiplies the learning rate by.
        cooldown: Optimizer steps after an action in which no other is taken.
        min_lr: No group's learning rate is cut below this.
        max_lr: No group's learning rate is raised above this, now or later in its schedule.
        mode: ``"min"`` or ``"max"``, of ``monitor``.
        max_actions: Most actions in a run.
        horizon: A plateau is where the loss falls by too little in this many steps (or readings of ``monitor``).
            ``None``: 1000 steps, or 100 readings.
        verbose: Say also why nothing was done (rank zero).

    Raises:
        MisconfigurationException: When an argument is wrong; in ``setup`` when the trainer cannot be supported.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from landscape_callbacks import PlateauLearningRateAdjuster
        >>> adjuster = PlateauLearningRateAdjuster(policy="trend", factor=0.5, min_lr=1e-5)
        >>> trainer = Trainer(callbacks=[adjuster], logger=False, enable_checkpointing=False)
    """

    measures_snapshots = False

    def __init__(
        self,
        *,
        monitor: str | None = None,
        policy: str = "trend",
        factor: float = 0.5,
        cooldown: int = 100,
        min_lr: float = 0.0,
        max_lr: float | None = None,
        mode: str = "min",
        max_actions: int = 10,
        horizon: int | None = None,
        verbose: bool = False,
    ) -> None:
        name = type(self).__name__
        try:
            self.policy = LearningRatePolicy(
                policy=require_choice(name, "policy", policy, POLICIES),
                factor=require_positive(name, "factor", factor),
                cooldown=require_positive_int(name, "cooldown", cooldown, minimum=0),
                min_lr=float(min_lr),
                max_lr=None if max_lr is None else require_positive(name, "max_lr", max_lr),
                max_actions=require_positive_int(name, "max_actions", max_actions, minimum=0),
            )
        except ValueError as error:
            raise MisconfigurationException(f"{name}: {error}") from error
        self.monitor = monitor
        self.mode = require_choice(name, "mode", mode, ("min", "max"))
        default_horizon = 1000 if monitor is None else 100
        self.horizon = default_horizon if horizon is None else require_positive_int(name, "horizon", horizon)
        super().__init__(every_n_steps=1, max_overhead=None, verbose=verbose)
        self._start_over()

    def _start_over(self) -> None:
        self.state = PolicyState()
        self.trend = LossTrend(horizon=self.horizon)
        self._history = LossHistory()
        self._batch_has_loss = False
        self._read_after: str | None = None
        self._last_reason = ""

    @property
    def state_key(self) -> str:
        """Tells two instances with different settings apart in a checkpoint."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode, policy=self.policy.policy)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Starts over: a new fit configures its optimizers anew, and a checkpoint brings its own state after this."""
        if stage == "fit":
            self._start_over()
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Warns where something else steers the learning rate too."""
        super().on_train_start(trainer, pl_module)
        schedulers = _schedulers(trainer)
        if any(plateau_schedulers(optimizer, schedulers) for optimizer in trainer.optimizers):
            rank_zero_warn(
                f"{type(self).__name__} and a ReduceLROnPlateau scheduler both act on plateaus. Each sees the other's "
                "changes as its own; take one of them out."
            )
        others = [other for other in trainer.callbacks if isinstance(other, PlateauLearningRateAdjuster)]
        if len(others) > 1 and others[0] is self:
            rank_zero_warn(f"{len(others)} {type(self).__name__} callbacks act on the same learning rate; keep one.")
        unknown = unknown_schedulers(schedulers)
        if unknown:
            rank_zero_warn(
                f"{type(self).__name__} does not know {', '.join(unknown)} (no torch LRScheduler). If it computes "
                "the learning rate from numbers of its own, it will undo what is done here."
            )

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """Takes the loss where ``training_step`` steps the optimizers itself."""
        super().on_before_backward(trainer, pl_module, loss)
        if self.monitor is None and not pl_module.automatic_optimization and not self._batch_has_loss:
            self._batch_has_loss = True
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            self._history.add(loss if scaler is None else loss.detach() / scaler.get_scale(), steps=True)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begins a batch."""
        self._batch_has_loss = False
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Takes the loss of the step, and looks at the trend when a block of losses is complete."""
        if self.monitor is not None:
            return
        loss = loss_of_outputs(outputs) if pl_module.automatic_optimization else None
        steps = not trainer.fit_loop.epoch_loop._should_accumulate()
        if loss is not None:
            self._history.add(loss, steps=steps)
        if self._history.is_full():
            self._look(trainer, self._history.take(trainer))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Reads the monitored metric, where validation logs it."""
        if self.monitor is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self._read_after is None and self.monitor in trainer.callback_metrics:
            self._read_after = "validation"
        if self._read_after == "validation":
            self._read(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Reads the monitored metric, where training logs it."""
        if self.monitor is None or self._read_after == "validation":
            return
        if self.monitor in trainer.callback_metrics:
            self._read_after = "epoch"
            self._read(trainer)
        else:
            self.coordinator.warn(
                f"{type(self).__name__} monitor",
                f"{type(self).__name__} watches {self.monitor!r}, which is not among the logged metrics "
                f"({', '.join(sorted(trainer.callback_metrics)) or 'none'}). Log it, or set monitor=None for the loss.",
            )

    def _read(self, trainer: Any) -> None:
        if self.monitor in trainer.callback_metrics:
            self._history.add(trainer.callback_metrics[self.monitor], steps=True)
            self._look(trainer, self._history.take(trainer))

    def _look(self, trainer: Any, losses: list[float]) -> None:
        if self.mode == "max":
            losses = [-loss for loss in losses]
        self.trend.update_many(losses)
        trend = self.trend.report()
        schedulers = _schedulers(trainer)
        evidence = PolicyEvidence(
            step=current_step(trainer),
            trend=trend.state,
            learning_rates=tuple(rate for optimizer in trainer.optimizers for rate in learning_rates(optimizer)),
            peak_learning_rates=tuple(
                rate for optimizer in trainer.optimizers for rate in peak_learning_rates(optimizer, schedulers)
            ),
            loss=math.fsum(losses) / len(losses),
            decrease_bound=trend.upper(),
        )
        self.state, decision = decide(self.policy, self.state, evidence)
        if decision.acts:
            self._scale(trainer, decision)
        elif decision.action == "warn":
            self.coordinator.warn(f"{type(self).__name__} {decision.reason}", decision.reason)
        elif self.verbose and decision.reason != self._last_reason:
            self._say(trainer, f"step {evidence.step}: {decision.reason}")
        self._last_reason = decision.reason

    def revert(self, trainer: Any) -> None:
        """Undoes all actions: learning rates, and the rest of their schedules, become what they would be without."""
        if self.state.scale != 1.0:
            factor = 1.0 / self.state.scale
            self.state = PolicyState(actions=self.state.actions, last_step=current_step(trainer))
            self._scale(trainer, PolicyDecision("revert", factor, "All actions are undone on request."))

    def _scale(self, trainer: Any, decision: PolicyDecision) -> None:
        step = current_step(trainer)
        schedulers = _schedulers(trainer)
        before = [learning_rates(optimizer) for optimizer in trainer.optimizers]
        for optimizer in trainer.optimizers:
            scale_learning_rate(optimizer, decision.factor, schedulers)
        # What the loss did at another learning rate says nothing about what it will do at this one.
        self.trend.restart()
        self._history.clear()
        sentence = f"step {step}: {decision.reason} Action {self.state.actions} of {self.policy.max_actions}."
        self._say(trainer, sentence)
        info = {
            "action": decision.action,
            "factor": decision.factor,
            "scale": self.state.scale,
            "reason": decision.reason,
            "learning_rates_before": before,
            "learning_rates": [learning_rates(optimizer) for optimizer in trainer.optimizers],
            **decision.info,
        }
        report = Report(
            scalars={"learning_rate/scale": self.state.scale},
            records=[Record("action", "learning_rate", step, {}, info)],
            texts={"learning_rate/action": sentence},
        )
        self.coordinator.log(trainer, report, step)

    def _say(self, trainer: Any, sentence: str) -> None:
        module_of(trainer, "utilities.rank_zero").rank_zero_info(f"{type(self).__name__}, {sentence}")

    def state_dict(self) -> dict[str, Any]:
        """What the controller remembers. The learning rates are in the state of optimizers and schedulers."""
        return {
            **super().state_dict(),
            "policy": self.state._asdict(),
            "trend": self.trend.state_dict(),
            "losses": self._history.state_dict(),
            "read_after": self._read_after,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues an interrupted run. No learning rate is changed: those of the checkpoint are changed already."""
        super().load_state_dict(state_dict)
        self.state = PolicyState(**state_dict["policy"])
        self.trend.load_state_dict(state_dict["trend"])
        self._history.load_state_dict(state_dict["losses"])
        self._read_after = state_dict["read_after"]


def _schedulers(trainer: Any) -> list[Any]:
    return [config.scheduler for config in trainer.lr_scheduler_configs]
