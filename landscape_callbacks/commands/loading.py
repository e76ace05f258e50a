"""A user's own module and data, named on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


def named(reference: str) -> Any:
    """What ``file.py:name`` or ``dotted.module:name`` refers to."""
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise ValueError(
            f"Expected a file or a dotted module, ':' and a name, such as train.py:Net; got {reference!r}."
        )
    loaded = _file_module(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    if not hasattr(loaded, name):
        raise ValueError(f"{place} has nothing named '{name}'.")
    return getattr(loaded, name)


def _file_module(path: Path) -> ModuleType:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    name = f"_landscape_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    # So that the file can import its neighbours, as when it is run.
    sys.path.insert(0, str(path.resolve().parent))
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None and specification.loader is not None
    loaded = importlib.util.module_from_spec(specification)
    sys.modules[name] = loaded
    specification.loader.exec_module(loaded)
    return loaded


def module_of(reference: str, checkpoint: Path) -> nn.Module:
    """The module: of a class with the hyperparameters that the checkpoint holds, of a function what it gives."""
    factory = named(reference)
    arguments: Mapping[str, Any] = {}
    if isinstance(factory, type):
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
        arguments = loaded.get("hyper_parameters", {}) if isinstance(loaded, Mapping) else {}
    module = factory if isinstance(factory, nn.Module) else factory(**arguments)
    if not isinstance(module, nn.Module):
        raise ValueError(f"{reference} gives {type(module).__name__}, not a module.")
    return module


def batches_of(reference: str, count: int, device: str) -> list[Any]:
    """The first batches of a loader, a data module, or a function that gives either."""
    source = named(reference)
    data = source() if callable(source) else source
    if hasattr(data, "train_dataloader"):
        data.prepare_data()
        data.setup("fit")
        data = data.train_dataloader()
    if not isinstance(data, Iterable):
        raise ValueError(f"{reference} gives {type(data).__name__}, not a loader or batches.")
    return [_on_device(batch, device) for batch in itertools.islice(data, count)]


def _on_device(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _on_device(entry, device) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        entries = [_on_device(entry, device) for entry in value]
        return entries if isinstance(value, list) else tuple(entries)
    return value


def step_loss(step: str) -> Any:
    """``training_step`` or ``validation_step`` as a loss, without a trainer and its logs."""

    def loss(module: Any, batch: Any) -> Tensor:
        # There is no trainer to log to.
        module.log = module.log_dict = lambda *_, **__: None
        try:
            output = getattr(module, f"{step}_step")(batch, 0)
        finally:
            del module.log, module.log_dict
        value = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{step}_step has to return the loss, or a mapping that holds it; got {type(value).__name__}."
            )
        return value

    return loss
