"""What to do about the learning rate, given what is known about the place that training is in.

A controller as pure state → state: it sees plain numbers, and answers with a factor and a sentence that says why. It
knows nothing of optimizers or trainers, so that each rule can be read, and tested, by itself.
"""

from __future__ import annotations

import math

from landscape_callbacks.diagnosis.learning_rate_policy import (
    LearningRatePolicy,
    PolicyDecision,
    PolicyEvidence,
    PolicyState,
)


def decide(
    policy: LearningRatePolicy, state: PolicyState, evidence: PolicyEvidence
) -> tuple[PolicyState, PolicyDecision]:
    """One step of the controller.

    Args:
        policy: The settings.
        state: What the controller remembers; ``PolicyState()`` at the start.
        evidence: What is known now.

    Returns:
        The state after the decision, and the decision.

    Example:
        >>> policy = LearningRatePolicy(policy="diagnose", factor=0.5)
        >>> evidence = PolicyEvidence(
        ...     step=900,
        ...     trend="plateau",
        ...     learning_rates=(0.1,),
        ...     verdict="noise floor",
        ...     decrease_bound=0.001,
        ...     cut_gain=0.02,
        ... )
        >>> state, decision = decide(policy, PolicyState(), evidence)
        >>> decision.action, decision.factor, state.scale
        ('cut', 0.5, 0.5)
        >>> print(decision.reason)
        Noise floor: going on can lower the loss by at most 0.001, this cut wins 0.01. Learning rate 0.1 -> 0.05.
    """
    if state.trial > 1.0 and evidence.loss is not None and not _within(evidence.loss, state.trial_loss):
        return _revert(policy, state, evidence)
    proposal = _propose_by_trend(policy, evidence) if policy.policy == "trend" else _propose(policy, state, evidence)
    if not proposal.acts:
        return state, proposal
    waited = math.inf if state.last_step is None else evidence.step - state.last_step
    if waited < policy.cooldown:
        return state, _hold(
            f"{proposal.reason} Held back: the last action was {waited} steps ago, cooldown is {policy.cooldown}."
        )
    if state.actions >= policy.max_actions:
        return state, _hold(f"{proposal.reason} Held back: all {policy.max_actions} actions of this run are spent.")
    raised = proposal.factor > 1.0
    after = PolicyState(
        scale=state.scale * proposal.factor,
        actions=state.actions + 1,
        last_step=evidence.step,
        trial=proposal.factor if raised else 1.0,
        trial_loss=evidence.loss + evidence.loss_noise if raised and evidence.loss is not None else math.inf,
        ceiling=state.ceiling,
    )
    return after, proposal


def _propose_by_trend(policy: LearningRatePolicy, evidence: PolicyEvidence) -> PolicyDecision:
    if evidence.trend == "rising":
        return _cut(policy, evidence, policy.factor, "The loss rises.")
    if evidence.trend != "plateau":
        return _hold(f"The trend of the loss is {evidence.trend}.")
    bound = evidence.decrease_bound
    known = "" if bound is None else f": going on can lower it by at most {bound:.3g}"
    return _cut(policy, evidence, policy.factor, f"The loss has stopped falling{known}.")


def _propose(policy: LearningRatePolicy, state: PolicyState, evidence: PolicyEvidence) -> PolicyDecision:
    verdict = evidence.verdict
    if evidence.loss is not None and not math.isfinite(evidence.loss):
        # Whatever was found before the loss left the numbers does not hold any more.
        return _cut(policy, evidence, policy.factor, f"Unstable: the loss is {evidence.loss}.")
    if verdict is None:
        return _hold("No verdict yet.")
    if verdict == "unstable":
        return _cut_below_limit(policy, evidence)
    if verdict == "noise floor":
        return _cut_at_noise_floor(policy, evidence)
    if verdict in ("strict saddle", "step too small"):
        return _raise_toward_limit(policy, state, evidence)
    if verdict == "flat":
        return PolicyDecision(
            "warn",
            1.0,
            "Flat: gradient and curvature are too small for any learning rate to help (dead or saturated units?). "
            "Re-initialize, or change the activation.",
        )
    return _hold(f"{verdict.capitalize()}: nothing that the learning rate would mend.")


def _cut_at_noise_floor(policy: LearningRatePolicy, evidence: PolicyEvidence) -> PolicyDecision:
    if evidence.decrease_bound is None or evidence.cut_gain is None:
        return _hold("Noise floor, but what a cut would win against going on is not known.")
    # Cutting to zero wins cut_gain; the floor is linear in the rate, so this cut wins its share of it.
    wins = evidence.cut_gain * (1.0 - policy.factor)
    going_on = f"{evidence.decrease_bound:.3g}"
    if not evidence.decrease_bound < wins:
        return _hold(f"Noise floor, but going on may still lower the loss by {going_on}, a cut wins {wins:.3g}.")
    why = f"Noise floor: going on can lower the loss by at most {going_on}, this cut wins {wins:.3g}."
    return _cut(policy, evidence, policy.factor, why)


