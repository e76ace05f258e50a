"""The loss along lines through the weights while a model trains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from landscape_callbacks.callbacks.lines import (
    DIRECTIONS,
    Anchors,
    Line,
    OwnDirection,
    Reach,
    lines_of,
    weight_decays,
)
from landscape_callbacks.callbacks.picture_book import PictureBook, can_draw, seconds_to_draw
from landscape_callbacks.callbacks.slice_reports import record_of, scalars_of, slice_drawings
from landscape_callbacks.records import Record
from landscape_callbacks.surface.batch_norm import POLICIES
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.slices import SliceResult, loss_slice
from landscape_callbacks.training.compatibility import require_choice, require_positive_int
from landscape_callbacks.training.figure_logging import Drawing
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from landscape_callbacks.training.memory import Memory, eigenvalue_memory, together
from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.replay import LossFunction
from landscape_callbacks.training.reporting import Report, current_step
from landscape_callbacks.training.snapshot import EigenRequest, Snapshot, trained_now
from landscape_callbacks.training.validation_replay import validation_surface

_EIGEN_TOLERANCE = 1e-3
_COARSE = 1e-4


class LossSliceMonitor(Monitor):
    r"""Logs the loss along lines through the current weights: curves, and the numbers that they say.

    =====================================  ============================================================================
    tag (``slice/<direction>/…``)          meaning
    =====================================  ============================================================================
    ``curvature``, ``curvature_error``     second derivative at the current weights, a squared unit of length
    ``best_step``, ``best_step_error``     where the loss is lowest, in the unit of the line; of ``update`` counted from
                                           before the step, so 1 says that the optimizer's step went just as far as it
                                           should
    ``barrier``                            highest loss between the ends minus the mean of theirs (Frankle et al. 2020)
    ``convexity_violation``                how far the curve rises above its convex envelope (0: convex)
    =====================================  ============================================================================

    Directions: ``gradient`` (downhill; in lengths of the last step), ``update`` (the optimizer's last real step, so
    Adam's is Adam's), ``largest_eigenvector`` and ``smallest_eigenvector`` of the Hessian, ``random`` (Gaussian,
    filter-normalised after Li et al. 2018; always the same one, so curves of different steps compare), ``initial``
    (from the weights at the start, at -1, to the current ones, at 0), ``checkpoint`` (from those at the end of the last
    epoch). Dropout and batch norm are as in the training step unless ``eval_mode`` or
    ``batch_norm`` say otherwise.

    The points are chosen adaptively, at most eleven forward passes a line and batch, with the error of the curve
    between them in the record. With ``batches`` above 1, errors over batches are given.

    Args:
        directions: Which lines, of those above and of ``own_directions``.
        every_n_steps: Smallest distance of two measurements (optimizer steps).
        max_overhead: Share of training time that measurements may take; ``None``: measure exactly every n steps.
        batches: Batches to average over: the last ones that passed by.
        own_directions: Functions ``(pl_module, space) -> direction`` a name; a direction is a flat tensor, a tensor a
            parameter, or a mapping from names to tensors. Looked along from -1 to 1.
        random_lines: How many random lines; the pictures show their spread.
        points: ``None``: adaptive. An odd number: a fixed, even grid of so many points.
        max_points: Most adaptive points a line.
        validation: Also evaluate ``validation_step`` on the first validation batch, along the same lines. A name: the
            logged metric that is its loss.
        weight_decay: Also show the loss with the optimizer's weight decay, where that is part of it (not AdamW's).
        figures: Draw the curves and their history at the 4th, 8th, 16th, … measurement and at the end of the fit.
        last_within_budget: Draw at the end only what is left of ``max_overhead`` allows; the data are recorded in any
            case.
        theme: ``"light"`` or ``"dark"`` figures.
        seed: Of the random lines.
        parameters: Regular expression on parameter names (``re.search``); ``None``: all trainable parameters.
        loss_fn: Called as ``loss_fn(pl_module, batch) -> scalar`` instead of replaying ``training_step``.
        eval_mode: Dropout off, batch-norm statistics frozen while measuring.
        batch_norm: Which statistics batch norm uses along the lines: ``"batch"`` (those of each batch, as in the
            training step), ``"frozen"`` (the running ones) or ``"recalibrated"`` (running ones computed anew from the
            batches at every point, at the cost of a second forward pass; the validation loss uses them too). ``None``:
            as ``eval_mode`` says. Directions are those of the training loss in any case.
        verbose: Print a line a measurement (rank zero).

    Raises:
        MisconfigurationException: When an argument is wrong; in ``setup`` when the trainer cannot be supported.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from landscape_callbacks import LossSliceMonitor
        >>> monitor = LossSliceMonitor(directions=["update", "random"], batches=4)
        >>> trainer = Trainer(callbacks=[monitor], logger=False, enable_checkpointing=False)
    """

    needs_other_weights = True

    def __init__(
        self,
        *,
        directions: Sequence[str] = ("gradient", "update", "random"),
        every_n_steps: int = 100,
        max_overhead: float | None = 0.05,
        batches: int = 1,
        own_directions: Mapping[str, OwnDirection] | None = None,
        random_lines: int = 1,
        points: int | None = None,
        max_points: int = 11,
        validation: bool | str = True,
        weight_decay: bool = True,
        figures: bool = True,
        last_within_budget: bool = False,
        theme: str = "light",
        seed: int = 0,
        parameters: str | None = None,
        loss_fn: LossFunction | None = None,
        eval_mode: bool = False,
        batch_norm: str | None = None,
        verbose: bool = False,
    ) -> None:
        name = type(self).__name__
        super().__init__(
            every_n_steps=every_n_steps,
            max_overhead=max_overhead,
            parameters=parameters,
            loss_fn=loss_fn,
            eval_mode=eval_mode,
            batches=batches,
            verbose=verbose,
        )
        self.own_directions = dict(own_directions or {})
        known = (*DIRECTIONS, *self.own_directions)
        if isinstance(directions, str) or not directions:
            raise MisconfigurationException(
                f"{name}: directions has to be a list of at least one name of {', '.join(known)}; got {directions!r}."
            )
        wanted = dict.fromkeys((*directions, *self.own_directions))
        self.directions = tuple(require_choice(name, "directions", entry, known) for entry in wanted)
        self.random_lines = require_positive_int(name, "random_lines", random_lines)
        self.points = None if points is None else require_positive_int(name, "points", points, minimum=3)
        if self.points is not None and self.points % 2 == 0:
            raise MisconfigurationException(
                f"{name}: points has to be odd, so that the current weights are among them; got {points}."
            )
        self.max_points = require_positive_int(name, "max_points", max_points, minimum=9)
        self.validation = validation
        self.weight_decay = bool(weight_decay)
        self.figures = bool(figures)
        self.last_within_budget = bool(last_within_budget)
        self.theme = require_choice(name, "theme", theme, ("light", "dark"))
        self.seed = require_positive_int(name, "seed", seed, minimum=0)
        self.batch_norm = None if batch_norm is None else require_choice(name, "batch_norm", batch_norm, POLICIES)
        self.anchors = Anchors()
        self.reach = Reach()
        self.book = PictureBook()
        self._validation_batch: Any = None
        self._is_sharded = False

    def identity(self) -> dict[str, Any]:
        """The settings that two instances in one trainer differ by."""
        return {
            "directions": self.directions,
            "parameters": self.settings.parameters,
            "eval_mode": self.settings.eval_mode,
            "batch_norm": self.batch_norm,
        }

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Starts over: a checkpoint brings its own state after this."""
        if stage == "fit":
            self.anchors, self.reach, self.book = Anchors(), Reach(), PictureBook()
            self._validation_batch = None
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Remembers the weights at the start."""
        super().on_train_start(trainer, pl_module)
        if "initial" in self.directions and self.anchors.initial is None:
            self.anchors.initial = self._weights(pl_module, on_cpu=True)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Remembers the weights of the epoch."""
        if "checkpoint" in self.directions:
            self.anchors.checkpoint = self._weights(pl_module, on_cpu=True)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keeps the first validation batch."""
        if self.validation and batch_idx == 0 and dataloader_idx == 0 and trainer.state.fn == "fit":
            self._validation_batch = batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Remembers the weights before the step, when a measurement may follow on it."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if batch_idx % trainer.accumulate_grad_batches != 0:
            return
        follows = self.cadence.is_due(current_step(trainer) + 1)
        wanted = follows and ("update" in self.directions or "gradient" in self.directions)
        self.anchors.before_step = self._weights(pl_module) if wanted else None

    def wakes_at(self) -> int:
        """One step before a measurement that wants the weights before the step that it will look back at."""
        return super().wakes_at() - int("update" in self.directions or "gradient" in self.directions)

    def prepare(self, snapshot: Snapshot) -> None:
        """Announces the eigenvectors wanted."""
        largest, smallest = (int(f"{end}_eigenvector" in self.directions) for end in ("largest", "smallest"))
        if largest or smallest:
            snapshot.expect(EigenRequest(largest=largest, smallest=smallest, tolerance=_EIGEN_TOLERANCE))

    def memory(self, snapshot: Snapshot) -> Memory:
        """As other monitors, and a Krylov basis where lines along eigenvectors are wanted."""
        ends = sum(f"{end}_eigenvector" in self.directions for end in ("largest", "smallest"))
        plain = super().memory(snapshot)
        return together(plain, eigenvalue_memory(snapshot.space, ends)) if ends else plain

    def measure(self, trainer: Any, pl_module: Any, snapshot: Snapshot) -> Report:
        """The loss along every line; a line that cannot be looked along is left out, with a warning."""
        scalars: dict[str, float] = {}
        records: list[Record] = []
        decays = weight_decays(snapshot.space, trainer.optimizers) if self.weight_decay else []
        with self._validation_surface(trainer, pl_module, snapshot) as validation:
            for name in self.directions:
                with self.coordinator.guarded(f"{type(self).__name__} ({name})", trainer, snapshot.step):
                    for line in self._lines(name, snapshot, pl_module):
                        result = self._slice(snapshot, line, validation)
                        if name in ("gradient", "update"):
                            self.reach.learn(name, result.best_step)
                        scalars.update(scalars_of(line, result))
                        records.append(record_of(line, result, snapshot, decays, self.batch_norm))
        self.book.add(records)
        if self.verbose:
            found = ", ".join(
                f"{tag[6:]} {scalars[tag]:.3g}" for tag in scalars if tag.endswith(("curvature", "best_step"))
            )
            pl_module.print(f"step {snapshot.step}: {found}")
        return Report(scalars, records, drawings=self._drawings() if self.book.is_due() else {})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Draws the whole run."""
        if self.book.is_behind() and (not self.last_within_budget or self._affords_drawing()):
            step = current_step(trainer)
            # On no cadence: it is not a measurement, and a resumed run has to go on at the step it would have.
            with self.coordinator.timed(trainer, [], step):
                self.coordinator.log(trainer, Report(drawings=self._drawings()), step)
        super().on_train_end(trainer, pl_module)

    def _affords_drawing(self) -> bool:
        if self.max_overhead is None:
            return True
        return seconds_to_draw(2 * len(self.book.records)) <= self.coordinator.seconds_left()

    def _lines(self, name: str, snapshot: Snapshot, pl_module: Any) -> list[Line]:
        anchors = self.anchors.of(snapshot.space)
        if name == "initial" and (why := self.anchors.why_no_initial(snapshot)):
            self.coordinator.warn(f"{type(self).__name__} initial", f"{type(self).__name__} {why}")
        return lines_of(
            name,
            snapshot,
            pl_module,
            anchors=anchors,
            reach=self.reach,
            own=self.own_directions,
            random_lines=self.random_lines,
            seed=self.seed,
        )

    def _slice(self, snapshot: Snapshot, line: Line, validation: LossSurface | None) -> SliceResult:
        surface = snapshot.surface_for_losses(self.batch_norm)
        curvature: str | tuple[float, float] = line.curvature if surface is snapshot.surface else "difference"
        # Differences of losses that carry two or three digits say nothing about a second derivative.
        if curvature == "difference" and surface.rounding > _COARSE:
            curvature = "product" if surface is snapshot.surface else (math.nan, math.nan)
        return loss_slice(
            surface,
            line.direction,
            points=self.points,
            extent=line.extent,
            max_points=self.max_points,
            curvature=curvature,
            barrier_between=line.barrier_between,
            validation=validation,
        )

    @contextmanager
    def _validation_surface(self, trainer: Any, pl_module: Any, snapshot: Snapshot) -> Iterator[LossSurface | None]:
        if self._validation_batch is None:
            yield None
            return
        metric = self.validation if isinstance(self.validation, str) else None
        with validation_surface(
            trainer,
            pl_module,
            snapshot,
            self._validation_batch,
            loss_fn=self.settings.loss_fn,
            metric=metric,
            batch_norm=self.batch_norm,
        ) as surface:
            try:
                surface.losses_along(snapshot.space.zeros(), [0.0])
            except Exception as error:
                self.coordinator.warn(
                    f"{type(self).__name__} validation",
                    f"{type(self).__name__} leaves the validation loss out: {error}",
                )
                self._validation_batch, self.validation = None, False
                yield None
                return
            yield surface

    def _drawings(self) -> dict[str, Drawing]:
        self.book.drawn()
        if not self.figures or not self.book.records or not can_draw(type(self).__name__, self.coordinator.warn):
            return {}
        return slice_drawings(self.book.records, self.theme)

    def _weights(self, pl_module: Any, on_cpu: bool = False) -> Tensor | None:
        space = trained_now(pl_module, self.settings.parameters)
        if space is None:
            return None
        self._is_sharded = space.local_dimension != space.dimension
        return space.weights().cpu() if on_cpu else space.weights()

    def state_dict(self) -> dict[str, Any]:
        """The cadence, the reach of lines, what figures are drawn from, and the weights that lines lead from."""
        return {
            **super().state_dict(),
            "reach": dict(self.reach.of),
            "book": self.book.state_dict(),
            # A checkpoint holds what rank zero has, which of sharded weights is a piece: such a run starts these lines
            # anew.
            "initial": None if self._is_sharded else self.anchors.initial,
            "checkpoint": None if self._is_sharded else self.anchors.checkpoint,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues an interrupted run."""
        super().load_state_dict(state_dict)
        self.reach = Reach(dict(state_dict["reach"]))
        self.book.load_state_dict(state_dict["book"])
        self.anchors = Anchors(state_dict["initial"], state_dict["checkpoint"])
