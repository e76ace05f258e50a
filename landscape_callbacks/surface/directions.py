"""Directions in weight space along which a loss surface is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from landscape_callbacks.surface.shards import local_piece
from landscape_callbacks.surface.vectors import ParameterSpace

_NORMALIZATIONS = ("filter", "layer", "none")
Weights = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def filter_normalized(space: ParameterSpace, vector: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""A direction whose filters have the norms of the weights' filters (Li et al. 2018, arXiv 1712.09913, section 4).

    Each filter is rescaled, :math:`d_{ij} \leftarrow \frac{d_{ij}}{\lVert d_{ij}\rVert}\lVert w_{ij}\rVert`.
    A filter is one slice of a parameter along its first axis: the weights that make one output channel of a
    convolution, or one neuron of a linear layer. As there, parameters with fewer than two axes (biases; scales and
    shifts of norm layers) are zero in the direction. So a step of 1 moves every filter by as much as it is long, and
    ReLU networks that differ by a rescaling of layers show the same curve.

    Args:
        space: The parameters.
        vector: The direction to normalise: flat, shape (n,).
        weights: The weights that set the norms: flat, shape (n,). The current ones when ``None``.

    Returns:
        Flat, shape (n,), a new tensor.

    Raises:
        ValueError: When the result is zero: no parameter has two axes, or the weights are all zero.

    Example:
        >>> import torch
        >>> space = ParameterSpace([torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))])
        >>> filter_normalized(space, torch.tensor([2.0, 0.0, 0.0, -5.0]))
        tensor([ 5.,  0.,  0., -1.])
    """
    return _normalized(space, vector, weights, by_filter=True)


def layer_normalized(space: ParameterSpace, vector: Tensor, weights: Tensor | None = None) -> Tensor:
    """As :func:`filter_normalized`, with one norm a parameter: for models whose first axis is not that of the filters.

    Args:
        space: The parameters.
        vector: The direction to normalise: flat, shape (n,).
        weights: The weights that set the norms: flat, shape (n,). The current ones when ``None``.

    Returns:
        Flat, shape (n,), a new tensor; parameters with fewer than two axes are zero in it.

    Raises:
        ValueError: When the result is zero: no parameter has two axes, or the weights are all zero.
    """
    return _normalized(space, vector, weights, by_filter=False)


def random_direction(space: ParameterSpace, seed: int, *, normalization: str = "filter") -> Tensor:
    """A random Gaussian direction. No global random stream is read or moved.

    Args:
        space: The parameters.
        seed: The same seed gives the same direction.
        normalization: ``"filter"`` (Li et al. 2018), ``"layer"``, or ``"none"`` (a unit vector, uniform on the sphere).

    Returns:
        Flat, shape (n,).

    Raises:
        ValueError: When the normalization is unknown, or nothing is left after it.

    Example:
        >>> import torch
        >>> space = ParameterSpace(torch.nn.Linear(3, 2).named_parameters())
        >>> random_direction(space, seed=0).shape
        torch.Size([8])
    """
    if normalization not in _NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(_NORMALIZATIONS)}, got {normalization!r}.")
    vector = space.random(seed)
    if normalization == "none":
        return vector / space.norm(vector)
    return _normalized(space, vector, None, by_filter=normalization == "filter")


def direction_between(space: ParameterSpace, start: Weights, end: Weights | None = None) -> Tensor:
    """The direction from some weights to others: for a surface that stands at ``start``, 1 is at ``end``.

    Args:
        space: The parameters.
        start: Weights in any form that :func:`weights_vector` takes.
        end: As ``start``; the current weights when ``None``.

    Returns:
        Flat, shape (n,): ``end - start``.
    """
    last = space.weights() if end is None else weights_vector(space, end)
    return last - weights_vector(space, start)


def weights_vector(space: ParameterSpace, weights: Weights) -> Tensor:
    """Weights as one flat vector.

    Args:
        space: The parameters.
        weights: A flat vector of shape (n,); a tensor a parameter, in order; or a mapping from the parameters' names to
            tensors, such as a ``state_dict`` (entries that are no parameter of the space are passed over).

    Returns:
        Flat, shape (n,).

    Raises:
        ValueError: When a parameter is missing, or a shape does not fit.
    """
    if isinstance(weights, Tensor):
        if weights.shape != (space.local_dimension,):
            raise ValueError(
                f"Expected a flat vector of {space.local_dimension} entries, got shape {tuple(weights.shape)}. "
                "Flatten one tensor a parameter with space.flatten(...)."
            )
        return weights.detach().to(device=space.device, dtype=space.dtype)
    if isinstance(weights, Mapping):
        missing = [name for name in space.names if name not in weights]
        if missing:
            raise ValueError(
                f"The weights have no entry for {len(missing)} of {len(space.names)} parameters, such as "
                f"'{missing[0]}'. They hold, among others: {', '.join(list(weights)[:3])}. Are they of the same model?"
            )
        tensors: Sequence[Tensor] = [weights[name] for name in space.names]
    else:
        tensors = list(weights)
        if len(tensors) != len(space.parameters):
            raise ValueError(f"Expected {len(space.parameters)} tensors, one a parameter, got {len(tensors)}.")
    for name, tensor, parameter in zip(space.names, tensors, space.parameters, strict=True):
        if tensor.shape != parameter.shape:
            raise ValueError(
                f"Parameter '{name}' has shape {tuple(parameter.shape)}, but the weights given for it have shape "
                f"{tuple(tensor.shape)}. Are they of the same model?"
            )
    return space.flatten(tensors)


def orthogonalized(space: ParameterSpace, vector: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The part of a vector that is orthogonal to other vectors, by modified Gram-Schmidt done twice.

    Args:
        space: The parameters.
        vector: Flat, shape (n,).
        others: Flat vectors, orthogonal to each other.

    Returns:
        Flat, shape (n,), a new tensor.
    """
    result = vector.clone()
    for other in [*others, *others]:
        square = space.dot(other, other)
        if square > 0:
            result = result - other * (space.dot(other, result) / square)
    return result


def _normalized(space: ParameterSpace, vector: Tensor, weights: Tensor | None, *, by_filter: bool) -> Tensor:
    references = space.parameters if weights is None else space.split_like_parameters(weights)
    pieces = []
    for direction, reference in zip(space.split_like_parameters(vector), references, strict=True):
        if reference.ndim < 2:
            pieces.append(torch.zeros_like(direction))
            continue
        axes = tuple(range(1 if by_filter else 0, reference.ndim))
        target, length = _norm(reference.detach(), axes), _norm(direction, axes)
        scale = torch.where(length > 0, target / length, torch.zeros_like(length))
        pieces.append(direction * scale.to(direction.dtype))
    result = space.flatten([local_piece(piece) for piece in pieces])
    if not bool(space.norm(result) > 0):
        raise ValueError(
            "The normalised direction is zero: no parameter has two axes or more (biases and norm layers are left out, "
            "as in Li et al. 2018), or the weights are all zero. Use normalization='none'."
        )
    return result


def _norm(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    # In float64: the norms of the filters have to agree to 1e-6, also for weights in half precision.
    return tensor.double().square().sum(dim=axes, keepdim=True).sqrt()
