"""How the cost and memory of measurements grow with parameters, wanted eigenvalues, batch size and ranks.

Times are processor time of one thread, in units of one forward and backward pass of the same batch (f+b). Exponents are
least-squares slopes of log(cost) over log(size). What is extrapolated is marked so. Figures of ranks are counts of what
is sent and held, not times: two processes that share a machine say nothing about a network.
"""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from landscape_callbacks.surface import LossSurface, extreme_eigenvalues, loss_slice
from landscape_callbacks.surface.gradients import gradient_norms
from landscape_callbacks.surface.krylov import KrylovSpace

INPUTS, CLASSES, BATCH = 64, 10, 64
WIDTHS = (52, 200, 680, 2200, 3800)  # of three hidden layers: about 1e4 to 3e7 parameters
GIB = 1024**3
EXTRA = 14  # basis vectors beyond the wanted ones before a restart


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    hidden = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(nn.Linear(INPUTS, width), nn.Tanh(), *hidden, nn.Linear(width, CLASSES))


def problem(width: int, batch: int = BATCH) -> tuple[nn.Module, Callable[[], Tensor]]:
    net = network(width)
    x = torch.randn(batch, INPUTS)
    y = torch.randint(0, CLASSES, (batch,))
    return net, lambda: nn.functional.cross_entropy(net(x), y)


def seconds(call: Callable[[], object], least: float = 0.3) -> float:
    """The fastest of several calls, over at least ``least`` seconds."""
    call()
    times: list[float] = []
    while sum(times) < least or len(times) < 3:
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
        if times[-1] > 10 * least:
            break
    return min(times)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    x, y = torch.tensor(sizes).double().log(), torch.tensor(costs).double().log()
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def costs(net: nn.Module, loss: Callable[[], Tensor], *, vectors: int = 8) -> dict[str, float]:
    """Seconds of f+b and, in units of it, of everything that measurements are made of."""

    def step() -> None:
        net.zero_grad(set_to_none=True)
        loss().backward()

    unit = seconds(step)
    surface = LossSurface(loss, net.parameters())
    vector = surface.space.random(0)
    found = {"f+b": unit, "forward": seconds(lambda: surface.losses_along(vector, [1e-4])) / unit}
    found["norms"] = seconds(lambda: gradient_norms([p.grad for p in net.parameters()]).tolist()) / unit
    surface.gradient()
    found["product"] = seconds(lambda: surface.hessian_vector_product(vector)) / unit
    krylov = KrylovSpace(_Free(surface.space), vector, capacity=vectors)
    started = time.process_time()
    while krylov.size < vectors:
        krylov.grow()
    found["orthogonalisation"] = (time.process_time() - started) / vectors / unit
    del krylov
    surface.release()
    differences = LossSurface(loss, net.parameters(), differentiation="central_difference")
    differences.hessian_vector_product(vector)
    found["difference"] = seconds(lambda: differences.hessian_vector_product(vector)) / unit
    return found


class _Free:  # satisfies SymmetricOperator
    """An operator whose products cost nothing, so that what is left is the algebra of the basis."""

    def __init__(self, space: object) -> None:
        self.space = space

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        return vector.roll(1) + vector.roll(-1)


def with_parameters() -> None:
    print(f"## Parameters (three tanh layers of equal width, batch {BATCH}, float32)\n")
    rows, sizes = [], []
    every: dict[str, list[float]] = {}
    for width in WIDTHS:
        net, loss = problem(width)
        size = sum(p.numel() for p in net.parameters())
        own = costs(net, loss)
        every = {key: [*every.get(key, []), value] for key, value in own.items()}
        sizes.append(float(size))
        names = ("forward", "norms", "product", "difference", "orthogonalisation")
        memory = peak(width, 1) - peak(width, 0)
        vectors = memory * GIB / (4 * size)
        rows.append(
            [
                f"{size:.1e}",
                f"{1e3 * own['f+b']:.2f}",
                *(f"{own[name]:.2f}" for name in names),
                f"{memory:.2f} ({vectors:.0f})",
            ]
        )
    head = ("parameters", "f+b (ms)", "a point of a slice", "gradient norms", "product", "product by differences")
    table((*head, "basis algebra a product, 8 vectors", "extra memory of eigenvalues, k=1+1: GiB (vectors of n)"), rows)
    slopes = {}
    for name in ("f+b", "norms", "product", "difference", "orthogonalisation"):
        unit = [1.0] * len(sizes) if name == "f+b" else every["f+b"]
        values = [a * b for a, b in zip(every[name], unit, strict=True)]
        slopes[name] = exponent(sizes[-3:], values[-3:])
    print("Exponents of time in the number of parameters, over the three largest: ", end="")
    print(", ".join(f"{name} {slope:.2f}" for name, slope in slopes.items()) + ".\n")


