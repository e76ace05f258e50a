"""Watch the loss landscape while a Lightning model trains.

Importing this package costs next to nothing: a public name loads what it needs when it is first used (PEP 562). So
TensorBoard, which imports the package to find its Landscape tab, loads neither torch nor Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landscape_callbacks.callbacks.critical_learning_rate_monitor import (
        CriticalLearningRateMonitor as CriticalLearningRateMonitor,
    )
    from landscape_callbacks.callbacks.gradient_norm_monitor import GradientNormMonitor as GradientNormMonitor
    from landscape_callbacks.callbacks.hessian_eigenvalue_monitor import (
        HessianEigenvalueMonitor as HessianEigenvalueMonitor,
    )
    from landscape_callbacks.callbacks.landscape_monitor import LandscapeMonitor as LandscapeMonitor
    from landscape_callbacks.callbacks.loss_plane_monitor import LossPlaneMonitor as LossPlaneMonitor
    from landscape_callbacks.callbacks.loss_slice_monitor import LossSliceMonitor as LossSliceMonitor
    from landscape_callbacks.callbacks.plateau_learning_rate_adjuster import (
        PlateauLearningRateAdjuster as PlateauLearningRateAdjuster,
    )
    from landscape_callbacks.callbacks.saddle_point_monitor import SaddlePointMonitor as SaddlePointMonitor
    from landscape_callbacks.records import read_records as read_records

__version__ = "0.1.0"

_MODULES = {
    "LandscapeMonitor": "callbacks.landscape_monitor",
    "GradientNormMonitor": "callbacks.gradient_norm_monitor",
    "HessianEigenvalueMonitor": "callbacks.hessian_eigenvalue_monitor",
    "CriticalLearningRateMonitor": "callbacks.critical_learning_rate_monitor",
    "LossSliceMonitor": "callbacks.loss_slice_monitor",
    "LossPlaneMonitor": "callbacks.loss_plane_monitor",
    "SaddlePointMonitor": "callbacks.saddle_point_monitor",
    "PlateauLearningRateAdjuster": "callbacks.plateau_learning_rate_adjuster",
    "read_records": "records",
}

__all__ = [
    "LandscapeMonitor",
    "GradientNormMonitor",
    "HessianEigenvalueMonitor",
    "CriticalLearningRateMonitor",
    "LossSliceMonitor",
    "LossPlaneMonitor",
    "SaddlePointMonitor",
    "PlateauLearningRateAdjuster",
    "read_records",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
