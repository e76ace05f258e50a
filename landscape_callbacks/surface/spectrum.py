"""Trace and spectral density of the Hessian, from products with random vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape_callbacks.surface.eigenpairs import SymmetricOperator
from landscape_callbacks.surface.krylov import KrylovSpace, NotFiniteError


@dataclass(frozen=True)
class TraceEstimate:
    """An estimate of the trace.

    Attributes:
        value: The trace.
        error: Its standard error (0 when the products span the whole space).
        products: Hessian-vector products spent.
    """

    value: float
    error: float
    products: int


def trace(surface: SymmetricOperator, *, products: int = 30, seed: int = 0) -> TraceEstimate:
    """The trace of the Hessian by Hutch++ (Meyer, Musco, Musco & Woodruff 2021, algorithm 1).

    A third of the products sketches the range of the Hessian, a third takes the trace on that range exactly, and a
    third is Hutchinson's estimator (1989) on what is left, with Rademacher vectors.

    Args:
        surface: A loss surface, or anything with ``space`` and symmetric ``hessian_vector_product``.
        products: Hessian-vector products to spend, at least 6.
        seed: Of the random vectors.

    Raises:
        ValueError: When ``products`` is below 6.

    Example:
        >>> import torch
        >>> from landscape_callbacks.surface import LossSurface
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> trace(LossSurface(lambda: (weight**2).sum(), [weight])).value
        6.0
    """
    if products < 6:
        raise ValueError(f"Hutch++ needs at least 6 products, got {products}.")
    space, product = surface.space, surface.hessian_vector_product
    third = products // 3
    if space.dimension <= 2 * third and space.dimension == space.local_dimension:
        identity = torch.eye(space.dimension, dtype=space.dtype, device=space.device)
        return TraceEstimate(sum(float(product(row)[i]) for i, row in enumerate(identity)), 0.0, space.dimension)
    basis: list[Tensor] = []
    for index in range(third):
        vector = product(space.random(seed + index, "rademacher"))
        size = space.norm(vector)
        for _ in range(2):
            for known in basis:
                vector = vector - space.dot(known, vector) * known
        rest = space.norm(vector)
        if float(rest) > 100 * torch.finfo(space.dtype).eps * float(size):
            basis.append(vector / rest)
    captured = sum(float(space.dot(row, product(row))) for row in basis)
    samples = []
    for index in range(third):
        vector = space.random(seed + third + index, "rademacher")
        for row in basis:
            vector = vector - space.dot(row, vector) * row
        samples.append(float(space.dot(vector, product(vector))))
    mean = sum(samples) / len(samples)
    variance = sum((sample - mean) ** 2 for sample in samples) / (len(samples) - 1)
    return TraceEstimate(captured + mean, math.sqrt(variance / len(samples)), 2 * third + len(basis))


@dataclass(frozen=True)
class SpectralDensity:
    """An estimate of the spectral density: how many eigenvalues, as a share of n, lie where.

    Attributes:
        grid: Curvatures, float64, shape (points,), on the CPU.
        density: Density at the grid, float64, shape (points,); integrates to one.
        error: Standard error of the density over the random vectors, shape (points,).
        nodes: Ritz values of every run, float64, shape (runs · steps,), fewer where a space is invariant.
        weights: Their weights, which sum to one.
        width: Standard deviation of the Gaussian that each node is drawn as.
        products: Hessian-vector products spent. Everything is NaN when a product was not finite.
    """

    grid: Tensor
    density: Tensor
    error: Tensor
    nodes: Tensor
    weights: Tensor
    width: float
    products: int


def spectral_density(
    surface: SymmetricOperator,
    *,
    runs: int = 4,
    steps: int = 30,
    points: int = 512,
    relative_width: float = 0.01,
    seed: int = 0,
) -> SpectralDensity:
    """The spectral density by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017; Ghorbani et al. 2019).

    Each run is Lanczos from a random vector with full reorthogonalisation: its Ritz values are Gauss nodes and the
    squared first coordinates their weights. The density is the mean over runs, each node drawn as a Gaussian.

    Args:
        surface: A loss surface, or anything with ``space`` and symmetric ``hessian_vector_product``.
        runs: Random vectors.
        steps: Lanczos steps a run.
        points: Points of the grid, which reaches five widths beyond the outermost nodes.
        relative_width: Width of the Gaussians as a share of the range of the nodes.
        seed: Of the random vectors.

    Raises:
        ValueError: When an argument is below its minimum (1 run, 2 steps, 16 points, a positive width).
    """
    if runs < 1 or steps < 2 or points < 16 or not relative_width > 0.0:
        raise ValueError(
            "Need runs >= 1, steps >= 2, points >= 16 and a positive width, "
            f"got {runs}, {steps}, {points}, {relative_width}."
        )
    per_run: list[tuple[Tensor, Tensor]] = []
    products = 0
    for run in range(runs):
        try:
            nodes, weights, spent = _gauss_rule(surface, steps, seed + run)
        except NotFiniteError as failure:
            nan = torch.full((points,), math.nan, dtype=torch.float64)
            products += failure.products
            return SpectralDensity(nan, nan.clone(), nan.clone(), nan[:1].clone(), nan[:1].clone(), math.nan, products)
        per_run.append((nodes, weights))
        products += spent
    nodes = torch.cat([own for own, _ in per_run])
    spread = float(nodes.max() - nodes.min())
    scale = max(spread, 1e-2 * float(nodes.abs().max())) or 1.0
    width = relative_width * scale
    grid = torch.linspace(float(nodes.min()) - 5 * width, float(nodes.max()) + 5 * width, points, dtype=torch.float64)
    densities = torch.stack(
        [
            (weights * torch.exp(-0.5 * ((grid[:, None] - own) / width) ** 2)).sum(1) / (width * math.sqrt(2 * math.pi))
            for own, weights in per_run
        ]
    )
    error = densities.std(0) / math.sqrt(runs) if runs > 1 else torch.full_like(grid, math.nan)
    weights = torch.cat([own for _, own in per_run]) / runs
    return SpectralDensity(grid, densities.mean(0), error, nodes, weights, width, products)


def _gauss_rule(surface: SymmetricOperator, steps: int, seed: int) -> tuple[Tensor, Tensor, int]:
    """Nodes and weights of the Gauss rule that one random vector sees, float64, CPU, descending nodes; the products."""
    # The space goes with this call: the next one's basis takes its memory.
    krylov = KrylovSpace(surface, surface.space.random(seed), steps)
    while krylov.size < krylov.capacity and not krylov.invariant:
        krylov.grow()
    ritz = krylov.ritz()
    return torch.from_numpy(ritz.values.copy()), torch.from_numpy(ritz.rotation[0] ** 2), krylov.products
