"""Carry out a decision about the learning rate on a trainer, and report it."""

from __future__ import annotations

from typing import Any

from landscape_callbacks.diagnosis.learning_rate_policy import PolicyDecision
from landscape_callbacks.records import Record
from landscape_callbacks.training.learning_rate import (
    learning_rates,
    peak_learning_rates,
    plateau_schedulers,
    scale_learning_rate,
    unknown_schedulers,
)
from landscape_callbacks.training.reporting import Report, current_step


def current_rates(trainer: Any) -> tuple[float, ...]:
    """The learning rate of every group of every optimizer."""
    return tuple(rate for optimizer in trainer.optimizers for rate in learning_rates(optimizer))


def peak_rates(trainer: Any) -> tuple[float, ...]:
    """For every group of every optimizer the largest rate that its schedule is built on."""
    schedulers = _schedulers(trainer)
    return tuple(rate for optimizer in trainer.optimizers for rate in peak_learning_rates(optimizer, schedulers))


def carry_out(trainer: Any, decision: PolicyDecision, *, scale: float, sentence: str, verdict: str) -> Report:
    """Multiplies every learning rate by the decision's factor and says what was done.

    Args:
        trainer: The trainer.
        decision: What to do.
        scale: Product of all factors so far, this one included.
        sentence: What to show in text logs.
        verdict: The sentence of the verdict that it rests on; empty without one.
    """
    before = current_rates(trainer)
    schedulers = _schedulers(trainer)
    for optimizer in trainer.optimizers:
        scale_learning_rate(optimizer, decision.factor, schedulers)
    info = {
        "action": decision.action,
        "factor": decision.factor,
        "scale": scale,
        "reason": decision.reason,
        "verdict": verdict,
        "learning_rates_before": before,
        "learning_rates": current_rates(trainer),
        **decision.info,
    }
    return Report(
        scalars={"learning_rate/scale": scale},
        records=[Record("action", "learning_rate", current_step(trainer), {}, info)],
        texts={"learning_rate/action": sentence},
    )


def other_controllers(trainer: Any) -> list[str]:
    """Sentences about what else steers the learning rate and does not go with the adjuster."""
    schedulers = _schedulers(trainer)
    sentences = []
    if any(plateau_schedulers(optimizer, schedulers) for optimizer in trainer.optimizers):
        sentences.append(
            "A ReduceLROnPlateau scheduler acts on plateaus too. Each sees what the other did: take one out."
        )
    unknown = unknown_schedulers(schedulers)
    if unknown:
        sentences.append(
            f"{', '.join(unknown)} is no torch LRScheduler. If it computes the learning rate from numbers of its own, "
            "it will undo what is done here."
        )
    if any(type(callback).__name__ == "StochasticWeightAveraging" for callback in trainer.callbacks):
        sentences.append("StochasticWeightAveraging goes to its own swa_lrs once it starts, whatever was done before.")
    return sentences


def _schedulers(trainer: Any) -> list[Any]:
    return [config.scheduler for config in trainer.lr_scheduler_configs]
