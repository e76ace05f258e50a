"""Hessian-vector products by central differences of gradients, for losses that cannot be differentiated twice.

They need two gradients a product and two kinds of error have to balance: the third derivative, which grows with the
step, and rounding, which grows as the step shrinks. On a smooth network in float32 that leaves about 1e-5; where kinks
are dense (ReLU), some per cent and more. So the step is chosen by trial, the error is measured, and a product that is
off by too much is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape_callbacks.surface.vectors import ParameterSpace

_FACTOR = 4.0
_TRIALS = 6
REFUSED_ERROR = 0.05


class InaccurateDifferenceError(ArithmeticError):
    """Central differences are too far off to be worth anything here."""


@dataclass(frozen=True)
class Approximation:
    """How Hessian-vector products were approximated.

    Attributes:
        step: Distance between the weights and each of the two points (Euclidean norm).
        relative_error: Estimated error of a product relative to its norm: the change when the step is divided by four.
        reason: Why double backward was not used.
    """

    step: float
    relative_error: float
    reason: str


class CentralDifference:
    """``H v ≈ (g(w + hv) − g(w − hv)) / 2h``, at the current weights.

    Args:
        gradient_at: Gives the gradient at ``weights + displacement``, flat, without touching the weights for good.
        space: The vector space.
        reason: Why double backward is not used; becomes part of :class:`Approximation`.
    """

    def __init__(self, gradient_at: Callable[[Tensor, float], Tensor], space: ParameterSpace, reason: str) -> None:
        self._gradient_at = gradient_at
        self._space = space
        self._reason = reason
        self.approximation: Approximation | None = None

    def product(self, vector: Tensor) -> Tensor:
        """The product with a flat vector of shape (n,).

        Raises:
            InaccurateDifferenceError: When the estimated error exceeds 5 % at the best step.
        """
        size = float(self._space.norm(vector))
        if size == 0.0:
            return torch.zeros_like(vector)
        if self.approximation is None:
            self.approximation, result = self._choose_step(vector / size)
            if not self.approximation.relative_error <= REFUSED_ERROR:
                raise InaccurateDifferenceError(
                    f"{self._reason}, and central differences of its gradients are off by about "
                    f"{self.approximation.relative_error:.0%} at the best step (kinks of ReLU, or low precision). Use "
                    "double precision, a smooth activation, or layers that can be differentiated twice."
                )
            return result.mul_(size)
        return self._difference(vector / size, self.approximation.step).mul_(size)

    def _difference(self, unit: Tensor, step: float) -> Tensor:
        return (self._gradient_at(unit, step) - self._gradient_at(unit, -step)).div_(2.0 * step)

    def _choose_step(self, unit: Tensor) -> tuple[Approximation, Tensor]:
        """Tries steps from large to small, a factor of four apart, and takes the one that changes the product least."""
        weights = float(self._space.norm(self._space.weights()))
        step = 16.0 * torch.finfo(self._space.dtype).eps ** (1.0 / 3.0) * max(weights, 1e-3)
        best: tuple[float, float, Tensor] | None = None
        before = self._difference(unit, step)
        for _ in range(_TRIALS):
            step /= _FACTOR
            now = self._difference(unit, step)
            scale = float(self._space.norm(now))
            change = float(self._space.norm(now - before)) / scale if scale > 0.0 else 0.0
            if best is None or change < best[0]:
                best = (change, step, now)
            elif change > 4.0 * best[0]:
                break
            before = now
        assert best is not None
        return Approximation(best[1], best[0], self._reason), best[2]
