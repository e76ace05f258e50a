"""A loss surface whose batch is worked through in pieces, so that one piece's graph is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from landscape_callbacks.surface.loss_surface import Average, LossSurface
from landscape_callbacks.surface.retained_graph import (
    DoubleBackwardError,
    RetainedGraph,
    differentiable,
    refuse_hidden_parameters,
)
from landscape_callbacks.surface.vectors import ParameterSpace
from landscape_callbacks.surface.weight_norm import differentiable_weight_norm


class MicrobatchedSurface(LossSurface):
    """The weighted mean of the losses of several microbatches.

    As a :class:`LossSurface` of their mean, with the memory of one of them: no graph is retained, so a product costs
    a forward and a backward more for each microbatch.

    Args:
        closures: The loss of each microbatch; see :class:`LossSurface`.
        weights: One a microbatch, such as their sizes; normalised to sum to one.
        parameters: As of :class:`LossSurface`.
        average: As of :class:`LossSurface`.
        differentiation: As of :class:`LossSurface`.
        rounding: As of :class:`LossSurface`.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        >>> surface = MicrobatchedSurface([lambda: (weight**2).sum(), lambda: (weight**4).sum()], [3, 1], [weight])
        >>> surface.loss().item(), surface.gradient().tolist()
        (2.0, [2.5, 2.5])
    """

    def __init__(
        self,
        closures: Sequence[Callable[[], Tensor]],
        weights: Sequence[float],
        parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]] | ParameterSpace,
        *,
        average: Average | None = None,
        differentiation: str = "auto",
        rounding: float = 0.0,
    ) -> None:
        self._parts = [(closure, weight / sum(weights)) for closure, weight in zip(closures, weights, strict=True)]

        def mean() -> Tensor:
            return torch.stack([closure().reshape(()).double() * weight for closure, weight in self._parts]).sum()

        super().__init__(mean, parameters, average=average, differentiation=differentiation, rounding=rounding)

    def _gradient(self, retain: bool) -> Tensor:
        return self._plain_gradient()

    def _plain_gradient(self) -> Tensor:
        total = self.space.zeros()
        for closure, weight in self._parts:
            with torch.inference_mode(False), torch.enable_grad():
                loss = differentiable(closure())
                refuse_hidden_parameters(loss)
                gradients = torch.autograd.grad(loss, self.space.parameters, allow_unused=True)
            total.add_(self.space.flatten(gradients), alpha=weight)
        return total

    def _product(self, vector: Tensor) -> Tensor:
        if self._differences is None and self.differentiation != "central_difference":
            try:
                return self._product_by_parts(vector)
            except DoubleBackwardError as error:
                self._fall_back(error)
        return super()._product(vector)

    def _product_by_parts(self, vector: Tensor) -> Tensor:
        total = self.space.zeros()
        pieces = self.space.split_like_parameters(vector)
        for closure, weight in self._parts:
            with torch.inference_mode(False), torch.enable_grad(), differentiable_weight_norm():
                graph = RetainedGraph(closure(), self.space)
                total.add_(self.space.flatten(graph.product(pieces)), alpha=weight)
            del graph
        return total
