"""Rows of the support table: number formats."""

from __future__ import annotations

import pytest
import torch

from tests.setups.harness import Case, check, check_values

CASES = {
    "fp32": Case(),
    "fp64": Case(trainer={"precision": "64-true"}, monitor={"tolerance": 1e-8}, tolerance=1e-6),
    # Half precision is part of the loss that is measured: values are those of the float64 loss to its rounding.
    "bf16-mixed": Case(trainer={"precision": "bf16-mixed"}, monitor={"tolerance": 0.01}, tolerance=0.02),
    "bf16-true": Case(trainer={"precision": "bf16-true"}, monitor={"tolerance": 0.01}, tolerance=0.02),
}


@pytest.mark.parametrize("name", CASES)
def test_precision(name: str) -> None:
    check_values(CASES[name], check(CASES[name]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Lightning's 16-mixed needs an accelerator")
@pytest.mark.parametrize("fused", [False, True])
def test_sixteen_mixed_on_a_gpu(fused: bool) -> None:
    from tests.setups.harness import Setup

    class Scaled(Setup):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.01, fused=fused)

    case = Case(module=Scaled, trainer={"precision": "16-mixed", "accelerator": "gpu"}, tolerance=0.05)
    check_values(case, check(case))
