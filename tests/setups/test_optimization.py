"""Rows of the support table: how steps are made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.setups.harness import Case, Setup, check, check_values, classification


class AdamW(Setup):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=6)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LBFGS(Setup):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.2, max_iter=3, history_size=3)


class TwoOptimizers(Setup):
    """Alternating optimizers by hand: one for each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            loss = self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("train_loss", loss)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[0].parameters(), lr=0.1), torch.optim.Adam(self.net[2].parameters(), lr=0.01)]


class Adversarial(Setup):
    """A GAN: ``loss`` is that of the discriminator, which steps first."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 4))
        self.discriminator = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))

    def noise(self, batch: Any) -> Tensor:
        return batch[0][:, :2].flip(0)

    def loss(self, batch: Any) -> Tensor:
        real, fake = self.discriminator(batch[0]), self.discriminator(self.generator(self.noise(batch)).detach())
        return nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        loss = self.loss(batch)
        self.log("discriminator", loss)
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        fooled = nn.functional.softplus(
            -self.discriminator(self.generator(self.noise(batch) + torch.randn(8, 2)))
        ).mean()
        second.zero_grad()
        self.manual_backward(fooled)
        second.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=0.02) for part in (self.discriminator, self.generator)]


def own_loss(module: Any, batch: Any) -> Tensor:
    return module.loss(batch)


CASES = {
    "accumulation": Case(trainer={"accumulate_grad_batches": 2}, data=lambda: classification(40)),
    "clipping by norm": Case(trainer={"gradient_clip_val": 0.1}),
    "clipping by value": Case(trainer={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    "AdamW and a schedule": Case(AdamW),
    "LBFGS": Case(LBFGS),
    # Manual optimization: on the live graph of the first loss; slices need a loss that can be evaluated again.
    "several optimizers": Case(TwoOptimizers, slices=False),
    "several optimizers with loss_fn": Case(TwoOptimizers, monitor={"loss_fn": own_loss}),
    "GAN": Case(
        Adversarial,
        monitor={"parameters": "discriminator"},
        parameters=lambda name: name.startswith("discriminator"),
        slices=False,
    ),
    "GAN with loss_fn": Case(
        Adversarial,
        monitor={"parameters": "discriminator", "loss_fn": own_loss},
        parameters=lambda name: name.startswith("discriminator"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_optimization(name: str) -> None:
    check_values(CASES[name], check(CASES[name]))
