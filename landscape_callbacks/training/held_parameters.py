"""Parameters that a training step writes to: momentum teachers, weights that a forward clips or renormalises."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from landscape_callbacks.training.module_state import same_entries

# A frozen part that is larger, and of other shapes than what is trained, is taken for one that is never written to: a
# copy of the frozen model below some adapters could take all memory.
_LARGEST_STILL_PART = 64 * 1024 * 1024


class HeldParameters:
    """The values of parameters at the moment of construction, and the storages that they are in.

    Frozen parameters that a step moves (the momentum encoder of BYOL, MoCo or DINO, in its ``training_step``) are put
    back after every evaluation, so that each one finds them as the next training step will. Trained ones that a forward
    writes to (a max-norm constraint, a clip) keep what was written for the rest of the measurement, which is then about
    the weights that training goes on from, and are put back at its end. Both also where ``parameter.data`` was set to
    another tensor.

    Args:
        parameters: The parameters; those that have no shape yet are passed over.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        known = [parameter for parameter in parameters if not isinstance(parameter, UninitializedParameter)]
        trained = [parameter for parameter in known if parameter.requires_grad]
        frozen = [parameter for parameter in known if not parameter.requires_grad]
        shapes = {parameter.shape for parameter in trained}
        like_trained = [parameter for parameter in frozen if parameter.shape in shapes]
        others = [parameter for parameter in frozen if parameter.shape not in shapes]
        if sum(map(_bytes, others)) <= _LARGEST_STILL_PART:
            like_trained, others = frozen, []
        self._trained, self._frozen = _Held(trained), _Held(like_trained)
        self._still = _Held(others, copy=False)
        self.bytes = sum(map(_bytes, [*trained, *like_trained]))

    @torch.no_grad()
    def after_evaluation(self) -> None:
        """Puts frozen parameters back, and trained ones into their own storages, with the values they have now."""
        self._frozen.restore()
        self._still.return_to_storage(keep=False)
        self._trained.return_to_storage(keep=True)
        self._trained.restore_attributes()

    @torch.no_grad()
    def restore(self) -> None:
        """Puts everything back."""
        for held in (self._frozen, self._still, self._trained):
            held.restore()


class _Held:
    """Parameters with the storages that they are in and, unless ``copy`` is false, copies of their values."""

    def __init__(self, parameters: list[torch.nn.Parameter], copy: bool = True) -> None:
        # Written to through ``.data``, so that version counters, which graphs are checked by, stay as they are.
        self._parameters = [(parameter, parameter.data, parameter.data_ptr()) for parameter in parameters]
        self._attributes = [(p, dict(p.__dict__), _hooks_of(p)) for p in parameters]
        self._storages = [storage for _, storage, _ in self._parameters]
        self._copies: list[Tensor] = [storage.clone() for storage in self._storages] if copy else []

    def return_to_storage(self, *, keep: bool) -> None:
        for parameter, storage, address in self._parameters:
            if parameter.data_ptr() != address:
                if keep:
                    storage.copy_(parameter.data)
                parameter.data = storage

    def restore_attributes(self) -> None:
        """Attributes that a step puts on a parameter, and hooks that it registers anew in every call."""
        for parameter, attributes, hooks in self._attributes:
            if not same_entries(parameter.__dict__, attributes):
                parameter.__dict__.clear()
                parameter.__dict__.update(attributes)
            if _hooks_of(parameter) != hooks:
                parameter._backward_hooks = None if hooks is None else OrderedDict(hooks)

    def restore(self) -> None:
        self.return_to_storage(keep=False)
        self.restore_attributes()
        if self._copies:
            torch._foreach_copy_(self._storages, self._copies)


def _hooks_of(parameter: torch.nn.Parameter) -> dict[int, Any] | None:
    return None if parameter._backward_hooks is None else dict(parameter._backward_hooks)


def _bytes(parameter: Tensor) -> int:
    return parameter.numel() * parameter.element_size()
