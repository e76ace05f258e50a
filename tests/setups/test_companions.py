"""Rows of the support table: other callbacks beside ours."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
)
from torch import Tensor, nn

from tests.setups.harness import Case, Setup, check, check_values, classification


class Scheduled(Setup):
    """Follows a plateau of the training loss."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "train_loss_epoch"}}


class Validated(Setup):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))


def with_validation() -> dict[str, Any]:
    return {"train_dataloaders": classification(), "val_dataloaders": classification(16)}


def exponential_average() -> pl.Callback:
    return pl.callbacks.WeightAveraging(avg_fn=lambda average, now, count: 0.9 * average + 0.1 * now)


class OwnAverage(pl.Callback):
    """The hand-made kind: a copy of the weights that follows them."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.shadow = copy.deepcopy(pl_module.state_dict())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        for name, value in pl_module.state_dict().items():
            self.shadow[name].lerp_(value, 0.1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.load_state_dict(self.shadow)


def stopped(trainer: pl.Trainer, module: Any) -> None:
    assert trainer.current_epoch < 4


def lowered(trainer: pl.Trainer, module: Any) -> None:
    assert trainer.optimizers[0].param_groups[0]["lr"] < 0.2


def checkpointed(trainer: pl.Trainer, module: Any) -> None:
    best = trainer.checkpoint_callback.best_model_score
    assert float(best) == pytest.approx(min(v for _, v in trainer.checkpoint_callback.best_k_models.items()).item())


def searched(trainer: pl.Trainer, module: Any) -> None:
    finder = next(callback for callback in trainer.callbacks if isinstance(callback, LearningRateFinder))
    assert len(finder.optimal_lr.results["loss"]) > 5


class Backbone(Setup):
    """A frozen part that is unfrozen later."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(6, 3)))
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(self.backbone(batch[0])), batch[1])


class Sized(Setup):
    """Its loader has the batch size that the finder sets."""

    batch_size = 2

    def train_dataloader(self) -> Any:
        return classification(batch_size=self.batch_size)


def unfrozen(trainer: pl.Trainer, module: Any) -> None:
    assert all(parameter.requires_grad for parameter in module.backbone.parameters())


def pruned(trainer: pl.Trainer, module: Any) -> None:
    assert sum(int((part.weight == 0).sum()) for part in (module.net[0], module.net[2])) > 8


def sized(trainer: pl.Trainer, module: Any) -> None:
    assert module.batch_size in (4, 8)  # the second: Lightning 2.5


CASES = {
    "weight averaging": Case(callbacks=lambda: [exponential_average()], trainer={"max_epochs": 3}),
    "own weight averaging": Case(callbacks=lambda: [OwnAverage()]),
    "stochastic weight averaging": Case(
        callbacks=lambda: [StochasticWeightAveraging(0.1, swa_epoch_start=1, annealing_epochs=1)],
        trainer={"max_epochs": 4},
    ),
    "ReduceLROnPlateau": Case(Scheduled, trainer={"max_epochs": 4}, check=lowered),
    "EarlyStopping": Case(
        Validated,
        with_validation,
        trainer={"max_epochs": 4},
        callbacks=lambda: [EarlyStopping("val_loss", patience=1, min_delta=10.0)],
        check=stopped,
    ),
    "ModelCheckpoint": Case(
        Validated,
        with_validation,
        trainer={"enable_checkpointing": True},
        callbacks=lambda: [
            ModelCheckpoint(dirpath="checkpoints", monitor="val_loss", save_top_k=2),
            LearningRateMonitor(),
        ],
        check=checkpointed,
    ),
    "LearningRateFinder": Case(
        callbacks=lambda: [LearningRateFinder(num_training_steps=8, attr_name="rate")],
        trainer={"enable_checkpointing": True},
        check=searched,
    ),
    "BatchSizeFinder": Case(
        Sized,
        dict,
        callbacks=lambda: [BatchSizeFinder(max_trials=2, steps_per_trial=2)],
        trainer={"enable_checkpointing": True},
        check=sized,
    ),
    "GradientAccumulationScheduler": Case(
        data=lambda: classification(64),
        callbacks=lambda: [GradientAccumulationScheduler({0: 1, 1: 2, 2: 4})],
        trainer={"max_epochs": 3},
    ),
    "BackboneFinetuning": Case(
        Backbone,
        callbacks=lambda: [BackboneFinetuning(unfreeze_backbone_at_epoch=1)],
        trainer={"max_epochs": 3},
        check=unfrozen,
    ),
    "ModelPruning": Case(
        callbacks=lambda: [ModelPruning("l1_unstructured", amount=0.5)], trainer={"max_epochs": 2}, check=pruned
    ),
    "Timer": Case(callbacks=lambda: [Timer("00:01:00:00")], trainer={"max_epochs": 3}),
}
# The reference is a fresh module: it has no masks, and all of its parts are trained.
NO_REFERENCE = {"ModelPruning"}
LAST_ONLY = {"BackboneFinetuning"}
if not hasattr(pl.callbacks, "WeightAveraging"):  # new in Lightning 2.6
    del CASES["weight averaging"]


@pytest.mark.parametrize("name", CASES)
def test_companions(name: str) -> None:
    watched = check(CASES[name])
    if name not in NO_REFERENCE:
        check_values(CASES[name], watched, (max(watched.recorder.seen),) if name in LAST_ONLY else None)
