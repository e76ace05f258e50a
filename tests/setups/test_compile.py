"""Rows of the support table: ``torch.compile`` of the module, of an inner module and of the step.

Backend ``aot_eager``: what differs for a monitor (traced code, one derivative only) is the same as with inductor,
without its minute in a C++ compiler.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.setups.harness import Case, Setup, check, check_values, tokens
from tests.setups.test_models import Attention


class InnerCompiled(Setup):
    """Compiles its network when it is set up, as the manuals of torch do."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__(net)
        self.inner = [self.net]

    def setup(self, stage: str) -> None:
        self.net.compile(backend="aot_eager")


class Silent(Setup):
    """Without ``self.log``: Lightning 2.6.6 cannot log from inside of code that torch 2.13 compiles."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)


class CompiledStep(Silent):
    def setup(self, stage: str) -> None:
        self.training_step = torch.compile(self.training_step, backend="aot_eager")


class CompiledLoss(Setup):
    """The loss alone is compiled: logging stays outside."""

    def setup(self, stage: str) -> None:
        self.loss = torch.compile(self.loss, backend="aot_eager")


def compiled(module: Any) -> Any:
    return torch.compile(module, backend="aot_eager")


CASES = {
    "module": Case(Silent, wrap=compiled),
    "inner module": Case(InnerCompiled),
    "inner module with attention": Case(lambda: InnerCompiled(Attention()), tokens),
    "training_step": Case(CompiledStep),
    "loss": Case(CompiledLoss),
}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", CASES)
def test_compiled(name: str) -> None:
    check_values(CASES[name], check(CASES[name]))
