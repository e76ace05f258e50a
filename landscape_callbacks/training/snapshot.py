"""The loss surface at one step of training, shared by all monitors of a trainer; each quantity is computed once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from landscape_callbacks.surface.average_surface import AverageSurface
from landscape_callbacks.surface.batch_norm import has_batch_norm
from landscape_callbacks.surface.eigenpairs import Eigenpairs
from landscape_callbacks.surface.lanczos import extreme_eigenvalues
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.microbatched_surface import MicrobatchedSurface
from landscape_callbacks.surface.power_iteration import power_iteration
from landscape_callbacks.surface.sharded import sharded_module
from landscape_callbacks.surface.vectors import ParameterSpace
from landscape_callbacks.training.batch_norm_replay import BatchNormReplay
from landscape_callbacks.training.distributed import RankAverage, rank_average
from landscape_callbacks.training.isolation import preserved_random_state
from landscape_callbacks.training.memory import Economy, dtype_named
from landscape_callbacks.training.microbatches import NotSplittableError, split_batch
from landscape_callbacks.training.module_state import ModuleState
from landscape_callbacks.training.optimizers import OptimizerDescription, describe_optimizer
from landscape_callbacks.training.replay import LossFunction, Replay
from landscape_callbacks.training.seen_batch import SeenBatch, samples_in
from landscape_callbacks.training.warm_starts import WarmStarts

# Dropout draws other masks for parts than for the whole; a sum instead of a mean is off by much more.
_SPLIT_TOLERANCE = 0.1


@dataclass(frozen=True)
class SurfaceSettings:
    """Which surface a monitor looks at. Monitors with equal settings share one snapshot.

    Attributes:
        parameters: Regular expression on parameter names; ``None``: all.
        loss_fn: Loss instead of the replayed training step.
        eval_mode: Dropout off, batch-norm statistics frozen.
        batches: Last batches to average over.
        differentiation: How products are taken; see :class:`LossSurface`.
    """

    parameters: str | None = None
    loss_fn: LossFunction | None = None
    eval_mode: bool = False
    batches: int = 1
    differentiation: str = "auto"


@dataclass
class EigenRequest:
    """What monitors want to know of the spectrum at one step; the largest wish of each kind is computed once."""

    largest: int = 0
    smallest: int = 0
    tolerance: float = float("inf")
    method: str = "lanczos"
    basis_device: str | None = None
    basis_dtype: str | None = None

    def include(self, other: EigenRequest) -> None:
        """Takes in the wish of one more monitor."""
        self.largest = max(self.largest, other.largest)
        self.smallest = max(self.smallest, other.smallest)
        self.tolerance = min(self.tolerance, other.tolerance)
        self.method = "lanczos" if "lanczos" in (self.method, other.method) else "power_iteration"
        self.basis_device = self.basis_device or other.basis_device
        self.basis_dtype = self.basis_dtype or other.basis_dtype


class Snapshot:
    """The loss surface at the current weights.

    Attributes:
        surface: The surface, averaged over ``batches``.
        batches: The batches that it is made of, with their samples over all ranks.
        step: Step of the x axis.
        economy: How sparing of memory to be.
        batch_norm: Evaluates the batches with batch norm in another mode; ``None`` for a module without such layers,
            and where the step cannot be replayed.
        held_bytes: What copies of parameters take, which a replayed step may write to.
    """

    def __init__(
        self,
        surface: LossSurface | AverageSurface,
        batches: Sequence[SeenBatch],
        step: int,
        optimizers: Sequence[Any],
        warm_starts: WarmStarts,
        economy: Economy,
        batch_norm: BatchNormReplay | None = None,
        held_bytes: int = 0,
    ) -> None:
        self.surface = surface
        self.economy = economy
        self.batch_norm = batch_norm
        self.held_bytes = held_bytes
        self.batches = tuple(batches)
        self.step = step
        self._optimizers = optimizers
        self._warm_starts = warm_starts
        self._request = EigenRequest()
        self._known: dict[str, Any] = {}

    @property
    def space(self) -> ParameterSpace:
        """The vector space of the measured parameters."""
        return self.surface.space

    @property
    def samples(self) -> int:
        """Samples in the batches of this snapshot."""
        return sum(seen.samples for seen in self.batches)

    @property
    def surfaces(self) -> tuple[LossSurface, ...]:
        """One surface a batch."""
        return self.surface.surfaces if isinstance(self.surface, AverageSurface) else (self.surface,)

    def surface_for_losses(self, batch_norm: str | None) -> LossSurface | AverageSurface:
        """The surface to evaluate at other weights, under a batch-norm policy; ``None``: as the monitor's settings."""
        if batch_norm is None or self.batch_norm is None:
            return self.surface
        surface: LossSurface | AverageSurface = self.once(batch_norm, partial(self.batch_norm.surface, batch_norm))
        return surface

    def loss(self) -> float:
        """The training loss at the current weights."""
        return float(self.once("loss", lambda: float(self.surface.loss())))

    def gradient(self) -> Tensor:
        """The gradient at the current weights: flat, shape (n,)."""
        gradient: Tensor = self.once("gradient", self.surface.gradient)
        return gradient

    def expect(self, request: EigenRequest) -> None:
        """Announces what will be asked of the spectrum, so that one computation serves every monitor."""
        self._request.include(request)

    def eigenpairs(self) -> Eigenpairs:
        """Extreme eigenpairs of the Hessian, for all that was announced by :meth:`expect`."""
        pairs: Eigenpairs = self.once("eigenpairs", self._compute_eigenpairs)
        return pairs

    def _compute_eigenpairs(self) -> Eigenpairs:
        request = self._request
        if request.method == "power_iteration":
            return power_iteration(
                self.surface, largest=request.largest, smallest=request.smallest, tolerance=request.tolerance
            )
        return self._lanczos("hessian", self.surface, request.largest, request.smallest, request.tolerance)

    def _lanczos(self, name: str, operator: Any, largest: int, smallest: int, tolerance: float) -> Eigenpairs:
        device = "cpu" if self.economy.few_vectors else self._request.basis_device
        pairs = extreme_eigenvalues(
            operator,
            largest=largest,
            smallest=smallest,
            tolerance=tolerance,
            initial=self._warm_starts.get(name, self.space),
            basis_device=device,
            basis_dtype=dtype_named(self._request.basis_dtype),
            extra_vectors=self.economy.extra_vectors,
        )
        self._warm_starts.put(name, pairs.warm_start, self.space, device)
        return pairs

    def optimizer(self) -> OptimizerDescription | None:
        """The optimizer that moves the measured parameters; ``None`` when there are several."""
        return self.once("optimizer", self._describe_optimizer)

    def _describe_optimizer(self) -> OptimizerDescription | None:
        measured = {id(parameter) for parameter in self.space.parameters}
        holders = [
            optimizer
            for optimizer in self._optimizers
            if any(id(parameter) in measured for group in optimizer.param_groups for parameter in group["params"])
        ]
        return describe_optimizer(holders[0], self.space) if len(holders) == 1 else None

    def sharpness_of_steps(self, tolerance: float) -> Eigenpairs | None:
        """Largest eigenvalue of the Hessian as the optimizer sees it: preconditioned, with its weight decay.

        ``None`` when the optimizer's linear map is not known. Equals the largest eigenvalue of the plain Hessian for
        plain SGD.
        """
        return self.once("sharpness_of_steps", lambda: self._compute_sharpness_of_steps(tolerance))

    def _compute_sharpness_of_steps(self, tolerance: float) -> Eigenpairs | None:
        description = self.optimizer()
        if description is None or description.why_not is not None:
            return None
        decay = description.coupled_decay
        if description.preconditioner is None and isinstance(decay, float) and self._request.largest:
            # Decay that all parameters share shifts the spectrum and leaves the eigenvectors as they are.
            pairs = self.eigenpairs()
            return replace(pairs, values=pairs.values + decay) if decay else pairs
        return self._lanczos("steps", description.metric_surface(self.surface), 1, 0, tolerance)

    def once(self, name: str, compute: Any) -> Any:
        """What ``compute`` gives, from the first call under this name: monitors share it."""
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]


