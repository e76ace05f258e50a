"""The loss between checkpoints: the line through two, the plane through three."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landscape_callbacks.surface.average_surface import AverageSurface
from landscape_callbacks.surface.batch_norm import has_batch_norm, with_batch_norm
from landscape_callbacks.surface.directions import direction_between, orthogonalized
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.planes import PlaneResult, loss_plane
from landscape_callbacks.surface.slices import SliceResult, loss_slice
from landscape_callbacks.surface.vectors import ParameterSpace

LossFunction = Callable[[nn.Module, Any], Tensor]
_OVERHANG = 0.25


@dataclass(frozen=True)
class CheckpointPlane:
    """The plane through three checkpoints.

    Attributes:
        plane: The losses; the axes have the unit of weights and stand at right angles.
        x: Coordinates of the three checkpoints along the x axis.
        y: Along the y axis.
    """

    plane: PlaneResult
    x: tuple[float, float, float]
    y: tuple[float, float, float]


def load_weights(checkpoint: str | Path | Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The weights of a checkpoint. Files are loaded with ``weights_only=True``: no code in them is run.

    Args:
        checkpoint: A file of Lightning's (``state_dict`` inside) or of ``torch.save(module.state_dict())``, or such a
            mapping itself.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        ValueError: When there are no weights in it.
    """
    loaded: Any = checkpoint
    if not isinstance(checkpoint, Mapping):
        try:
            loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(
                f"{checkpoint} cannot be loaded with weights_only=True ({type(error).__name__}). If it holds classes "
                "of your own, as in its hyperparameters, save the weights alone: torch.save(module.state_dict(), path)."
            ) from error
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(weights, Mapping) or not any(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{checkpoint} holds no weights: neither a state_dict nor tensors by name.")
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}


def interpolate_line(
    module: nn.Module,
    checkpoints: Sequence[str | Path | Mapping[str, Any]],
    batches: Sequence[Any],
    loss_fn: LossFunction,
    *,
    batch_norm: str = "recalibrated",
    points: int | None = None,
    max_points: int = 25,
    on_evaluation: Callable[[], None] | None = None,
) -> SliceResult:
    """The loss on the line through two checkpoints: 0 is the first, 1 the second, a quarter beyond each.

    Its ``barrier`` lies between the two (Frankle et al. 2020): are they connected? The module gets its own weights,
    modes and statistics back.

    Args:
        module: A model that the checkpoints fit.
        checkpoints: Two files or state dicts.
        batches: Data; each batch is evaluated at every point.
        loss_fn: Called as ``loss_fn(module, batch) -> scalar``, the mean over the batch, in eval mode.
        batch_norm: Which statistics batch norm uses: ``"recalibrated"`` (at every point anew, from these batches),
            ``"batch"`` (those of each batch) or ``"frozen"`` (of the first checkpoint, which do not fit elsewhere).
        points: ``None``: adaptive, at most ``max_points``. A number: so many, evenly spaced, and 0 and 1.
        max_points: Most adaptive points.
        on_evaluation: Called after each forward pass, for a progress bar.

    Returns:
        The slice, with standard errors over the batches where there are several and no batch norm is recalibrated.

    Raises:
        ValueError: When there are not two checkpoints, no batches, or a checkpoint does not fit.
    """
    first, second = _loaded(checkpoints, 2)
    with _standing_at(module, first) as space:
        surface = _surface(module, space, batches, loss_fn, batch_norm, on_evaluation)
        direction = direction_between(space, first, second)
        if not bool(space.norm(direction) > 0):
            raise ValueError("The two checkpoints hold the same weights, so there is no line between them.")
        grid = None if points is None else _even_points(points)
        return loss_slice(
            surface,
            direction,
            points=grid,
            extent=(-_OVERHANG, 1.0 + _OVERHANG),
            max_points=max_points,
            barrier_between=(0.0, 1.0),
        )


