"""What the monitors cost: gradient norms on a large model, and the default LandscapeMonitor against its budget.

Run with ``python benchmarks/overhead.py [--output FILE]``. All figures of a table come from one process; configurations
take turns, so that a machine whose speed drifts slows all of them alike.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import logging
import statistics
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import grad_norm
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._curvature_models import Block
from benchmarks._fits_in_turns import fits_in_turns
from landscape_callbacks import GradientNormMonitor, LandscapeMonitor


class Classifier(pl.LightningModule):
    """A network trained by AdamW on cross entropy."""

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


class LogGradNorm(pl.Callback):
    """What Lightning's documentation shows: every norm by ``log_dict``."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        pl_module.log_dict(grad_norm(pl_module, norm_type=2))


class WandbWatch(pl.Callback):
    """``wandb.watch`` at every step, offline: a histogram of every gradient."""

    def __init__(self) -> None:
        import wandb

        self.wandb = wandb
        self.run = wandb.init(mode="offline", dir=tempfile.mkdtemp(), settings=wandb.Settings(silent=True))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
        self.run.watch(pl_module, log="gradients", log_freq=1)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
        self.run.log({"step": trainer.global_step})
        self.run.unwatch(pl_module)


class FusedBlock(Block):
    """With the attention that people train with."""

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)


class Transformer(nn.Module):
    """A decoder that predicts one class from the last position."""

    def __init__(self, width: int = 64, depth: int = 3, tokens: int = 64, length: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(tokens, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*[FusedBlock(width, 4) for _ in range(depth)])
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embed(x) + self.place).mean(1))


def fit(
    network: nn.Module, data: TensorDataset, batch: int, steps: int, callbacks: list[Any], logger: bool = True
) -> None:
    torch.manual_seed(0)
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", devices=1, callbacks=callbacks, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, logger=logger, default_root_dir=tempfile.mkdtemp(),
    )  # fmt: skip
    trainer.fit(Classifier(network, 1e-3), DataLoader(data, batch_size=batch, shuffle=True))


class TakingTurns(pl.Callback):
    """Lets configurations act one step each in turn within one fit, and keeps the step times of each apart."""

    def __init__(self, configurations: dict[str, pl.Callback]) -> None:
        self.configurations = configurations
        self.seconds: dict[str, list[float]] = {name: [] for name in configurations}
        self._names = list(configurations)
        self._turn = 0
        self._started: float | None = None

    @property
    def acting(self) -> pl.Callback:
        return self.configurations[self._names[self._turn % len(self._names)]]

    def setup(self, *args: Any, **kwargs: Any) -> None:
        for callback in self.configurations.values():
            callback.setup(*args, **kwargs)

    def on_train_start(self, *args: Any) -> None:
        for callback in self.configurations.values():
            callback.on_train_start(*args)

    def on_train_batch_start(self, *args: Any) -> None:
        now = time.perf_counter()
        if self._started is not None:
            self.seconds[self._names[self._turn % len(self._names)]].append(now - self._started)
            self._turn += 1
        self._started = now
        self.acting.on_train_batch_start(*args)

    def on_before_optimizer_step(self, *args: Any) -> None:
        self.acting.on_before_optimizer_step(*args)

    def on_train_batch_end(self, *args: Any) -> None:
        self.acting.on_train_batch_end(*args)


def gradient_norm_table(steps: int) -> list[str]:
    """Step time with norms at every step over the step time without, on 84 linear layers of width 545."""
    torch.manual_seed(0)
    layers = [layer for _ in range(84) for layer in (nn.Linear(545, 545), nn.Tanh())]
    network = nn.Sequential(*layers)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    data = TensorDataset(torch.randn(512, 545), torch.randint(0, 545, (512,)))
    contenders: dict[str, pl.Callback] = {
        "no callback": pl.Callback(),
        "GradientNormMonitor(every_n_steps=1, max_overhead=None)": GradientNormMonitor(
            every_n_steps=1, max_overhead=None
        ),
        "log_dict(grad_norm(...)) at every step": LogGradNorm(),
    }
    if importlib.util.find_spec("wandb"):
        contenders["wandb.watch(log_freq=1), offline"] = WandbWatch()
    turns = TakingTurns(contenders)
    fit(network, data, 64, len(contenders) * (steps + 2) + 1, [turns])
    seconds = {name: own[2:] for name, own in turns.seconds.items()}
    lines = [
        f"Gradient norms at every step; {parameters / 1e6:.1f} M parameters in {len(list(network.parameters()))} tensors, batch 64, "
        f"{steps} steps each, taking turns step by step.",
        "",
        "| | step time (ms, median) | over no callback (median of pairs) |",
        "|---|---|---|",
    ]
    for name, values in seconds.items():
        ratio = statistics.median(
            value / reference for value, reference in zip(values, seconds["no callback"], strict=False)
        )
        lines.append(f"| {name} | {1e3 * statistics.median(values):.1f} | {ratio:.3f}x |")
    return lines


