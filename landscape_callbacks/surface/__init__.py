"""The maths of loss surfaces, in plain torch."""

from landscape_callbacks.surface.loss_surface import AverageSurface, LossSurface
from landscape_callbacks.surface.vectors import ParameterSpace

__all__ = ["AverageSurface", "LossSurface", "ParameterSpace"]
