"""Weight normalisation with a right second derivative, which torch's fused one does not have."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

# The node that the fused operation leaves in a graph.
FUSED_NODE = "WeightNormInterfaceBackward0"


@contextmanager
def differentiable_weight_norm() -> Iterator[None]:
    """``torch.nn.utils.weight_norm`` and its parametrization of the same name, by operations that can be differentiated
    twice.

    The backward of ``torch._weight_norm`` takes the norm of the direction for a constant when it is differentiated
    again: a term is missing, the Hessian is not even symmetric, and ``torch.autograd.gradgradcheck`` fails (torch
    2.6 and 2.13). The loss and its gradient are right.
    """
    with ExitStack() as stack:
        modules: list[Any] = [torch, sys.modules["torch.nn.utils.weight_norm"]]
        for module in modules:
            stack.callback(setattr, module, "_weight_norm", module._weight_norm)
            module._weight_norm = _composed
        yield


def _composed(direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
    return direction * (length / torch.norm_except_dim(direction, 2, dim))
