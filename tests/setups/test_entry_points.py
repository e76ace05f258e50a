"""Rows of the support table: both namespaces of Lightning, and LightningCLI with a YAML file.

The model is linear least squares, whose Hessian is known: 2 XᵀX / n.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from torch import Tensor
from torch.utils.data import DataLoader

NAMESPACES = """
import warnings; warnings.filterwarnings("ignore")
import torch
{imports}
from landscape_callbacks import LandscapeMonitor
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4, 1))
    def training_step(self, batch, batch_idx):
        loss = (batch @ self.weight + torch.randn(len(batch), 1)).square().mean()
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)
x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
weights = []
for callbacks in ([], [LandscapeMonitor(max_overhead=None, every_n_steps=1, figures=False)]):
    torch.manual_seed(3)
    module = Module()
    trainer = pl.Trainer(
        max_epochs=3, callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        accelerator="cpu"
    )
    trainer.fit(module, torch.utils.data.DataLoader(x, batch_size=8))
    weights.append(module.weight.detach().clone())
assert torch.equal(*weights)
expected = torch.linalg.eigvalsh(2 * x.T @ x / 8)
for end, value in (("largest", expected[-1]), ("smallest", expected[0])):
    found = trainer.callback_metrics[f"hessian/{{end}}_eigenvalue"]
    assert torch.isclose(found, value, rtol=0.05), (found, value)
print("equal and right", type(trainer).__module__)
"""


@pytest.mark.parametrize(
    ("imports", "namespace"),
    [
        ("import pytorch_lightning as pl", "pytorch_lightning"),
        ("import lightning.pytorch, pytorch_lightning as pl", "pytorch_lightning"),
        ("import pytorch_lightning, lightning.pytorch as pl", "lightning.pytorch"),
    ],
)
def test_namespaces(imports: str, namespace: str) -> None:
    code = NAMESPACES.format(imports=imports)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"equal and right {namespace}" in done.stdout, done.stderr


class Linear(pl.LightningModule):
    """Linear least squares, with its rate from the file."""

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        self.rate = rate
        self.weight = torch.nn.Parameter(torch.ones(4, 1))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(inputs(), batch_size=8)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (batch @ self.weight).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.rate)


def inputs() -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


def fit_from_yaml(path: Path, callbacks: list[dict[str, Any]]) -> pl.Trainer:
    trainer = {"max_epochs": 3, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False, "callbacks": callbacks}
    path.write_text(yaml.safe_dump({"seed_everything": 3, "trainer": trainer, "model": {"rate": 0.02}}))
    return LightningCLI(Linear, args=["fit", "--config", str(path)], save_config_callback=None).trainer


def test_lightning_cli_with_yaml(tmp_path: Path) -> None:
    package = "landscape_callbacks"
    budget = {"max_overhead": None, "every_n_steps": 1}
    monitors = [
        {
            "class_path": f"{package}.LandscapeMonitor",
            "init_args": {**budget, "eigenvalues": {"largest": 2, "tolerance": 1e-6}},
        },
        {
            "class_path": f"{package}.LossSliceMonitor",
            "init_args": {**budget, "directions": ["gradient"], "figures": False},
        },
    ]
    untouched = fit_from_yaml(tmp_path / "without.yaml", [])
    watched = fit_from_yaml(tmp_path / "with.yaml", monitors)
    assert torch.equal(untouched.lightning_module.weight, watched.lightning_module.weight)
    expected = torch.linalg.eigvalsh(2 * inputs().T @ inputs() / 8)
    assert float(watched.callback_metrics["hessian/largest_eigenvalue"]) == pytest.approx(float(expected[-1]), rel=1e-5)
    assert float(watched.callback_metrics["hessian/largest_eigenvalue_2"]) == pytest.approx(
        float(expected[-2]), rel=1e-5
    )
    assert "slice/gradient/curvature" in watched.callback_metrics
