"""The loss on planes through the weights, with the path that training took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from landscape_callbacks.callbacks.followed_path import FollowedPath
from landscape_callbacks.callbacks.picture_book import can_draw, has_matplotlib, seconds_to_draw
from landscape_callbacks.callbacks.plane_views import PLANES, Path, plane_record, view_of
from landscape_callbacks.records import Record
from landscape_callbacks.surface.batch_norm import POLICIES
from landscape_callbacks.surface.planes import loss_plane
from landscape_callbacks.surface.trajectory import Trajectory
from landscape_callbacks.training.compatibility import require_choice, require_positive_int
from landscape_callbacks.training.figure_logging import Drawing
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from landscape_callbacks.training.memory import Memory, eigenvalue_memory, together
from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.replay import LossFunction
from landscape_callbacks.training.reporting import Report, current_step
from landscape_callbacks.training.requested_cadence import RequestedCadence
from landscape_callbacks.training.snapshot import EigenRequest, Snapshot

_EIGEN_TOLERANCE = 1e-2
# A forward pass is about a third of a training step.
_LEAST_POINTS = 9
_FORWARD_SHARE = 1 / 3


class LossPlaneMonitor(Monitor):
    r"""Draws the loss on planes through the current weights, at the end of epochs and of the fit.

    Planes: ``trajectory`` (spanned by the first two principal components of the path that training took, with the
    share of its variance that they show), ``random`` (two Gaussian directions, filter-normalised, after Li et al.
    2018; always the same ones), ``eigenvectors`` (of the two largest Hessian eigenvalues). The path is drawn into each.

    A plane costs ``points``² forward passes (625 by default) a batch. So epochs are skipped until the budget allows
    one; at the end of the fit the planes are drawn whatever they cost.

    The path is kept as copies of the weights on the CPU, at most ``max_snapshots`` of them and at most
    ``max_megabytes``: when that is full, every second one is dropped and from then on only every second is kept.

    Args:
        planes: Which planes.
        every_n_epochs: At the end of which epochs; 0: at the end of the fit only.
        max_overhead: Share of training time that measurements may take, the last one left out; ``None``: draw after
            exactly every n epochs.
        last_within_budget: Keep the last one within what the budgets of all monitors have left, with fewer points (at
            least 9 along an axis, or none at all), and with figures only where those fit too.
        points: Points along each axis, about; the grid always holds the current weights.
        batches: Batches to average over: the last ones that passed by.
        max_snapshots: Most snapshots of the path.
        max_megabytes: Most memory for them.
        projection: Keep so many random projections of the weights in place of copies, for very large models: the path
            is then drawn with a standard error, stated in the record, and its own plane cannot be had. 0: copies.
        path_in_checkpoint: Save the path in checkpoints too, which grow by up to ``max_megabytes``; without, the path
            of a resumed run begins where it was resumed.
        tsne: Also lay the path out by t-SNE, at the end of the fit. Needs scikit-learn.
        figures: Draw contours and surfaces; without, only the data are recorded.
        theme: ``"light"`` or ``"dark"`` figures.
        seed: Of the random plane.
        parameters: Regular expression on parameter names (``re.search``); ``None``: all trainable parameters.
        loss_fn: Called as ``loss_fn(pl_module, batch) -> scalar`` instead of replaying ``training_step``.
        eval_mode: Dropout off, batch-norm statistics frozen while measuring.
        batch_norm: Which statistics batch norm uses on the planes; see :class:`LossSliceMonitor`.
        verbose: Print a line a plane (rank zero).

    Raises:
        MisconfigurationException: When an argument is wrong; in ``setup`` when the trainer cannot be supported; at the
            start of the fit when four snapshots of the weights do not fit into ``max_megabytes``.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from landscape_callbacks import LossPlaneMonitor
        >>> trainer = Trainer(callbacks=[LossPlaneMonitor(points=15)], logger=False, enable_checkpointing=False)
    """

    needs_other_weights = True
    cadence: RequestedCadence

    def __init__(
        self,
        *,
        planes: Sequence[str] = ("trajectory", "random"),
        every_n_epochs: int = 1,
        max_overhead: float | None = 0.05,
        last_within_budget: bool = False,
        points: int = 25,
        batches: int = 1,
        max_snapshots: int = 64,
        max_megabytes: int = 1024,
        projection: int = 0,
        path_in_checkpoint: bool = False,
        tsne: bool = False,
        figures: bool = True,
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
            every_n_steps=1,
            max_overhead=max_overhead,
            parameters=parameters,
            loss_fn=loss_fn,
            eval_mode=eval_mode,
            batches=batches,
            verbose=verbose,
        )
        if isinstance(planes, str) or not planes:
            raise MisconfigurationException(
                f"{name}: planes has to be a list of at least one of {', '.join(PLANES)}; got {planes!r}."
            )
        self.planes = tuple(require_choice(name, "planes", entry, PLANES) for entry in dict.fromkeys(planes))
        self.every_n_epochs = require_positive_int(name, "every_n_epochs", every_n_epochs, minimum=0)
        self.points = require_positive_int(name, "points", points, minimum=3)
        self.last_within_budget = bool(last_within_budget)
        self.projection = require_positive_int(name, "projection", projection, minimum=0)
        if self.projection and "trajectory" in self.planes:
            raise MisconfigurationException(
                f"{name}: the plane 'trajectory' needs copies of the weights, and projection={projection} keeps none. "
                "Leave it out of planes, or set projection=0."
            )
        self.path_in_checkpoint = bool(path_in_checkpoint)
        self.tsne = bool(tsne)
        self.figures = bool(figures)
        self.theme = require_choice(name, "theme", theme, ("light", "dark"))
        self.seed = require_positive_int(name, "seed", seed, minimum=0)
        self.batch_norm = None if batch_norm is None else require_choice(name, "batch_norm", batch_norm, POLICIES)
        self.cadence = RequestedCadence(1, self.max_overhead)
        self._followed = FollowedPath(
            name,
            parameters,
            max_snapshots=require_positive_int(name, "max_snapshots", max_snapshots, minimum=4),
            max_megabytes=require_positive_int(name, "max_megabytes", max_megabytes),
            projection=self.projection,
            seed=self.seed,
        )
        self._measured_at = -1
        self._points_now, self._draws_now = self.points, self.figures

    def identity(self) -> dict[str, Any]:
        """The settings that two instances in one trainer differ by."""
        return {
            "planes": self.planes,
            "parameters": self.settings.parameters,
            "eval_mode": self.settings.eval_mode,
            "batch_norm": self.batch_norm,
        }

    @property
    def trajectory(self) -> Path:
        """The path of training so far."""
        return self._followed.path

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Starts over: a checkpoint brings its own path after this."""
        if stage == "fit":
            self._followed.forget()
            self._measured_at = -1
            self._points_now, self._draws_now = self.points, self.figures
            self.cadence = RequestedCadence(1, self.max_overhead)
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begins the path."""
        super().on_train_start(trainer, pl_module)
        self._followed.begin(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Takes the weights before this step into the path, where it wants them."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._followed.follow(pl_module, current_step(trainer))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Looks at the planes, where an epoch is to be looked at and the budget allows it."""
        self._followed.follow(pl_module, current_step(trainer))
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._estimate_cost(trainer)
            self.cadence.asked = True
            if self.coordinator.is_due(trainer, self.cadence, current_step(trainer)):
                self.coordinator.measure_now(trainer, pl_module, self)
            self.cadence.asked = False

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Looks at the planes at the end, whatever it costs unless ``last_within_budget``."""
        self._followed.follow(pl_module, current_step(trainer))
        if self.last_within_budget:
            # Clocks differ between ranks; the grid must not.
            self._points_now, self._draws_now = trainer.strategy.broadcast(self._affordable())
        if self._measured_at < current_step(trainer) and self._points_now:
            self.coordinator.measure_now(trainer, pl_module, self)
        if self.tsne and self.figures:
            step = current_step(trainer)
            with self.coordinator.guarded(f"{type(self).__name__} (t-SNE)", trainer, step):
                self.coordinator.log(trainer, Report(drawings={"landscape/trajectory_tsne": self._tsne()}), step)
        super().on_train_end(trainer, pl_module)

    def wakes_at(self) -> int:
        """When the path wants the weights next."""
        return self._followed.wanted_at()

    def prepare(self, snapshot: Snapshot) -> None:
        """Announces the eigenvectors wanted."""
        if "eigenvectors" in self.planes:
            snapshot.expect(EigenRequest(largest=2, tolerance=_EIGEN_TOLERANCE))

    def memory(self, snapshot: Snapshot) -> Memory:
        """As other monitors, and a Krylov basis where the plane of the eigenvectors is wanted."""
        plain = super().memory(snapshot)
        return together(plain, eigenvalue_memory(snapshot.space, 2)) if "eigenvectors" in self.planes else plain

    def measure(self, trainer: Any, pl_module: Any, snapshot: Snapshot) -> Report:
        """The loss on every plane."""
        self._measured_at = snapshot.step
        records: list[Record] = []
        for name in self.planes:
            with self.coordinator.guarded(f"{type(self).__name__} ({name})", trainer, snapshot.step):
                view = view_of(name, snapshot, self.trajectory, points=self._points_now, seed=self.seed)
                if view is None:
                    continue
                surface = snapshot.surface_for_losses(self.batch_norm)
                result = loss_plane(surface, view.first, view.second, x=view.x, y=view.y)
                records.append(plane_record(view, result, self.trajectory, snapshot.step, self.batch_norm))
                if self.verbose:
                    spread = result.losses[result.losses.isfinite()]
                    found = f"{float(spread.min()):.3g} to {float(spread.max()):.3g}" if len(spread) else "not finite"
                    pl_module.print(f"step {snapshot.step}: {name} plane, losses {found}")
        return Report(records=records, drawings=self._drawings(records))

    def _drawings(self, records: Sequence[Record]) -> dict[str, Drawing]:
        if not self._draws_now or not can_draw(type(self).__name__, self.coordinator.warn):
            return {}
        drawings = {}
        for record in records:
            arrays = dict(record.arrays)
            for kind in ("contour", "surface"):
                draw = partial(_draw_plane, kind, record, self.theme)
                drawings[f"landscape/plane/{record.name}_{kind}"] = Drawing(draw, arrays if kind == "contour" else {})
        return drawings

    def _tsne(self) -> Drawing:
        from landscape_callbacks.figures.embedding import tsne_coordinates, tsne_figure
        from landscape_callbacks.surface.trajectory import snapshot_inner_products

        path = self.trajectory
        inner = snapshot_inner_products(path) if isinstance(path, Trajectory) else path.inner_products()
        layout = tsne_coordinates(inner.numpy(), seed=self.seed)
        return Drawing(partial(tsne_figure, layout, self.trajectory.steps, theme=self.theme), {"coordinates": layout})

    def _affordable(self) -> tuple[int, bool]:
        """What is left of the budget pays for: points along an axis, 0 when those are fewer than are worth drawing,
        and whether figures of them. Records come before figures: the Landscape tab draws from records.
        """
        if self.max_overhead is None:
            return self.points, self.figures
        left = self.coordinator.seconds_left()
        drawing = seconds_to_draw(2 * len(self.planes)) if self.figures and has_matplotlib() else 0.0
        for draws in (True, False) if self.figures else (False,):
            points = self._points_for(left - drawing if draws else left)
            if points >= _LEAST_POINTS:
                return min(points, self.points), draws
        return 0, False

    def _points_for(self, seconds: float) -> int:
        forward = self.coordinator.seconds_per_step() * _FORWARD_SHARE * self._forwards_a_point()
        return math.isqrt(max(0, int(seconds / forward))) if forward > 0.0 else self.points

    def _forwards_a_point(self) -> int:
        return len(self.planes) * self.settings.batches * (2 if self.batch_norm == "recalibrated" else 1)

    def _estimate_cost(self, trainer: Any) -> None:
        if self.cadence.spent == 0.0:
            forwards = self._forwards_a_point() * self.points**2
            self.cadence.expected = self.coordinator.seconds_per_step() * _FORWARD_SHARE * forwards

    def state_dict(self) -> dict[str, Any]:
        """The cadence, and the path if asked for."""
        path = self._followed.state_dict() if self.path_in_checkpoint else None
        return {**super().state_dict(), "trajectory": path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues an interrupted run."""
        super().load_state_dict(state_dict)
        self._followed.load_state_dict(state_dict["trajectory"])


def _draw_plane(kind: str, record: Record, theme: str) -> Any:
    from landscape_callbacks.figures.planes import plane_contour, plane_surface

    return (plane_contour if kind == "contour" else plane_surface)(record, theme=theme)
