"""Two nets trained apart on the same data: which minimum is flatter, and is there a hill between them?

Real images: scikit-learn's 8x8 digits. About half a minute on one core.
"""

from __future__ import annotations

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn

from landscape_callbacks.surface import LossSurface, extreme_eigenvalues, loss_slice, trace


def trained(images: torch.Tensor, digits: torch.Tensor, *, seed: int, batch_size: int, steps: int) -> nn.Module:
    """A net trained by plain SGD."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch_size,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), digits[chosen]).backward()
        optimizer.step()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-steps", type=int, default=4000)
    steps = parser.parse_args().max_steps
    pixels, labels = load_digits(return_X_y=True)
    images, digits = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)
    models = {
        "batches of 8": trained(images, digits, seed=0, batch_size=8, steps=steps),
        "batches of 512": trained(images, digits, seed=1, batch_size=512, steps=steps),
    }

    def surface_of(model: nn.Module) -> LossSurface:
        return LossSurface(lambda: nn.functional.cross_entropy(model(images), digits), model.named_parameters())

    print("                      loss   largest eigenvalue       trace")
    for name, model in models.items():
        surface = surface_of(model)
        sharpest, total = extreme_eigenvalues(surface, largest=1), trace(surface, seed=0)
        print(
            f"{name:16} {surface.loss():9.4f} {sharpest.values[0]:11.4f} ± {sharpest.errors[0]:<7.1g}"
            f" {total.value:9.3f} ± {total.error:.1g}"
        )

    first, second = models.values()
    between = surface_of(copy.deepcopy(first))
    way = surface_of(second).space.weights() - between.space.weights()
    line = loss_slice(between, way, extent=(0.0, 1.0))
    print("\nThe loss on the straight line from the first to the second:")
    for share, loss in zip(line.alphas, line.losses, strict=True):
        print(f"{share:6.2f} {loss:8.4f} {'#' * round(30 * float(loss / line.losses.max()))}")
    print(f"barrier {line.barrier:.4f} ± {line.error:.1g}")


if __name__ == "__main__":
    main()
