"""Adjust the learning rate on detected plateaus."""

from __future__ import annotations

import math
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from landscape_callbacks.callbacks.learning_rate_actions import carry_out, current_rates, other_controllers, peak_rates
from landscape_callbacks.callbacks.loss_watch import LossWatch
from landscape_callbacks.callbacks.loss_watching_monitor import LossWatchingMonitor
from landscape_callbacks.callbacks.metric_watch import MetricWatch
from landscape_callbacks.callbacks.probing import LEAST_BATCHES, Look, look_at
from landscape_callbacks.diagnosis.learning_rate_decision import decide
from landscape_callbacks.diagnosis.learning_rate_policy import (
    POLICIES,
    LearningRatePolicy,
    PolicyDecision,
    PolicyEvidence,
    PolicyState,
)
from landscape_callbacks.diagnosis.trend import Trend
from landscape_callbacks.training.compatibility import require_choice, require_positive, require_positive_int
from landscape_callbacks.training.gated_cadence import GatedCadence
from landscape_callbacks.training.lightning_namespace import MisconfigurationException, module_of
from landscape_callbacks.training.replay import LossFunction
from landscape_callbacks.training.reporting import Report, current_step
from landscape_callbacks.training.snapshot import Snapshot

_LOSS_HORIZON, _READING_HORIZON = 1000, 100
_UNASKED_SHARE = 0.1  # of the samples trained on, that probes may cost which nothing asked for


