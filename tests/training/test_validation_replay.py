"""The loss of a validation step, whatever form the step gives it in; isolated like a training step."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from landscape_callbacks.training.validation_replay import ValidationReplay
from tests.hard_module import HardModule, loaders, train

BATCH = (torch.linspace(-1, 1, 48).view(8, 6), torch.arange(8) % 3)


class Probe(pl.Callback):
    """Asks for the validation loss in the middle of training."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.losses: list[float] = []
        self.modes: list[bool] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        with ValidationReplay(trainer, pl_module, **self.arguments) as replay:
            closure = replay.closure(BATCH, 0)
            self.losses.append(float(closure().detach()))
            assert float(closure().detach()) == self.losses[-1]
        assert "log" not in vars(pl_module)


def test_it_leaves_no_trace() -> None:
    assert train([Probe()]) == train([])


def run(module: pl.LightningModule, **arguments: Any) -> list[float]:
    probe = Probe(**arguments)
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        callbacks=[probe],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )
    trainer.fit(module, *loaders())
    return probe.losses


def expected(module: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(module.net(BATCH[0]), BATCH[1])


class Known(HardModule):
    """Frozen, so that every measurement gives the same loss."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return sum(parameter.sum() for parameter in self.parameters())


def truth(module: Any) -> float:
    module.eval()
    with torch.no_grad():
        return float(expected(module))


class Returns(Known):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        assert not self.training
        self.log("accuracy", 0.5)
        return expected(self)


class ReturnsMapping(Known):
    def validation_step(self, batch: Any) -> Any:
        return {"loss": expected(self), "other": 3}


class LogsMapping(Known):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log_dict({"val/accuracy": torch.tensor(0.5), "val/loss": expected(self)}, prog_bar=True)


class LogsTwo(Known):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("loss", torch.tensor(7.0))
        self.log("cross_entropy_loss", expected(self))


@pytest.mark.parametrize("kind", [Returns, ReturnsMapping, LogsMapping])
def test_forms_of_a_validation_loss(kind: type[HardModule]) -> None:
    module = kind()
    assert run(module) == pytest.approx([truth(module)] * 2)


def test_a_named_metric_and_a_loss_function() -> None:
    module = LogsTwo()
    assert run(module, metric="cross_entropy_loss") == pytest.approx([truth(module)] * 2)
    assert run(module, loss_fn=lambda module, batch: 2 * expected(module)) == pytest.approx([2 * truth(module)] * 2)


def test_no_loss_is_an_error_that_says_what_was_there() -> None:
    with pytest.raises(ValueError, match=r"returned NoneType and logged loss, cross_entropy_loss"):
        run(LogsTwo())
