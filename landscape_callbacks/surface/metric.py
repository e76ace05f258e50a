"""The loss surface as the optimizer sees it: with weight decay, in the metric of its preconditioner."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from landscape_callbacks.surface.average_surface import AverageSurface
from landscape_callbacks.surface.loss_surface import LossSurface


class MetricSurface:
    """A surface in the coordinates φ = P^(½)·θ, in which preconditioned steps are plain gradient descent.

    Gradients become P^(-½)(g + wθ), Hessians P^(-½)(H + w)P^(-½). With weight decay w the loss is L + ½w‖θ‖², of which
    differences are what matters: losses along a line leave out its value at the current weights.

    Args:
        surface: The loss surface.
        preconditioner: The diagonal P, flat, shape (n,), above zero; infinite where a parameter does not move. ``None``
            is the identity.
        weight_decay: w, one number or flat, shape (n,).

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
        >>> surface = MetricSurface(LossSurface(lambda: (weight**2).sum(), [weight]), torch.tensor([4.0]))
        >>> surface.gradient(), surface.hessian_vector_product(torch.ones(1))
        (tensor([2.]), tensor([0.5000]))
    """

    def __init__(
        self,
        surface: LossSurface | AverageSurface,
        preconditioner: Tensor | None = None,
        weight_decay: float | Tensor = 0.0,
    ) -> None:
        self.surface = surface
        self.space = surface.space
        self.scale = None if preconditioner is None else preconditioner.rsqrt()
        self.weight_decay = weight_decay
        self._decays = isinstance(weight_decay, Tensor) or weight_decay != 0.0

    def to_weights(self, vector: Tensor) -> Tensor:
        """A displacement in φ as one of the weights: P^(-½)·v."""
        return vector if self.scale is None else self.scale * vector

    def loss(self) -> Tensor:
        """The loss at the current weights, without the decay term."""
        return self.surface.loss()

    def gradient(self) -> Tensor:
        """The gradient in φ: flat, shape (n,)."""
        gradient = self.surface.gradient()
        if self._decays:
            gradient = gradient + self.weight_decay * self.space.weights()
        return self.to_weights(gradient)

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        """The Hessian in φ times a flat vector of shape (n,)."""
        inner = self.to_weights(vector)
        product = self.surface.hessian_vector_product(inner)
        if self._decays:
            product = product + self.weight_decay * inner
        return self.to_weights(product)

    def losses_along(self, direction: Tensor, alphas: Sequence[float] | Tensor) -> Tensor:
        """Losses along a direction in φ, less the decay term at the current weights: float64, shape (len(alphas),)."""
        inner = self.to_weights(direction)
        losses = self.surface.losses_along(inner, alphas)
        if not self._decays:
            return losses
        pull = self.weight_decay * inner
        linear = float(self.space.dot(pull, self.space.weights()))
        square = 0.5 * float(self.space.dot(pull, inner))
        at = torch.tensor([float(alpha) for alpha in alphas], dtype=torch.float64)
        return losses + linear * at + square * at**2

    def release(self) -> None:
        """Frees the retained graphs."""
        self.surface.release()

    def weight_norm(self) -> float:
        """Norm of the weights in φ: ‖P^(½)θ‖ over the parameters that move."""
        weights = self.space.weights()
        if self.scale is not None:
            weights = torch.where(self.scale > 0, weights / self.scale, torch.zeros_like(weights))
        return float(self.space.norm(weights))
