from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import HessianEigenvalueMonitor, read_records
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from tests.hard_module import RowLogger, train
from tests.training.test_harmless import SETUPS

EVERY_STEP = {"every_n_steps": 1, "max_overhead": None}


class Small(pl.LightningModule):
    """A net small enough for its dense Hessian."""

    def __init__(self, optimizer: str = "sgd") -> None:
        super().__init__()
        torch.manual_seed(4)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        self.optimizer_name = optimizer
        self.seen: list[tuple[torch.Tensor, Any]] = []

    def loss(self, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if not torch.is_inference_mode_enabled():
            self.last = [parameter.detach().clone() for parameter in self.net.parameters()], batch
        return self.loss(batch)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(self.last)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer_name == "adam":
            return torch.optim.Adam(self.parameters(), lr=0.01, betas=(0.9, 0.99))
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)

    def dense_hessian(self, step: int) -> torch.Tensor:
        weights, batch = self.seen[step]
        names = [name for name, _ in self.net.named_parameters()]
        shapes = [weight.shape for weight in weights]

        def loss(flat: torch.Tensor) -> torch.Tensor:
            pieces = torch.split(flat, [shape.numel() for shape in shapes])
            values = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
            return nn.functional.cross_entropy(torch.func.functional_call(self.net, values, (batch[0],)), batch[1])

        return torch.autograd.functional.hessian(loss, torch.cat([weight.flatten() for weight in weights]))


def loader(samples: int = 48) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=16)


def fit(
    module: pl.LightningModule, callbacks: list[Any], logger: Any = None, data: Any = None, **arguments: Any
) -> pl.Trainer:
    options: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    options |= {"enable_checkpointing": False, "log_every_n_steps": 1, "devices": 1} | arguments
    trainer = pl.Trainer(logger=logger, callbacks=callbacks, **options)
    trainer.fit(module, data or loader())
    return trainer


def test_eigenvalues_are_those_of_the_dense_hessian_at_every_step() -> None:
    module, rows = Small(), RowLogger()
    fit(module, [HessianEigenvalueMonitor(largest=3, smallest=2, tolerance=1e-8, **EVERY_STEP)], rows)
    assert [step for step, _ in rows.our_rows()] == list(range(6))
    for step, row in rows.our_rows():
        dense = torch.linalg.eigvalsh(module.dense_hessian(step))
        largest = [row[f"hessian/largest_eigenvalue{suffix}"] for suffix in ("", "_2", "_3")]
        smallest = [row[f"hessian/smallest_eigenvalue{suffix}"] for suffix in ("", "_2")]
        assert largest == pytest.approx(dense.flip(0)[:3].tolist(), rel=1e-6)
        assert smallest == pytest.approx(dense[:2].tolist(), rel=1e-6, abs=1e-9)
        assert row["hessian/largest_eigenvalue_error"] <= 1e-8 * largest[0]


def test_stability_ratio_of_momentum_counts_weight_decay() -> None:
    module, rows = Small(), RowLogger()
    fit(module, [HessianEigenvalueMonitor(tolerance=1e-8, **EVERY_STEP)], rows)
    for step, row in rows.our_rows():
        curvature = float(torch.linalg.eigvalsh(module.dense_hessian(step))[-1]) + 0.01
        assert row["stability/ratio"] == pytest.approx(curvature / ((2 + 2 * 0.9) / 0.1), rel=1e-6)


