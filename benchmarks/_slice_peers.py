"""One peer, 51 points along a random line of a tanh MLP: cost, error at the centre, what it leaves behind.

Needs torch, scikit-learn and the peer; nothing of this project. Prints one line of JSON.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from torch import nn

warnings.simplefilter("ignore")
POINTS = 51
DISTANCE = 1.0


def build() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    batch, targets = torch.tensor(inputs[:512], dtype=torch.float32) / 16 - 0.3, torch.tensor(labels[:512])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 128), nn.Tanh(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(batch), targets).backward()
        optimizer.step()
    return net, batch, targets


def loss_landscapes_line(net: nn.Module, batch: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    metric = Loss(nn.functional.cross_entropy, batch, targets)
    return loss_landscapes.random_line(net, metric, DISTANCE, POINTS, normalization="filter")


def landscaper_line(net: nn.Module, batch: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    import contextlib
    import io

    from landscaper.compute import compute_loss_landscape

    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator) for p in net.parameters()]

    def loss(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> float:
        with torch.no_grad():
            return nn.functional.cross_entropy(model(data[0]), data[1]).item()

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        losses, _ = compute_loss_landscape(
            net, (batch, targets), [direction], loss, steps=POINTS, distance=0.01, dim=1, device="cpu"
        )
    return losses


def loss_landscape_3d_line(net: nn.Module, batch: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    from loss_landscape_3d import LossLandscapeCalculator, generate_random_directions

    directions = generate_random_directions(net, normalize=True)
    calculator = LossLandscapeCalculator(net, [(batch, targets)], nn.functional.cross_entropy, device="cpu")
    state = {key: value.clone() for key, value in net.state_dict().items()}
    moved = {key: value + directions[0].get(key, 0.0) for key, value in state.items()}
    return calculator.calculate_1d_path(np.linspace(-1, 1, POINTS), state, moved)


def bare_line(net: nn.Module, batch: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return np.array([nn.functional.cross_entropy(net(batch), targets).item() for _ in range(POINTS)])


LINES: dict[str, Callable[..., np.ndarray]] = {
    "bare": bare_line,
    "loss-landscapes": loss_landscapes_line,
    "landscaper": landscaper_line,
    "loss-landscape-3d": loss_landscape_3d_line,
}


def ratio(run: Callable[[], object], other: Callable[[], object], rounds: int = 15) -> float:
    """Processor seconds of the first over those of the second: they take turns, and the median counts."""
    ratios = []
    for _ in range(rounds):
        times = [time.process_time()]
        for contender in (run, other):
            contender()
            times.append(time.process_time())
        ratios.append((times[1] - times[0]) / (times[2] - times[1]))
    return statistics.median(ratios)


def main() -> None:
    torch.set_num_threads(1)
    net, batch, targets = build()
    line = LINES[sys.argv[1]]
    true = float(nn.functional.cross_entropy(net(batch), targets).detach())
    tested = copy.deepcopy(net)
    tested.train()
    losses = np.asarray(line(tested, batch, targets), dtype=float).reshape(-1)
    left = []
    if not all(torch.equal(a, b) for a, b in zip(tested.parameters(), net.parameters(), strict=True)):
        moved = max(
            float((a - b).abs().max().detach()) for a, b in zip(tested.parameters(), net.parameters(), strict=True)
        )
        left.append(f"weights moved by {moved:.1g}")
    if not all(parameter.requires_grad for parameter in tested.parameters()):
        left.append("requires_grad off")
    if not tested.training:
        left.append("eval mode")
    took = ratio(lambda: line(copy.deepcopy(net).train(), batch, targets), lambda: bare_line(net, batch, targets))
    spread = float(np.ptp(losses))
    print(
        json.dumps(
            {
                "ratio": f"{took:.2f}",
                "centre": f"{abs(losses[POINTS // 2] - true):.1g}",
                "restored": ", ".join(left) or "as before",
                "version": "" if sys.argv[1] == "bare" else version(sys.argv[1]),
                "note": "constant: the line does not move" if spread == 0.0 and sys.argv[1] != "bare" else "",
            }
        )
    )


if __name__ == "__main__":
    main()
