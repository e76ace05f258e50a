"""The loss of a batch as a function that can be evaluated again: the training step replayed, or the user's own loss."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape_callbacks.surface.sharded import sharded_module
from landscape_callbacks.training.handed_batch import HandedBatch
from landscape_callbacks.training.held_parameters import HeldParameters
from landscape_callbacks.training.isolation import RandomState, muted_logging, preserved_random_state
from landscape_callbacks.training.module_state import ModuleState

LossFunction = Callable[[Any, Any], Tensor]


class StepSkipped(Exception):  # noqa: N818 - nothing went wrong
    """``training_step`` returned None: it skips this batch, so there is no loss to look at."""


class IteratorHeldError(RuntimeError):
    """The module holds an iterator, of which a replayed step would take items away from training."""


class Replay:
    """Evaluates the loss of batches at the current weights, always the same function, without a trace.

    Between ``__enter__`` and ``__exit__`` logging is muted and the module holds clones of its buffers, also between
    evaluations: activation checkpointing runs parts of the step again in every backward. Each evaluation starts from
    the module state and the random streams that were found at ``__enter__``, so the dropout mask, and everything else
    that a step draws, is that of the training step that follows.

    Args:
        trainer: The trainer, inside ``fit``.
        pl_module: The module that trains.
        loss_fn: Called as ``loss_fn(pl_module, batch)`` instead of ``training_step``.
        eval_mode: Evaluate with every submodule in eval mode (dropout off, batch-norm statistics frozen).

    Attributes:
        held: The parameters, which a step may write to.
    """

    def __init__(
        self, trainer: Any, pl_module: Any, *, loss_fn: LossFunction | None = None, eval_mode: bool = False
    ) -> None:
        self._trainer = trainer
        self._module = pl_module
        self._loss_fn = loss_fn
        self._eval_mode = eval_mode
        self._kernels = _enabled_attention_kernels()
        self._stack = ExitStack()
        self._random: RandomState | None = None
        self._state: ModuleState | None = None
        self._batches: dict[int, HandedBatch] = {}
        self.held = HeldParameters([])

    def __enter__(self) -> Replay:
        with ExitStack() as stack:
            self._random = stack.enter_context(preserved_random_state(self._module.device))
            stack.enter_context(muted_logging(self._trainer, self._module))
            stack.enter_context(_differentiable_twice())
            self._state = ModuleState(self._module, beside=_surroundings(self._trainer))
            if self._state.iterators and self._loss_fn is None:
                raise IteratorHeldError(
                    "training_step may take something from the iterator that the module holds in "
                    f"{', '.join(self._state.iterators)}, which cannot be given back. Give the loss as loss_fn=..., or "
                    "keep the iterable there instead"
                )
            stack.callback(self._state.restore)
            # Shards are gathered into other tensors for every forward.
            held = [] if sharded_module(self._module) is not None else self._state.parameters.values()
            self.held = HeldParameters(held)
            stack.callback(self.held.restore)
            self._stage(self._state)
            self._stack = stack.pop_all()
        return self

    def _stage(self, state: ModuleState) -> None:
        """The module as it was found, on clones."""
        state.restore()
        state.put_clones()
        if self._eval_mode:
            self._module.eval()

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()
        self._random = self._state = None
        self._batches = {}

    def closure(self, batch: Any, batch_idx: int) -> Callable[[], Tensor]:
        """The loss of one batch as a closure for :class:`~landscape_callbacks.surface.LossSurface`."""
        return self.isolated(lambda: self.loss_of(batch, batch_idx))

    def isolated(self, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A closure that evaluates ``loss``, which calls :meth:`loss_of`, on clones and leaves no trace."""

        def evaluate() -> Tensor:
            if self._state is None:
                raise RuntimeError("The measurement is over; the loss of this batch cannot be evaluated any more.")
            self.rewind()
            self._stage(self._state)
            try:
                with self._forward_context():
                    # Logs go nowhere, so nothing is to be reduced over ranks for them (sync_dist).
                    self._module.log = self._module.log_dict = _log_nothing
                    return loss()
            finally:
                self._stage(self._state)

        return evaluate

    def rewind(self) -> None:
        """Sets the random streams to where the training step that follows finds them."""
        assert self._random is not None
        self._random.restore()

    def loss_of(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch; for use inside of :meth:`isolated`."""
        handed = self._batches.setdefault(id(batch), HandedBatch(batch)).hand_out()
        try:
            if self._loss_fn is not None:
                return self._loss_fn(self._module, handed)
            return self._training_step_loss(handed, batch_idx)
        finally:
            self.held.after_evaluation()

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
            if not torch.is_grad_enabled():
                # Without derivatives the kernels of training serve, and the loss is that of training to the bit.
                stack.enter_context(sdpa_kernel(self._kernels))
            yield


def _surroundings(trainer: Any) -> list[Any]:
    """What a step can reach beside its module and sets attributes of: should_stop, a learning rate, a schedule."""
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    groups = [optimizer.param_groups for optimizer in trainer.optimizers]
    return [part for part in (trainer, getattr(trainer, "datamodule", None), *schedules, *groups) if part is not None]


def _enabled_attention_kernels() -> list[SDPBackend]:
    enabled = {
        SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled(),
    }
    return [kernel for kernel, on in enabled.items() if on]


@contextmanager
def _differentiable_twice() -> Iterator[None]:
    """What has no second derivative is replaced by its equal that has one, in forwards and in what backwards run
    again.
    """
    with ExitStack() as stack:
        # Compiled code has none. The compiler is imported (seconds) only by those who use it.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        # Flash and memory-efficient attention have none.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        # ``torch.autograd.grad`` silently passes over parameters inside of reentrant checkpoints.
        original = torch.utils.checkpoint.CheckpointFunction
        torch.utils.checkpoint.CheckpointFunction = _NonReentrant  # type: ignore[misc, assignment]
        stack.callback(setattr, torch.utils.checkpoint, "CheckpointFunction", original)
        yield


class _NonReentrant:
    """In place of ``torch.utils.checkpoint.CheckpointFunction``: the same region, checkpointed in the other way."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *inputs: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(
            function, *inputs, use_reentrant=False, preserve_rng_state=preserve_rng_state
        )


def _log_nothing(*_: Any, **__: Any) -> None:
    """In place of ``self.log`` and ``self.log_dict`` while a step is replayed."""
