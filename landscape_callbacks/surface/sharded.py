"""Losses and gradients of modules whose parameters ``fully_shard`` (FSDP2) keeps in pieces, one a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class ShardedModule:
    """A module with parts under ``torch.distributed.fsdp.fully_shard``, at rest between two training steps.

    Such a part gathers its whole weights before its forward pass and frees them later. So three things differ from a
    module on one process:

    1. Gradients reach the shards through hooks of ``backward`` only: ``torch.autograd.grad`` finds no path to them,
       and they carry no graph. Hence no second derivative but by differences of gradients.
    2. The outermost part keeps its gathered weights after a forward pass without backward. They would be used again
       though the shards were moved since, so they are freed before and after every evaluation.
    3. ``backward`` writes to ``.grad``, so that what stood there is set aside and put back.

    Gradients come out averaged over the processes that see different data: ``fully_shard`` does that itself.

    Args:
        module: The module that holds them all.

    Raises:
        ValueError: When a parameter has a hook that acts on its gradient after ``backward``, such as an optimizer that
            steps there.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._parts = [part for part in module.modules() if is_sharded(part)]
        self.reshard()
        for name, parameter in module.named_parameters():
            if getattr(parameter, "_post_accumulate_grad_hooks", None):
                raise ValueError(
                    f"Parameter '{name}' has a hook that runs after its gradient is accumulated (such as an "
                    "optimizer that steps inside "
                    "backward), and gradients of sharded parameters come by backward only. Step the optimizer after "
                    "backward."
                )

    def reshard(self) -> None:
        """Frees gathered weights; the module's parameters are the shards again."""
        for part in self._parts:
            part.reshard()  # type: ignore[operator]

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Surrounds a forward pass, and its backward pass if there is one."""
        self.reshard()
        try:
            yield
        except BaseException:
            # A forward that stops halfway leaves hooks waiting for the rest of it.
            for part in self._parts:
                if not any(part is not other and part in other.modules() for other in self._parts):
                    getattr(part, "reset_iter_state", _nothing)()
            raise
        finally:
            self.reshard()

    def gradients(self, closure: Callable[[], Tensor], parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradient of a loss, a shard a parameter, averaged over the processes that see different data.

        Args:
            closure: Gives the loss with its graph.
            parameters: Shards, as the module has them at rest.
        """
        with self.evaluation():
            every = list(self._module.parameters())
            before = [parameter.grad for parameter in every]
            try:
                for parameter in every:
                    parameter.grad = None
                torch.autograd.backward(closure())
                return [parameter.grad for parameter in parameters]
            finally:
                for parameter, gradient in zip(every, before, strict=True):
                    parameter.grad = gradient


def is_sharded(module: torch.nn.Module) -> bool:
    """Whether ``fully_shard`` was applied to this very module. Told by name: importing it loads all of
    torch.distributed.
    """
    return any(base.__name__ == "FSDPModule" for base in type(module).__mro__)


def sharded_module(module: torch.nn.Module) -> ShardedModule | None:
    """The module as a sharded one; ``None`` when no part of it is."""
    return ShardedModule(module) if any(is_sharded(part) for part in module.modules()) else None


def _nothing() -> None:
    """Torch before 2.13 cannot be told that a forward pass has stopped."""
