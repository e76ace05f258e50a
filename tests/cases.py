"""Problems with known truth: loss surfaces, spectra, plateaus and noise that have a closed form.

Each is small, seeded, float64, and independent of the package: a dense reference stands beside it.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import lfilter


def autoregressive(seed, correlation: float, length: int) -> np.ndarray:
    """AR(1) noise with standard deviation 1, at its stationary distribution from the first value on."""
    generator = np.random.default_rng(seed)
    start = generator.standard_normal()
    shocks = generator.standard_normal(length) * math.sqrt(1 - correlation**2)
    return lfilter([1.0], [1.0, -correlation], shocks, zi=[correlation * start])[0]
