"""Eigenvalues: products, errors, time and memory, beside PyHessian, hessian-eigenthings and curvlinops with eigsh.

All at default settings unless a line says otherwise. Peers that are not installed are left out. Times are medians of
rounds in which the contenders take turns, as multiples of one forward and backward pass of the same batch (f+b).
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.nn import functional as F

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._curvature_models import PROBLEMS, Problem, transformer
from benchmarks._turns import in_turns
from landscape_callbacks.surface import LossSurface, extreme_eigenvalues

SEEDS = 3
# Training steps before the measurement. At the start of training the larger networks take minutes with each peer.
STATES = {"MLP, digits": (0, 50)}
OTHER_STATES = (50,)
ROUNDS = 3
WARM_CASES = 50


def relative_error(values: Any, reference: np.ndarray) -> float:
    found = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    return float(np.abs((found - reference) / reference).max())


def by_eigsh(surface: LossSurface, count: int, seed: int = 0, **options: Any) -> tuple[np.ndarray, int]:
    """scipy's eigsh on our products: values in descending order, and how many products."""
    dtype = torch.empty(0, dtype=surface.space.dtype).numpy().dtype
    products = 0

    def product(vector: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return surface.hessian_vector_product(torch.from_numpy(vector.reshape(-1).astype(dtype))).numpy()

    size = surface.space.dimension
    operator = LinearOperator((size, size), matvec=product, dtype=dtype)
    options.setdefault("which", "LA")
    values = eigsh(operator, k=count, v0=surface.space.random(seed).numpy(), return_eigenvectors=False, **options)
    return np.sort(values)[::-1], products


def by_pyhessian(problem: Problem, count: int) -> tuple[Any, int]:
    # The package hides its module behind the class of the same name.
    module = importlib.import_module("pyhessian.hessian")

    products = 0
    original = module.hessian_vector_product

    def counting(*arguments: Any) -> Any:
        nonlocal products
        products += 1
        return original(*arguments)

    module.hessian_vector_product = counting
    try:
        torch.manual_seed(0)
        values, _ = module.hessian(problem.net, F.cross_entropy, data=problem.probe, cuda=False).eigenvalues(
            top_n=count
        )
    finally:
        module.hessian_vector_product = original
        problem.optimizer.zero_grad()
    return values, products


def eigenthings_operator(problem: Problem) -> Any:
    from hessian_eigenthings.operators.hessian import HessianOperator

    return HessianOperator(problem.net, [problem.probe], lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]))


def by_eigenthings(problem: Problem, count: int, steps: int | None = None) -> tuple[Any, int]:
    from hessian_eigenthings.algorithms.lanczos import lanczos

    result = lanczos(eigenthings_operator(problem), k=count, which="LA", max_iter=steps, seed=0)
    return result.eigenvalues.numpy(), int(result.iterations)


def eigenthings_errors(problem: Problem, reference: np.ndarray, most: int = 45) -> list[tuple[int, float]]:
    """Its error after each number of Lanczos steps; one run holds all shorter ones."""
    from hessian_eigenthings.algorithms.lanczos import _build_tridiag_matrix, lanczos_tridiagonal

    operator = eigenthings_operator(problem)
    start = torch.randn(operator.size, generator=torch.Generator().manual_seed(0))
    matrix = _build_tridiag_matrix(lanczos_tridiagonal(operator, start, most, reorthogonalize=True)).numpy()
    count = len(reference)
    return [
        (steps, relative_error(np.linalg.eigvalsh(matrix[:steps, :steps])[-count:], reference))
        for steps in range(count + 1, most + 1)
    ]


def by_eigenthings_power(problem: Problem, count: int) -> tuple[Any, int]:
    from hessian_eigenthings.algorithms.power_iteration import deflated_power_iteration

    products = 0
    operator = eigenthings_operator(problem)
    original = operator.matvec

    def counting(vector: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return original(vector)

    operator.matvec = counting
    return deflated_power_iteration(operator, k=count, seed=0).eigenvalues.numpy(), products


def by_curvlinops(problem: Problem, count: int) -> tuple[Any, int]:
    from curvlinops import HessianLinearOperator

    parameters = list(problem.net.parameters())
    operator = HessianLinearOperator(
        problem.net, torch.nn.CrossEntropyLoss(), parameters, [problem.probe], check_deterministic=False
    ).to_scipy()
    products = 0

    def product(vector: np.ndarray) -> Any:
        nonlocal products
        products += 1
        return operator @ vector

    counted = LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)
    return eigsh(counted, k=count, which="LA", return_eigenvectors=False), products


