"""The loss as a function of the parameters, around the current weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from landscape_callbacks.surface.central_difference import Approximation, CentralDifference
from landscape_callbacks.surface.retained_graph import (
    DoubleBackwardError,
    RetainedGraph,
    differentiable,
    refuse_hidden_parameters,
    scalar,
)
from landscape_callbacks.surface.sharded import ShardedModule
from landscape_callbacks.surface.shards import local_piece
from landscape_callbacks.surface.vectors import ParameterSpace
from landscape_callbacks.surface.weight_norm import differentiable_weight_norm

DIFFERENTIATIONS = ("auto", "double_backward", "central_difference")


class Average(Protocol):
    """Averages over data-parallel processes; every process calls it in the same order."""

    def agree(self, error: Exception | None) -> None:
        """Raises on every process when one of them has an error; called before each average."""

    def __call__(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes, in place or not."""


class LossSurface:
    """A loss surface around the weights that the parameters hold now.

    The gradient and all Hessian-vector products come from **one retained graph**: the first call evaluates the closure
    once, keeps its graph, and each product is one more backward through it. When the weights have changed since, the
    graph is built anew. Vectors are flat tensors of :class:`ParameterSpace`.

    Weights are written only by :meth:`displaced` and the ``losses_…`` methods built on it, and come back bit-exact,
    also after an exception. ``.grad`` is never touched.

    Args:
        closure: Evaluates the loss at the current weights; returns a tensor with one element. It has to be the same
            function at each call: same batch, same dropout mask (or dropout off). Batch-norm buffers that it moves
            are its own concern.
        parameters: Tensors, or ``(name, tensor)`` pairs as from ``module.named_parameters()``.
        average: Averages over data-parallel processes; applied to every loss, gradient and product. ``None`` on one
            process.
        differentiation: ``"double_backward"``, ``"central_difference"`` (of gradients, with a measured error), or
            ``"auto"``: the first, and the second only where the first raises. Attribute ``approximation`` tells.
        sharded: The module that the parameters belong to, when ``fully_shard`` was applied to parts of it.
        rounding: Relative rounding of a loss where it is computed in a coarser format than that of the parameters
            (autocast).

    Raises:
        ValueError: When a parameter is complex, there is nothing to differentiate, or ``differentiation`` is unknown.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> surface = LossSurface(lambda: (weight**2).sum(), [weight])
        >>> surface.loss().item()
        5.0
        >>> surface.gradient()
        tensor([2., 4.])
        >>> surface.hessian_vector_product(torch.tensor([1.0, 0.0]))
        tensor([2., 0.])
        >>> surface.losses_along(torch.tensor([1.0, 0.0]), [-1.0, 0.0, 1.0])
        tensor([4., 5., 8.], dtype=torch.float64)
    """

    def __init__(
        self,
        closure: Callable[[], Tensor],
        parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]] | ParameterSpace,
        *,
        average: Average | None = None,
        differentiation: str = "auto",
        rounding: float = 0.0,
        sharded: ShardedModule | None = None,
    ) -> None:
        if differentiation not in DIFFERENTIATIONS:
            raise ValueError(
                f"differentiation has to be one of {', '.join(DIFFERENTIATIONS)}, got {differentiation!r}."
            )
        self.closure = closure
        self.space = parameters if isinstance(parameters, ParameterSpace) else ParameterSpace(parameters)
        self.average = average
        self.differentiation = differentiation
        self.rounding = max(rounding, *(float(torch.finfo(parameter.dtype).eps) for parameter in self.space.parameters))
        self._live = False
        self._graph: RetainedGraph | None = None
        self._differences: CentralDifference | None = None
        self.sharded = sharded
        if sharded is not None:
            self._choose_differences()

    def _choose_differences(self) -> None:
        outside = [
            name
            for name, tensor in zip(self.space.names, self.space.parameters, strict=True)
            if not hasattr(tensor, "placements")
        ]
        if outside:
            raise ValueError(
                f"Parameter '{outside[0]}' is not sharded while others are, so that no process averages its "
                "gradient. Apply fully_shard to "
                "the module that holds it too, or leave it out (parameters=...)."
            )
        reason = "The gradients of parameters under fully_shard carry no graph"
        if self.differentiation == "double_backward":
            raise ValueError(f"{reason}: use differentiation='auto' or 'central_difference'.")
        self._differences = CentralDifference(self._gradient_at, self.space, reason)

    @property
    def approximation(self) -> Approximation | None:
        """How products were approximated; ``None`` when they were exact (or none was taken)."""
        return None if self._differences is None else self._differences.approximation

    @classmethod
    def from_graph(
        cls,
        loss: Tensor,
        parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]] | ParameterSpace,
        *,
        average: Average | None = None,
    ) -> LossSurface:
        """A surface on a loss whose graph is alive already, as inside a training step before its backward.

        It gives the loss, the gradient and Hessian-vector products; it cannot be evaluated at other weights.
        """

        def closure() -> Tensor:
            raise RuntimeError(
                "This surface was made from a live graph and cannot be evaluated again. Give a closure to evaluate "
                "other weights."
            )

        surface = cls(closure, parameters, average=average, differentiation="double_backward")
        surface._live = True
        try:
            surface._graph = RetainedGraph(loss, surface.space)
        except DoubleBackwardError as error:
            surface._fall_back(error)
        return surface

    def loss(self) -> Tensor:
        """The loss at the current weights: a detached 0-d tensor, float64, loss units."""
        graph = self._current_graph()
        return self._averaged(lambda: graph.loss.clone() if graph is not None else self._evaluate())

    def gradient(self, *, retain: bool = True) -> Tensor:
        """The gradient at the current weights: flat, shape (n,), loss units per unit of weight.

        Args:
            retain: Keep the graph for Hessian-vector products. Without it a gradient costs one forward and backward,
                and no memory after.
        """
        return self._averaged(lambda: self._gradient(retain), self.sharded is not None)

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        """The Hessian at the current weights times a vector, by one double backward (Pearlmutter 1994).

        Args:
            vector: Flat, shape (n,).

        Returns:
            Flat, shape (n,), a new tensor.

        Raises:
            DoubleBackwardError: With ``differentiation="double_backward"``, when the loss cannot be differentiated
                twice.
            InaccurateDifferenceError: When it is approximated and the approximation is bad.
        """
        return self._averaged(lambda: self._product(vector), self.sharded is not None)

    def losses_along(self, direction: Tensor, alphas: Sequence[float] | Tensor) -> Tensor:
        """Losses at ``weights + alpha · direction``.

        Args:
            direction: Flat, shape (n,).
            alphas: Distances, in units of ``direction``.

        Returns:
            float64, shape (len(alphas),), on the CPU. Non-finite losses are returned as they are.
        """
        return self._losses_at([[(direction, float(alpha))] for alpha in alphas])

    def losses_on_plane(self, first: Tensor, second: Tensor, alphas: Sequence[float], betas: Sequence[float]) -> Tensor:
        """Losses at ``weights + alpha · first + beta · second``: float64, shape (len(betas), len(alphas)), on the
        CPU.
        """
        points = [[(first, float(alpha)), (second, float(beta))] for beta in betas for alpha in alphas]
        return self._losses_at(points).reshape(len(betas), len(alphas))

    def _losses_at(self, points: Sequence[Sequence[tuple[Tensor, float]]]) -> Tensor:
        """Losses at several displacements: averaged over processes and brought to the CPU in one transfer."""

        def evaluate() -> Tensor:
            losses = []
            with self.displaced() as move_to:
                for terms in points:
                    move_to(*terms)
                    losses.append(self._forward())
            return torch.stack(losses).double() if losses else torch.empty(0, dtype=torch.float64)

        return self._averaged(evaluate).cpu()

    @contextmanager
    def displaced(self) -> Iterator[Callable[..., None]]:
        """Lets weights be moved, and puts them back bit-exact on exit, also after an exception.

        Yields:
            ``move_to(*terms)``, each term a pair ``(direction, alpha)``: sets the weights to
            ``original + Σ alpha · direction``. Without terms: back to the original.
        """
        # Writing through ``.data`` leaves the version counters alone. So a retained graph stays valid: when it is used
        # next, the weights hold the very values that it saw.
        weights = [local_piece(parameter.data) for parameter in self.space.parameters]
        originals = [weight.clone() for weight in weights]
        split_cache: dict[int, tuple[Tensor, list[Tensor]]] = {}

        def move_to(*terms: tuple[Tensor, float]) -> None:
            torch._foreach_copy_(weights, originals)
            for direction, alpha in terms:
                if id(direction) not in split_cache:
                    split_cache[id(direction)] = (direction, self.space.split(direction))
                if alpha != 0.0:
                    torch._foreach_add_(weights, split_cache[id(direction)][1], alpha=alpha)

        try:
            with torch.no_grad():
                yield move_to
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, originals)

    def release(self) -> None:
        """Frees the retained graph. It is built anew when next needed."""
        self._graph = None

    def _evaluate(self) -> Tensor:
        with torch.no_grad():
            return self._forward().double()

    def _forward(self) -> Tensor:
        with nullcontext() if self.sharded is None else self.sharded.evaluation():
            return scalar(self.closure()).detach()

    def _gradient(self, retain: bool) -> Tensor:
        graph = self._current_graph()
        if graph is None and retain and self._differences is None and self.differentiation != "central_difference":
            try:
                graph = self._build_graph()
            except DoubleBackwardError as error:
                self._fall_back(error)
        return self._plain_gradient() if graph is None else self.space.flatten(graph.gradients)

    def _plain_gradient(self) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            if self.sharded is not None:
                return self.space.flatten(
                    self.sharded.gradients(lambda: differentiable(self.closure()), self.space.parameters)
                )
            loss = differentiable(self.closure())
            refuse_hidden_parameters(loss)
            return self.space.flatten(torch.autograd.grad(loss, self.space.parameters, allow_unused=True))

    def _product(self, vector: Tensor) -> Tensor:
        if self._differences is None and self.differentiation != "central_difference":
            try:
                graph = self._current_graph() or self._build_graph()
                # Also here: activation checkpoints run parts of the forward again.
                with differentiable_weight_norm():
                    return self.space.flatten(graph.product(self.space.split_like_parameters(vector)))
            except DoubleBackwardError as error:
                self._fall_back(error)
        if self._differences is None:
            self._differences = CentralDifference(self._gradient_at, self.space, "Central differences were asked for")
        return self._differences.product(vector)

    def _fall_back(self, error: DoubleBackwardError) -> None:
        if self._live:
            raise DoubleBackwardError(
                f"{error}, and a live graph allows no differences. Give a loss that can be evaluated again (monitors: "
                "loss_fn=...)"
            ) from error
        if self.differentiation == "double_backward":
            raise error
        self.release()
        self._differences = CentralDifference(self._gradient_at, self.space, str(error))

    def _gradient_at(self, direction: Tensor, alpha: float) -> Tensor:
        with self.displaced() as move_to:
            move_to((direction, alpha))
            return self._plain_gradient()

    def _current_graph(self) -> RetainedGraph | None:
        if self._graph is not None and not self._graph.is_current():
            self._graph = None
        return self._graph

    def _build_graph(self) -> RetainedGraph:
        with torch.inference_mode(False), torch.enable_grad(), differentiable_weight_norm():
            self._graph = RetainedGraph(self.closure(), self.space)
        return self._graph

    def _averaged(self, compute: Callable[[], Tensor], already: bool = False) -> Tensor:
        """What ``compute`` gives, averaged over processes, or ``already`` so.

        A process that fails tells the others instead of leaving them to wait.
        """
        if self.average is None:
            return compute()
        try:
            value, failure = compute(), None
        except Exception as error:
            value, failure = None, error
        self.average.agree(failure)
        assert value is not None
        return value if already else self.average(value)
