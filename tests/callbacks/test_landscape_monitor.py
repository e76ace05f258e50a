from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from landscape_callbacks import (
    CriticalLearningRateMonitor,
    GradientNormMonitor,
    HessianEigenvalueMonitor,
    LandscapeMonitor,
    LossSliceMonitor,
    read_records,
)
from landscape_callbacks.callbacks.loss_watch import LossWatch
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from tests.hard_module import HardModule, loaders, train
from tests.training.test_harmless import SETUPS

EVERY_STEP: dict[str, Any] = {
    "max_overhead": None,
    "every_n_steps": 1,
    "gradient_norms": {"every_n_steps": 1},
    "critical_learning_rate": {"every_n_steps": 1},
    "diagnosis": {"every_n_steps": 2, "batches": 4},
    "plane": {"points": 5},
    "figures": False,
}


@pytest.mark.parametrize("setup", SETUPS)
def test_everything_at_every_step_leaves_no_trace(setup: str, capsys: pytest.CaptureFixture[str]) -> None:
    untouched = train([], epochs=1, **SETUPS[setup])
    monitor = LandscapeMonitor(**EVERY_STEP)
    assert train([monitor], epochs=1, **SETUPS[setup]) == untouched
    part = next(iter(monitor.parts.values()))
    assert part.coordinator.failed == 0
    assert "Loss landscape\n  measured: gradient norms" in capsys.readouterr().out
    tags = {tag for _, row in train.last_rows.our_rows() for tag in row}  # type: ignore[attr-defined]
    assert {"gradient/norm", "hessian/largest_eigenvalue", "stability/ratio", "landscape/overhead"} <= tags
    if "manual" not in setup:
        assert {"slice/update/best_step", "stability/critical_learning_rate", "diagnosis/saddle_score"} <= tags


def fit(monitor: LandscapeMonitor, path: Path, epochs: int = 2, **arguments: Any) -> pl.Trainer:
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False} | arguments
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=TensorBoardLogger(path), callbacks=monitor, **options
    )
    trainer.fit(HardModule(), *loaders())
    return trainer


def test_parts_share_eigenvectors_and_the_record_holds_every_kind(tmp_path: Path) -> None:
    monitor = LandscapeMonitor(**EVERY_STEP)
    trainer = fit(monitor, tmp_path)
    assert monitor.parts["slices"].cadence is monitor.parts["eigenvalues"].cadence
    records = list(read_records(trainer.log_dir))
    assert {"eigenvalues", "slice", "plane", "verdict"} <= {record.kind for record in records}
    eigenvalues = {record.step: record for record in records if record.kind == "eigenvalues"}
    slices = [record for record in records if record.name == "largest_eigenvector"]
    assert slices
    for record in slices:
        assert record.info["curvature"] == eigenvalues[record.step].arrays["largest"][0]


def test_parts_can_be_left_out(tmp_path: Path) -> None:
    monitor = LandscapeMonitor(slices=False, plane=False, diagnosis=False, critical_learning_rate=False, summary=False)
    fit(monitor, tmp_path)
    assert list(monitor.parts) == ["gradient_norms", "eigenvalues"]
    with pytest.raises(MisconfigurationException, match="every part is off"):
        LandscapeMonitor(
            gradient_norms=False,
            eigenvalues=False,
            slices=False,
            plane=False,
            diagnosis=False,
            critical_learning_rate=False,
        )


def test_the_shares_of_the_budget_add_up_to_less_than_the_budget() -> None:
    monitor = LandscapeMonitor(max_overhead=0.1)
    cadences = {id(part.cadence): part.cadence for part in monitor.parts.values()}
    assert sum(cadence.max_overhead or 0.0 for cadence in cadences.values()) == pytest.approx(0.08)


def test_the_summary_says_what_was_measured_and_where_to_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(LandscapeMonitor(), tmp_path)
    printed = capsys.readouterr().out
    assert "eigenvalues 1x" in printed
    assert "at step 1, the last measured: largest eigenvalue" in printed
    assert "within max_overhead=0.05. max_overhead=None, every_n_steps=200 measures every 200 steps" in printed
    assert "no plane: what was left of the budget at the end did not pay for one" in printed
    assert "verdict: none yet. A look costs about 640 training steps" in printed
    assert f"tensorboard --logdir {tmp_path / 'lightning_logs'}\n" in printed


def test_the_summary_of_many_measurements_names_the_last_step_and_asks_for_no_larger_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = LandscapeMonitor(**EVERY_STEP)
    trainer = fit(monitor, tmp_path)
    printed = capsys.readouterr().out
    last = trainer.global_step - 1
    assert monitor.parts["eigenvalues"].cadence.last_step == last, "before the optimizer's last step"
    assert f"at step {last}, the last measured: largest eigenvalue" in printed
    assert "few measurements" not in printed