class PlateauLearningRateAdjuster(LossWatchingMonitor):
    """Adjusts the learning rate when training has reached a plateau, and says why.

    ``ReduceLROnPlateau`` cuts when the loss has not improved for a while, which is what every noisy or slow phase looks
    like. This callback cuts only where the *upper* confidence bound of the decrease is too small to wait for.

    With ``policy="trend"`` that is all: one statistical test on the loss. It takes a saddle for a noise floor, where a
    cut makes matters worse. With ``policy="diagnose"`` a plateau, a rise of the loss, or a long time without either has
    the loss surface probed on recent batches, and the verdict decides:

    ==============================  ==================================================================================
    verdict                         what happens
    ==============================  ==================================================================================
    noise floor                     cut, if that wins more than going on can (upper bound of the coming decrease)
    strict saddle, step too small   raise toward half of the largest stable rate, at most tenfold at once
    unstable                        cut to half of the largest stable rate
    flat                            warn
    others                          nothing
    ==============================  ==================================================================================

    A raise after which the loss ends above where it was is taken back. All learning rates are multiplied by one factor,
    in the optimizer and in every scheduler, so that the rest of the schedule keeps its shape and a checkpoint holds the
    change by itself.

    Nothing happens to training while nothing acts. Actions are bounded in number, kept within ``min_lr`` and
    ``max_lr``, logged with their reason, and undone by :meth:`revert`.

    Args:
        monitor: Metric to watch, as in ``ReduceLROnPlateau``; read after each validation that logs it, else after each
            epoch. ``None``: the training loss of every step, which tells sooner.
        policy: ``"diagnose"`` or ``"trend"``.
        factor: What a cut multiplies the learning rate by.
        cooldown: Optimizer steps after an action in which no other is taken.
        min_lr: No group's learning rate is cut below this.
        max_lr: No group's learning rate is raised above this, now or later in its schedule.
        mode: ``"min"`` or ``"max"``, of ``monitor``.
        max_actions: Most actions in a run.
        horizon: A plateau is where the loss falls by too little in this many steps (or readings of ``monitor``).
            ``None``: 1000 steps, or 100 readings.
        full_batch: Whether every step sees the whole training set, so that probes have no sampling error. ``None``:
            when an epoch has one batch.
        every_n_steps: Smallest distance of two probes (optimizer steps).
        max_overhead: Share of training time that probes may take; ``None``: no budget, so that decisions do not depend
            on the speed of the machine.
        batches: Recent batches that a probe looks at: half of them choose directions, half test.
        parameters: Regular expression on parameter names (``re.search``); ``None``: all trainable parameters.
        loss_fn: Called as ``loss_fn(pl_module, batch) -> scalar`` instead of replaying ``training_step``.
        eval_mode: Dropout off, batch-norm statistics frozen while probing.
        verbose: Say also why nothing was done (rank zero).

    Raises:
        MisconfigurationException: When an argument is wrong; in ``setup`` when the trainer cannot be supported.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from landscape_callbacks import PlateauLearningRateAdjuster
        >>> adjuster = PlateauLearningRateAdjuster(policy="trend", factor=0.5, min_lr=1e-5)
        >>> trainer = Trainer(callbacks=[adjuster], logger=False, enable_checkpointing=False)
    """

    needs_other_weights = True
    cadence: GatedCadence

    def __init__(
        self,
        *,
        monitor: str | None = None,
        policy: str = "diagnose",
        factor: float = 0.5,
        cooldown: int = 100,
        min_lr: float = 0.0,
        max_lr: float | None = None,
        mode: str = "min",
        max_actions: int = 10,
        horizon: int | None = None,
        full_batch: bool | None = None,
        every_n_steps: int = 100,
        max_overhead: float | None = 0.05,
        batches: int = 16,
        parameters: str | None = None,
        loss_fn: LossFunction | None = None,
        eval_mode: bool = False,
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
        default_horizon = _LOSS_HORIZON if monitor is None else _READING_HORIZON
        self.horizon = default_horizon if horizon is None else require_positive_int(name, "horizon", horizon)
        self.full_batch = full_batch
        self.measures_snapshots = policy == "diagnose"
        super().__init__(
            every_n_steps=every_n_steps,
            max_overhead=max_overhead,
            parameters=parameters,
            loss_fn=loss_fn,
            eval_mode=eval_mode,
            batches=require_positive_int(name, "batches", batches, minimum=LEAST_BATCHES),
            verbose=verbose,
        )
        self._start_over()

    def _start_over(self) -> None:
        self.state = PolicyState()
        self.history: list[tuple[int, PolicyDecision]] = []
        self.probe_cost = 0.0
        self.cadence = GatedCadence(self.every_n_steps, self.max_overhead)
        self.watch = LossWatch(self.horizon if self.monitor is None else _LOSS_HORIZON)
        self.metric = None if self.monitor is None else MetricWatch(self.monitor, self.mode, self.horizon)
        self._look: Look | None = None
        self._cut_gain: float | None = None
        self._state_of_trend = "undetermined"
        self._last_reason = ""

    def identity(self) -> dict[str, Any]:
        """The settings that two instances in one trainer differ by."""
        return {"monitor": self.monitor, "mode": self.mode, "policy": self.policy.policy}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Starts over: a new fit configures its optimizers anew, and a checkpoint brings its own state after this."""
        if stage == "fit":
            self._start_over()
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Warns where something else steers the learning rate too."""
        super().on_train_start(trainer, pl_module)
        for sentence in other_controllers(trainer):
            rank_zero_warn(f"{type(self).__name__}: {sentence}")
        others = [other for other in trainer.callbacks if isinstance(other, PlateauLearningRateAdjuster)]
        if len(others) > 1 and others[0] is self:
            rank_zero_warn(f"{len(others)} {type(self).__name__} callbacks act on the same learning rate; keep one.")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begins a batch, with a probe if one is due."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._look is not None:
            self._decide(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Takes the loss of the step, and decides on a probe that another callback's hook has run."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._look is not None:
            self._decide(trainer)

    def on_losses(self, trainer: Any, pl_module: Any) -> None:
        """Decides when a block of losses is complete."""
        self._decide(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Reads the monitored metric, where validation logs it."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if self.metric is not None and fitting and self.metric.read(trainer, "validation"):
            self._decide(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Reads the monitored metric, where training logs it."""
        if self.metric is None:
            return
        if self.metric.read(trainer, "epoch"):
            self._decide(trainer)
        missing = self.metric.is_missing(trainer)
        if missing is not None:
            self.coordinator.warn(f"{type(self).__name__} monitor", f"{type(self).__name__} {missing}")

    def measure(self, trainer: Any, pl_module: Any, snapshot: Snapshot) -> Report:
        """Probes the surface; what follows from it is decided after the snapshot is closed."""
        losses = {"initial_loss": self.watch.initial, "lowest_loss": self.watch.lowest_ever}
        look = look_at(trainer, snapshot, self.watch.trend.report(), **losses, full_batch=self.full_batch)
        if isinstance(look, str):
            self.coordinator.warn(f"{type(self).__name__} {look}", f"{type(self).__name__} could not tell: {look}")
            return Report()
        self._look = look
        self.probe_cost += look.verdict.cost
        a_step = look.probe.measurement.samples / look.probe.measurement.microbatches * trainer.accumulate_grad_batches
        self.cadence.unasked_from = math.ceil(self.probe_cost / (_UNASKED_SHARE * a_step))
        return Report({"learning_rate/probe_cost": self.probe_cost})

    def _decide(self, trainer: Any) -> None:
        trend = self.watch.trend.report()
        look, self._look = self._look, None
        if look is not None:
            self._cut_gain = look.cut_gain if look.verdict.label == "noise floor" else None
        elif trend.state != "plateau":
            self._cut_gain = None
        evidence = self._evidence(trainer, trend, look)
        self.state, decision = decide(self.policy, self.state, evidence)
        if decision.acts:
            self._act(trainer, decision, look.verdict.sentence if look is not None else "")
        elif decision.action == "warn":
            self.coordinator.warn(f"{type(self).__name__} {decision.reason}", decision.reason)
        elif self.verbose and decision.reason != self._last_reason:
            self._say(trainer, f"step {evidence.step}: {decision.reason}")
        self._last_reason = decision.reason
        if look is not None:
            self.watch.settle()
        elif self.watch.blew_up:
            # Looking again at every step of a loss that stays high would tell the same at great cost.
            waited = evidence.step - self.cadence.last_step >= self.every_n_steps // 8
            self.cadence.request(at_once=waited or self.probe_cost == 0.0)
        elif evidence.trend != self._state_of_trend and evidence.trend in ("plateau", "rising"):
            self.cadence.request()
        self._state_of_trend = evidence.trend
        self.coordinator.wake_for(self)

    def _evidence(self, trainer: Any, trend: Trend, look: Look | None) -> PolicyEvidence:
        watched = trend if self.metric is None else self.metric.trend.report()
        known: dict[str, Any] = {}
        if look is not None:
            known = {"verdict": look.verdict.label, "largest_stable_rate": look.largest_stable_rate}
        if self._cut_gain is not None:
            # What a cut wins was measured by the probe; what going on can win is known better with every block.
            known |= {"verdict": "noise floor", "cut_gain": self._cut_gain}
        if watched.state == "plateau" or self._cut_gain is not None:
            bound = (watched if self.policy.policy == "trend" else trend).upper()
            known["decrease_bound"] = bound if math.isfinite(bound) else math.inf
        return PolicyEvidence(
            step=current_step(trainer),
            trend=watched.state,
            learning_rates=current_rates(trainer),
            peak_learning_rates=peak_rates(trainer),
            loss=None if trend.steps == 0 else self.watch.level,
            loss_noise=self.watch.noise,
            **known,
        )

    def revert(self, trainer: Any) -> None:
        """Undoes all actions: learning rates, and the rest of their schedules, become what they would be without."""
        if self.state.scale != 1.0:
            factor = 1.0 / self.state.scale
            self.state = PolicyState(actions=self.state.actions, last_step=current_step(trainer))
            self._act(trainer, PolicyDecision("revert", factor, "All actions are undone on request."), "")

    def _act(self, trainer: Any, decision: PolicyDecision, verdict: str) -> None:
        step = current_step(trainer)
        sentence = f"step {step}: {decision.reason} Action {self.state.actions} of {self.policy.max_actions}."
        report = carry_out(trainer, decision, scale=self.state.scale, sentence=sentence, verdict=verdict)
        # What the loss did at another learning rate says nothing about what it will do at this one.
        self.watch.restart()
        if self.metric is not None:
            self.metric.trend.restart()
        self.cadence.reset(step)
        if decision.action == "revert":
            self.cadence.request()  # what called for the raise is still there
        self._cut_gain = None
        self.history.append((step, decision))
        self._say(trainer, sentence)
        self.coordinator.log(trainer, report, step)

    def _say(self, trainer: Any, sentence: str) -> None:
        module_of(trainer, "utilities.rank_zero").rank_zero_info(f"{type(self).__name__}, {sentence}")

    def state_dict(self) -> dict[str, Any]:
        """What the controller remembers. The learning rates are in the state of optimizers and schedulers."""
        return {
            **super().state_dict(),
            "policy": self.state._asdict(),
            "watch": self.watch.state_dict(),
            "metric": None if self.metric is None else self.metric.state_dict(),
            "cut_gain": self._cut_gain,
            "state_of_trend": self._state_of_trend,
            "probe_cost": self.probe_cost,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues an interrupted run. No learning rate is changed: those of the checkpoint are changed already."""
        super().load_state_dict(state_dict)
        self.state = PolicyState(**state_dict["policy"])
        self.watch.load_state_dict(state_dict["watch"])
        if self.metric is not None:
            self.metric.load_state_dict(state_dict["metric"])
        self._cut_gain = state_dict["cut_gain"]
        self._state_of_trend = state_dict["state_of_trend"]
        self.probe_cost = float(state_dict["probe_cost"])
