"""The slope of a correlated series with an error that holds under the correlation.

The textbook error of a least-squares slope takes the residuals as white. Here it comes from their 24 lowest
frequencies beside the line: what the noise does at those time scales is what it does to the slope (the equal-weighted
cosine estimator of the long-run variance; Lazarus, Lewis, Stock & Watson 2018). With so many frequencies the ratio of
slope and error is Student's t with 24 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from landscape_callbacks.diagnosis.windows import BLOCKS

FREQUENCIES = 24
# A window has to be this many integrated correlation times long before its slope is compared with its residuals.
_CORRELATION_TIMES = 80


class Slope(NamedTuple):
    """Slope of a window.

    Attributes:
        value: Change of the series a step.
        error: Its standard error, with :data:`FREQUENCIES` degrees of freedom.
        noise: Standard deviation of the series around the line.
        correlation_time: Integrated correlation time of that noise, in steps; 1 when it is white.
    """

    value: float
    error: float
    noise: float
    correlation_time: float


def slope_of_blocks(means: Sequence[float], squares: Sequence[float], block: int) -> Slope:
    """The slope of a window of blocks (`windows.py`).

    Args:
        means: The mean of each of the 60 blocks, oldest first.
        squares: The sum of squares about its mean of each block.
        block: Values a block.

    Example:
        >>> line = slope_of_blocks([2.0 * i for i in range(60)], [0.0] * 60, block=1)
        >>> round(line.value, 9), line.error < 1e-9
        (2.0, True)
    """
    # An offset costs digits, and the slope does not see it. Few calls of NumPy: this runs beside training.
    series = np.array(means, dtype=np.float64)
    series -= means[0]
    offset, line, *rest = (_LEVEL_BASIS @ series).tolist()
    slope_per_block = line / _TIME_NORM
    residual = max(float(series @ series) - offset**2 - line**2, 0.0)
    # Within a block the line itself adds slope² (block² - 1)/12 a value.
    line_within = BLOCKS * block * (slope_per_block / block) ** 2 * (block**2 - 1) / 12
    noise = math.sqrt((block * residual + max(math.fsum(squares) - line_within, 0.0)) / (BLOCKS * block - 2))
    power = math.fsum([level * level for level in rest]) / FREQUENCIES
    variance = noise * noise  # may underflow to zero where the noise does not
    correlation_time = block * power / variance if variance > 0 else 1.0
    if variance > 0 and BLOCKS * block < _CORRELATION_TIMES * correlation_time:
        # Residuals that wander, or that are all curvature (a full-batch loss). Increments are white even for a random
        # walk, and over-dispersed for anything less: the test on their mean holds for both, and costs power only.
        increments = _INCREMENT_BASIS @ np.diff(series)
        scale = math.sqrt(BLOCKS - 1) * block
        error = math.sqrt(float(np.mean(increments[1:] ** 2))) / scale
        return Slope(float(increments[0]) / scale, error, noise, correlation_time)
    return Slope(slope_per_block / block, math.sqrt(power) / _TIME_NORM / block, noise, correlation_time)


def slope_in_white_noise(series: Sequence[float]) -> Slope:
    """The least-squares line through at least three values, with the textbook error: n - 2 degrees of freedom.

    Example:
        >>> line = slope_in_white_noise([1.0, 3.0, 5.0, 7.0])
        >>> line.value, line.noise
        (2.0, 0.0)
    """
    values, time = np.array(series), np.arange(len(series)) - 0.5 * (len(series) - 1)
    values -= values.mean()
    spread = float(time @ time)
    slope = float(time @ values) / spread
    residuals = values - slope * time
    noise = math.sqrt(float(residuals @ residuals) / (len(values) - 2))
    return Slope(slope, noise / math.sqrt(spread), noise, 1.0)


def _basis(points: int, *, with_line: bool) -> NDArray[np.float64]:
    """Orthonormal rows: the constant, the line if asked, and the lowest frequencies made orthogonal to them."""
    time = (np.arange(points) + 0.5) / points
    columns = [np.ones(points)] + ([time - 0.5] if with_line else [])
    columns += [np.cos(np.pi * k * time) for k in range(1, FREQUENCIES + 1)]
    q, r = np.linalg.qr(np.stack(columns, axis=1))
    return np.ascontiguousarray((q * np.sign(np.diag(r))).T)


_LEVEL_BASIS = _basis(BLOCKS, with_line=True)
_INCREMENT_BASIS = _basis(BLOCKS - 1, with_line=False)
_TIME_NORM = math.sqrt((BLOCKS**3 - BLOCKS) / 12)
