"""What slices and planes cost beside bare forward passes, and how far adaptive slices are off.

Times are processor seconds of one thread, the least of rounds in which the contenders take turns: on a machine that
others use too, what is above the least is their doing. Peers run when ``PEERS_PYTHON`` names the Python of an
environment that holds them (``requirements-slice-peers.lock``; ``make benchmark`` makes it).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._slice_models import MODELS, Model
from benchmarks._turns import in_turns
from landscape_callbacks.records import Record
from landscape_callbacks.surface import extreme_eigenvalues, loss_plane, loss_slice
from landscape_callbacks.surface.directions import random_direction
from landscape_callbacks.surface.loss_curve import Array, LossCurve
from landscape_callbacks.surface.planes import random_plane_directions
from landscape_callbacks.training.record_writer import RecordWriter

POINTS = 51
PLANE = 25


def turns(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each contender in each round."""
    return in_turns(contenders, rounds, time.process_time)


def ratio(own: list[float], other: list[float]) -> float:
    """The median over rounds: a core that is faster for a moment is so for both."""
    return statistics.median(a / b for a, b in zip(own, other, strict=True))


def cost(model: Model) -> None:
    direction = random_direction(model.surface.space, 0)
    first, second = random_plane_directions(model.surface.space, 0)

    def bare(count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                model.closure()

    line = turns(
        {
            "bare": lambda: bare(POINTS),
            "fixed": lambda: loss_slice(model.surface, direction, points=POINTS),
            "adaptive": lambda: loss_slice(model.surface, direction, curvature="difference"),
            "known": lambda: loss_slice(model.surface, direction, curvature=(1.0, 0.0)),
        },
        rounds=41,
    )
    plane = turns(
        {"bare": lambda: bare(PLANE**2), "plane": lambda: loss_plane(model.surface, first, second, points=PLANE)},
        rounds=7,
    )
    print(
        f"| {model.name} | {model.surface.space.dimension:,} | {1e3 * statistics.median(line['bare']) / POINTS:.2f} "
        f"| {ratio(line['fixed'], line['bare']):.3f} | {ratio(plane['plane'], plane['bare']):.3f} "
        f"| {ratio(line['adaptive'], line['fixed']):.3f} | {ratio(line['known'], line['fixed']):.3f} |",
        flush=True,
    )


def directions_of(model: Model) -> dict[str, Tensor]:
    """The lines that LossSliceMonitor looks along, as long as it would look."""
    surface = model.surface
    pairs = extreme_eigenvalues(surface, largest=1, tolerance=1e-3)
    reach = float((2 * surface.loss() / pairs.values[0].abs()).sqrt())
    gradient = surface.gradient()
    step = model.last_step
    return {
        "gradient": -gradient * (2 * surface.space.norm(step) / surface.space.norm(gradient)),
        "update": 2 * step,
        "largest eigenvector": pairs.vectors[0] * reach,
        "random": random_direction(surface.space, 0),
        "random, half as far": 0.5 * random_direction(surface.space, 0),
        "initial": surface.space.weights() - model.initial,
    }


def accuracy(model: Model, covered: list[bool]) -> None:
    for name, direction in directions_of(model).items():
        result = loss_slice(model.surface, direction, curvature="difference")
        known = loss_slice(model.surface, direction, curvature=(1.0, 0.0))
        # A prime number of points: none but the ends and the middle are among the adaptive ones.
        at = np.linspace(-1.0, 1.0, 401)
        truth = model.surface.losses_along(direction, at.tolist()).numpy()
        span = float(np.ptp(truth))

        def off(curve: LossCurve, at: Array = at, truth: Array = truth) -> float:
            return float(np.abs(curve(at) - truth).max())

        error, other = (off(LossCurve(one.alphas.numpy(), one.losses.numpy())) for one in (result, known))
        even = off(LossCurve(at[::40], truth[::40]))
        covered.append(result.error >= error or error < 2e-5 * span)
        covered.append(known.error >= other or other < 2e-5 * span)
        exact = float(direction @ model.surface.hessian_vector_product(direction))
        shares = [f"{100 * value / span:.3f}" for value in (error, result.error, other, known.error, even)]
        print(
            f"| {model.name} | {name} | {len(result.alphas)} | {shares[0]} | {shares[1]} "
            f"| {len(known.alphas)} | {shares[2]} | {shares[3]} | {shares[4]} "
            f"| {result.curvature:.4g} ± {result.curvature_error:.1g} | {exact:.4g} |",
            flush=True,
        )


def write_cost() -> None:
    record = Record(
        "slice",
        "random",
        0,
        {key: np.zeros(12) for key in ("alpha", "loss", "loss_error", "validation_loss")},
        {"curvature": 1.0, "unit": "filter norms", "best_step": 0.1, "error": 0.01},
    )
    plane = Record("plane", "random", 0, {"x": np.zeros(25), "y": np.zeros(25), "loss": np.zeros((25, 25))})
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        summary_writer = SummaryWriter(folder)
        with RecordWriter(folder, [summary_writer]) as writer:
            for name, entry in (("slice, 12 points", record), ("plane, 25 x 25", plane)):
                seconds = []
                for step in range(300):
                    stepped = Record(entry.kind, entry.name, step, entry.arrays, entry.info)
                    started = time.perf_counter()
                    writer.write(stepped)
                    seconds.append(time.perf_counter() - started)
                middle, high = (1e3 * float(np.quantile(seconds, share)) for share in (0.5, 0.99))
                print(f"| {name} | {middle:.3f} | {high:.3f} |")
        summary_writer.close()


def peers() -> None:
    python = os.environ.get("PEERS_PYTHON")
    if python is None:
        print("(not run: PEERS_PYTHON is not set)")
        return
    script = Path(__file__).with_name("_slice_peers.py")
    for peer in ("bare", "loss-landscapes", "landscaper", "loss-landscape-3d"):
        done = subprocess.run([python, str(script), peer], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {peer} | {(done.stderr.strip().splitlines() or ['failed'])[-1][:160]} | | | |", flush=True)
            continue
        row = json.loads(done.stdout.strip().splitlines()[-1])
        print(
            f"| {' '.join(filter(None, (peer, row['version'])))} | {row['ratio']} | {row['centre']} | {row['restored']} | {row['note']} |",
            flush=True,
        )


def main() -> None:
    torch.set_num_threads(1)
    models = [build() for build in MODELS.values()]
    print("## Cost: processor seconds over those of the same number of bare forward passes\n")
    print(
        "Adaptive: over the slice of 51 points, with its curvature from differences, or known as an eigenvector's is."
    )
    print("Batches of 512, in train mode. Forward: one pass, ms.\n")
    print(
        f"| model | parameters | forward | slice, {POINTS} points | plane, {PLANE} x {PLANE} | adaptive slice "
        "| curvature known |"
    )
    print("|---|---|---|---|---|---|---|")
    for model in models:
        cost(model)
    print("\n## Accuracy of adaptive slices of at most 11 points: largest error, % of the range of losses\n")
    print("Truth: 401 points. First with two points close to 0 for the curvature, then where the curvature is known.")
    print("Even: a spline through 11 even points. Curvature by Hv: a Hessian-vector product.\n")
    print(
        "| model | direction | points | error | estimate | known: points | error | estimate | even, 11 "
        "| curvature | by Hv |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    covered: list[bool] = []
    for model in models:
        accuracy(model, covered)
    print(f"\nThe estimate covers the true error on {sum(covered)} of {len(covered)} slices.")
    print("\n## A record to the record file and to TensorBoard (ms)\n")
    print("| record | median | 99th percentile |")
    print("|---|---|---|")
    write_cost()
    print("\n## Peers: 51 points along a random line of the tanh MLP, processor seconds over bare forward passes\n")
    print("| peer | ratio | error at the centre | weights, gradients and modes after it | note |")
    print("|---|---|---|---|---|")
    peers()


if __name__ == "__main__":
    main()
