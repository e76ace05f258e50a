"""The path of training laid out in two dimensions by t-SNE. Needs scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from landscape_callbacks.figures.style import dress, dress_colorbar, new_figure, theme_named


def tsne_coordinates(
    inner_products: npt.ArrayLike, *, perplexity: float | None = None, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Two coordinates a snapshot by t-SNE (van der Maaten & Hinton 2008): near snapshots stay near; distances mean
    nothing.

    Args:
        inner_products: Inner products of the T snapshots, as from ``snapshot_inner_products``; shape (T, T).
        perplexity: Neighbours that count; a quarter of the snapshots, at most 30, when ``None``.
        seed: The same seed gives the same picture.

    Returns:
        Shape (T, 2).

    Raises:
        ValueError: When there are fewer than four snapshots.
        ImportError: When scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError("t-SNE needs scikit-learn: pip install 'landscape-callbacks[tsne]'.") from error
    inner = np.asarray(inner_products, dtype=np.float64)
    count = len(inner)
    if count < 4:
        raise ValueError(f"t-SNE needs at least 4 snapshots, got {count}.")
    # Points with the same inner products, hence the same distances, in at most T dimensions instead of n.
    centering = np.eye(count) - 1.0 / count
    values, vectors = np.linalg.eigh(centering @ inner @ centering)
    points = vectors * np.sqrt(np.maximum(values, 0.0))
    chosen = min(30.0, max(1.0, count / 4)) if perplexity is None else perplexity
    layout = TSNE(n_components=2, perplexity=min(chosen, count - 1.0), init="pca", random_state=seed)
    return np.asarray(layout.fit_transform(points[:, ::-1]), dtype=np.float64)


def tsne_figure(coordinates: npt.ArrayLike, steps: Sequence[int], *, theme: str = "light") -> Figure:
    """A path laid out by :func:`tsne_coordinates`, coloured by step.

    Args:
        coordinates: Shape (T, 2).
        steps: Step of each snapshot.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        The figure.
    """
    look = theme_named(theme)
    points = np.asarray(coordinates, dtype=np.float64)
    figure = new_figure(look, height=4.2)
    axes = figure.add_subplot()
    axes.plot(points[:, 0], points[:, 1], color=look.grid, linewidth=1.0)
    drawn = axes.scatter(
        points[:, 0],
        points[:, 1],
        c=np.asarray(steps),
        cmap=look.colormap,
        s=30,
        edgecolors=look.text,
        linewidths=0.5,
        zorder=3,
    )
    axes.plot(*points[-1], marker="*", color=look.mark, markersize=14, zorder=4)
    dress(
        axes,
        look,
        title="path of training, t-SNE (neighbours only; distances mean nothing)",
        x="first coordinate (no unit)",
        y="second coordinate (no unit)",
    )
    dress_colorbar(figure, drawn, axes, look, "step")
    return figure
