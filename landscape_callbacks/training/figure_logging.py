"""Figures to every logger, each by its own call; where a logger shows none, to files in the log directory."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = "landscape"


@dataclass(frozen=True)
class Drawing:
    """A figure that is drawn when it is logged, and its data.

    Attributes:
        draw: Gives the matplotlib figure.
        arrays: Its data.
    """

    draw: Callable[[], Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def log_figure(trainer: Any, tag: str, drawing: Drawing, step: int) -> list[Path]:
    """Sends a figure to all loggers of a trainer; does nothing off rank zero.

    TensorBoard gets ``add_figure``, W&B ``log_image``, MLflow and Comet ``log_figure``. Beside a logger that shows no
    pictures, such as ``CSVLogger``, the figure is written as PNG, and its data as npz, into
    ``<log_dir>/landscape/<tag>``, the latest replacing the earlier ones.

    Args:
        trainer: The trainer.
        tag: Such as ``"slice/gradient"``.
        drawing: What to draw.
        step: Step of the x axis.

    Returns:
        The files written.
    """
    if not trainer.is_global_zero or not trainer.loggers or trainer.fast_dev_run:
        return []
    figure = drawing.draw()
    shown = [_show(logger, tag, figure, step) for logger in trainer.loggers]
    if all(shown):
        return []
    # Lightning's own log_dir would wait for the other ranks, which draw nothing.
    folders = [logger.log_dir or logger.save_dir for logger in trainer.loggers]
    folder = next((known for known in folders if known), trainer.default_root_dir)
    path = Path(folder) / FOLDER / tag.removeprefix(f"{FOLDER}/").replace("/", "_")
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(".png")]
    figure.savefig(files[0])
    if drawing.arrays:
        files.append(path.with_suffix(".npz"))
        data: dict[str, Any] = {"logged_at": step, **drawing.arrays}
        np.savez(files[1], **data)
    return files


def _show(logger: Any, tag: str, figure: Any, step: int) -> bool:
    """Whether the logger took the figure. Known by name: importing its class would need its library."""
    kinds = {base.__name__ for base in type(logger).__mro__}
    if "TensorBoardLogger" in kinds:
        # close=False: our figures are not pyplot's, which alone could close them.
        logger.experiment.add_figure(tag, figure, global_step=step, close=False)
    elif "WandbLogger" in kinds:
        logger.log_image(key=tag, images=[_pixels(figure)], step=step)
    elif "MLFlowLogger" in kinds:
        logger.experiment.log_figure(logger.run_id, figure, f"{tag}_{step:08d}.png")
    elif "CometLogger" in kinds:
        logger.experiment.log_figure(figure_name=tag, figure=figure, step=step)
    else:
        return False
    return True


def _pixels(figure: Any) -> np.ndarray:
    """Height x width x 4 bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="raw", dpi=figure.dpi)
    width, height = (int(length) for length in figure.bbox.size)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8).reshape(height, width, 4)
