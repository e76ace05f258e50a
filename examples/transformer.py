"""A small transformer learns to write like Python's own help texts, character by character, with its landscape watched.

The text (``pydoc_data.topics``) ships with every Python. The layers are torch's own, whose fast attention
kernels have no second derivative; the monitors switch to the one that has while they measure. One and a
half minutes on one core.
"""

from __future__ import annotations

import argparse
from pydoc_data.topics import topics

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from landscape_callbacks import GradientNormMonitor, HessianEigenvalueMonitor


class Characters(Dataset):
    """Pieces of the text, each with the same piece one character later."""

    def __init__(self, length: int = 64) -> None:
        text = "\n".join(topics[name] for name in sorted(topics))
        self.alphabet = sorted(set(text))
        places = {character: place for place, character in enumerate(self.alphabet)}
        self.codes = torch.tensor([places[character] for character in text])
        self.length = length

    def __len__(self) -> int:
        return (len(self.codes) - 1) // self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self.length
        return self.codes[start : start + self.length], self.codes[start + 1 : start + self.length + 1]


class Transformer(LightningModule):
    def __init__(self, characters: int, length: int, width: int = 64, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.tokens = nn.Embedding(characters, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=4 * width, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(width, characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        text, following = batch
        logits = self.head(self.layers(self.tokens(text) + self.positions, mask=self.mask, is_causal=True))
        loss = F.cross_entropy(logits.flatten(0, 1), following.flatten())
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-steps", type=int, default=600)
    steps = parser.parse_args().max_steps
    seed_everything(0)
    data = Characters()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        log_every_n_steps=10,
        callbacks=[
            GradientNormMonitor(per_module=1),
            HessianEigenvalueMonitor(every_n_steps=25, max_overhead=0.5, verbose=True),
        ],
    )
    trainer.fit(Transformer(len(data.alphabet), data.length), DataLoader(data, batch_size=16, shuffle=True))
    print("As last logged (curvature: at the last measurement above):")
    for name in sorted(trainer.callback_metrics):
        print(f"{name:32} {float(trainer.callback_metrics[name]):.4g}")


if __name__ == "__main__":
    main()