PEERS: dict[str, Callable[[Problem, int], tuple[Any, int]]] = {
    "PyHessian": by_pyhessian,
    "hessian-eigenthings, Lanczos": by_eigenthings,
    "hessian-eigenthings, power": by_eigenthings_power,
    "curvlinops, eigsh": by_curvlinops,
}


SLOW = ("hessian-eigenthings, power",)


def available() -> list[str]:
    from importlib.util import find_spec

    modules = {"PyHessian": "pyhessian", "hessian-eigenthings": "hessian_eigenthings", "curvlinops": "curvlinops"}
    return [name for name in PEERS if find_spec(modules[name.split(",")[0]]) is not None]


def products_and_errors(problem: Problem, steps: int) -> tuple[np.ndarray, dict[int, int]]:
    """Prints a line for each method; returns the five largest eigenvalues and how many products ours took."""
    surface = problem.surface()
    reference, _ = by_eigsh(problem.in_float64(), 5, tol=1e-9)
    eigsh_products = {count: by_eigsh(surface, count)[1] for count in (1, 5)}
    loose = {count: by_eigsh(surface, count, tol=1e-3)[1] for count in (1, 5)}
    top = ", ".join(f"{value:.3g}" for value in reference[:3])
    place = f"{problem.name}, {steps} steps (top {top})"
    ours: dict[int, int] = {}
    cells = []
    for count in (1, 5):
        runs = [extreme_eigenvalues(surface, count, seed=seed) for seed in range(SEEDS)]
        ours[count] = round(statistics.median(run.products for run in runs))
        error = max(relative_error(run.values.numpy(), reference[:count]) for run in runs)
        most = max(run.products for run in runs)
        ratio = ours[count] / eigsh_products[count]
        converged = all(all(run.converged) for run in runs)
        cells.append(f"{ours[count]} (≤ {most}) | {error:.0e}{'' if converged else ' (unconverged)'} | {ratio:.2f}")
    print(f"| {place} | **ours**, {SEEDS} seeds: median (most), largest error | {cells[0]} | {cells[1]} |")
    print(f"| | eigsh on our products | {eigsh_products[1]} | | 1 | {eigsh_products[5]} | | 1 |")
    print(
        f"| | eigsh with tol=1e-3 | {loose[1]} | | {loose[1] / eigsh_products[1]:.2f} | {loose[5]} | "
        f"| {loose[5] / eigsh_products[5]:.2f} |"
    )
    for name in available():
        cells = []
        for count in (1, 5):
            if name in SLOW and not problem.name.startswith("MLP"):
                cells.append("left out: minutes | | ")
                continue
            try:
                values, products = PEERS[name](problem, count)
            except Exception as error:
                cells.append(f"{type(error).__name__} | | ")
                continue
            error_of_peer = relative_error(values, reference[:count])
            cells.append(f"{products} | {error_of_peer:.0e} | {products / eigsh_products[count]:.2f}")
        print(f"| | {name} | {cells[0]} | {cells[1]} |", flush=True)
    return reference, ours