def _cut_below_limit(policy: LearningRatePolicy, evidence: PolicyEvidence) -> PolicyDecision:
    rate, limit = max(evidence.learning_rates), evidence.largest_stable_rate
    factor = policy.factor
    why = "Unstable: the loss suffers from too large a learning rate."
    if limit is not None and math.isfinite(limit) and limit > 0.0 and rate > 0.0:
        # Curvature measured during a spike is inflated: one cut goes at most as deep as one raise goes high.
        factor = min(factor, max(policy.stable_share * limit / rate, 1.0 / policy.max_raise))
        why = f"Unstable: the loss suffers; the learning rate is {rate:.3g}, the largest stable one {limit:.3g}."
    return _cut(policy, evidence, factor, why)


def _raise_toward_limit(policy: LearningRatePolicy, state: PolicyState, evidence: PolicyEvidence) -> PolicyDecision:
    verdict = evidence.verdict or ""
    name = verdict.capitalize()
    rate, limit = max(evidence.learning_rates), evidence.largest_stable_rate
    if limit is None or math.isnan(limit):
        return _hold(f"{name}, but the largest stable learning rate of this optimizer is not known.")
    if rate <= 0.0:
        return _hold(f"{name}, but the schedule holds the learning rate at zero now.")
    # A schedule is scaled as a whole: during a warm-up or before a restart, its peak is what has to stay stable.
    peak = max(evidence.peak_learning_rates or evidence.learning_rates)
    returns = f" (the schedule goes to {peak:.3g})" if peak > rate else ""
    bounds = {
        f"{policy.stable_share:g} of the largest stable rate {limit:.3g}{returns}": policy.stable_share * limit / peak,
        # Steps that do not show are no measure of a cautious raise; elsewhere the surface changes with the rate.
        f"a factor {policy.max_raise:g} a raise": math.inf if verdict == "step too small" else policy.max_raise,
        "the height at which an earlier raise had to be reverted": state.ceiling / state.scale,
    }
    if policy.max_lr is not None:
        bounds[f"max_lr {policy.max_lr:.3g}{returns}"] = policy.max_lr / peak
    bound = min(bounds, key=lambda text: bounds[text])
    factor = bounds[bound]
    if factor < policy.min_raise:
        return _hold(f"{name}, but the learning rate {rate:.3g} is close to its bound already: {bound}.")
    reason = f"{name}: steps are too small to leave. Learning rate {rate:.3g} -> {rate * factor:.3g} ({bound})."
    return PolicyDecision("raise", factor, reason, {"learning_rate": rate, "largest_stable_rate": limit})


def _cut(policy: LearningRatePolicy, evidence: PolicyEvidence, factor: float, why: str) -> PolicyDecision:
    moving = [rate for rate in evidence.learning_rates if rate > 0.0]
    if not moving:
        return _hold(f"{why} The learning rate is zero already.")
    # All groups keep their ratios, so the one nearest to min_lr bounds the cut of all.
    bounded = max(factor, policy.min_lr / min(moving))
    if bounded >= 1.0 - 1e-6:
        return _hold(f"{why} The learning rate {min(moving):.3g} is at min_lr {policy.min_lr:.3g} already.")
    rate = max(moving)
    reason = f"{why} Learning rate {rate:.3g} -> {rate * bounded:.3g}."
    info = {
        "learning_rate": rate,
        "largest_stable_rate": evidence.largest_stable_rate,
        "decrease_bound": evidence.decrease_bound,
        "cut_gain": evidence.cut_gain,
    }
    return PolicyDecision("cut", bounded, reason, info)


def _within(loss: float, bound: float) -> bool:
    return math.isfinite(loss) and loss <= bound


def _revert(
    policy: LearningRatePolicy, state: PolicyState, evidence: PolicyEvidence
) -> tuple[PolicyState, PolicyDecision]:
    rate = max(evidence.learning_rates)
    after = PolicyState(
        scale=state.scale / state.trial,
        actions=state.actions,
        last_step=evidence.step,
        # The next raise from here, if any, stops halfway (in logarithms) to where this one failed, or closely below.
        ceiling=state.scale / min(math.sqrt(state.trial), policy.max_raise),
    )
    reason = (
        f"The last raise is taken back: the loss is {evidence.loss:.4g}, and before the raise it was within its noise "
        f"below {state.trial_loss:.4g}. Learning rate {rate:.3g} -> {rate / state.trial:.3g}."
    )
    return after, PolicyDecision("revert", 1.0 / state.trial, reason, {"loss": evidence.loss})


def _hold(reason: str) -> PolicyDecision:
    return PolicyDecision("hold", 1.0, reason)
