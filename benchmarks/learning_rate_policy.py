"""Steps to a target with a constant learning rate, with ReduceLROnPlateau, and with PlateauLearningRateAdjuster.

Problems with known truth, trained by real Trainers. Samples count the probes: a probe's cost in samples is that of the
training that the same work would have served. ``python benchmarks/learning_rate_policy.py [--seeds 5] [--only NAME]``
prints the tables.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from landscape_callbacks import PlateauLearningRateAdjuster

EPOCH = 50  # steps between two looks of ReduceLROnPlateau
METHODS = ("constant", "ReduceLROnPlateau", "trend", "diagnose")


@dataclass(frozen=True)
class Problem:
    """A loss with its data, where it starts, and what is asked of it."""

    name: str
    module: nn.Module
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    batch_size: int | None  # None: the whole data at every step
    learning_rate: float
    target: float  # of the loss over the whole data, or of ``truth``
    steps: int
    truth: Callable[[nn.Module], Tensor] | None = None
    fresh: Callable[[torch.Generator, int], tuple[Tensor, Tensor]] | None = None  # new samples for every batch
    momentum: float = 0.0


def squared_error(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (module(inputs) - targets).square().sum(dim=1).mean()


def cross_entropy(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(module(inputs), targets)


def deep_linear(seed: int, batch_size: int | None) -> Problem:
    """Saxe et al. 2014: whitened inputs, teacher diag(3, 2, 1), small weights. Plateaus at rank 0, 1 and 2."""
    generator = torch.Generator().manual_seed(seed)
    layers = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    with torch.no_grad():
        # Aligned with the teacher, so that each mode follows its closed form; a little noise, as real starts have.
        layers[0].weight.copy_(1e-3 * (rotation + 0.01 * torch.randn(3, 3, generator=generator, dtype=torch.float64)))
        layers[1].weight.copy_(1e-3 * (rotation.T + 0.01 * torch.randn(3, 3, generator=generator, dtype=torch.float64)))
    teacher = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    if batch_size is None:
        inputs = math.sqrt(3.0) * torch.eye(3, dtype=torch.float64)
        targets = inputs @ teacher.T
        return Problem("deep linear net, GD", layers, squared_error, inputs, targets, None, 0.005, 0.05, 20000)

    def fresh(stream: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(size, 3, generator=stream, dtype=torch.float64)
        noise = 0.3 * torch.randn(size, 3, generator=stream, dtype=torch.float64)
        return inputs, inputs @ teacher.T + noise

    def truth(module: nn.Module) -> Tensor:
        product = module[1].weight @ module[0].weight  # type: ignore[index]
        return 0.5 * (product - teacher).square().sum()

    inputs, targets = fresh(generator, batch_size)
    return Problem(
        f"deep linear net, SGD B={batch_size}", layers, squared_error, inputs, targets, batch_size, 0.005, 0.05, 20000,
        truth=truth, fresh=fresh,
    )  # fmt: skip


class Point(nn.Module):
    """Weights that are the input."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(start.clone())


