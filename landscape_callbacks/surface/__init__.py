"""The maths of loss surfaces, in plain torch."""

from landscape_callbacks.surface.loss_surface import AverageSurface, LossSurface
from landscape_callbacks.surface.planes import PlaneResult, loss_plane
from landscape_callbacks.surface.slices import SliceResult, loss_slice
from landscape_callbacks.surface.vectors import ParameterSpace

__all__ = ["AverageSurface", "LossSurface", "ParameterSpace", "PlaneResult", "SliceResult", "loss_plane", "loss_slice"]