def select_parameters(pl_module: Any, pattern: str | None) -> ParameterSpace:
    """The trainable parameters whose names match ``pattern`` (``re.search``).

    Raises:
        ValueError: When none does, or none is trainable.
    """
    sharded = sharded_module(pl_module)
    if sharded is not None:
        # After a validation the module still shows gathered weights.
        sharded.reshard()
    named = list(pl_module.named_parameters())
    if pattern is not None:
        chosen = [(name, parameter) for name, parameter in named if re.search(pattern, name)]
        if not chosen:
            examples = ", ".join(name for name, _ in named[:5])
            raise ValueError(
                f"No parameter name matches parameters={pattern!r}. Names of this module begin with: {examples}."
            )
        named = chosen
    return ParameterSpace(named)


def trained_now(pl_module: Any, pattern: str | None) -> ParameterSpace | None:
    """As :func:`select_parameters`, for hooks between measurements; ``None`` while all of them are frozen."""
    try:
        return select_parameters(pl_module, pattern)
    except ValueError:
        return None


def autocast_rounding(trainer: Any) -> float:
    """Relative rounding of the format that mixed precision computes in; 0 without it."""
    formats = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
    dtype = formats.get(str(trainer.precision))
    return 0.0 if dtype is None else float(torch.finfo(dtype).eps)


