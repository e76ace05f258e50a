from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import SaddlePointMonitor, read_records
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from tests.hard_module import train
from tests.training.test_harmless import SETUPS


class Problem(pl.LightningModule):
    """Minimises ``loss(weights, batch)`` by plain SGD from ``start``."""

    def __init__(self, loss: Any, start: list[float], learning_rate: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.loss, self.learning_rate = loss, learning_rate

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss(self.weights, batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


def quartic(weights: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """A saddle at 0 with curvatures 2 and -2, minima at (0, ±√2)."""
    x, y = weights
    return x**2 - y**2 + 0.25 * y**4 + 1.0


def bowl(weights: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Least squares on noisy targets: its only stationary point is the minimum."""
    return 0.5 * ((weights - batch) ** 2).sum(1).mean()


def fit(
    module: Problem,
    monitor: SaddlePointMonitor,
    steps: int,
    data: torch.Tensor | None = None,
    batch: int = 1,
    logger: Any = False,
) -> Any:
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", devices=1, logger=logger, callbacks=[monitor], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = torch.zeros(256, 1) if data is None else data
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not measure.*")
        trainer.fit(module, DataLoader(TensorDataset(data), batch_size=batch, shuffle=True))
    return trainer


def test_a_run_that_sits_at_a_saddle_is_told_once_with_evidence_and_told_when_it_leaves(tmp_path: Path) -> None:
    monitor = SaddlePointMonitor(full_batch=True, max_overhead=None, horizon=200)
    logger = TensorBoardLogger(tmp_path)
    with pytest.warns(RuntimeWarning, match="strict saddle") as caught:
        fit(Problem(quartic, [0.1, 1e-9], 0.02), monitor, 1500, logger=logger)
    told = [str(warning.message) for warning in caught if "strict saddle" in str(warning.message)]
    assert len(told) == 1
    assert "-2" in told[0]
    assert "Suggestion" in told[0]
    verdicts = [record for record in read_records(logger.log_dir) if record.kind == "verdict"]
    saddle = [record for record in verdicts if record.info["verdict"] == "strict saddle"]
    assert saddle
    assert saddle[-1].info["episode_end"] is not None
    assert saddle[-1].info["episode_start"] < saddle[-1].info["episode_end"] <= 1500
    names = {entry["name"] for entry in saddle[0].info["evidence"]}
    assert any("curvature" in name for name in names)


def test_the_record_of_an_episode_that_ended_says_when_it_was_looked_at(tmp_path: Path) -> None:
    data = torch.randn(2048, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    logger = CSVLogger(tmp_path)
    monitor = SaddlePointMonitor(max_overhead=None, horizon=200)
    fit(Problem(bowl, [2.0, -1.0, 0.5], 0.1), monitor, 1200, data, batch=32, logger=logger)
    verdicts = [record for record in read_records(logger.log_dir) if record.kind == "verdict"]
    looks = [record for record in verdicts if record.info["episode_end"] is None]
    assert [record.info["measured_step"] for record in looks] == [record.step for record in looks]
    last = verdicts[-1]
    assert last.info["episode_end"] == last.step == 1200
    assert last.info["measured_step"] == looks[-1].step < 1200
    assert last.info["evidence"] == looks[-1].info["evidence"]
    assert {record.info["samples_a_step"] for record in verdicts} == {32}


def test_a_true_minimum_with_label_noise_is_no_saddle() -> None:
    data = torch.randn(2048, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    monitor = SaddlePointMonitor(max_overhead=None, horizon=200)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*strict saddle.*")
        fit(Problem(bowl, [2.0, -1.0, 0.5], 0.1), monitor, 1200, data, batch=32)
    assert monitor.look is not None
    assert monitor.look.verdict.label in (
        "noise floor",
        "approximate second-order point",
        "progressing",
        "undetermined",
    )
    assert monitor.look.largest_stable_rate == pytest.approx(2.0, rel=1e-3)


def test_escape_by_line_search_leaves_the_saddle_and_keeps_to_its_number_of_moves(tmp_path: Path) -> None:
    plain = Problem(quartic, [0.1, 1e-9], 0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(plain, SaddlePointMonitor(full_batch=True, max_overhead=None, horizon=200), 400)
        helped = Problem(quartic, [0.1, 1e-9], 0.02)
        monitor = SaddlePointMonitor(
            full_batch=True, max_overhead=None, horizon=200, escape="line_search", max_escapes=1
        )
        fit(helped, monitor, 400)
    assert float(quartic(plain.weights, None)) > 0.9
    assert float(quartic(helped.weights, None)) < 0.1
    assert monitor.escape.moves == 1


def test_escape_by_noise_moves_by_at_most_the_radius() -> None:
    module = Problem(quartic, [0.1, 0.0], 0.0 + 1e-12)
    monitor = SaddlePointMonitor(
        full_batch=True, max_overhead=None, horizon=200, escape="perturb", escape_radius=0.5, max_escapes=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(module, monitor, 700)
    moved = float((module.weights.detach() - torch.tensor([0.1, 0.0], dtype=torch.float64)).norm())
    assert monitor.escape.moves == (1 if moved > 1e-6 else 0)
    assert moved <= 0.5 * 0.1 * (1 + 1e-6)


@pytest.mark.parametrize("setup", ["fp32", "adamw", "accumulation and clipping"])
def test_training_is_bit_identical_while_nothing_acts(setup: str) -> None:
    monitor = SaddlePointMonitor(every_n_steps=2, batches=4, max_overhead=None)
    assert train([monitor], **SETUPS[setup]) == train([], **SETUPS[setup])
    assert monitor.coordinator.failed == 0
    assert monitor.look is not None


def test_a_first_look_within_the_budget_waits() -> None:
    free, bound = SaddlePointMonitor(), SaddlePointMonitor(first_within_budget=True)
    for monitor in (free, bound):
        monitor.cadence.request()
    assert free.cadence.affords(500, 1.0)
    assert not bound.cadence.affords(500, 1.0)
    assert bound.cadence.affords(round(40 * 16 / 0.05), 1.0)


def test_state_survives_a_checkpoint() -> None:
    monitor, other = SaddlePointMonitor(), SaddlePointMonitor()
    monitor.watch.trend.update_many([1.0, 0.9, 0.8])
    monitor.cost, monitor.escape.moves = 12.0, 2
    other.load_state_dict(monitor.state_dict())
    assert other.cost == 12.0
    assert other.escape.moves == 2
    assert other.watch.trend.report().steps == 3


def test_csv_runs_get_records_and_scalars(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(
            Problem(quartic, [0.1, 1e-9], 0.02),
            SaddlePointMonitor(full_batch=True, max_overhead=None, horizon=200),
            400,
            logger=logger,
        )
    content = (Path(logger.log_dir) / "metrics.csv").read_text()
    assert "diagnosis/saddle_score" in content
    assert "stability/largest_stable_learning_rate" in content
    assert any(record.kind == "verdict" for record in read_records(logger.log_dir))


@pytest.mark.parametrize(
    "arguments", [{"escape": "jump"}, {"batches": 2}, {"horizon": 0}, {"escape_radius": -1.0}, {"max_escapes": 0}]
)
def test_wrong_arguments_are_refused_with_what_was_received(arguments: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match=repr(next(iter(arguments.values())))):
        SaddlePointMonitor(**arguments)