def peak(width: int, count: int) -> float:
    """Peak resident memory of a process that takes three gradient steps and then ``count`` times eigenvalues (GiB)."""
    command = [sys.executable, __file__, "--peak", str(width), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def report_peak(width: int, count: int) -> None:
    net, loss = problem(width)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    for _ in range(count):
        extreme_eigenvalues(LossSurface(loss, net.parameters()), largest=1, smallest=1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB)


def with_wanted() -> None:
    print("## Eigenvalues wanted (200 wide, 1e5 parameters)\n")
    net, loss = problem(200)
    unit = costs(net, loss)["f+b"]
    rows, wanted, spent = [], (1, 2, 4, 8), []
    for largest in wanted:
        surface = LossSurface(loss, net.parameters())
        started = time.process_time()
        pairs = extreme_eigenvalues(surface, largest=largest)
        duration = time.process_time() - started
        spent.append(float(pairs.products))
        basis = (largest + EXTRA + 1) * surface.space.dimension * 4 / 2**20
        rows.append(
            [
                f"{largest}",
                f"{pairs.products}",
                f"{duration / unit:.0f}",
                f"{basis:.0f}",
                "yes" if all(pairs.converged) else "no",
            ]
        )
    table(("k largest", "products", "time (f+b)", "basis (MiB)", "all converged"), rows)
    print(f"Exponent of products in k: {exponent(wanted, spent):.2f}. The basis holds k + {EXTRA + 1} vectors.\n")


def with_batch() -> None:
    print("## Batch size (680 wide, 1e6 parameters)\n")
    rows, batches, products = [], (4, 16, 64, 256, 1024), []
    for batch in batches:
        net, loss = problem(680, batch)
        own = costs(net, loss)
        products.append(own["product"] * own["f+b"])
        rows.append(
            [
                f"{batch}",
                f"{1e3 * own['f+b']:.1f}",
                f"{own['product']:.2f}",
                f"{own['orthogonalisation']:.2f}",
                f"{own['norms']:.3f}",
            ]
        )
    table(
        ("batch", "f+b (ms)", "product (f+b)", "basis algebra a product, 8 vectors (f+b)", "gradient norms (f+b)"), rows
    )
    slope = exponent(batches[-3:], products[-3:])
    print(f"Exponent of a product's time in the batch size, over the three largest: {slope:.2f}.\n")


def with_slices() -> None:
    net, loss = problem(680)
    unit = costs(net, loss)["f+b"]
    surface = LossSurface(loss, net.parameters())
    direction = -surface.gradient(retain=False)
    duration = seconds(lambda: loss_slice(surface, direction, extent=(-1.0, 2.0)))
    print(f"A slice with adaptive points at 1e6 parameters costs {duration / unit:.1f} f+b: it is forward passes.\n")


def extrapolated() -> None:
    print("## Extrapolated: memory of a Krylov basis, and what is sent a product\n")
    print("Not measured: follows from the counts above. float32; k = 1 largest and 1 smallest, so 17 vectors.\n")
    vectors = 2 + EXTRA + 1
    rows = []
    for size, ranks in ((1e9, 1), (1e9, 8), (1e9, 64), (1e11, 64), (1e11, 512), (1e11, 4096)):
        whole = vectors * size * 4
        rows.append(
            [
                f"{size:.0e}",
                f"{ranks}",
                _bytes(whole),
                _bytes(whole / ranks),
                _bytes(3 * size * 4 / ranks),
                _bytes(2 * (ranks - 1) / ranks * size * 4),
                _bytes(2 * 3 * (ranks - 1) / ranks * size * 4),
            ]
        )
    head = ("parameters", "ranks", "basis a rank, DDP", "basis a rank, sharded", "three vectors a rank, sharded")
    table((*head, "sent a rank and product, DDP", "sent a rank and product, sharded"), rows)


def _bytes(count: float) -> str:
    if count == 0.0:
        return "0"
    power = min(int(math.log(count, 1024)), 4)
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def main() -> None:
    torch.set_num_threads(1)
    with_parameters()
    with_wanted()
    with_batch()
    with_slices()
    extrapolated()


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--peak":
        report_peak(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
