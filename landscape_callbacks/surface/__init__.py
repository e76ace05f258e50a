"""The maths of loss surfaces, in plain torch."""

from landscape_callbacks.surface.average_surface import AverageSurface
from landscape_callbacks.surface.eigenpairs import Eigenpairs
from landscape_callbacks.surface.lanczos import extreme_eigenvalues
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.planes import PlaneResult, loss_plane
from landscape_callbacks.surface.power_iteration import power_iteration
from landscape_callbacks.surface.slices import SliceResult, loss_slice
from landscape_callbacks.surface.spectrum import SpectralDensity, TraceEstimate, spectral_density, trace
from landscape_callbacks.surface.vectors import ParameterSpace

__all__ = [
    "AverageSurface",
    "Eigenpairs",
    "LossSurface",
    "ParameterSpace",
    "PlaneResult",
    "SliceResult",
    "SpectralDensity",
    "TraceEstimate",
    "extreme_eigenvalues",
    "loss_plane",
    "loss_slice",
    "power_iteration",
    "spectral_density",
    "trace",
]
