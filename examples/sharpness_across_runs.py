"""How batch size and learning rate decide where training ends up: the sharpness of nine runs.

All runs see the same number of images, and sharpness is measured on the same images for all, so that the figures can be
compared. Real images: scikit-learn's 8x8 digits. About a minute on one core.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import HessianEigenvalueMonitor


class Digits(LightningModule):
    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, digits = batch
        return nn.functional.cross_entropy(self.layers(images), digits)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pixels, labels = load_digits(return_X_y=True)
    images, digits = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)

    def loss_of_all(model: Digits, batch: list[Tensor]) -> Tensor:
        """Measured instead of the loss of the batch at hand."""
        return nn.functional.cross_entropy(model.layers(images), digits)

    print("   batch   rate      loss    sharpness                ratio to 2/rate")
    for batch_size in (8, 64, 512):
        for learning_rate in (0.02, 0.1, 0.5):
            torch.manual_seed(0)
            model = Digits(learning_rate)
            loader = DataLoader(TensorDataset(images, digits), batch_size, shuffle=True, drop_last=True)
            trainer = Trainer(
                max_epochs=epochs,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[
                    HessianEigenvalueMonitor(
                        every_n_steps=len(loader), max_overhead=None, smallest=0, loss_fn=loss_of_all
                    )
                ],
            )
            trainer.fit(model, loader)
            measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
            sharpness, error = measured["hessian/largest_eigenvalue"], measured["hessian/largest_eigenvalue_error"]
            loss = float(loss_of_all(model, []))
            print(
                f"{batch_size:8} {learning_rate:6} {loss:9.4f} {sharpness:12.3f} ± {error:<8.1g}"
                f" {measured['stability/ratio']:16.3f}"
            )


if __name__ == "__main__":
    main()
