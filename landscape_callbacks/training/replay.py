"""The loss of a batch as a function that can be evaluated again: the training step replayed, or the user's own loss."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape_callbacks.training.isolation import ModuleState, RandomState, muted_logging, preserved_random_state

LossFunction = Callable[[Any, Any], Tensor]


class StepSkipped(Exception):
    """``training_step`` returned None: it skips this batch, so there is no loss to look at."""


class Replay:
    """Evaluates the loss of batches at the current weights, always the same function, without a trace.

    Between ``__enter__`` and ``__exit__`` logging is muted. Each evaluation starts from the module state and the random streams that were found
    at ``__enter__``, so the dropout mask, and everything else that a step draws, is that of the training step that follows.

    Args:
        trainer: The trainer, inside ``fit``.
        pl_module: The module that trains.
        loss_fn: Called as ``loss_fn(pl_module, batch)`` instead of ``training_step``.
        eval_mode: Evaluate with every submodule in eval mode (dropout off, batch-norm statistics frozen).
    """

    def __init__(
        self, trainer: Any, pl_module: Any, *, loss_fn: LossFunction | None = None, eval_mode: bool = False
    ) -> None:
        self._trainer = trainer
        self._module = pl_module
        self._loss_fn = loss_fn
        self._eval_mode = eval_mode
        self._stack = ExitStack()
        self._random: RandomState | None = None
        self._state: ModuleState | None = None

    def __enter__(self) -> Replay:
        with ExitStack() as stack:
            self._random = stack.enter_context(preserved_random_state(self._module.device))
            stack.enter_context(muted_logging(self._trainer, self._module))
            self._state = ModuleState(self._module)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()
        self._random = self._state = None

    def closure(self, batch: Any, batch_idx: int) -> Callable[[], Tensor]:
        """The loss of one batch as a closure for :class:`~landscape_callbacks.surface.LossSurface`."""

        def evaluate() -> Tensor:
            return self._evaluate(batch, batch_idx)

        return evaluate

    def _evaluate(self, batch: Any, batch_idx: int) -> Tensor:
        if self._random is None or self._state is None:
            raise RuntimeError("The measurement is over; the loss of this batch cannot be evaluated any more.")
        self._random.restore()
        with self._state.isolated(), self._forward_context():
            if self._eval_mode:
                self._module.eval()
            if self._loss_fn is not None:
                return self._loss_fn(self._module, batch)
            return self._training_step_loss(batch, batch_idx)

    def _training_step_loss(self, batch: Any, batch_idx: int) -> Tensor:
        arguments = self._trainer.fit_loop.epoch_loop._build_kwargs(OrderedDict(), batch, batch_idx)
        output = self._module.training_step(*arguments.values())
        if output is None:
            raise StepSkipped("training_step returned None for this batch.")
        loss = output["loss"] if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"training_step has to return a tensor or a dict with a tensor under 'loss', got {type(loss).__name__}."
            )
        return loss

    @contextmanager
    def _forward_context(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._trainer.precision_plugin.train_step_context())
            # A cached half-precision copy of a weight would be used in place of the weight that was moved since.
            torch.clear_autocast_cache()
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            if torch.is_grad_enabled():
                # Flash and memory-efficient attention have no second derivative.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield
