"""The maths without Lightning: what kind of place did plain PyTorch training end in?

Real images: scikit-learn's 8x8 digits. About twenty seconds on one core.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

from landscape_callbacks.surface import LossSurface, extreme_eigenvalues, loss_slice, spectral_density, trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-steps", type=int, default=1000)
    steps = parser.parse_args().max_steps

    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images, digits = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(images), digits)

    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    surface = LossSurface(loss, model.named_parameters())
    gradient = surface.gradient()
    slope = surface.space.norm(gradient)
    print(f"{surface.space.dimension} weights, loss {surface.loss():.4f}, gradient norm {slope:.4f}")

    pairs = extreme_eigenvalues(surface, largest=3, smallest=1)
    for value, error in zip(pairs.values, pairs.errors, strict=True):
        print(f"eigenvalue {value:10.4f} ± {error:.1g}")
    print(f"{pairs.products} Hessian-vector products; the limit 2/lr of gradient descent is {2 / 0.5:.1f}")

    total = trace(surface, seed=0)
    print(f"trace {total.value:.3f} ± {total.error:.1g}")

    density = spectral_density(surface, seed=0)
    width = density.grid[1] - density.grid[0]
    near_zero = float((density.density * width)[density.grid.abs() < 0.05 * pairs.values[0]].sum())
    print(f"{near_zero:.0%} of the spectrum lies within 5 % of the largest eigenvalue around zero")

    line = loss_slice(surface, pairs.vectors[0], extent=1.0)
    print(f"along the sharpest direction: curvature {line.curvature:.4f}, {line.evaluations} losses evaluated")
    surface.release()


if __name__ == "__main__":
    main()
