"""The path of training as a monitor follows it: through checkpoints, and where layers are frozen or unfrozen."""

from __future__ import annotations

from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from landscape_callbacks.callbacks.plane_views import Path
from landscape_callbacks.surface.projection import ProjectedTrajectory, RandomProjection
from landscape_callbacks.surface.trajectory import Trajectory
from landscape_callbacks.surface.vectors import ParameterSpace
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from landscape_callbacks.training.snapshot import select_parameters, trained_now


class FollowedPath:
    """Offers the weights of steps to a path, which begins anew where other parameters are trained.

    Args:
        owner: Who follows it, for messages.
        parameters: Which parameters, as monitors take it.
        max_snapshots: Most snapshots.
        max_megabytes: Most memory for them.
        projection: Dimension of random projections that are kept instead of the weights; 0: the weights.
        seed: Of the projection.
    """

    def __init__(
        self, owner: str, parameters: str | None, *, max_snapshots: int, max_megabytes: int, projection: int, seed: int
    ) -> None:
        self.owner = owner
        self.parameters = parameters
        self.max_snapshots = max_snapshots
        self.max_megabytes = max_megabytes
        self.projection = projection
        self.seed = seed
        self.forget()

    def forget(self) -> None:
        """As before the fit."""
        self._path: Path | None = None
        self._resumed: dict[str, Any] | None = None
        self._began_anew = False

    @property
    def path(self) -> Path:
        """The path so far.

        Raises:
            RuntimeError: Before :meth:`begin`.
        """
        if self._path is None:
            raise RuntimeError("The path begins with trainer.fit.")
        return self._path

    def begin(self, pl_module: Any) -> None:
        """Begins at the current weights, or goes on with the path of a checkpoint if it is one of these parameters.

        Raises:
            MisconfigurationException: When too few snapshots fit into the memory.
        """
        path = self._new(select_parameters(pl_module, self.parameters))
        if self._resumed is not None and self._fits(self._resumed, path.space):
            path.load_state_dict(self._resumed)
        self._path, self._resumed = path, None

    def follow(self, pl_module: Any, step: int) -> None:
        """Takes the weights of a step into the path, where it wants them."""
        if step <= self.path.last_offered:
            return
        space = trained_now(pl_module, self.parameters)
        if space is None:
            return
        if space.names != self.path.space.names:
            if not self._began_anew:
                rank_zero_info(
                    f"{self.owner}: {space.dimension:,} parameters are trained now instead of "
                    f"{self.path.space.dimension:,}; the path begins anew at step {step}, and wherever they change."
                )
            self._path, self._began_anew = self._new(space), True
        self.path.pass_by(step - self.path.last_offered - 1)
        self.path.offer(step)

    def wanted_at(self) -> int:
        """The step whose weights the path wants next."""
        return self.path.last_offered + 1 + self.path.unwanted()

    def state_dict(self) -> dict[str, Any] | None:
        """The path; ``None`` before the fit and for sharded weights, of which a checkpoint of rank zero has a piece."""
        if self._path is None or self._path.space.local_dimension != self._path.space.dimension:
            return None
        return self._path.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Keeps the path of a checkpoint until the fit begins."""
        self._resumed = state

    def _fits(self, state: dict[str, Any], space: ParameterSpace) -> bool:
        return bool(self.projection) or all(len(row) == space.local_dimension for row in state["rows"])

    def _new(self, space: ParameterSpace) -> Path:
        try:
            if self.projection:
                return ProjectedTrajectory(RandomProjection(space, self.projection, self.seed), self.max_snapshots)
            max_bytes = self.max_megabytes * 1024 * 1024
            return Trajectory(space, max_snapshots=self.max_snapshots, max_bytes=max_bytes)
        except ValueError as error:
            raise MisconfigurationException(
                f"{self.owner}: {error} Raise max_megabytes, choose fewer weights by parameters='…', or set "
                "projection=4096."
            ) from error