def seconds(contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each contender."""
    return {name: statistics.median(own) for name, own in in_turns(contenders, ROUNDS, time.perf_counter).items()}


def wall_time(problem: Problem, reference: np.ndarray) -> None:
    parameters = list(problem.net.parameters())

    def forward_backward() -> None:
        torch.autograd.grad(problem.loss(), parameters)

    for count in (1, 5):
        pairs = extreme_eigenvalues(problem.surface(), count)
        accuracy = max(relative_error(pairs.values.numpy(), reference[:count]), 1e-5)
        contenders: dict[str, Callable[[], object]] = {
            "f+b": forward_backward,
            "ours": lambda count=count: extreme_eigenvalues(problem.surface(), count),
        }
        tuned: dict[str, int] = {}
        error_after: list[tuple[int, float]] = []
        if "hessian-eigenthings, Lanczos" in available():
            # Tuned with the answer in hand: the fewest steps that are good enough.
            error_after = eigenthings_errors(problem, reference[:count])
            for label, target in (("equal", accuracy), ("1e-3", 1e-3)):
                steps = next((steps for steps, error in error_after if error <= target), None)
                if steps is not None:
                    tuned[label] = steps
                    contenders[label] = lambda count=count, steps=steps: by_eigenthings(problem, count, steps)
        took = seconds(contenders)
        unit = took["f+b"]
        limit = took["ours"] / unit / (1 + 2 * pairs.products)
        peers = " | ".join(
            f"{tuned[label]} | {took[label] / unit:.1f} | {took['ours'] / took[label]:.2f}"
            if label in tuned
            else f"not in {error_after[-1][0]}, error {min(error for _, error in error_after):.0e} | | "
            if error_after
            else "| | "
            for label in ("equal", "1e-3")
        )
        print(
            f"| {problem.name} | {count} | {1e3 * unit:.1f} | {pairs.products} | {took['ours'] / unit:.1f} "
            f"| {limit:.2f} | {peers} |",
            flush=True,
        )


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes of tensors alive at once while ``run`` runs, beyond those alive before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


def memory(problem: Problem) -> None:
    surface = problem.surface()
    vector = surface.space.random(0)
    surface.hessian_vector_product(vector)  # from here on the retained graph is there
    unit = vector.numel() * vector.element_size()
    product = peak_bytes(lambda: surface.hessian_vector_product(vector)) / unit
    for count in (1, 5):
        whole = peak_bytes(lambda count=count: extreme_eigenvalues(surface, count)) / unit
        print(
            f"| {problem.name} | {count} | {whole:.1f} | {product:.1f} | {whole - product:.1f} | {count + 18} |",
            flush=True,
        )


def lowest(problem: Problem) -> None:
    surface = problem.surface()
    reference, _ = by_eigsh(problem.in_float64(), 1, which="SA", tol=1e-6)
    errors = [
        relative_error(extreme_eigenvalues(surface, 1, 1, max_products=20, seed=seed).values[1:].numpy(), reference)
        for seed in range(3)
    ]
    default = extreme_eigenvalues(surface, 1, 1)
    print(
        f"| {problem.name} | {float(default.values[0]):.3g} | {reference[0]:.3g} | "
        f"{', '.join(f'{100 * error:.1f} %' for error in errors)} | {default.products} | "
        f"{100 * relative_error(default.values[1:].numpy(), reference):.1f} % | {default.converged[1]} |",
        flush=True,
    )


def warm_start() -> None:
    """Fifty cases on the transformer: five seeds at ten places of a run, ten steps after the earlier vectors."""
    problem = transformer()
    problem.train(50)
    earlier = {seed: extreme_eigenvalues(problem.surface(), seed=seed) for seed in range(5)}
    cold, warm, errors, dearer = [], [], [], 0
    for place in range(WARM_CASES // 5):
        problem.train(10)
        surface = problem.surface()
        reference = extreme_eigenvalues(surface, tolerance=1e-5, seed=1000).values.numpy()
        for seed in range(5):
            cold.append(extreme_eigenvalues(surface, seed=100 * place + seed).products)
            found = extreme_eigenvalues(surface, initial=earlier[seed].warm_start, seed=7 + 100 * place + seed)
            earlier[seed] = found
            warm.append(found.products)
            errors.append(relative_error(found.values.numpy(), reference))
            dearer += warm[-1] > cold[-1] + 1
    print(
        f"| {len(warm)} | {statistics.mean(cold):.1f} | {statistics.mean(warm):.1f} "
        f"| {statistics.mean(warm) / statistics.mean(cold):.2f} | {max(warm)} | {dearer} "
        f"| {max(errors):.0e} | {sum(error <= 1e-3 for error in errors)} |",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    print("## Hessian-vector products and relative error of the worst value, at default settings\n")
    print("Errors against eigsh in float64 at tol=1e-9. The ratio is to eigsh at its default (tol=0).\n")
    print("| network | method | k=1 products | error | ratio | k=5 products | error | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    problems = []
    for make in PROBLEMS:
        problem = make()
        done = 0
        for steps in STATES.get(problem.name, OTHER_STATES):
            problem.train(steps - done)
            done = steps
            reference, _ = products_and_errors(problem, steps)
        problems.append((problem, reference))
    print(f"\n## Wall time after {OTHER_STATES[-1]} steps, in f+b\n")
    print(
        "eigenthings is tuned with the answer in hand, to our error or to 1e-3; its column is our time over its time.\n"
    )
    print(
        "| network | k | f+b, ms | our products m | ours | ours / (1 + 2m) | eigenthings to equal error: steps | f+b "
        "| ratio | to 1e-3: steps | f+b | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for problem, reference in problems:
        wall_time(problem, reference)
    print("\n## Smallest eigenvalue from the same products\n")
    print(
        "| network | largest | smallest | error after 20 products, 3 seeds | products until both converged "
        "| error | converged |"
    )
    print("|---|---|---|---|---|---|---|")
    for problem, _ in problems:
        lowest(problem)
    print("\n## Memory beyond the retained graph, in parameter vectors\n")
    print("| network | k | peak | of that one product's own | the rest | k + 18 |")
    print("|---|---|---|---|---|---|")
    for problem, _ in problems:
        memory(problem)
    print("\n## Warm start on the transformer, ten training steps later, k=1\n")
    print("| cases | cold products | warm | ratio | most | dearer than cold + 1 | largest error | within 1e-3 |")
    print("|---|---|---|---|---|---|---|---|")
    warm_start()


if __name__ == "__main__":
    main()
