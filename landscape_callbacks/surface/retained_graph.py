"""A loss with its graph and the graph of its gradient, for many Hessian-vector products at one point."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from landscape_callbacks.surface.out_of_memory import is_out_of_memory
from landscape_callbacks.surface.vectors import ParameterSpace
from landscape_callbacks.surface.weight_norm import FUSED_NODE


class DoubleBackwardError(RuntimeError):
    """The loss cannot be differentiated twice through its graph; the cause is chained."""


class HiddenParametersError(RuntimeError):
    """The graph of the loss keeps parameters from ``torch.autograd.grad``."""


class RetainedGraph:
    """The gradient of a loss as a differentiable function, at the weights of one moment.

    Args:
        loss: With its graph; one element.
        space: The parameters.

    Attributes:
        loss: Detached, float64, 0-d.
        gradients: One a parameter, with their graph; ``None`` where the loss does not depend on it.

    Raises:
        ValueError: When the loss is no real scalar or has no graph.
        DoubleBackwardError: When its gradient has no graph of its own.
        HiddenParametersError: When parameters cannot be reached.
    """

    def __init__(self, loss: Tensor, space: ParameterSpace) -> None:
        loss = differentiable(loss)
        operations = _operations(loss)
        _refuse_hidden_parameters(operations)
        if FUSED_NODE in operations:
            raise DoubleBackwardError("The second derivative of the fused weight_norm of torch.nn.utils misses a term")
        try:
            with torch.inference_mode(False), torch.enable_grad():
                self.gradients = torch.autograd.grad(loss, space.parameters, create_graph=True, allow_unused=True)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise _explained(error) from error
        if _is_cut(self.gradients):
            raise DoubleBackwardError(
                "The loss cannot be differentiated twice (a custom function's backward is marked once_differentiable)"
            )
        self.loss = loss.detach().double()
        self._parameters = space.parameters
        self._versions = [parameter._version for parameter in space.parameters]
        # A gradient that does not depend on any weight (a linear loss) has no graph; its row of the Hessian is zero.
        self._curved = [i for i, g in enumerate(self.gradients) if g is not None and g.requires_grad]

    def is_current(self) -> bool:
        """Whether no parameter was written to since."""
        return self._versions == [parameter._version for parameter in self._parameters]

    def product(self, pieces: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The Hessian times a vector given as one tensor a parameter; in the same form."""
        if not self._curved:
            return [None] * len(self._parameters)
        try:
            return torch.autograd.grad(
                [self.gradients[i] for i in self._curved],
                self._parameters,
                grad_outputs=[pieces[i] for i in self._curved],
                retain_graph=True,
                allow_unused=True,
            )
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise _explained(error) from error


def _is_cut(gradients: Sequence[Tensor | None]) -> bool:
    """Whether a second derivative is missing somewhere in the graph of the gradients.

    Autograd puts a node there that raises when it is reached. It is reached by ``backward`` only: ``autograd.grad``
    with inputs goes no path that does not end in one, and silently leaves the term out (seen with torch 2.13: products
    74 % off).
    """
    starts = [gradient.grad_fn for gradient in gradients if gradient is not None]
    return any(node.name() == "torch::autograd::Error" for node in _nodes(starts))


def _nodes(starts: Iterable[Any]) -> Iterator[Any]:
    """All nodes of the graph that these ones lead to."""
    seen: set[Any] = set()
    pending = list(starts)
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            pending += [following for following, _ in node.next_functions]


def refuse_hidden_parameters(loss: Tensor) -> None:
    """Raises when a part of the graph keeps its parameters from ``torch.autograd.grad``, which would leave them out
    silently.

    Reentrant activation checkpointing does: the parameters of its region are reached by ``backward`` alone.
    """
    _refuse_hidden_parameters(_operations(loss))


def _operations(loss: Tensor) -> set[str]:
    """Names of the nodes in the graph of a loss."""
    return {node.name() for node in _nodes([loss.grad_fn])}


def _refuse_hidden_parameters(operations: set[str]) -> None:
    if "CheckpointFunctionBackward" in operations:
        raise HiddenParametersError(
            "Parameters inside of reentrant activation checkpoints cannot be differentiated here: call "
            "torch.utils.checkpoint.checkpoint with "
            "use_reentrant=False."
        )


def differentiable(loss: Tensor) -> Tensor:
    """The loss as a 0-d tensor, when it is a real scalar with a graph."""
    loss = scalar(loss)
    if not loss.requires_grad:
        raise ValueError(
            "The closure returned a loss without a graph (requires_grad=False). Compute it from the parameters, "
            "without "
            "torch.no_grad() and without .detach()."
        )
    return loss


def scalar(loss: Tensor) -> Tensor:
    """The loss as a 0-d tensor, when it is a real scalar."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        received = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{type(loss).__name__}"
        raise ValueError(f"The closure has to return a tensor with one element (the loss), got {received}.")
    if loss.is_complex():
        raise ValueError("The closure returned a complex loss; return a real one.")
    return loss.reshape(())


def _explained(error: Exception) -> Exception:
    """Memory running out says nothing about the graph; everything else that autograd raises here does."""
    if is_out_of_memory(error):
        return error
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DoubleBackwardError(f"The loss cannot be differentiated twice ({first_line})")
