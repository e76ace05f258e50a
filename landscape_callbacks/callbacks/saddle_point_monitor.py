"""What kind of place training is in, told with evidence, and once."""

from __future__ import annotations

import math
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from landscape_callbacks.callbacks.escape import ESCAPES, Escape
from landscape_callbacks.callbacks.loss_watch import LossWatch
from landscape_callbacks.callbacks.loss_watching_monitor import LossWatchingMonitor
from landscape_callbacks.callbacks.probing import LEAST_BATCHES, Look, look_at
from landscape_callbacks.diagnosis.episodes import Episode, EpisodeLog
from landscape_callbacks.records import Record
from landscape_callbacks.training.compatibility import require_choice, require_positive, require_positive_int
from landscape_callbacks.training.gated_cadence import GatedCadence
from landscape_callbacks.training.replay import LossFunction
from landscape_callbacks.training.reporting import Report, current_step
from landscape_callbacks.training.snapshot import Snapshot

_HORIZON = 1000
_STEPS_A_BATCH = 40.0


class SaddlePointMonitor(LossWatchingMonitor):
    r"""Says whether training progresses, has settled, or is stuck: at a saddle, on a plateau, or unstable.

    The loss of every step feeds a trend test. When the loss stops falling or blows up, and now and then besides, the
    monitor looks closer: the last ``batches`` batches are replayed, directions are chosen on one half of them and
    tested on the other, and the verdict rests on what each move could win. *Undetermined* is one of the answers. A
    warning is given once an episode, with its evidence, and the end of the episode is told too.

    ============================================  ==================================================================
    tag                                           meaning
    ============================================  ==================================================================
    ``diagnosis/saddle_score``                    0 (no sign) to 1 (negative curvature for sure, and far more to win
                                                  along it)
    ``diagnosis/plateau``                         0 (falls for sure) to 1 (has stopped for sure)
    ``diagnosis/verdict``                         text: verdict, evidence with standard errors, cost
    ``diagnosis/samples``                         samples of training that all looks so far cost
    ``stability/batch_sharpness_ratio``           batch sharpness over the limit, with ``…_error``: the gauge
                                                  that goes to 1 at the edge of stability when training on minibatches
    ``stability/largest_stable_learning_rate``    where steps would stop contracting, at the largest curvature seen
    ============================================  ==================================================================

    Args:
        every_n_steps: Smallest distance of two looks (optimizer steps).
        max_overhead: Share of training time that looks may take; ``None``: look whenever there is reason to. A look
            costs about as much as ``40 · batches`` training steps. The first one that the loss asks for is taken at
            once.
        first_within_budget: Let the first look wait until the budget allows it.
        batches: Batches to look at: the last ones that passed by, at least 4. More tell smaller effects.
        full_batch: Whether every step sees the whole training set, so that there is no sampling error. ``None``: when
            an epoch is one batch.
        horizon: Steps over which a decrease of the loss has to matter to count as progress.
        escape: ``None``: only tell. ``"perturb"``: at a saddle, move the weights by uniform noise in a ball (Jin et al.
            2017, arXiv 1703.00887). ``"line_search"``: move them along the tested direction of negative curvature, by
            the tested distance. Optimizer state is kept; every move is logged.
        escape_radius: Length of a perturbation, as a share of the norm of the weights.
        max_escapes: Most moves in a run.
        parameters: Regular expression on parameter names (``re.search``); ``None``: all trainable parameters.
        loss_fn: Called as ``loss_fn(pl_module, batch) -> scalar`` instead of replaying ``training_step``.
        eval_mode: Dropout off, batch-norm statistics frozen while looking.
        verbose: Print every verdict (rank zero), not only the warnings.

    Raises:
        MisconfigurationException: When an argument is wrong; in ``setup`` when the trainer cannot be supported.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from landscape_callbacks import SaddlePointMonitor
        >>> trainer = Trainer(callbacks=[SaddlePointMonitor()], logger=False, enable_checkpointing=False)
    """

    needs_other_weights = True
    cadence: GatedCadence

    def __init__(
        self,
        *,
        every_n_steps: int = 200,
        max_overhead: float | None = 0.05,
        first_within_budget: bool = False,
        batches: int = 16,
        full_batch: bool | None = None,
        horizon: int = _HORIZON,
        escape: str | None = None,
        escape_radius: float = 0.01,
        max_escapes: int = 3,
        parameters: str | None = None,
        loss_fn: LossFunction | None = None,
        eval_mode: bool = False,
        verbose: bool = False,
    ) -> None:
        name = type(self).__name__
        super().__init__(
            every_n_steps=every_n_steps,
            max_overhead=max_overhead,
            parameters=parameters,
            loss_fn=loss_fn,
            eval_mode=eval_mode,
            batches=require_positive_int(name, "batches", batches, minimum=LEAST_BATCHES),
            verbose=verbose,
        )
        self.first_within_budget = bool(first_within_budget)
        self.full_batch = full_batch
        self.horizon = require_positive_int(name, "horizon", horizon)
        self.escape = Escape(
            require_choice(name, "escape", escape, (None, *ESCAPES)),
            require_positive(name, "escape_radius", escape_radius),
            require_positive_int(name, "max_escapes", max_escapes),
        )
        self._start_over()

    def _start_over(self) -> None:
        self.watch = LossWatch(self.horizon)
        estimate = _STEPS_A_BATCH * self.settings.batches
        self.cadence = GatedCadence(
            self.every_n_steps, self.max_overhead, estimate=estimate, first_is_free=not self.first_within_budget
        )
        self.episodes = EpisodeLog()
        self.cost = 0.0
        self.look: Look | None = None
        self._samples_a_step = 0
        self._state_of_trend = "undetermined"
        self._logged = -math.inf

    def identity(self) -> dict[str, Any]:
        """The settings that two instances in one trainer differ by."""
        return {
            "batches": self.settings.batches,
            "parameters": self.settings.parameters,
            "eval_mode": self.settings.eval_mode,
        }

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Starts over: a checkpoint brings its own state after this."""
        if stage == "fit":
            self._start_over()
        super().setup(trainer, pl_module, stage)

    def on_losses(self, trainer: Any, pl_module: Any) -> None:
        """Logs how flat the loss is, and asks for a look where it has stopped falling or blows up."""
        trend = self.watch.trend.report()
        step = current_step(trainer)
        changed = trend.state != self._state_of_trend
        if changed or step >= self._logged + trainer.log_every_n_steps:
            self._logged = step
            self.coordinator.log(trainer, Report({"diagnosis/plateau": trend.plateau_score}), step)
        if self.watch.blew_up:
            self.cadence.request(at_once=step - self.cadence.last_step >= self.every_n_steps // 8 or self.look is None)
        elif changed and trend.state in ("plateau", "rising"):
            self.cadence.request()
        self._state_of_trend = trend.state
        if trend.state == "progressing":
            self._tell(trainer, self.episodes.progress(step, "the loss falls again"))

    def measure(self, trainer: Any, pl_module: Any, snapshot: Snapshot) -> Report:
        """Looks closer: a probe, a verdict, and what of it a person should be told."""
        trend = self.watch.trend.report()
        losses = {"initial_loss": self.watch.initial, "lowest_loss": self.watch.lowest_ever}
        look = look_at(trainer, snapshot, trend, **losses, full_batch=self.full_batch)
        if isinstance(look, str):
            if self.verbose:
                rank_zero_info(f"{type(self).__name__} cannot tell yet at step {snapshot.step}: {look}")
            return Report()
        self.look, self._samples_a_step = look, look.samples_a_step
        self.watch.settle()
        verdict = look.verdict
        self.cost += verdict.cost
        started, ended = self.episodes.verdict(snapshot.step, verdict)
        self._tell(trainer, ended)
        scalars = {
            "diagnosis/saddle_score": verdict.saddle_score,
            "diagnosis/plateau": trend.plateau_score,
            "diagnosis/samples": self.cost,
            "stability/largest_stable_learning_rate": look.largest_stable_rate,
        }
        if look.sharpness is not None and look.batch_sharpness_ratio is not None:
            scalars["stability/batch_sharpness_ratio"] = look.batch_sharpness_ratio
            scalars["stability/batch_sharpness_ratio_error"] = look.sharpness.error / look.situation.curvature_limit
        records = [self._record(snapshot.step, self.episodes.current)]
        sentence = f"step {snapshot.step}: {verdict.sentence}"
        sentence += f" Suggestion: {verdict.suggestion}" if verdict.suggestion else ""
        if started is not None and verdict.warning:
            rank_zero_warn(f"{type(self).__name__}, {sentence}", category=RuntimeWarning)
        elif self.verbose:
            rank_zero_info(f"{type(self).__name__}, {sentence}")
        texts = {"diagnosis/verdict": f"step {snapshot.step}: {verdict.as_markdown()}"} if started is not None else {}
        if verdict.label == "strict saddle":
            self.escape.plan(look, snapshot)
        return Report(scalars, records, texts)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Takes the loss, and moves the weights off a saddle where that was asked for."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        moved = self.escape.carry_out(pl_module, self.settings.parameters)
        if moved is not None:
            step = current_step(trainer)
            self.watch.restart()
            self.cadence.reset(step)
            rank_zero_info(f"{type(self).__name__}, step {step}: {moved.sentence}")
            report = Report({"diagnosis/escape": moved.length}, texts={"diagnosis/escape": moved.sentence})
            self.coordinator.log(trainer, report, step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Ends the last episode in the record."""
        self._tell(trainer, self.episodes.progress(current_step(trainer), "the run ended"), quiet=True)
        super().on_train_end(trainer, pl_module)

    def _tell(self, trainer: Any, ended: Episode | None, quiet: bool = False) -> None:
        if ended is None:
            return
        sentence = (
            f"step {ended.end}: the {ended.verdict.label} that began at step {ended.start} is over: {ended.reason}."
        )
        if ended.verdict.warning and not quiet:
            rank_zero_info(f"{type(self).__name__}, {sentence}")
        texts = {"diagnosis/verdict": sentence} if ended.verdict.warning else {}
        self.coordinator.log(
            trainer, Report(records=[self._record(ended.end or 0, ended)], texts=texts), ended.end or 0
        )

    def _record(self, step: int, episode: Episode | None) -> Record:
        assert episode is not None
        info = {
            **episode.verdict.as_info(),
            "measured_step": episode.measured,
            "samples_a_step": self._samples_a_step,
            "episode_start": episode.start,
            "episode_end": episode.end,
        }
        return Record("verdict", "episode", step, {}, info)

    def state_dict(self) -> dict[str, Any]:
        """The cadence, the trend and the cost so far, as plain values."""
        return {
            **super().state_dict(),
            "watch": self.watch.state_dict(),
            "cost": self.cost,
            "escapes": self.escape.moves,
            "state_of_trend": self._state_of_trend,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues an interrupted run."""
        super().load_state_dict(state_dict)
        self.watch.load_state_dict(state_dict["watch"])
        self.cost = float(state_dict["cost"])
        self.escape.moves = int(state_dict["escapes"])
        self._state_of_trend = str(state_dict["state_of_trend"])
