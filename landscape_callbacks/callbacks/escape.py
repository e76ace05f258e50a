"""Moving the weights off a saddle, where the user asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from landscape_callbacks.callbacks.probing import Look
from landscape_callbacks.training.snapshot import Snapshot, select_parameters

ESCAPES = ("perturb", "line_search")


@dataclass(frozen=True)
class Move:
    """A move that was made.

    Attributes:
        length: Euclidean length of the displacement.
        sentence: What was done and why.
    """

    length: float
    sentence: str


class Escape:
    """Plans a move at a verdict and carries it out between two steps, when no measurement holds the weights.

    Only the weights are changed. Optimizer state is kept as it is: momentum and second moments are averages over many
    steps, and one displacement of this size leaves them as right as a learning-rate step would.

    Args:
        kind: ``None``, ``"perturb"`` or ``"line_search"``.
        radius: Length of a perturbation, as a share of the norm of the weights.
        most: Most moves in a run.

    Attributes:
        moves: Moves made so far.
    """

    def __init__(self, kind: str | None, radius: float, most: int) -> None:
        self.kind = kind
        self.radius = radius
        self.most = most
        self.moves = 0
        self._planned: tuple[Tensor, str] | None = None

    def plan(self, look: Look, snapshot: Snapshot) -> None:
        """Prepares a move for a strict saddle."""
        if self.kind is None or self.moves >= self.most:
            return
        space, measured = snapshot.space, look.probe.measurement
        if self.kind == "line_search":
            displacement = look.probe.lowest_direction * measured.escape_distance
            share = f"tested to lower the loss by {measured.escape_decrease:.3g} ± {measured.escape_decrease_error:.1g}"
            self._planned = displacement, f"Moved along the direction of negative curvature ({share})"
            return
        # Uniform in a ball: a Gaussian direction, at a radius that follows from a uniform volume (Jin et al. 2017,
        # algorithm 1).
        direction = space.random(snapshot.step)
        uniform = float(torch.rand((), generator=torch.Generator().manual_seed(snapshot.step), dtype=torch.float64))
        length = self.radius * measured.weight_norm * uniform ** (1.0 / space.dimension)
        displacement = direction * (length / float(space.norm(direction)))
        self._planned = displacement, "Perturbed the weights by noise, uniform in a ball (Jin et al. 2017)"

    @torch.no_grad()
    def carry_out(self, pl_module: Any, parameters: str | None) -> Move | None:
        """Makes the planned move, if there is one."""
        if self._planned is None:
            return None
        (displacement, sentence), self._planned = self._planned, None
        self.moves += 1
        space = select_parameters(pl_module, parameters)
        for parameter, piece in zip(space.parameters, space.split_like_parameters(displacement), strict=True):
            parameter.add_(piece)
        length = float(space.norm(displacement))
        return Move(length, f"{sentence}, by {length:.3g}. Move {self.moves} of {self.most}.")