def test_stability_ratio_of_adam_takes_the_preconditioned_hessian() -> None:
    class SecondMoments(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[torch.Tensor | None] = []

        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            state = trainer.optimizers[0].state
            count = len(self.seen)
            moments = [state[p]["exp_avg_sq"].flatten() for p in pl_module.parameters()] if count else None
            if moments is None:
                self.seen.append(None)
            else:
                bias1, bias2 = 1 - 0.9**count, 1 - 0.99**count
                self.seen.append(bias1 * ((torch.cat(moments) / bias2).sqrt() + 1e-8))

    module, rows, moments = Small("adam"), RowLogger(), SecondMoments()
    fit(module, [moments, HessianEigenvalueMonitor(tolerance=1e-8, **EVERY_STEP)], rows)
    assert "stability/ratio" not in rows.our_rows()[0][1]
    for step, row in rows.our_rows()[1:]:
        scale = moments.seen[step].rsqrt()
        preconditioned = scale[:, None] * module.dense_hessian(step) * scale
        limit = (2 + 2 * 0.9) / ((1 - 0.9) * 0.01)
        assert row["stability/ratio"] == pytest.approx(
            float(torch.linalg.eigvalsh(preconditioned)[-1]) / limit, rel=1e-5
        )


def test_trace_and_density_on_request() -> None:
    module, rows = Small(), RowLogger()
    fit(module, [HessianEigenvalueMonitor(trace=True, density=True, **EVERY_STEP)], rows)
    for step, row in rows.our_rows():
        error = abs(row["hessian/trace"] - float(module.dense_hessian(step).trace()))
        assert error <= 4 * row["hessian/trace_error"] + 1e-9


def test_batches_are_weighted_by_their_samples() -> None:
    """24 + 8 samples are one batch of 32, as the dense Hessian of all of them says."""
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = x[:, :3].argmax(1)
    batches = DataLoader(TensorDataset(x, y), batch_sampler=[list(range(24)), list(range(24, 32))])
    module, rows = Small(), RowLogger()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)  # type: ignore[method-assign]
    fit(module, [HessianEigenvalueMonitor(batches=2, tolerance=1e-8, **EVERY_STEP)], rows, data=batches, max_epochs=1)
    module.seen[1] = (module.seen[1][0], (x, y))
    expected = float(torch.linalg.eigvalsh(module.dense_hessian(1))[-1])
    assert rows.our_rows()[1][1]["hessian/largest_eigenvalue"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("setup", "method"), [*((setup, "lanczos") for setup in SETUPS), ("fp32", "power_iteration")])
def test_training_is_bit_identical(setup: str, method: str) -> None:
    monitor = HessianEigenvalueMonitor(method=method, tolerance=1e-2, trace=True, density=setup == "fp32", **EVERY_STEP)
    assert train([monitor], epochs=1, **SETUPS[setup]) == train([], epochs=1, **SETUPS[setup])
    assert monitor.coordinator.failed == 0


def test_eval_mode_measures_without_dropout() -> None:
    values = {}
    for eval_mode in (False, True):
        train([HessianEigenvalueMonitor(eval_mode=eval_mode, **EVERY_STEP)], epochs=1)
        values[eval_mode] = train.last_rows.our_rows()[3][1]["hessian/largest_eigenvalue"]  # type: ignore[attr-defined]
    assert values[True] != values[False]


def test_own_loss_function() -> None:
    module, rows = Small(), RowLogger()
    fit(
        module,
        [HessianEigenvalueMonitor(loss_fn=lambda module, batch: 2 * module.loss(batch), tolerance=1e-8, **EVERY_STEP)],
        rows,
    )
    expected = 2 * float(torch.linalg.eigvalsh(module.dense_hessian(0))[-1])
    assert rows.our_rows()[0][1]["hessian/largest_eigenvalue"] == pytest.approx(expected, rel=1e-6)


def test_callback_metrics_serve_model_checkpoint_and_early_stopping(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        dirpath=tmp_path, monitor="hessian/largest_eigenvalue", every_n_train_steps=1, save_top_k=2
    )
    stopping = EarlyStopping("hessian/largest_eigenvalue", patience=50, check_on_train_epoch_end=True)
    fit(Small(), [HessianEigenvalueMonitor(**EVERY_STEP), stopping, checkpoint], False, enable_checkpointing=True)
    assert checkpoint.best_model_score is not None
    assert math.isfinite(float(checkpoint.best_model_score))
    assert len(list(tmp_path.glob("*.ckpt"))) == 2
    assert math.isfinite(float(stopping.best_score))


