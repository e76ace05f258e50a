"""Training states whose true label is known: runs on the problems of ``tests/cases.py``, and what their future shows.

The truth uses nothing of the package: dense Hessians on the whole data, and the future itself. From the state training
is continued for 1000 steps (four times on fresh batches), and once without noise; so it is seen what going on wins,
what noise costs, and what the lowest curvature would win. States between two labels are grey and are not counted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tests import cases
from tests.cases import Case

HORIZON = 1000
EVERY = 10


@dataclasses.dataclass
class Run:
    """Plain or heavy-ball SGD on batches drawn with replacement; ``batch_size`` None is the whole data."""

    case: Case
    rate: float
    batch_size: int | None
    steps: tuple[int, ...]
    momentum: float = 0.0
    seed: int = 0


@dataclasses.dataclass
class State:
    """A moment of a run.

    Attributes:
        run: The run.
        step: Steps done.
        theta: Weights, shape (n,).
        velocity: Momentum buffer, shape (n,).
        losses: The training loss of every step so far, as a logger sees it.
        history: The whole loss every 10 steps so far.
        initial_loss: The whole loss at the start.
    """

    run: Run
    step: int
    theta: Tensor
    velocity: Tensor
    losses: list[float]
    history: list[float]
    initial_loss: float


def states(run: Run) -> Iterator[State]:
    """The run's states at its steps; ends early when the loss is not finite."""
    generator = torch.Generator().manual_seed(run.seed)
    theta, velocity = run.case.start.clone(), torch.zeros_like(run.case.start)
    losses: list[float] = []
    history: list[float] = []
    first = float(run.case.loss(theta))
    for step in range(max(run.steps) + 1):
        if step % EVERY == 0:
            history.append(float(run.case.loss(theta)))
        if step in run.steps:
            yield State(run, step, theta.clone(), velocity.clone(), list(losses), list(history), first)
        before = theta
        thetas, velocities, rows = advance(run, theta[None], velocity[None], generator)
        theta, velocity = thetas[0], velocities[0]
        losses.append(float(run.case.loss(before, slice(None) if rows is None else rows[0])))
        if not math.isfinite(losses[-1]):
            yield State(run, step, theta.clone(), velocity.clone(), list(losses), list(history), first)
            return


