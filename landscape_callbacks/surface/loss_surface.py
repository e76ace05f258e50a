"""The loss as a function of the parameters, around the current weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from landscape_callbacks.surface.vectors import ParameterSpace, _local

Average = Callable[[Tensor], Tensor]


class LossSurface:
    """A loss surface around the weights that the parameters hold now.

    The gradient and all Hessian-vector products come from **one retained graph**: the first call evaluates the closure
    once, keeps its graph, and each product is one more backward through it. When the weights have changed since, the
    graph is built anew. Vectors are flat tensors of :class:`ParameterSpace`.

    Weights are written only by :meth:`displaced` and the ``losses_…`` methods built on it, and come back bit-exact, also
    after an exception. ``.grad`` is never touched.

    Args:
        closure: Evaluates the loss at the current weights; returns a tensor with one element. It has to be the same function at
            each call: same batch, same dropout mask (or dropout off). Batch-norm buffers that it moves are its own concern.
        parameters: Tensors, or ``(name, tensor)`` pairs as from ``module.named_parameters()``.
        average: Averages a tensor over data-parallel processes (in place or not) and returns it; applied to every loss,
            gradient and product. ``None`` on one process.

    Raises:
        ValueError: When a parameter is complex or there is nothing to differentiate.

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
        parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]],
        *,
        average: Average | None = None,
    ) -> None:
        self.closure = closure
        self.space = parameters if isinstance(parameters, ParameterSpace) else ParameterSpace(parameters)
        self.average = average
        self._graph: _RetainedGraph | None = None

    @classmethod
    def from_graph(
        cls, loss: Tensor, parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]], *, average: Average | None = None
    ) -> LossSurface:
        """A surface on a loss whose graph is alive already, as inside a training step before its backward.

        It gives the loss, the gradient and Hessian-vector products; it cannot be evaluated at other weights.
        """

        def closure() -> Tensor:
            raise RuntimeError(
                "This surface was made from a live graph and cannot be evaluated again. Give a closure to evaluate other weights."
            )

        surface = cls(closure, parameters, average=average)
        surface._graph = _RetainedGraph(loss, surface.space)
        return surface

    def loss(self) -> Tensor:
        """The loss at the current weights: a detached 0-d tensor, loss units."""
        graph = self._current_graph()
        value = graph.loss if graph is not None else self._evaluate()
        return self._averaged(value.clone())

    def gradient(self, *, retain: bool = True) -> Tensor:
        """The gradient at the current weights: flat, shape (n,), loss units per unit of weight.

        Args:
            retain: Keep the graph for Hessian-vector products. Without it a gradient costs one forward and backward, and no memory after.
        """
        graph = self._current_graph()
        if graph is None and not retain:
            return self._averaged(self.space.flatten(self._plain_gradient()))
        graph = graph or self._build_graph()
        return self._averaged(self.space.flatten(graph.gradients))

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        """The Hessian at the current weights times a vector, by one double backward (Pearlmutter 1994).

        Args:
            vector: Flat, shape (n,).

        Returns:
            Flat, shape (n,), a new tensor.
        """
        graph = self._current_graph() or self._build_graph()
        return self._averaged(self.space.flatten(graph.product(self.space.split_like_parameters(vector))))

    def losses_along(self, direction: Tensor, alphas: Sequence[float] | Tensor) -> Tensor:
        """Losses at ``weights + alpha · direction``.

        Args:
            direction: Flat, shape (n,).
            alphas: Distances, in units of ``direction``.

        Returns:
            float64, shape (len(alphas),), on the CPU. Non-finite losses are returned as they are.
        """
        distances = [float(alpha) for alpha in alphas]
        losses = []
        with self.displaced() as move_to:
            for alpha in distances:
                move_to((direction, alpha))
                losses.append(self._evaluate())
        return self._gathered(losses)

    def losses_on_plane(self, first: Tensor, second: Tensor, alphas: Sequence[float], betas: Sequence[float]) -> Tensor:
        """Losses at ``weights + alpha · first + beta · second``: float64, shape (len(betas), len(alphas)), on the CPU."""
        losses = []
        with self.displaced() as move_to:
            for beta in betas:
                for alpha in alphas:
                    move_to((first, float(alpha)), (second, float(beta)))
                    losses.append(self._evaluate())
        return self._gathered(losses).reshape(len(betas), len(alphas))

    @contextmanager
    def displaced(self) -> Iterator[Callable[..., None]]:
        """Lets weights be moved, and puts them back bit-exact on exit, also after an exception.

        Yields:
            ``move_to(*terms)``, each term a pair ``(direction, alpha)``: sets the weights to
            ``original + Σ alpha · direction``. Without terms: back to the original.
        """
        # Writing through ``.data`` leaves the version counters alone. So a retained graph stays valid: when it is used
        # next, the weights hold the very values that it saw.
        weights = [_local(parameter.data) for parameter in self.space.parameters]
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
            return _scalar(self.closure()).detach().double()

    def _current_graph(self) -> _RetainedGraph | None:
        if self._graph is not None and not self._graph.is_current(self.space):
            self._graph = None
        return self._graph

    def _build_graph(self) -> _RetainedGraph:
        with torch.inference_mode(False), torch.enable_grad():
            self._graph = _RetainedGraph(self.closure(), self.space)
        return self._graph

    def _gathered(self, losses: list[Tensor]) -> Tensor:
        """Losses of one line or plane: averaged over processes and brought to the CPU in one transfer."""
        return self._averaged(torch.stack(losses)).cpu() if losses else torch.empty(0, dtype=torch.float64)

    def _plain_gradient(self) -> Sequence[Tensor | None]:
        with torch.inference_mode(False), torch.enable_grad():
            return torch.autograd.grad(_differentiable(self.closure()), self.space.parameters, allow_unused=True)

    def _averaged(self, value: Tensor) -> Tensor:
        return value if self.average is None else self.average(value)


