"""Norms of gradients and their noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape_callbacks.surface.shards import local_piece, shards_of, sum_over_mesh
from landscape_callbacks.surface.vectors import ParameterSpace

_SUMMED_AT_ONCE = 1 << 19  # entries; of one float32 sum over many more, too little would be left


def gradient_norms(gradients: Sequence[Tensor]) -> Tensor:
    """L2 norm of each tensor, in one fused call and without waiting for the device.

    Large tensors are summed in blocks: one float32 sum over 25 million entries is off by 1.4e-3.

    Args:
        gradients: Dense or sparse tensors of any floating dtype, or shards, whose norm is that of the whole tensor
            (one sum over their mesh). Half precision is summed in float32.

    Returns:
        float64, shape (len(gradients),), on the device of the first. Non-finite norms are returned as they are.

    Example:
        >>> import torch
        >>> gradient_norms([torch.tensor([3.0, 4.0]), torch.zeros(2, 2)])
        tensor([5., 0.], dtype=torch.float64)
    """
    if not gradients:
        return torch.zeros(0, dtype=torch.float64)
    local = [local_piece(gradient.detach()) for gradient in gradients]
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in local]
    device = dense[0].device
    blocks = [_blocks(gradient.reshape(-1)) for gradient in dense]
    squares = _squared_norms([block for own in blocks for block in own], device)
    owner = torch.repeat_interleave(torch.arange(len(blocks)), torch.tensor([len(own) for own in blocks])).to(device)
    return _over_shards(squares.new_zeros(len(blocks)).index_add_(0, owner, squares), gradients).sqrt()


def _blocks(flat: Tensor) -> Sequence[Tensor]:
    return (flat,) if flat.numel() <= _SUMMED_AT_ONCE else torch.split(flat, _SUMMED_AT_ONCE)


def _squared_norms(blocks: Sequence[Tensor], device: torch.device) -> Tensor:
    """Squared norms in float64: on a CPU by NumPy, which reads memory faster than torch, else by one fused call."""
    half = any(block.dtype.itemsize < 4 for block in blocks)
    if not half and all(block.device.type == "cpu" for block in blocks):
        with np.errstate(over="ignore", invalid="ignore"):
            squares = [float(np.dot(array, array)) for array in map(Tensor.numpy, blocks)]
        # Squares can overflow where the gradient itself is finite.
        squares = [
            square if math.isfinite(square) else float(block.double().square().sum())
            for square, block in zip(squares, blocks, strict=True)
        ]
        return torch.tensor(squares, dtype=torch.float64, device=device)
    # Naming the dtype leaves the fused path, so it is named for half precision only.
    norms = torch._foreach_norm(list(blocks), 2, dtype=torch.float32 if half else None)
    return torch.stack([norm.to(device) for norm in norms]).double().square()


def _over_shards(squares: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """Squared norms of whole tensors from those of the pieces that this process holds: one sum over the mesh."""
    mesh, copies = shards_of(gradients)
    if mesh is None:
        return squares
    return sum_over_mesh(mesh, squares / torch.tensor(copies, dtype=squares.dtype, device=squares.device))


@dataclass(frozen=True)
class NoiseScale:
    """The gradient noise scale of McCandlish et al. 2018 (arXiv 1812.06162), eq. 2.9 and appendix A.1.

    Attributes:
        value: B_simple = tr(Σ) / |G|², in samples: the batch size at which noise and signal balance. NaN when the
            squared norm of the true gradient cannot be told from zero.
        error: Standard error of ``value`` by the jackknife over microbatches.
        squared_norm: Unbiased estimate of |G|² (may be negative by noise).
        squared_norm_error: Its standard error by the jackknife.
        covariance_trace: Unbiased estimate of tr(Σ), the per-sample gradient variance.
        samples: Samples spent.
    """

    value: float
    error: float
    squared_norm: float
    squared_norm_error: float
    covariance_trace: float
    samples: int


def gradient_noise_scale(space: ParameterSpace, gradients: Sequence[Tensor], batch_size: float) -> NoiseScale:
    """Estimates the gradient noise scale from the mean gradients of K microbatches of equal size.

    With S = Σ_k g_k: |G|² is estimated by (|S|² − Σ|g_k|²)/(K(K−1)), tr(Σ) by b·(Σ|g_k|² − |S|²/K)/(K−1). Both are
    unbiased.

    Args:
        space: The vector space of the gradients.
        gradients: K ≥ 2 flat vectors, shape (n,).
        batch_size: Samples b in a microbatch.

    Raises:
        ValueError: With fewer than two microbatches.
    """
    count = len(gradients)
    if count < 2:
        raise ValueError(f"The gradient noise scale needs at least 2 microbatches, got {count}.")
    gram = torch.stack([space.coefficients(torch.stack(list(gradients)), gradient) for gradient in gradients])
    products = gram.double().cpu()
    squared_norm, trace = _unbiased(products, batch_size)
    jackknife = [
        _unbiased(products[keep][:, keep], batch_size)
        for keep in ([j for j in range(count) if j != left_out] for left_out in range(count))
        if count > 2
    ]
    norm_error = _jackknife_error([norm for norm, _ in jackknife])
    resolved = squared_norm > 2.0 * norm_error if jackknife else squared_norm > 0.0
    ratios = [t / n if n > 0.0 else math.nan for n, t in jackknife]
    return NoiseScale(
        value=trace / squared_norm if resolved else math.nan,
        error=_jackknife_error(ratios) if resolved else math.nan,
        squared_norm=squared_norm,
        squared_norm_error=norm_error,
        covariance_trace=trace,
        samples=round(count * batch_size),
    )


def _unbiased(products: Tensor, batch_size: float) -> tuple[float, float]:
    count = len(products)
    total, own = float(products.sum()), float(products.diagonal().sum())
    return (total - own) / (count * (count - 1)), batch_size * (own - total / count) / (count - 1)


def _jackknife_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    mean = sum(values) / len(values)
    return math.sqrt((len(values) - 1) / len(values) * sum((value - mean) ** 2 for value in values))