def test_a_resumed_run_goes_on_with_every_part(tmp_path: Path) -> None:
    first, second = LandscapeMonitor(**EVERY_STEP), LandscapeMonitor(**EVERY_STEP)
    trainer = fit(first, tmp_path, epochs=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    again = pl.Trainer(max_epochs=2, accelerator="cpu", logger=TensorBoardLogger(tmp_path), callbacks=second, enable_checkpointing=False,
                       enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    again.fit(HardModule(), *loaders(), ckpt_path=tmp_path / "run.ckpt")
    for name, part in second.parts.items():
        assert part.cadence.measurements > first.parts[name].cadence.measurements or name == "plane"


@pytest.mark.parametrize("arguments", [{"slices": "yes"}, {"eigenvalues": {"bigest": 3}}, {"max_overhead": 3.0}])
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match="LandscapeMonitor"):
        LandscapeMonitor(**arguments)


class Seen(pl.Callback):
    """Takes down the steps at which a metric is logged."""

    def __init__(self, *tags: str) -> None:
        self.steps: dict[str, list[int]] = {tag: [] for tag in tags}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for tag, steps in self.steps.items():
            known = trainer._logger_connector._callback_metrics.pop(tag, None)
            if known is not None:
                steps.append(batch_idx)


def test_parts_that_sleep_between_measurements_miss_none(tmp_path: Path) -> None:
    """Single monitors are asked at every step; under one monitor steps at which nothing is due are passed over."""
    tags = ("hessian/largest_eigenvalue", "gradient/norm", "stability/critical_ratio", "slice/update/best_step")

    def steps_of(*callbacks: pl.Callback) -> dict[str, list[int]]:
        seen = Seen(*tags)
        trainer = pl.Trainer(
            max_steps=60, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[*callbacks, seen], default_root_dir=tmp_path,
        )  # fmt: skip
        data = torch.utils.data.TensorDataset(
            torch.randn(600, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(600)
        )
        torch.manual_seed(0)
        trainer.fit(Plain(), torch.utils.data.DataLoader(data, batch_size=10))
        return seen.steps

    whole = LandscapeMonitor(
        max_overhead=None, every_n_steps=7, gradient_norms={"every_n_steps": 3}, diagnosis=False, figures=False,
        critical_learning_rate={"every_n_steps": 11}, plane={"points": 5}, summary=False,
    )  # fmt: skip
    together = steps_of(whole)
    apart = steps_of(
        HessianEigenvalueMonitor(every_n_steps=7, max_overhead=None),
        GradientNormMonitor(every_n_steps=3, max_overhead=None),
        CriticalLearningRateMonitor(every_n_steps=11, max_overhead=None),
        LossSliceMonitor(
            directions=["update", "largest_eigenvector"], every_n_steps=7, max_overhead=None, figures=False
        ),
    )
    assert together == apart
    assert together["hessian/largest_eigenvalue"] == list(range(0, 60, 7))
    assert together["stability/critical_ratio"] == list(range(11, 60, 11))
    path = whole.parts["plane"].trajectory  # type: ignore[attr-defined]
    assert path.steps == list(range(61))
    assert path.offered == 61


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(5, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return (self.net(batch[0]).squeeze(1) - batch[1]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def test_what_hooks_cost_at_every_step_is_booked_and_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("landscape_callbacks.training.bookkeeping._STEPS_TO_KNOW", 20)
    caplog.set_level("INFO")
    monitor = LandscapeMonitor(summary=False, figures=False)
    add = LossWatch.add

    def slower(*arguments: Any, **keywords: Any) -> None:
        time.sleep(0.01)
        add(*arguments, **keywords)

    monkeypatch.setattr(LossWatch, "add", slower)
    seen: list[float] = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, *arguments: Any) -> None:
            coordinator = monitor.parts["diagnosis"].coordinator
            seen.extend([coordinator.between, coordinator.spent, coordinator.overhead()])

    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[monitor, Look()], default_root_dir=tmp_path,
    )  # fmt: skip
    data = torch.utils.data.TensorDataset(torch.randn(600, 5), torch.zeros(600))
    trainer.fit(Plain(), torch.utils.data.DataLoader(data, batch_size=10))
    between, spent, overhead = seen
    assert 0.6 <= between <= spent
    assert overhead > 0.5
    # The hooks have spent the budget many times over: after the first, nothing more is measured.
    measurements = {name: part.cadence.measurements for name, part in monitor.parts.items()}
    assert measurements["eigenvalues"] == measurements["gradient_norms"] == 1
    (said,) = [record.message for record in caplog.records if "following the run takes" in record.message]
    assert "Raise max_overhead" in said


def test_one_monitor_serves_an_automatic_and_then_a_manual_fit(tmp_path: Path) -> None:
    class Manual(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    monitor = LandscapeMonitor(max_overhead=None, every_n_steps=1, summary=False, figures=False)
    data = torch.utils.data.TensorDataset(torch.randn(40, 5), torch.zeros(40))
    for module in (Plain(), Manual()):
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[monitor], default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=10))
        assert monitor.parts["eigenvalues"].cadence.measurements == 4
