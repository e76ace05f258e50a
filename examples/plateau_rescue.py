"""A run that stalls at a saddle, and what three ways of setting the learning rate make of it.

A small network on real images (scikit-learn's 8x8 digits) starts from weights near zero. There is a saddle point: the
gradient is nearly zero, and the way down has to be found from next to nothing. A constant learning rate sits on the
plateau for a long while. ReduceLROnPlateau takes it for the end and cuts the rate, which makes it last for good.
PlateauLearningRateAdjuster looks at the curvature, finds a direction that leads down and steps far too small to follow
it, and raises the rate.

About two minutes on one core. Afterwards: ``plateau_rescue.png``.
"""

from __future__ import annotations

import argparse
import logging

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import PlateauLearningRateAdjuster
from landscape_callbacks.figures.style import THEMES, dress, dress_legend, new_figure

TARGET = 0.25  # of the training loss; the plateau lies at 0.45


class NearZero(LightningModule):
    """One hidden layer, squared error to one-hot digits, weights of size 1e-4."""

    def __init__(self, reduce_on_plateau: bool) -> None:
        super().__init__()
        self.reduce_on_plateau = reduce_on_plateau
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=1e-4)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, digits = batch
        wanted = nn.functional.one_hot(digits, 10).float()
        loss = 0.5 * (self.layers(images) - wanted).square().sum(dim=1).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        if not self.reduce_on_plateau:
            return optimizer
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=10)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "train_loss"}}


class Watch(Callback):
    """The mean loss of each epoch, and the learning rate of each step."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.steps.append(trainer.global_step)
        self.losses.append(float(trainer.callback_metrics["train_loss"]))

    def first_below(self, target: float) -> int | None:
        return next((step for step, loss in zip(self.steps, self.losses, strict=True) if loss <= target), None)


def train(max_steps: int, *, reduce_on_plateau: bool = False, callbacks: list[Callback] | None = None) -> Watch:
    seed_everything(0, verbose=False)
    images, digits = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32) / 16
    data = TensorDataset(inputs - inputs.mean(dim=0), torch.tensor(digits))
    watch = Watch()
    trainer = Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch, *(callbacks or [])],
    )
    trainer.fit(NearZero(reduce_on_plateau), DataLoader(data, batch_size=64, shuffle=True, drop_last=True))
    return watch


def draw(runs: dict[str, Watch], adjuster: PlateauLearningRateAdjuster) -> Figure:
    theme = THEMES["light"]
    figure = new_figure(theme, width=7.2, height=6.4)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for (name, watch), color in zip(runs.items(), theme.series, strict=False):
        losses.plot(watch.steps, watch.losses, label=name, color=color)
        rates.plot(range(1, len(watch.rates) + 1), watch.rates, label=name, color=color)
    for step, decision in adjuster.history:
        losses.axvline(step, color=theme.grid, zorder=0)
        place = {"xy": (step, 1.0), "xycoords": ("data", "axes fraction"), "xytext": (6, -8)}
        name = f"{decision.action} ×{decision.factor:.2g}"
        losses.annotate(name, **place, textcoords="offset points", va="top", fontsize=9.5, color=theme.text)
    rates.set_yscale("log")
    dress(losses, theme, title="Leaving a saddle: digits, weights near zero", x="", y="training loss")
    dress(rates, theme, title="", x="optimizer steps", y="learning rate")
    dress_legend(losses, theme)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-steps", type=int, default=5000)
    max_steps = parser.parse_args().max_steps
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    adjuster = PlateauLearningRateAdjuster(max_overhead=None)
    runs = {
        "constant": train(max_steps),
        "ReduceLROnPlateau": train(max_steps, reduce_on_plateau=True),
        "PlateauLearningRateAdjuster": train(max_steps, callbacks=[adjuster]),
    }
    print(f"{'':30} loss below {TARGET} at step   last loss   last learning rate")
    for name, watch in runs.items():
        reached = watch.first_below(TARGET) or "never"
        print(f"{name:30} {reached:>24} {watch.losses[-1]:11.4f} {watch.rates[-1]:20.2g}")
    for step, decision in adjuster.history:
        print(f"step {step}: {decision.reason}")
    cost = adjuster.probe_cost
    print(f"Probes cost as much as {cost:.0f} samples of training, or {cost / 64:.0f} steps.")
    draw(runs, adjuster).savefig("plateau_rescue.png", dpi=150)


if __name__ == "__main__":
    main()
