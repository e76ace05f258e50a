"""The shortest use: one callback on a Trainer. Real images (scikit-learn's 8x8 digits); about half
a minute on one core.

Afterwards: ``tensorboard --logdir lightning_logs``.
"""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import LandscapeMonitor


class Digits(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, digits = batch
        loss = nn.functional.cross_entropy(self.layers(images), digits)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main() -> None:
    seed_everything(0)
    images, digits = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(digits))
    loader = DataLoader(data, batch_size=64, shuffle=True)
    # Monitors keep to 5 % of the training time unless told otherwise; in a run of seconds that is one measurement.
    monitor = LandscapeMonitor(max_overhead=0.5)
    trainer = Trainer(max_epochs=50, accelerator="cpu", log_every_n_steps=10, callbacks=[monitor])
    trainer.fit(Digits(), loader)
    print("Every value is in trainer.callback_metrics too, as last measured:")
    for name in ("gradient/norm", "hessian/largest_eigenvalue", "hessian/smallest_eigenvalue", "stability/ratio"):
        print(f"{name:30} {trainer.callback_metrics[name]:.4f}")


if __name__ == "__main__":
    main()