def interpolate_plane(
    module: nn.Module,
    checkpoints: Sequence[str | Path | Mapping[str, Any]],
    batches: Sequence[Any],
    loss_fn: LossFunction,
    *,
    batch_norm: str = "recalibrated",
    points: int = 15,
    on_evaluation: Callable[[], None] | None = None,
) -> CheckpointPlane:
    """The loss on the plane through three checkpoints (as in Garipov et al. 2018, arXiv 1802.10026).

    The x axis leads from the first to the second; the y axis stands at right angles to it, towards the third.

    Args:
        module: As for :func:`interpolate_line`.
        checkpoints: Three files or state dicts.
        batches: As for :func:`interpolate_line`.
        loss_fn: As for :func:`interpolate_line`.
        batch_norm: As for :func:`interpolate_line`.
        points: Points along each axis.
        on_evaluation: Called after each forward pass.

    Returns:
        The plane, with the places of the checkpoints.

    Raises:
        ValueError: When there are not three checkpoints, no batches, a checkpoint does not fit, or all lie on a line.
    """
    first, second, third = _loaded(checkpoints, 3)
    with _standing_at(module, first) as space:
        surface = _surface(module, space, batches, loss_fn, batch_norm, on_evaluation)
        to_second, to_third = (direction_between(space, first, other) for other in (second, third))
        across = orthogonalized(space, to_third, [to_second])
        width, height = float(space.norm(to_second)), float(space.norm(across))
        if not height > 1e-6 * float(space.norm(to_third)) or not width > 0.0:
            raise ValueError(
                "The three checkpoints lie on a line (or two are the same): there is no plane through them."
            )
        x_axis, y_axis = to_second / width, across / height
        third_x = float(space.dot(to_third, x_axis))
        xs, ys = (0.0, width, third_x), (0.0, 0.0, height)
        plane = loss_plane(surface, x_axis, y_axis, x=_around(xs, points), y=_around(ys, points))
        return CheckpointPlane(plane, xs, ys)


def _loaded(checkpoints: Sequence[Any], count: int) -> list[Mapping[str, Tensor]]:
    if len(checkpoints) != count:
        raise ValueError(f"Expected {count} checkpoints, got {len(checkpoints)}.")
    return [load_weights(checkpoint) for checkpoint in checkpoints]


@contextmanager
def _standing_at(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[ParameterSpace]:
    """Loads weights into a module in eval mode, with every parameter free to move, and gives it back as it was."""
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    modes = {layer: layer.training for layer in module.modules()}
    fixed = [
        parameter for parameter in module.parameters() if not parameter.requires_grad and parameter.is_floating_point()
    ]
    try:
        module.load_state_dict(weights)
        module.eval()
        for parameter in fixed:
            parameter.requires_grad_(True)
        yield ParameterSpace(module.named_parameters())
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        raise ValueError(f"A checkpoint does not fit the module: {error}") from error
    finally:
        module.load_state_dict(state)
        for parameter in fixed:
            parameter.requires_grad_(False)
        for layer, training in modes.items():
            layer.training = training


def _surface(
    module: nn.Module,
    space: ParameterSpace,
    batches: Sequence[Any],
    loss_fn: LossFunction,
    batch_norm: str,
    on_evaluation: Callable[[], None] | None,
) -> LossSurface | AverageSurface:
    if not batches:
        raise ValueError("There are no batches to evaluate the loss on.")
    sizes = [_samples(batch) for batch in batches]

    def loss(batch: Any) -> Tensor:
        value = loss_fn(module, batch)
        if on_evaluation is not None:
            on_evaluation()
        return value

    def mean() -> Tensor:
        total = sum(size * loss(batch).double() for size, batch in zip(sizes, batches, strict=True))
        assert isinstance(total, Tensor)
        return total / sum(sizes)

    def forward() -> None:
        for batch in batches:
            loss(batch)

    if has_batch_norm(module) and batch_norm == "recalibrated":
        return LossSurface(with_batch_norm(mean, module, batch_norm, forward), space)
    policy = "frozen" if batch_norm == "recalibrated" else batch_norm
    surfaces = [LossSurface(with_batch_norm(partial(loss, batch), module, policy), space) for batch in batches]
    return surfaces[0] if len(surfaces) == 1 else AverageSurface(surfaces, sizes)


def _samples(batch: Any) -> int:
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    entries = list(batch.values()) if isinstance(batch, Mapping) else batch
    for entry in entries if isinstance(entries, (list, tuple)) else ():
        if isinstance(entry, Tensor):
            return int(entry.shape[0]) if entry.ndim else 1
    return 1


def _even_points(points: int) -> list[float]:
    if points < 3:
        raise ValueError(f"A line has at least three points, got {points}.")
    spacing = (1.0 + 2 * _OVERHANG) / (points - 1)
    return sorted({0.0, 1.0, *(-_OVERHANG + spacing * index for index in range(points))})


def _around(places: Sequence[float], points: int) -> list[float]:
    if points < 3:
        raise ValueError(f"A plane has at least three points along each axis, got {points}.")
    low, high = min(places), max(places)
    margin = _OVERHANG * (high - low)
    spacing = (high - low + 2 * margin) / (points - 1)
    return sorted({0.0, *(low - margin + spacing * index for index in range(points))})
