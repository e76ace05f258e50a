"""A run that was trained with the whole LandscapeMonitor, seen in the tab and in the report page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import LandscapeMonitor, read_records
from landscape_callbacks.commands.report import build_page
from landscape_callbacks.commands.run_records import find_runs
from tests.tensorboard_plugin.browser import Tab, frame_address, tensorboard
from tests.tensorboard_plugin.conftest import wait_for_runs


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        loss = torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The log directory of a run with TensorBoard and CSV loggers, and the last value of each metric."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("logs")
    inputs = torch.randn(64, 4)
    data = DataLoader(TensorDataset(inputs, torch.sin(inputs.sum(1, keepdim=True))), batch_size=16)
    monitor = LandscapeMonitor(
        max_overhead=None,
        every_n_steps=4,
        gradient_norms={"every_n_steps": 4},
        eigenvalues={"largest": 2, "density": True, "trace": True},
        slices={"directions": ["gradient", "update", "largest_eigenvector"]},
        critical_learning_rate={"every_n_steps": 4},
        diagnosis={"every_n_steps": 4, "batches": 4},
        summary=False,
    )
    trainer = Trainer(
        max_epochs=5,
        logger=[TensorBoardLogger(folder, name="run", version=""), CSVLogger(folder, name="csv", version="")],
        callbacks=monitor,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Net(), data)
    return folder, {key: float(value) for key, value in trainer.callback_metrics.items()}


def check(tab: Tab, folder: Path, metrics: dict[str, float]) -> None:
    tab.frame.wait_for_selector("#planes .card")
    largest = metrics["hessian/largest_eigenvalue"]
    assert tab.number("Hessian eigenvalues", "largest") == pytest.approx(largest, rel=2e-3)
    assert tab.number("Stability ratio", "ratio") == pytest.approx(metrics["stability/ratio"], rel=2e-2)
    tab.frame.locator("#metrics .readout").first.wait_for()
    assert tab.number("gradient/norm", "gradient/norm") == pytest.approx(metrics["gradient/norm"], rel=2e-3)
    curvature = metrics["slice/gradient/curvature"]
    assert tab.number("Along the gradient", "per unit length") == pytest.approx(curvature, rel=2e-3)
    verdicts = [record for record in read_records(folder / "run") if record.kind == "verdict"]
    diagnosis = tab.frame.locator("#diagnosis .card")
    assert diagnosis.locator("strong").inner_text() == verdicts[-1].info["verdict"]
    assert verdicts[-1].info["sentence"] in diagnosis.inner_text()
    assert tab.number("At this step", "trace") == pytest.approx(metrics["hessian/trace"], rel=2e-2)
    tab.frame.locator("#metrics select").first.select_option("stability/critical_ratio")
    critical = metrics["stability/critical_ratio"]
    assert tab.number("stability/critical_ratio", "stability/critical_ratio") == pytest.approx(critical, rel=2e-2)
    assert tab.frame.locator(".missing:visible, .undrawable").all_inner_texts() == []


def test_the_tab_shows_what_the_monitors_logged(
    open_page: Callable[..., Tab], trained: tuple[Path, dict[str, float]]
) -> None:
    folder, metrics = trained
    with tensorboard(folder) as address:
        wait_for_runs(address, 1, steps=16)
        check(open_page(frame_address(address)), folder, metrics)


def test_the_report_shows_it_too(
    open_page: Callable[..., Tab], trained: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    folder, metrics = trained
    page, _ = build_page(find_runs(folder), "A run", budget=10**7)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    check(open_page(f"file://{tmp_path}/page.html"), folder, metrics)
