"""LightningCLI: the monitors from YAML.

python examples/lightning_cli.py fit --config examples/lightning_cli.yaml

About half a minute on one core.
"""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Digits(LightningModule):
    """A classifier of scikit-learn's 8x8 digits, with its data.

    Args:
        width: Hidden units.
        learning_rate: Of SGD.
    """

    def __init__(self, width: int = 64, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.layers = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, digits = batch
        loss = nn.functional.cross_entropy(self.layers(images), digits)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)

    def train_dataloader(self) -> DataLoader:
        pixels, digits = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(digits))
        return DataLoader(data, batch_size=64, shuffle=True)


if __name__ == "__main__":
    LightningCLI(Digits)