def test_csv_and_tensorboard_get_every_value_at_lightnings_own_x_axis(tmp_path: Path) -> None:
    import csv

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="board")]
    fit(Small(), [HessianEigenvalueMonitor(every_n_steps=2, max_overhead=None)], loggers)
    with open(Path(loggers[0].log_dir) / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("hessian/largest_eigenvalue")]
    assert [int(row["step"]) for row in rows] == [0, 2, 4]
    events = EventAccumulator(loggers[1].log_dir).Reload().Scalars("hessian/largest_eigenvalue")
    assert [event.step for event in events] == [0, 2, 4]
    assert [event.value for event in events] == pytest.approx(
        [float(row["hessian/largest_eigenvalue"]) for row in rows], rel=1e-5
    )
    records = list(read_records(loggers[0].log_dir))
    assert [record.step for record in records] == [0, 2, 4]
    assert records[1].arrays["largest"][0] == pytest.approx(float(rows[1]["hessian/largest_eigenvalue"]))


def test_fast_dev_run_and_no_logger_work() -> None:
    monitor = HessianEigenvalueMonitor()
    trainer = fit(Small(), [monitor], True, fast_dev_run=3)
    assert monitor.cadence.measurements == 1
    assert "hessian/largest_eigenvalue" in trainer.callback_metrics
    trainer = fit(Small(), [HessianEigenvalueMonitor()], False)
    assert "hessian/largest_eigenvalue" in trainer.callback_metrics


def test_a_resumed_run_goes_on_with_its_cadence(tmp_path: Path) -> None:
    first, second = HessianEigenvalueMonitor(every_n_steps=2), HessianEigenvalueMonitor(every_n_steps=2)
    trainer = fit(Small(), [first], False, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    options = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
    pl.Trainer(max_epochs=2, callbacks=[second], **options).fit(Small(), loader(), ckpt_path=tmp_path / "a.ckpt")
    assert second.cadence.measurements >= first.cadence.measurements
    assert second.cadence.spent >= first.cadence.spent


@pytest.mark.parametrize(
    "arguments",
    [{"largest": 0}, {"smallest": -1}, {"method": "magic"}, {"tolerance": 0.0}, {"batches": 0}, {"every_n_steps": "7"}],
)
def test_wrong_arguments_are_refused_with_what_was_received(arguments: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match=repr(next(iter(arguments.values())))):
        HessianEigenvalueMonitor(**arguments)


def test_a_filter_that_matches_nothing_is_refused_before_training() -> None:
    with pytest.raises(MisconfigurationException, match="No parameter name matches"):
        fit(Small(), [HessianEigenvalueMonitor(parameters="decoder")], False)


def test_manual_optimization_with_several_batches_is_refused_with_a_way_out() -> None:
    module = Small()
    module.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match="loss_fn"):
        fit(module, [HessianEigenvalueMonitor(batches=2)], False)


def test_dataloader_iter_is_refused() -> None:
    class Iterates(Small):
        def training_step(self, dataloader_iter: Any) -> torch.Tensor:  # type: ignore[override]
            raise AssertionError

    with pytest.raises(MisconfigurationException, match="dataloader_iter"):
        fit(Iterates(), [HessianEigenvalueMonitor()], False)


def test_a_step_that_skips_a_batch_is_no_failure() -> None:
    class Skips(Small):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx == 1 else loss

    monitor, rows = HessianEigenvalueMonitor(**EVERY_STEP), RowLogger()
    fit(Skips(), [monitor], rows, max_epochs=1)
    assert monitor.coordinator.failed == 0
    assert [step for step, row in rows.our_rows()] == [0, 2]


def test_both_namespaces_work() -> None:
    code = """
import warnings; warnings.filterwarnings("ignore")
import pytorch_lightning as pl, torch
{extra}
from landscape_callbacks import LandscapeMonitor
class M(pl.LightningModule):
    def __init__(self):
        super().__init__(); self.net = torch.nn.Linear(4, 2)
    def training_step(self, batch, batch_idx):
        loss = self.net(batch).square().mean(); self.log("loss", loss); return loss
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.1)
m = LandscapeMonitor(max_overhead=None, every_n_steps=1)
t = pl.Trainer(max_epochs=1, callbacks=m, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
t.fit(M(), torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=4))
assert t.callback_metrics["hessian/largest_eigenvalue"] > 0, t.callback_metrics
print("fitted", m.parts["eigenvalues"].coordinator.failed)
"""
    import subprocess
    import sys

    for extra in ("", "import lightning.pytorch"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(extra=extra)], capture_output=True, text=True, check=False
        )
        assert "fitted 0" in done.stdout, done.stderr
