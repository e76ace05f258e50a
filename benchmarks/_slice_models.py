"""Networks on scikit-learn's digits, trained for a while: what slices are measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape_callbacks.surface import LossSurface


@dataclass
class Model:
    """A network with its loss on a fixed batch, where training began, and its last step."""

    name: str
    net: nn.Module
    closure: Callable[[], Tensor]
    surface: LossSurface
    initial: Tensor
    last_step: Tensor


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    return torch.tensor(inputs, dtype=torch.float32) / 16 - 0.3, torch.tensor(labels)


def mlp(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), activation(), nn.Linear(256, 128), activation(), nn.Linear(128, 10))


def cnn(activation: type[nn.Module], norm: bool = False) -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        norms = [nn.BatchNorm2d(outputs)] if norm else []
        return [nn.Conv2d(inputs, outputs, 3, stride, 1), *norms, activation()]

    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), *block(1, 16, 1), *block(16, 32, 2), nn.Flatten(), nn.Linear(512, 64), activation(),
        nn.Linear(64, 10),
    )  # fmt: skip


def trained(name: str, build: Callable[[], nn.Module], steps: int = 200) -> Model:
    inputs, labels = digits()
    torch.manual_seed(0)
    net = build()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    batch, targets = inputs[:512], labels[:512]
    surface = LossSurface(lambda: nn.functional.cross_entropy(net(batch), targets), net.named_parameters())
    initial = surface.space.weights()
    before = initial
    for _ in range(steps):
        chosen = torch.randint(0, len(inputs), (64,), generator=generator)
        before = surface.space.weights()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
    optimizer.zero_grad()
    return Model(name, net, surface.closure, surface, initial, surface.space.weights() - before)


MODELS: dict[str, Callable[[], Model]] = {
    "tanh MLP": lambda: trained("tanh MLP", lambda: mlp(nn.Tanh)),
    "ReLU MLP": lambda: trained("ReLU MLP", lambda: mlp(nn.ReLU)),
    "tanh CNN": lambda: trained("tanh CNN", lambda: cnn(nn.Tanh)),
    "ReLU CNN": lambda: trained("ReLU CNN", lambda: cnn(nn.ReLU)),
    "ReLU CNN, batch norm": lambda: trained("ReLU CNN, batch norm", lambda: cnn(nn.ReLU, norm=True)),
}