def noisy_quadratic(seed: int) -> Problem:
    """½wᵀHw − ξᵀw with ξ drawn anew: the target lies below the noise floor of the learning rate."""
    spectrum = torch.logspace(0, -1, 10, dtype=torch.float64)

    def loss(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (module.weights.square() * spectrum).sum() - (inputs @ module.weights).mean()

    def fresh(stream: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
        return torch.randn(size, 10, generator=stream, dtype=torch.float64), torch.zeros(size)

    def truth(module: nn.Module) -> Tensor:
        return 0.5 * (module.weights.square() * spectrum).sum()

    generator = torch.Generator().manual_seed(seed)
    start = 3.0 * torch.randn(10, generator=generator, dtype=torch.float64)
    inputs, targets = fresh(generator, 8)
    return Problem(
        "noisy quadratic, SGD B=8", Point(start), loss, inputs, targets, 8, 0.2, 0.005, 6000, truth=truth, fresh=fresh
    )


def quadratic(seed: int) -> Problem:
    """Gradient descent on a quadratic of condition number 1000: slow, and healthy throughout."""
    spectrum = torch.logspace(0, -3, 10, dtype=torch.float64)

    def loss(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (module.weights.square() * spectrum).sum()

    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(10, generator=generator, dtype=torch.float64)
    none = torch.zeros(1, 1)
    return Problem("quadratic, GD", Point(start), loss, none, none, None, 1.0, 1e-5, 8000)


def two_minima(seed: int) -> Problem:
    """x² − y² + y⁴/4 from just beside the saddle at 0; minima at y = ±√2 with value −1."""

    def loss(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        x, y = module.weights
        return x**2 - y**2 + 0.25 * y**4

    generator = torch.Generator().manual_seed(seed)
    start = torch.tensor([1.0, 1e-6], dtype=torch.float64) * torch.randn(2, generator=generator, dtype=torch.float64)
    none = torch.zeros(1, 1)
    return Problem("x² − y² + y⁴/4, GD", Point(start), loss, none, none, None, 0.01, -0.99, 8000)


def rosenbrock(seed: int) -> Problem:
    """The curved valley; λmax = 1001.6 and λmin = 0.4 at the minimum (1, 1)."""

    def loss(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        x, y = module.weights
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    generator = torch.Generator().manual_seed(seed)
    start = torch.tensor([-0.5, 0.5], dtype=torch.float64) + 0.2 * torch.randn(
        2, generator=generator, dtype=torch.float64
    )
    none = torch.zeros(1, 1)
    return Problem("Rosenbrock, GD", Point(start), loss, none, none, None, 1e-3, 1e-2, 6000)


def _digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    inputs = torch.tensor(data.data, dtype=torch.float32) / 16.0 - 0.3
    return inputs, torch.tensor(data.target)


def digits_net(seed: int, name: str, learning_rate: float, target: float, steps: int) -> Problem:
    """A small tanh net on 300 real digits, full batch."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    inputs, targets = _digits()
    return Problem(name, net, cross_entropy, inputs[:300], targets[:300], None, learning_rate, target, steps)


def digits_softmax(seed: int) -> Problem:
    """Softmax regression on digits in minibatches: convex, and healthy throughout."""
    torch.manual_seed(seed)
    net = nn.Linear(64, 10)
    inputs, targets = _digits()
    return Problem("softmax regression, digits, SGD B=32", net, cross_entropy, inputs, targets, 32, 0.1, 0.15, 6000)


def healthy_digits(seed: int) -> Problem:
    """A tanh net on digits in minibatches at a good rate: falls to the end."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    inputs, targets = _digits()
    return Problem("tanh net, digits, SGD B=32", net, cross_entropy, inputs, targets, 32, 0.05, -math.inf, 6000)


def slow_valley(seed: int) -> Problem:
    """A noise floor over a valley that falls 0.3 standard deviations of the batch loss in 1000 steps, to the end."""
    spectrum = torch.tensor([1.0, 1.0, 1.0, 1e-4], dtype=torch.float64)

    def loss(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (module.weights.square() * spectrum).sum() - (inputs @ module.weights[:3]).mean()

    def fresh(stream: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
        return torch.randn(size, 3, generator=stream, dtype=torch.float64), torch.zeros(size)

    generator = torch.Generator().manual_seed(seed)
    start = torch.tensor([0.1, 0.1, 0.1, 120.0], dtype=torch.float64)
    inputs, targets = fresh(generator, 8)
    return Problem("slow valley, SGD B=8", Point(start), loss, inputs, targets, 8, 0.2, -math.inf, 6000, fresh=fresh)


HEALTHY = {"healthy_digits": healthy_digits, "slow_valley": slow_valley}
PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "deep_linear_gd": lambda seed: deep_linear(seed, None),
    "deep_linear_sgd": lambda seed: deep_linear(seed, 16),
    "noisy_quadratic": noisy_quadratic,
    "quadratic": quadratic,
    "two_minima": two_minima,
    "rosenbrock": rosenbrock,
    "digits_too_large": lambda seed: digits_net(seed, "digits, GD, rate 3 × 2/λmax", too_large_rate(seed), 0.3, 1000),
    "digits_too_small": lambda seed: digits_net(seed, "digits, GD, rate 1e-6", 1e-6, 0.3, 2000),
    "digits": lambda seed: digits_net(seed, "digits, GD, good rate", 0.5, 0.3, 3000),
    "digits_softmax": digits_softmax,
}


def too_large_rate(seed: int) -> float:
    """Three times the stability limit 2/λmax at the start, from a dense power iteration on finite differences."""
    problem = digits_net(seed, "", 1.0, 0.0, 0)
    parameters = list(problem.module.parameters())
    generator = torch.Generator().manual_seed(seed)
    vector = [torch.randn(p.shape, generator=generator) for p in parameters]
    value = 0.0
    for _ in range(50):
        norm = math.sqrt(sum(float(v.square().sum()) for v in vector))
        vector = [v / norm for v in vector]
        loss = problem.loss(problem.module, problem.inputs, problem.targets)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        products = torch.autograd.grad(gradients, parameters, grad_outputs=vector)
        value = sum(float((v * p).sum()) for v, p in zip(vector, products, strict=True))
        vector = [p.detach() for p in products]
    return 3 * 2 / value


class Trained(pl.LightningModule):
    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.module, self.problem = problem.module, problem

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.problem.loss(self.module, *batch)

    def configure_optimizers(self) -> Any:
        problem = self.problem
        return torch.optim.SGD(self.module.parameters(), lr=problem.learning_rate, momentum=problem.momentum)


class Referee(pl.Callback):
    """Stops at the target and counts; for a constant rate and ReduceLROnPlateau in a bare loop of the same steps."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.reached: int | None = None
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop |= self.sees(outputs["loss"], trainer.optimizers[0])

    def sees(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> bool:
        """Takes down a step; says whether the target is reached."""
        problem = self.problem
        self.losses.append(float(loss))
        self.rates.append(float(optimizer.param_groups[0]["lr"]))
        if not math.isfinite(problem.target):
            return False
        with torch.no_grad():
            truth = (
                problem.truth(problem.module)
                if problem.truth
                else problem.loss(problem.module, problem.inputs, problem.targets)
            )
        if float(truth) <= problem.target:
            self.reached = len(self.losses)
        return self.reached is not None


@dataclass
class Batches:
    """The batches of a problem: shuffled without replacement, or drawn anew."""

    problem: Problem
    seed: int

    def __iter__(self) -> Any:
        problem = self.problem
        stream = torch.Generator().manual_seed(1000 + self.seed)
        if problem.batch_size is None:
            for _ in range(problem.steps):
                yield problem.inputs, problem.targets
        elif problem.fresh is not None:
            for _ in range(problem.steps):
                yield problem.fresh(stream, problem.batch_size)
        else:
            while True:
                order = torch.randperm(len(problem.inputs), generator=stream)
                for chosen in order.split(problem.batch_size):
                    if len(chosen) == problem.batch_size:
                        yield problem.inputs[chosen], problem.targets[chosen]


@dataclass(frozen=True)
class Outcome:
    reached: int | None
    samples: float
    actions: tuple[str, ...]
    rates: list[float]


def train(problem: Problem, method: str, seed: int, **settings: Any) -> Outcome:
    referee = Referee(problem)
    actions: tuple[str, ...] = ()
    probes = 0.0
    if method in ("constant", "ReduceLROnPlateau"):
        bare_loop(problem, seed, referee, reduces=method == "ReduceLROnPlateau")
    else:
        full_batch = problem.batch_size is None
        adjuster = PlateauLearningRateAdjuster(policy=method, max_overhead=None, full_batch=full_batch, **settings)
        trainer = pl.Trainer(
            max_steps=problem.steps,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[adjuster, referee],
        )
        trainer.fit(Trained(problem), Batches(problem, seed))
        if "landscape/failed_measurements" in trainer.callback_metrics:
            raise RuntimeError(f"{problem.name}: a probe failed; its figures would not hold.")
        actions = tuple(f"{step}: {decision.action} ×{decision.factor:.3g}" for step, decision in adjuster.history)
        probes = adjuster.probe_cost
    samples = len(referee.losses) * (problem.batch_size or len(problem.inputs)) + probes
    return Outcome(referee.reached, samples, actions, referee.rates)


def bare_loop(problem: Problem, seed: int, referee: Referee, *, reduces: bool) -> None:
    """The steps of :class:`Trained` without a Trainer, which is several times faster."""
    optimizer = Trained(problem).configure_optimizers()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=10)
    for step, batch in enumerate(Batches(problem, seed), start=1):
        optimizer.zero_grad()
        loss = problem.loss(problem.module, *batch)
        loss.backward()
        optimizer.step()
        if referee.sees(loss, optimizer) or step == problem.steps:
            return
        if reduces and step % EPOCH == 0:
            scheduler.step(statistics.fmean(referee.losses[-EPOCH:]))


def quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def median(values: list[float]) -> float:
    return statistics.median(values)


def cell(outcomes: list[Outcome]) -> str:
    """Median steps and samples to the target over the runs that reached it, and how many did."""
    reached = [outcome for outcome in outcomes if outcome.reached is not None]
    if not reached:
        return f"none of {len(outcomes)}"
    steps, samples = median([o.reached or 0 for o in reached]), median([o.samples for o in reached])
    share = "" if len(reached) == len(outcomes) else f" ({len(reached)} of {len(outcomes)})"
    return f"{steps:.0f} / {samples / 1000:.3g}k{share}"


def steps_to_target(keys: list[str], methods: list[str], seeds: int) -> None:
    print(f"## Steps / samples to the target, medians over {seeds} seeds\n")
    print(
        "Samples count probes. ReduceLROnPlateau: factor 0.5, patience 10 epochs of 50 steps, on their mean loss. "
        "The adjuster has its default settings, but no time budget, so that nothing depends on the machine.\n"
    )
    print("| problem | " + " | ".join(methods) + " | actions of diagnose, seed 0 |")
    print("|---" * (len(methods) + 2) + "|", flush=True)
    found: dict[tuple[str, str], list[Outcome]] = {}
    for key in keys:
        name = PROBLEMS[key](0).name
        for method in methods:
            found[key, method] = [train(PROBLEMS[key](seed), method, seed) for seed in range(seeds)]
        last = found[key, "diagnose"][0].actions if "diagnose" in methods else ()
        cells = [cell(found[key, method]) for method in methods]
        print(f"| {name} | " + " | ".join(cells) + f" | {', '.join(last) or 'none'} |", flush=True)
    if not {"constant", "diagnose"} <= set(methods):
        return
    ratios = {}
    for key in keys:
        pairs = zip(found[key, "constant"], found[key, "diagnose"], strict=True)
        shares = [(d.reached or math.inf) / c.reached for c, d in pairs if c.reached is not None]
        if shares:
            ratios[key] = max(shares)
    worst = max(ratios, key=lambda key: ratios[key])
    print(
        f"\nWorst run of diagnose against the constant rate, in steps: {ratios[worst]:.2f} ({PROBLEMS[worst](0).name})."
    )


def never_cut_early(seeds: int) -> None:
    print(f"\n## Healthy long runs, {seeds} seeds: cuts that should not be\n")
    print("| problem | method | runs with a cut | first cut at step |")
    print("|---|---|---|---|", flush=True)
    for build in HEALTHY.values():
        for method in ("diagnose", "trend", "ReduceLROnPlateau"):
            runs = seeds if method == "diagnose" else min(seeds, 5)  # the others are there for comparison
            cuts = [first_cut(train(build(seed), method, seed)) for seed in range(runs)]
            steps = [step for step in cuts if step is not None]
            first = f"{min(steps)}" if steps else "–"
            print(f"| {build(0).name} | {method} | {len(steps)} of {runs} | {first} |", flush=True)


def first_cut(outcome: Outcome) -> int | None:
    """The first step at which the learning rate is below that of the step before."""
    rates = outcome.rates
    return next((step for step in range(1, len(rates)) if rates[step] < rates[step - 1]), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--healthy-seeds", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    arguments = parser.parse_args()
    quiet()
    if arguments.only:
        steps_to_target(arguments.only, arguments.methods, arguments.seeds)
    if arguments.healthy_seeds:
        never_cut_early(arguments.healthy_seeds)


if __name__ == "__main__":
    main()
