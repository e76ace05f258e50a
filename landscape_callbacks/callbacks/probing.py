"""From a snapshot and the trend of the loss to a verdict: what a probe needs to know of the trainer."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from landscape_callbacks.diagnosis.gains import gains
from landscape_callbacks.diagnosis.measurement import Situation
from landscape_callbacks.diagnosis.stability import curvature_limit, effective_learning_rate
from landscape_callbacks.diagnosis.stationarity import diagnose
from landscape_callbacks.diagnosis.trend import Trend
from landscape_callbacks.diagnosis.verdict import Verdict
from landscape_callbacks.surface.batch_sharpness import BatchSharpness, batch_sharpness
from landscape_callbacks.surface.probe import Probe, probe_surface
from landscape_callbacks.training.snapshot import Snapshot

LEAST_BATCHES = 4


class NoVerdictError(Exception):
    """There can be no verdict now; the message says why."""


@dataclass(frozen=True)
class Look:
    """A probe, how training stood, and the verdict on both.

    Attributes:
        probe: What was measured, and the directions that it is about.
        situation: How training stood.
        verdict: The verdict.
        sharpness: Of the minibatches, as the optimizer sees it; ``None`` where every step sees all data.
        samples_a_step: Samples that a training step sees, on all ranks.
    """

    probe: Probe
    situation: Situation
    verdict: Verdict
    sharpness: BatchSharpness | None = None
    samples_a_step: int = 0

    @property
    def batch_sharpness_ratio(self) -> float | None:
        """Batch sharpness over the curvature limit: 1 is where minibatch training settles at the edge of stability."""
        return None if self.sharpness is None else self.sharpness.value / self.situation.curvature_limit

    @property
    def largest_stable_rate(self) -> float:
        """The learning rate at which steps stop contracting here; infinity when no positive curvature bounds it."""
        return self.situation.largest_stable_rate(self.probe.measurement)

    @property
    def cut_gain(self) -> float:
        """What cutting the learning rate to zero would win, loss units: how high noise holds the loss up."""
        unit = self.situation.scale(self.probe.measurement)
        return gains(self.probe.measurement, self.situation).cut * (unit if unit > 0.0 else 1.0)


def look_at(
    trainer: Any,
    snapshot: Snapshot,
    trend: Trend,
    *,
    initial_loss: float,
    lowest_loss: float = math.nan,
    full_batch: bool | None,
) -> Look | str:
    """Probes the surface and gives the verdict.

    Args:
        trainer: The trainer, for the steps that are left and the samples of a step.
        snapshot: The surface on recent batches; of those, the ones of the most common size are used.
        trend: The trend of the training loss so far.
        initial_loss: The loss at the start of the run.
        lowest_loss: The lowest loss of any step so far; NaN when not known.
        full_batch: Whether every step sees the whole training set, so that there are no sampling errors; ``None``: find
            out.

    Returns:
        The look, or a sentence that says why there can be no verdict now.

    Raises:
        NoVerdictError: On several ranks instead of that sentence, so that no rank goes on alone.
    """
    sees_it_all = sees_all(trainer) if full_batch is None else full_batch
    try:
        return _look_at(trainer, snapshot, trend, initial_loss, lowest_loss, sees_it_all)
    except NoVerdictError as reason:
        if trainer.world_size > 1:
            raise
        return str(reason)


def _look_at(
    trainer: Any, snapshot: Snapshot, trend: Trend, initial_loss: float, lowest_loss: float, full_batch: bool
) -> Look:
    optimizer = snapshot.optimizer()
    if optimizer is None:
        raise NoVerdictError("Several optimizers move the measured parameters; choose those of one by parameters=...")
    if optimizer.why_not is not None:
        raise NoVerdictError(optimizer.why_not)
    if not optimizer.learning_rate:
        raise NoVerdictError("The learning rate is zero now.")
    # A snapshot counts the samples of all ranks, whose losses and gradients its surfaces average.
    surfaces, samples = list(snapshot.surfaces), snapshot.batches[-1].samples
    if full_batch:
        surfaces = surfaces[-1:]
    else:
        # Errors are those of plain means over equal microbatches; the short last batch of an epoch is left out.
        samples = Counter(seen.samples for seen in snapshot.batches).most_common(1)[0][0]
        surfaces = [s for s, seen in zip(surfaces, snapshot.batches, strict=True) if seen.samples == samples]
        if len(surfaces) < LEAST_BATCHES:
            raise NoVerdictError(
                f"Only {len(surfaces)} batches of {samples} samples passed by so far; a probe needs {LEAST_BATCHES}."
            )
    metric: dict[str, Any] = {"preconditioner": optimizer.preconditioner, "weight_decay": optimizer.coupled_decay}
    loss_scale = abs(initial_loss) if initial_loss and math.isfinite(initial_loss) else None
    probe, sharpness = snapshot.once(
        f"probe {full_batch} {loss_scale}",
        lambda: (
            probe_surface(
                surfaces, samples, whole_loss=full_batch, loss_scale=loss_scale, seed=snapshot.step, **metric
            ),
            None if full_batch else batch_sharpness(surfaces, **metric),
        ),
    )
    form = optimizer.stability_form
    samples_a_step = samples * trainer.accumulate_grad_batches
    situation = Situation(
        learning_rate=optimizer.learning_rate,
        effective_learning_rate=effective_learning_rate(learning_rate=optimizer.learning_rate, **form),
        batch_size=math.inf if full_batch else samples_a_step,
        curvature_limit=curvature_limit(learning_rate=optimizer.learning_rate, **form),
        trend=trend,
        initial_loss=initial_loss,
        steps_left=steps_left(trainer),
        lowest_loss=lowest_loss,
    )
    return Look(probe, situation, diagnose(probe.measurement, situation), sharpness, samples_a_step)


def sees_all(trainer: Any) -> bool:
    """Whether every step sees the whole training set: an epoch is one batch, and always the same one."""
    if trainer.num_training_batches != 1:
        return False
    if trainer.overfit_batches:
        return True
    loader = trainer.train_dataloader
    try:
        batches = len(loader)
    except (TypeError, NotImplementedError):
        return False
    # One batch out of several by limit_train_batches, or without the rest that does not fill a second one, is another
    # one in every epoch.
    size, data = getattr(loader, "batch_size", None), getattr(loader, "dataset", None)
    drops = bool(getattr(loader, "drop_last", False)) and size is not None and data is not None and len(data) > size
    return batches == 1 and not drops


def steps_left(trainer: Any) -> int | None:
    """Optimizer steps until the run ends by its own settings; ``None`` when only something else ends it."""
    ends = []
    if trainer.max_steps >= 0:
        ends.append(trainer.max_steps - trainer.global_step)
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and math.isfinite(trainer.num_training_batches):
        an_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        ends.append(trainer.max_epochs * an_epoch - trainer.fit_loop.epoch_loop._batches_that_stepped)
    return max(int(min(ends)), 0) if ends else None
