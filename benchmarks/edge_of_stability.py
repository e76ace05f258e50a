"""The stability ratio through the callbacks, on real images: where full-batch and minibatch training settle.

Run with ``python benchmarks/edge_of_stability.py``; a few minutes. Full batch: gradient descent, heavy ball and Adam
on 300 of scikit-learn's digits (Cohen et al. 2021, 2022). Minibatch: the same network by SGD, which settles with the
curvature of the whole loss below the limit and batch sharpness at it; no warning is due.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._callback_verdicts import Asks
from examples.edge_of_stability import Digits
from landscape_callbacks import HessianEigenvalueMonitor, SaddlePointMonitor

# Name, optimizer, batch size (None: all), steps.
RUNS: list[tuple[str, Any, int | None, int]] = [
    ("gradient descent, η = 0.2", lambda p: torch.optim.SGD(p, lr=0.2), None, 1500),
    ("heavy ball, η = 0.2, β = 0.7", lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.7), None, 1500),
    ("heavy ball, η = 0.35, β = 0.5", lambda p: torch.optim.SGD(p, lr=0.35, momentum=0.5), None, 1500),
    ("Adam, η = 1e-3", lambda p: torch.optim.Adam(p, lr=1e-3), None, 1500),
    ("SGD, η = 0.1, batch 20", lambda p: torch.optim.SGD(p, lr=0.1), 20, 4500),
    ("SGD, η = 0.05, batch 20", lambda p: torch.optim.SGD(p, lr=0.05), 20, 4500),
]
TAGS = ("stability/ratio", "stability/batch_sharpness_ratio")


class Run(Digits):
    """The network of the example, with an optimizer of our own."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())


class Values(Callback):
    """Keeps every value that the monitors log, with its step."""

    def __init__(self) -> None:
        self.values: dict[str, dict[int, float]] = {tag: {} for tag in TAGS}
        self._known: dict[str, Any] = {}

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        for tag in TAGS:
            value = trainer.callback_metrics.get(tag)
            if value is not None and value is not self._known.get(tag):
                self._known[tag] = value
                self.values[tag][trainer.global_step] = float(value)


def train(optimizer: Any, batch_size: int | None, steps: int, seed: int) -> tuple[Values, list[str], int]:
    """What was measured in a run, the warnings that it gave, and how often it looked."""
    torch.manual_seed(seed)
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels[:300], dtype=torch.float32) / 16
    data = TensorDataset(images, nn.functional.one_hot(torch.tensor(digits[:300]), 10).float())
    size = batch_size or len(data)
    values = Values()
    # The eigenvalue of the whole loss: as many batches as an epoch has.
    curvature = HessianEigenvalueMonitor(
        every_n_steps=10 if batch_size is None else 60, max_overhead=None, smallest=0, batches=len(data) // size
    )
    diagnosis = SaddlePointMonitor(every_n_steps=150, max_overhead=None)
    # Often enough that a warning would be given if one were due.
    asks = Asks(diagnosis, range(300, steps, 300))
    trainer = Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[asks, curvature, diagnosis, values],
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Run(optimizer), DataLoader(data, batch_size=size, shuffle=batch_size is not None))
    given = [str(warning.message) for warning in caught if "SaddlePointMonitor" in str(warning.message)]
    return values, given, diagnosis.cadence.measurements


def last_third(values: dict[int, float], steps: int) -> list[float]:
    return [value for step, value in values.items() if step > 2 * steps / 3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    print("300 digits, tanh network 64-64-64-10, squared error; through the callbacks. Over the last third of a run:\n")
    print(
        "| run | seed | curvature over limit: median (least, most) | batch sharpness over limit, median | looks | warnings |"
    )
    print("|---|---|---|---|---|---|")
    for name, optimizer, batch_size, steps in RUNS:
        for seed in range(arguments.seeds):
            values, given, looks = train(optimizer, batch_size, steps, seed)
            ratios = last_third(values.values["stability/ratio"], steps)
            sharpness = last_third(values.values["stability/batch_sharpness_ratio"], steps)
            middle = f"{statistics.median(sharpness):.2f}" if sharpness else ""
            print(
                f"| {name} | {seed} | {statistics.median(ratios):.3f} ({min(ratios):.3f}, {max(ratios):.3f}) "
                f"| {middle} | {looks} | {'; '.join(given) or 'none'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