def advance(
    run: Run, thetas: Tensor, velocities: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One step of R runs, weights (R, n); without a generator on the whole data. Also the rows that were drawn."""
    rows = None
    if generator is not None and run.batch_size is not None:
        rows = torch.randint(run.case.samples, (len(thetas), run.batch_size), generator=generator)
    velocities = run.momentum * velocities + run.case.gradients(thetas, rows)
    return thetas - run.rate * velocities, velocities, rows


def future(state: State, seed: int | None, steps: int = HORIZON, copies: int = 1) -> np.ndarray:
    """The whole loss every 10 steps of going on, shape (copies, steps/10); ``seed`` None goes on without noise."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    thetas, velocities = state.theta.repeat(copies, 1), state.velocity.repeat(copies, 1)
    losses = np.full((copies, steps // EVERY), np.nan)
    for step in range(steps):
        if step % EVERY == 0:
            losses[:, step // EVERY] = [float(state.run.case.loss(theta)) for theta in thetas]
            if not np.all(losses[:, step // EVERY] < 1e12):
                break
        thetas, velocities, _ = advance(state.run, thetas, velocities, generator)
    return losses


def truth(state: State) -> tuple[str, dict[str, float]]:
    """The true label and the figures that it rests on, decreases in units of the spread of the loss over samples."""
    run, case, theta = state.run, state.run.case, state.theta
    loss = float(case.loss(theta))
    if not math.isfinite(loss):
        return "unstable", {}
    spread = float(case.sample_losses(theta, *case.data).std()) if case.samples > 1 else 0.0
    scale = max(spread, 0.03 * abs(state.initial_loss), 0.01 * abs(state.initial_loss - loss))
    if case.samples == 1:
        scale = max(0.1 * abs(state.initial_loss - loss), 0.03 * abs(state.initial_loss))
    gradient, hessian = case.gradient(theta), case.hessian(theta)
    values, vectors = torch.linalg.eigh(hessian)
    lowest, largest = float(values[0]), float(values.abs().max())
    figures = {"loss": loss, "scale": scale, "lowest": lowest, "largest": largest}
    if largest <= 1e-12 and float(gradient.norm()) <= 1e-12:
        return "flat", figures
    futures = future(state, 0, copies=4) if run.batch_size else future(state, None)
    quiet = future(state, None)[0]
    if not np.all(np.isfinite(futures)):
        return "unstable", figures
    mean = futures.mean(axis=0)
    after = mean[-20:].mean()
    decrease, excess = (loss - after) / scale, (after - quiet[-5:].mean()) / scale
    soon = (loss - mean[3]) / scale
    recent = (state.history[max(len(state.history) - 4, 0)] - loss) / scale if len(state.history) > 1 else math.inf
    past = (state.history[max(len(state.history) - 21, 0)] - loss) / scale
    step_gain = float(gradient @ gradient) / (2 * largest) / scale
    escape = 0.0
    if lowest < -1e-9 * largest:
        distances = math.sqrt(2 * scale / -lowest) * 2.0 ** np.arange(-8, 10, 0.5)
        along = [float(case.loss(theta + sign * d * vectors[:, 0])) for d in distances for sign in (1, -1)]
        escape = (loss - np.nanmin(along)) / scale
    best_rate = dataclasses.replace(run, rate=1 / largest, momentum=0.0)
    other = dataclasses.replace(state, run=best_rate, velocity=torch.zeros_like(theta))
    best = (loss - np.nanmin(future(other, None, 300))) / scale
    figures |= {
        "decrease": decrease,
        "excess": excess,
        "soon": soon,
        "recent": recent,
        "past": past,
        "step_gain": step_gain,
        "escape": escape,
        "best": best,
    }
    figures |= {"after": (after - loss) / scale, "shares": run.rate * largest}
    return label_of(figures), figures


def label_of(figures: dict[str, float]) -> str:
    """The true label of a state, from its figures."""
    escape, decrease, excess, step_gain = (figures[key] for key in ("escape", "decrease", "excess", "step_gain"))
    moving = max(figures["soon"], figures["recent"])
    if figures["after"] > 1:
        return "unstable"
    if figures["best"] > 0.05 and max(decrease, excess) < 0.005 and figures["shares"] * HORIZON < 0.05:
        return "step too small"
    useful = escape > 0.02 and escape > 5 * step_gain
    if useful and moving < 0.05 * escape:
        return "strict saddle"
    if decrease > 0.02 and decrease > 2 * excess and (escape < 0.02 or not useful or moving > 0.2 * escape):
        return "progressing"
    settled = max(moving, figures["past"]) < max(0.02, excess)
    if escape < 0.005 and excess > 0.02 and excess > 2 * decrease and settled:
        return "noise floor"
    if max(escape, decrease, excess, step_gain) < 0.005 and settled:
        return "approximate second-order point"
    return "grey"


def away(case: Case, seed: int) -> Case:
    """The same problem, started at random weights."""
    generator = torch.Generator().manual_seed(seed)
    return dataclasses.replace(case, start=torch.randn(len(case.start), generator=generator, dtype=torch.float64))


def runs(seed: int, minibatch: bool) -> list[Run]:
    """One run of every family; seeds vary the problem, its noise, the rate and the batch."""
    random = np.random.default_rng([seed, minibatch])

    def pick(*options):
        return options[random.integers(len(options))]

    def between(low: float, high: float) -> float:
        return float(np.exp(random.uniform(math.log(low), math.log(high))))

    def batch(*options: int) -> int | None:
        return pick(*options) if minibatch else None

    long = (50, 300, 2500)
    spectrum = torch.tensor([between(0.05, 2.0) for _ in range(6)])
    late = 4000
    momentum = pick(0.0, 0.0, 0.9)
    shrink = 1 - momentum
    noise = between(0.1, 1.0)
    strengths = (2.0, between(0.3, 0.8))
    scale = between(1e-3, 3e-2) if minibatch else between(1e-3, 1e-2)
    rate = between(0.01, 0.03)
    times = [math.log(s / scale**2 - 1) / (2 * s) / rate for s in strengths]
    middle = int(min(0.5 * times[0] + 0.5 * times[1], times[0] + 5 / rate / strengths[0]))
    plateau = (max(middle, 70), int(times[1] + 40), int(times[1] + 15 / strengths[1] / rate))
    out = [
        Run(
            cases.linear_regression(seed, label_noise=noise),
            between(0.02, 0.2) * shrink,
            batch(4, 8, 16),
            (*long, late),
            momentum,
        ),
        Run(
            cases.softmax_regression(seed, temperature=pick(1.0, 3.0)),
            between(0.05, 0.5) * shrink,
            batch(8, 16),
            (*long, late),
            momentum,
        ),
        Run(cases.tanh_net(seed, label_noise=noise), between(0.02, 0.1), batch(8, 16), long),
        Run(cases.quadratic(seed, spectrum, noise=between(0.2, 2.0)), between(0.02, 0.2), batch(4, 16), (20, 2500)),
        Run(cases.quadratic(seed, spectrum, noise=0.3, distance=3.0), 1e-7, batch(8, 16), (1500,)),
        Run(cases.softmax_regression(seed), 1e-7, batch(8, 16), (1500,)),
        Run(cases.deep_linear(seed, strengths, scale, label_noise=pick(0.0, 0.1, 0.3)), rate, batch(16, 32), plateau),
        Run(
            cases.deep_linear(seed, (1.0, 0.6), 1e-4 if not minibatch else 1e-2, label_noise=0.3),
            0.01,
            batch(16, 32),
            (120,),
        ),
        Run(cases.duplicated_neurons(seed, label_noise=0.1), 0.1, batch(16, 32), (2500,)),
        Run(
            cases.quartic_saddle(seed, noise=between(0.01, 0.3), start=(0.01, 0.0 if minibatch else 1e-6)),
            0.01,
            batch(16, 32),
            (80 if minibatch else 300, 2500),
        ),
        Run(cases.dead_relu(seed), 0.1, batch(16), (600,)),
        Run(cases.linear_regression(seed, decay=0.5), between(2.5, 4.0), batch(16), (20,)),
        Run(cases.quadratic(seed, spectrum, noise=0.1), 2.6 / float(spectrum.max()), batch(16), (15,)),
    ]
    if not minibatch:
        out += [
            Run(cases.rosenbrock(), 1e-3, None, (300, 1000)),
            Run(away(cases.interpolating(seed), seed), 0.02, None, (20, 1500)),
            Run(cases.tanh_net(seed, hidden=8, label_noise=0.1), 0.3, None, (1000,)),
        ]
    for index, run in enumerate(out):
        run.seed = seed * 100 + index
    return out
