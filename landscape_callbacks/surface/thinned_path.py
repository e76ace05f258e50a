"""What is kept of a path that is offered step by step: never more than a bound, evenly over all of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from landscape_callbacks.surface.vectors import ParameterSpace


class ThinnedPath:
    """Rows of a path: when there are as many as the bound, every second one is dropped, and so is what is offered then.

    A subclass says in :meth:`_row` what it keeps of the weights.

    Attributes:
        space: The parameters.
        max_snapshots: The bound.
        stride: One in so many of the weights offered is kept now.
        offered: Weights offered so far.
        last_offered: Step of the last ones; -1 before any.
        steps: Steps of the rows.
        losses: Losses there; NaN where not known.
    """

    def __init__(self, space: ParameterSpace, max_snapshots: int) -> None:
        self.space = space
        self.max_snapshots = max_snapshots
        self.stride = 1
        self.offered = 0
        self.last_offered = -1
        self.steps: list[int] = []
        self.losses: list[float] = []
        self._rows: list[Tensor] = []

    def _row(self, weights: Tensor) -> Tensor:
        """What is kept of flat weights (n,): a tensor of its own, on the CPU."""
        raise NotImplementedError

    def unwanted(self) -> int:
        """How many of the next weights offered will not be kept."""
        return -self.offered % self.stride

    def pass_by(self, steps: int) -> None:
        """Counts steps whose weights were not offered as if they had been; those should be unwanted ones."""
        self.offered += steps

    def offer(self, step: int, loss: float = float("nan"), weights: Tensor | None = None) -> bool:
        """Offers the weights of one step.

        Args:
            step: Step of the x axis.
            loss: The loss there, if known.
            weights: Flat, shape (n,); the current weights when ``None``.

        Returns:
            Whether they were kept.
        """
        keep = self.unwanted() == 0
        self.offered += 1
        self.last_offered = int(step)
        if not keep:
            return False
        self._rows.append(self._row(self.space.weights() if weights is None else weights.detach()))
        self.steps.append(int(step))
        self.losses.append(float(loss))
        if len(self._rows) >= self.max_snapshots:
            self._rows, self.steps, self.losses = self._rows[::2], self.steps[::2], self.losses[::2]
            self.stride *= 2
        return True

    def __len__(self) -> int:
        return len(self._rows)

    def state_dict(self) -> dict[str, object]:
        """All that is needed to go on: tensors and plain values."""
        return {
            "stride": self.stride,
            "offered": self.offered,
            "last_offered": self.last_offered,
            "steps": list(self.steps),
            "losses": list(self.losses),
            "rows": list(self._rows),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from :meth:`state_dict`."""
        self.stride, self.offered, self.last_offered = state["stride"], state["offered"], state["last_offered"]
        self.steps, self.losses, self._rows = list(state["steps"]), list(state["losses"]), list(state["rows"])
