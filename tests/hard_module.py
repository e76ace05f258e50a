"""A module that leaves a trace wherever a careless replay would, and the fingerprint of a training run with it."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torchmetrics
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

OURS = ("gradient/", "hessian/", "stability/", "slice/", "plane/", "diagnosis/", "landscape/")


class HardModule(pl.LightningModule):
    """Dropout, batch norm, metrics, numpy and python randomness, attributes of all kinds, a direct logger call."""

    def __init__(self, manual: bool = False, optimizer: str = "sgd") -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.optimizer_name = optimizer
        self.net = nn.Sequential(
            nn.Linear(6, 16),
            nn.BatchNorm1d(16),
            nn.Tanh(),
            nn.Dropout(0.3),
            nn.Linear(16, 16),
            nn.ReLU(inplace=True),
            nn.Linear(16, 3),
        )
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=3)
        self.metrics = torchmetrics.MetricCollection(
            {
                "f1": torchmetrics.F1Score(task="multiclass", num_classes=3),
                "p": torchmetrics.Precision(task="multiclass", num_classes=3),
            }
        )
        self.seen: list[float] = []
        self.recent: deque[int] = deque(maxlen=3)
        self.table: dict[str, Any] = {"steps": 0, "nested": {"losses": []}}
        self.calls = 0
        self.loss_average = 0.0
        self.tensor_average = torch.zeros(())
        self.own_generator = np.random.default_rng(5)
        self.torch_generator = torch.Generator().manual_seed(6)
        self.teachers = [nn.BatchNorm1d(6)]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.teachers[0](x.float())
        x = x + 0.01 * float(np.random.randn()) + 0.01 * random.random() + 0.01 * torch.randn_like(x)
        x = x + 0.01 * float(self.own_generator.normal()) + 0.01 * torch.randn(x.shape, generator=self.torch_generator)
        logits = self.net(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.calls += 1
        self.seen.append(float(loss.detach()))
        self.recent.append(batch_idx)
        self.table["steps"] += 1
        self.table["nested"]["losses"].append(self.calls)
        self.loss_average = 0.9 * self.loss_average + 0.1 * float(loss.detach())
        self.tensor_average.mul_(0.9).add_(loss.detach().float(), alpha=0.1)
        self.accuracy(logits, y)
        self.metrics(logits, y)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log("train/count", 1.0, reduce_fx="sum", on_step=False, on_epoch=True)
        self.log("train/accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log_dict(self.metrics, on_step=False, on_epoch=True)
        for logger in self.loggers:
            logger.log_metrics({"direct": self.calls}, step=self.calls)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return {"loss": loss, "extra": self.calls}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", nn.functional.cross_entropy(self.net(x), y))

    def configure_optimizers(self) -> Any:
        if self.optimizer_name == "adamw":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        else:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)}


class RowLogger(Logger):
    """Keeps every row that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    name = "rows"
    version = 0

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.rows.append((step, {key: float(value) for key, value in metrics.items()}))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def their_rows(self) -> list[tuple[int | None, dict[str, float]]]:
        """The rows that hold keys of the user, without ours."""
        rows = [
            (step, {key: value for key, value in row.items() if not key.startswith(OURS)}) for step, row in self.rows
        ]
        return [(step, row) for step, row in rows if row]

    def our_rows(self) -> list[tuple[int | None, dict[str, float]]]:
        """The rows that the monitors logged."""
        rows = [(step, {key: value for key, value in row.items() if key.startswith(OURS)}) for step, row in self.rows]
        return [(step, row) for step, row in rows if row]


class StateAtBatchEnd(pl.Callback):
    """Takes down gradients, random streams and flags after every batch."""

    def __init__(self) -> None:
        self.prints: list[str] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        gradients = [None if p.grad is None else p.grad.clone() for p in pl_module.parameters()]
        flags = [module.training for module in pl_module.modules()]
        self.prints.append(fingerprint([gradients, flags, random_streams()]))


def random_streams() -> list[Any]:
    state = np.random.get_state()
    return [torch.get_rng_state(), state[1].tolist(), state[2:], random.getstate()]


def fingerprint(value: Any) -> str:
    """A hash of the bits of nested tensors and plain values."""
    digest = hashlib.sha256()

    def add(entry: Any) -> None:
        if isinstance(entry, torch.Tensor):
            digest.update(str((entry.dtype, tuple(entry.shape))).encode())
            digest.update(
                entry.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()
                if entry.numel()
                else b""
            )
        elif isinstance(entry, dict):
            for key in entry:
                digest.update(repr(key).encode())
                add(entry[key])
        elif isinstance(entry, (list, tuple, deque)):
            digest.update(f"{type(entry).__name__}{len(entry)}".encode())
            for part in entry:
                add(part)
        elif isinstance(entry, np.random.Generator):
            digest.update(repr(entry.bit_generator.state).encode())
        elif isinstance(entry, torch.Generator):
            add(entry.get_state())
        else:
            digest.update(repr(entry).encode())

    add(value)
    return digest.hexdigest()


def loaders(samples: int = 64, batch_size: int = 8) -> tuple[DataLoader, DataLoader]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 6, generator=generator)
    y = (x[:, :3].argmax(1)).long()
    data = TensorDataset(x, y)
    return DataLoader(data, batch_size=batch_size, shuffle=True), DataLoader(data, batch_size=batch_size)


def train(
    callbacks: list[Any], *, manual: bool = False, optimizer: str = "sgd", epochs: int = 2, **trainer_arguments: Any
) -> dict[str, str]:
    """Trains the module and gives a fingerprint a kind of state; equal dicts mean bit-identical runs."""
    pl.seed_everything(11, verbose=False)
    module = HardModule(manual, optimizer)
    rows = RowLogger()
    probe = StateAtBatchEnd()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=rows,
        log_every_n_steps=1,
        callbacks=[*callbacks, probe],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_arguments,
    )
    trainer.fit(module, *loaders())
    train.last_rows = rows  # type: ignore[attr-defined]
    return {
        "weights and buffers": fingerprint(module.state_dict()),
        "optimizer": fingerprint([optimizer.state_dict() for optimizer in trainer.optimizers]),
        "random streams": fingerprint(random_streams()),
        "logged rows": fingerprint(rows.their_rows()),
        "callback_metrics": fingerprint({k: v for k, v in trainer.callback_metrics.items() if not k.startswith(OURS)}),
        "attributes": fingerprint(
            [module.seen, module.recent, module.table, module.calls, module.loss_average, module.tensor_average]
            + [module.own_generator, module.torch_generator, module.teachers[0].state_dict()]
            + [metric.metric_state for metric in (module.accuracy, *module.metrics.values())]
        ),
        "every batch end": fingerprint(probe.prints),
    }
