"""Full-batch training rises to the edge of stability and stays there: gradient descent, momentum and Adam.

After Cohen et al. 2021 and 2022. Each optimizer has its own limit on the curvature, Adam on that of the preconditioned
Hessian; ``stability/ratio`` is the curvature over the limit. Real images: 300 of scikit-learn's 8x8 digits. About a
minute on one core; draws ``edge_of_stability.png``.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Iterable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import HessianEigenvalueMonitor

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "gradient descent": lambda parameters: torch.optim.SGD(parameters, lr=0.2),
    "momentum 0.5": lambda parameters: torch.optim.SGD(parameters, lr=0.35, momentum=0.5),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
}


class Digits(LightningModule):
    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        return 0.5 * (self.layers(images) - targets).square().sum(1).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.optimizer](self.parameters())


class Curves(Callback):
    """Keeps the loss of every step, and the stability ratio where it was measured."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ratios: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: dict, *_: object) -> None:
        self.losses.append(float(outputs["loss"]))
        ratio = float(trainer.callback_metrics.get("stability/ratio", float("nan")))
        if ratio not in self.ratios.values():
            self.ratios[len(self.losses)] = ratio


def train(optimizer: str, data: TensorDataset, steps: int) -> Curves:
    torch.manual_seed(0)
    curves = Curves()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[HessianEigenvalueMonitor(every_n_steps=10, max_overhead=None, smallest=0), curves],
    )
    trainer.fit(Digits(optimizer), DataLoader(data, batch_size=len(data)))
    return curves


def draw(runs: dict[str, Curves]) -> Figure:
    figure = Figure(figsize=(8, 6), layout="constrained")
    ratios, losses = figure.subplots(2, 1, sharex=True)
    for name, curves in runs.items():
        ratios.plot(list(curves.ratios), list(curves.ratios.values()), ".-", label=name)
        losses.plot(range(1, len(curves.losses) + 1), curves.losses, label=name)
    ratios.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
    ratios.set_ylabel("stability ratio (1 = edge)")
    losses.set_ylabel("training loss")
    losses.set_xlabel("optimizer steps")
    losses.set_yscale("log")
    ratios.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-steps", type=int, default=1000)
    parser.add_argument("--output", default="edge_of_stability.png", help="where the picture goes")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels[:300], dtype=torch.float32) / 16
    data = TensorDataset(images, nn.functional.one_hot(torch.tensor(digits[:300]), 10).float())

    runs = {name: train(name, data, arguments.max_steps) for name in OPTIMIZERS}
    print("stability ratio         after a quarter   a half   three quarters   the end       last loss")
    for name, curves in runs.items():
        steps, ratios = list(curves.ratios), list(curves.ratios.values())
        places = [
            min(range(len(steps)), key=lambda i: abs(steps[i] - arguments.max_steps * k / 4)) for k in (1, 2, 3, 4)
        ]
        cells = "".join(f"{ratios[place]:13.3f}" for place in places)
        print(f"{name:20} {cells} {curves.losses[-1]:16.4f}")
    draw(runs).savefig(arguments.output, dpi=150)


if __name__ == "__main__":
    main()