@contextmanager
def open_snapshot(
    trainer: Any,
    pl_module: Any,
    settings: SurfaceSettings,
    batches: Sequence[SeenBatch],
    step: int,
    warm_starts: WarmStarts,
    economy: Economy,
) -> Iterator[Snapshot]:
    """A snapshot by replay of the training step; its graph is freed and every trace undone at the end of the block."""
    space, sharded = select_parameters(pl_module, settings.parameters), sharded_module(pl_module)
    with Replay(trainer, pl_module, loss_fn=settings.loss_fn, eval_mode=settings.eval_mode) as replay:
        average = rank_average(trainer)
        batches = _over_ranks(batches, average)
        options: dict[str, Any] = {"average": average, "differentiation": settings.differentiation}
        options["rounding"] = autocast_rounding(trainer)
        batch_norm = None
        if has_batch_norm(pl_module):
            batch_norm = BatchNormReplay(replay, pl_module, batches, space, {**options, "sharded": sharded})
        surfaces = [
            LossSurface(replay.closure(seen.batch, seen.index), space, sharded=sharded, **options)
            if economy.microbatches == 1
            else _in_microbatches(replay, seen, space, economy.microbatches, options)
            for seen in batches
        ]
        surface = surfaces[0] if len(surfaces) == 1 else AverageSurface(surfaces, [seen.samples for seen in batches])
        try:
            held = replay.held.bytes
            yield Snapshot(surface, batches, step, trainer.optimizers, warm_starts, economy, batch_norm, held)
        finally:
            surface.release()


def _in_microbatches(
    replay: Replay, seen: SeenBatch, space: ParameterSpace, parts: int, options: dict[str, Any]
) -> MicrobatchedSurface:
    pieces = split_batch(seen.batch, samples_in(seen.batch), parts)
    if pieces is None:
        raise NotSplittableError(f"A batch of {samples_in(seen.batch)} samples cannot be split into {parts}.")
    closures = [replay.closure(batch, seen.index) for batch, _ in pieces]
    surface = MicrobatchedSurface(closures, [samples for _, samples in pieces], space, **options)
    whole_batch = LossSurface(replay.closure(seen.batch, seen.index), space, average=options["average"])
    whole, mean = float(whole_batch.loss()), float(surface.loss())
    if abs(whole - mean) > _SPLIT_TOLERANCE * abs(whole):
        raise NotSplittableError(
            f"The loss of the batch ({whole:.4g}) is not the mean of the losses of its {parts} parts ({mean:.4g})."
        )
    return surface


def _over_ranks(batches: Sequence[SeenBatch], average: RankAverage | None) -> list[SeenBatch]:
    """The batches with the samples that all ranks saw together: weights and errors are then the same on every rank."""
    if average is None:
        return list(batches)
    totals = average.totals([seen.samples for seen in batches])
    return [replace(seen, samples=round(total)) for seen, total in zip(batches, totals, strict=True)]


@contextmanager
def live_snapshot(
    trainer: Any,
    pl_module: Any,
    settings: SurfaceSettings,
    loss: Tensor,
    seen: SeenBatch,
    step: int,
    warm_starts: WarmStarts,
    economy: Economy,
) -> Iterator[Snapshot]:
    """A snapshot on the graph of the training step itself, before its backward: no second forward, and no other
    weights.
    """
    space = select_parameters(pl_module, settings.parameters)
    average = rank_average(trainer)
    batches = _over_ranks([seen], average)
    # Activation checkpointing runs parts of the step again in every backward.
    with preserved_random_state(pl_module.device), ModuleState(pl_module).isolated():
        surface = LossSurface.from_graph(loss, space, average=average)
        try:
            yield Snapshot(surface, batches, step, trainer.optimizers, warm_starts, economy)
        finally:
            surface.release()
