"""Rows of the support table: other callbacks beside ours."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)

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
}
if not hasattr(pl.callbacks, "WeightAveraging"):  # new in Lightning 2.6
    del CASES["weight averaging"]


@pytest.mark.parametrize("name", CASES)
def test_companions(name: str) -> None:
    check_values(CASES[name], check(CASES[name]))