def budget_table(steps: int) -> list[str]:
    """Share of time that the default LandscapeMonitor takes, by its own account and by the clock."""
    torch.manual_seed(0)
    models = {
        "MLP 64-128-128-10, batch 64": (
            nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 10)),
            TensorDataset(torch.randn(2048, 64), torch.randint(0, 10, (2048,))), 64, 16 * steps,
        ),
        "conv net with batch norm 28x28, batch 64": (
            nn.Sequential(
                nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1),
                nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Dropout(0.2),
                nn.Linear(64, 10),
            ),
            TensorDataset(torch.randn(2048, 1, 28, 28), torch.randint(0, 10, (2048,))), 64, 6 * steps,
        ),
        "transformer 3 x 64, length 32, batch 32": (
            Transformer(), TensorDataset(torch.randint(0, 64, (2048, 32)), torch.randint(0, 10, (2048,))), 32, 4 * steps,
        ),
    }  # fmt: skip
    lines = [
        "Default `LandscapeMonitor()` (budget 0.05 of training time), by its own account and by the clock: fits without it, without it again, with an empty "
        "callback and with it take turns of 50 steps in one process. The first measurement is taken at once; it is paid back after its cost / 0.05.",
        "",
        "| model | step (ms) | steps | share reported | of it hooks at every step | **share by the clock** | the two without: either side of their mean | an empty callback | curvature measurements | paid back after step |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (network, data, batch, count) in models.items():
        monitor = LandscapeMonitor(summary=False)
        contenders: dict[str, list[pl.Callback]] = {
            "without": [], "again": [], "empty": [pl.Callback()], "monitor": [monitor],
        }  # fmt: skip
        seconds = fits_in_turns(
            {
                key: partial(_fit_a_copy, network, data, batch, count, callbacks)
                for key, callbacks in contenders.items()
            },
            paused={"monitor": lambda waited, monitor=monitor: coordinator_of(monitor).clock.paused(waited)},
        )
        without = (sum(seconds["without"]) + sum(seconds["again"])) / 2
        share = {key: 1.0 - without / sum(own) for key, own in seconds.items()}
        coordinator = coordinator_of(monitor)
        hooks = coordinator.between / coordinator.spent * coordinator.overhead()
        step = without / count
        lines.append(
            f"| {name} | {1e3 * step:.2f} | {count} | {coordinator.overhead():.4f} | {hooks:.4f} | {share['monitor']:.4f} | ±{abs(share['again']):.4f} "
            f"| {share['empty']:+.4f} | {monitor.parts['eigenvalues'].cadence.measurements} "
            f"| {(seconds['monitor'][0] - seconds['without'][0]) / 0.05 / step:.0f} |"
        )
        # Progress: the table is printed as a whole at the end.
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def coordinator_of(monitor: LandscapeMonitor) -> Any:
    return next(iter(monitor.parts.values())).coordinator


def _fit_a_copy(
    network: nn.Module, data: TensorDataset, batch: int, steps: int, callbacks: list[pl.Callback], turn: pl.Callback
) -> None:
    fit(copy.deepcopy(network), data, batch, steps, [turn, *callbacks])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=800, help="training steps of the slowest model of the budget table"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", help="also write the tables to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    text = "\n".join([*gradient_norm_table(40), "", *budget_table(arguments.steps)])
    print(text)
    if arguments.output:
        with open(arguments.output, "w") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
