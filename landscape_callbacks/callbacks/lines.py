"""The lines that :class:`LossSliceMonitor` looks along: where they point, how far, in which unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from landscape_callbacks.surface.directions import random_direction, weights_vector
from landscape_callbacks.surface.vectors import ParameterSpace
from landscape_callbacks.training.optimizers import is_decay_decoupled
from landscape_callbacks.training.snapshot import Snapshot

DIRECTIONS = (
    "gradient",
    "update",
    "largest_eigenvector",
    "smallest_eigenvector",
    "random",
    "initial",
    "checkpoint",
)
OwnDirection = Callable[[Any, ParameterSpace], Any]
_LARGEST_REACH = 4096.0


@dataclass(frozen=True)
class Line:
    """One line through the current weights.

    Attributes:
        name: Such as ``"gradient"`` or ``"random_2"``.
        direction: Flat, shape (n,).
        extent: The two ends, in units of the direction.
        unit: What a distance of 1 is.
        curvature: As :func:`loss_slice` takes it.
        barrier_between: The two distances that the barrier lies between; the ends when ``None``.
        origin: Distance from which the best step is counted.
    """

    name: str
    direction: Tensor
    extent: tuple[float, float]
    unit: str
    curvature: str | tuple[float, float] = "difference"
    barrier_between: tuple[float, float] | None = None
    origin: float = 0.0


@dataclass
class Anchors:
    """Earlier weights that lines lead from, flat vectors on the CPU or the device; ``None`` where not known yet."""

    initial: Tensor | None = None
    checkpoint: Tensor | None = None
    before_step: Tensor | None = None

    def of(self, space: ParameterSpace) -> Anchors:
        """Those that are weights of the space: of before layers were frozen or unfrozen they are of other weights."""
        return Anchors(
            *(
                weights if weights is not None and len(weights) == space.local_dimension else None
                for weights in (self.initial, self.checkpoint, self.before_step)
            )
        )

    def why_no_initial(self, snapshot: Snapshot) -> str | None:
        """What to say where the initial weights are of other parameters than those that are trained now."""
        if self.initial is None or self.of(snapshot.space).initial is not None:
            return None
        return (
            f"leaves out the line to the initial weights from step {snapshot.step} on: "
            f"{snapshot.space.dimension:,} parameters are trained now, and it has the start of {len(self.initial):,}."
        )


@dataclass
class Reach:
    """How far lines downhill go: to the lowest loss, found from one measurement to the next, in powers of 2."""

    of: dict[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.of.get(name, 2.0)

    def learn(self, name: str, best_step: float) -> None:
        """Goes farther when the loss was lowest at the far end, less far when the minimum was close."""
        reach = self[name]
        if best_step >= reach:
            self.of[name] = min(2 * reach, _LARGEST_REACH)
        elif 0.0 < best_step < reach / 8:
            self.of[name] = max(reach / 2, 1.0)


def lines_of(
    name: str,
    snapshot: Snapshot,
    pl_module: Any,
    *,
    anchors: Anchors,
    reach: Reach,
    own: Mapping[str, OwnDirection],
    random_lines: int,
    seed: int,
) -> list[Line]:
    """The lines of one direction: several for ``"random"``, none where there is nothing yet to lead from."""
    space = snapshot.space
    if name in own:
        direction = weights_vector(space, own[name](pl_module, space))
        return [Line(name, direction, (-1.0, 1.0), "units of the direction")]
    if name in ("gradient", "update"):
        return _downhill(name, snapshot, anchors, reach[name])
    if name in ("largest_eigenvector", "smallest_eigenvector"):
        return [_along_eigenvector(name, snapshot)]
    if name == "random":
        return [
            Line(
                "random" if number == 0 else f"random_{number + 1}",
                random_direction(space, seed + number),
                (-1.0, 1.0),
                "filter norms",
            )
            for number in range(random_lines)
        ]
    earlier = anchors.initial if name == "initial" else anchors.checkpoint
    if earlier is None:
        return []
    direction = space.weights() - earlier.to(device=space.device, dtype=space.dtype)
    since = "the start" if name == "initial" else "the last epoch"
    return _if_any(space, Line(name, direction, (-1.0, 0.25), f"ways since {since}", barrier_between=(-1.0, 0.0)))


def _downhill(name: str, snapshot: Snapshot, anchors: Anchors, reach: float) -> list[Line]:
    space = snapshot.space
    step = None if anchors.before_step is None else space.weights() - anchors.before_step
    if name == "update":
        # Distance -1 is before the step, so a best step of 1 says that the step went just as far as it should.
        line = None if step is None else Line("update", step, (-1.5, reach), "steps of the optimizer", origin=-1.0)
        return [] if line is None else _if_any(space, line)
    gradient = snapshot.gradient()
    norm = float(space.norm(gradient))
    length, unit = (0.0, "") if step is None else (float(space.norm(step)), "lengths of the last step")
    if not length:
        optimizer = snapshot.optimizer()
        rate = None if optimizer is None else optimizer.learning_rate
        length, unit = (rate * norm, "steps of gradient descent") if rate else (1.0, "unit vectors")
    if not (math.isfinite(norm) and norm > 0.0):
        return []
    return [Line("gradient", gradient * (-length / norm), (-0.5 * reach, reach), unit)]


def _along_eigenvector(name: str, snapshot: Snapshot) -> Line:
    pairs = snapshot.eigenpairs()
    index = 0 if name == "largest_eigenvector" else -1
    value, error = float(pairs.values[index]), float(pairs.errors[index])
    vector = pairs.vectors[index]
    # Signs of eigenvectors are arbitrary; downhill is to the right.
    if float(snapshot.space.dot(vector, snapshot.gradient())) > 0.0:
        vector = -vector
    scale = abs(snapshot.loss()) or 1.0
    # Where the parabola has changed by the loss itself; a power of 2, so that a picture of many steps has few widths.
    width = math.sqrt(2 * scale / abs(value)) if value else 1.0
    half = 2.0 ** round(math.log2(width)) if math.isfinite(width) and width > 0 else 1.0
    return Line(name, vector, (-half, half), "unit vectors", curvature=(value, error))


def _if_any(space: ParameterSpace, line: Line) -> list[Line]:
    length = float(space.norm(line.direction))
    return [line] if math.isfinite(length) and length > 0.0 else []


def weight_decays(space: ParameterSpace, optimizers: Sequence[Any]) -> list[float]:
    """The weight decay that is part of the loss, a parameter; 0 where there is none or it is decoupled (AdamW)."""
    held = {
        id(parameter): float(group.get("weight_decay", 0.0) or 0.0)
        for optimizer in optimizers
        for group in optimizer.param_groups
        if not is_decay_decoupled(optimizer, group)
        for parameter in group["params"]
    }
    return [held.get(id(parameter), 0.0) for parameter in space.parameters]