class AverageSurface:
    """The weighted average of several surfaces over the same parameters, as one surface: a loss over several batches.

    Args:
        surfaces: At least one, all on the same :class:`ParameterSpace`.
        weights: One weight a surface, such as the batch sizes; normalised to sum to one. Equal when ``None``.

    Raises:
        ValueError: Without surfaces, with surfaces on different parameters, or with weights that do not fit.
    """

    def __init__(self, surfaces: Sequence[LossSurface], weights: Sequence[float] | None = None) -> None:
        if not surfaces:
            raise ValueError("AverageSurface needs at least one surface, got none.")
        self.surfaces = tuple(surfaces)
        self.space = surfaces[0].space
        if any([id(p) for p in s.space.parameters] != [id(p) for p in self.space.parameters] for s in surfaces):
            raise ValueError("The surfaces of an average have to be over the same parameters in the same order.")
        weights = [1.0] * len(surfaces) if weights is None else [float(weight) for weight in weights]
        if len(weights) != len(surfaces) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"Expected {len(surfaces)} non-negative weights with a positive sum, got {weights}.")
        self.weights = tuple(weight / sum(weights) for weight in weights)

    def loss(self) -> Tensor:
        """The average loss: a 0-d tensor."""
        return self._average([surface.loss() for surface in self.surfaces])

    def gradient(self) -> Tensor:
        """The average gradient: flat, shape (n,)."""
        return self._average(surface.gradient() for surface in self.surfaces)

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        """The average Hessian times a flat vector of shape (n,)."""
        return self._average(surface.hessian_vector_product(vector) for surface in self.surfaces)

    def losses_along(self, direction: Tensor, alphas: Sequence[float] | Tensor) -> Tensor:
        """The average losses along a direction; see :meth:`LossSurface.losses_along`."""
        return self._average(surface.losses_along(direction, alphas) for surface in self.surfaces)

    def losses_on_plane(self, first: Tensor, second: Tensor, alphas: Sequence[float], betas: Sequence[float]) -> Tensor:
        """The average losses on a plane; see :meth:`LossSurface.losses_on_plane`."""
        return self._average(surface.losses_on_plane(first, second, alphas, betas) for surface in self.surfaces)

    def release(self) -> None:
        """Frees the retained graph of every surface."""
        for surface in self.surfaces:
            surface.release()

    def _average(self, values: Iterable[Tensor]) -> Tensor:
        total: Tensor | None = None
        for weight, value in zip(self.weights, values, strict=True):
            total = value.mul(weight) if total is None else total.add_(value, alpha=weight)
        assert total is not None
        return total


class _RetainedGraph:
    """A loss with its graph, and the graph of its gradient, at the weights of one moment."""

    def __init__(self, loss: Tensor, space: ParameterSpace) -> None:
        loss = _differentiable(loss)
        with torch.inference_mode(False), torch.enable_grad():
            self.gradients = torch.autograd.grad(loss, space.parameters, create_graph=True, allow_unused=True)
        self.loss = loss.detach().double()
        self._parameters = space.parameters
        self._versions = [parameter._version for parameter in space.parameters]
        # A gradient that does not depend on any weight (a linear loss) has no graph; its row of the Hessian is zero.
        self._curved = [i for i, g in enumerate(self.gradients) if g is not None and g.requires_grad]

    def is_current(self, space: ParameterSpace) -> bool:
        return self._versions == [parameter._version for parameter in space.parameters]

    def product(self, pieces: Sequence[Tensor]) -> Sequence[Tensor | None]:
        if not self._curved:
            return [None] * len(self._parameters)
        return torch.autograd.grad(
            [self.gradients[i] for i in self._curved],
            self._parameters,
            grad_outputs=[pieces[i] for i in self._curved],
            retain_graph=True,
            allow_unused=True,
        )


def _differentiable(loss: Tensor) -> Tensor:
    loss = _scalar(loss)
    if not loss.requires_grad:
        raise ValueError(
            "The closure returned a loss without a graph (requires_grad=False). Compute it from the parameters, without "
            "torch.no_grad() and without .detach()."
        )
    return loss


def _scalar(loss: Tensor) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        received = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{type(loss).__name__}"
        raise ValueError(f"The closure has to return a tensor with one element (the loss), got {received}.")
    if loss.is_complex():
        raise ValueError("The closure returned a complex loss; return a real one.")
    return loss.reshape(())
