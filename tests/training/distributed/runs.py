"""Training runs that are the same on one process and on two, where batch j is shared between the ranks."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.distributed.nn.functional import all_reduce as differentiable_all_reduce
from torch.utils.data import DataLoader, TensorDataset

from tests.hard_module import RowLogger

SAMPLES = 48
POOLED_BATCH = 16


class NormOverRanks(nn.Module):
    """What SyncBatchNorm does in training, which torch runs on GPUs only: moments over the batches of all ranks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moments = torch.stack([x.mean(0), x.square().mean(0)])
        if torch.distributed.is_initialized():
            moments = differentiable_all_reduce(moments) / torch.distributed.get_world_size()
        return (x - moments[0]) / (moments[1] - moments[0].square() + 1e-5).sqrt()


def network(norm: str | None = None) -> nn.Sequential:
    torch.manual_seed(7)
    norms = {None: [], "batch": [nn.BatchNorm1d(7)], "over ranks": [NormOverRanks()]}[norm]
    return nn.Sequential(nn.Linear(5, 7), *norms, nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 5, generator=generator, dtype=torch.float64)
    return x, x[:, :3].argmax(1)


class Module(pl.LightningModule):
    """A small network in double precision. ``sync_dist`` logs a value that all ranks reduce, inside the step."""

    def __init__(self, optimizer: str = "sgd", norm: str | None = None, manual: bool = False) -> None:
        super().__init__()
        self.net = network(norm)
        self.optimizer = optimizer
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train/loss", loss, sync_dist=True, on_step=True, on_epoch=True)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), lr=0.02)
        return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)


def pooled_loader(ranks: int) -> DataLoader:
    """Batches in a fixed order; with two ranks each sees its half of every batch."""
    rank = torch.distributed.get_rank() if ranks > 1 else 0
    share = POOLED_BATCH // ranks
    starts = range(rank * share, SAMPLES, POOLED_BATCH)
    own = [index for start in starts for index in range(start, start + share)]
    return DataLoader(TensorDataset(*data()), batch_size=share, sampler=own)


def fit(callbacks: list[Any], module: pl.LightningModule, *, ranks: int, **arguments: Any) -> dict[str, Any]:
    """Trains for one epoch; gives the weights, what was logged, and the trainer."""
    pl.seed_everything(0, verbose=False)
    rows = arguments.pop("logger", None) or RowLogger()
    settings: dict[str, Any] = {"strategy": "ddp" if ranks > 1 else "auto", "max_epochs": 1, **arguments}
    loader = settings.pop("loader", None) or pooled_loader(ranks)
    if loader == "whole":
        loader = pooled_loader(1)
    validation = pooled_loader(ranks) if settings.pop("validation", False) else None
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        logger=rows,
        log_every_n_steps=1,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(module, loader, validation)
    return {
        "weights": {name: full(value) for name, value in module.state_dict().items()},
        "gradients": {name: full(p.grad) for name, p in module.named_parameters() if p.grad is not None},
        "rows": rows.our_rows() if isinstance(rows, RowLogger) else [],
        "their_rows": rows.their_rows() if isinstance(rows, RowLogger) else [],
        "metrics": {tag: float(value) for tag, value in trainer.callback_metrics.items()},
        "trainer": trainer,
    }


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor, also of one that is sharded."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()


def plain(run: dict[str, Any]) -> dict[str, Any]:
    """What can be sent to another process."""
    return {name: value for name, value in run.items() if name != "trainer"}


def same_bits(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two runs ended at the same weights and gradients and logged the same, to the bit."""
    tensors = all(
        first[kind].keys() == second[kind].keys()
        and all(torch.equal(first[kind][name], second[kind][name]) for name in first[kind])
        for kind in ("weights", "gradients")
    )
    return tensors and first["their_rows"] == second["their_rows"]
