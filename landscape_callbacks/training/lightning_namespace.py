"""One base class for both Lightning namespaces, ``lightning.pytorch`` and ``pytorch_lightning``.

Real libraries use either. The two packages define distinct classes of the same shape, and some of Lightning's paths
check with ``isinstance`` or "is overridden" against their own. So our callbacks derive from each of the two that is
loaded when this module is, and private classes are taken from the package that the trainer at hand comes from.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

_PACKAGES = {"lightning.pytorch": "lightning.fabric", "pytorch_lightning": "lightning_fabric"}


def _loaded_packages() -> list[str]:
    loaded = [name for name in _PACKAGES if name in sys.modules]
    if loaded:
        return loaded
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        return [name]
    raise ImportError("landscape_callbacks needs Lightning: install `lightning` (or `pytorch_lightning`).")


LOADED_PACKAGES = tuple(_loaded_packages())

if TYPE_CHECKING:
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import Callback
else:
    Callback = type(
        "Callback",
        tuple(importlib.import_module(f"{name}.callbacks").Callback for name in LOADED_PACKAGES),
        {"__module__": __name__, "__doc__": "A Lightning callback of every loaded namespace."},
    )
    MisconfigurationException = type(
        "MisconfigurationException",
        tuple(
            importlib.import_module(f"{_PACKAGES[name]}.utilities.exceptions").MisconfigurationException
            for name in LOADED_PACKAGES
        ),
        {"__module__": __name__, "__doc__": "Wrong arguments, or a trainer that cannot be supported."},
    )


def package_of(trainer: Any) -> str:
    """The package that a trainer's class comes from: ``"lightning.pytorch"`` or ``"pytorch_lightning"``."""
    for base in type(trainer).__mro__:
        for name in _PACKAGES:
            if base.__module__.startswith(f"{name}."):
                return name
    return LOADED_PACKAGES[0]


def module_of(trainer: Any, path: str) -> ModuleType:
    """The module ``path`` (such as ``"loggers.logger"``) of the package that a trainer comes from."""
    return importlib.import_module(f"{package_of(trainer)}.{path}")


__all__ = ["LOADED_PACKAGES", "Callback", "MisconfigurationException", "module_of", "package_of"]
