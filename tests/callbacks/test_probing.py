"""What a look at the surface knows of the trainer, against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from landscape_callbacks import PlateauLearningRateAdjuster, SaddlePointMonitor
from landscape_callbacks.callbacks import probing
from landscape_callbacks.callbacks.probing import Look, look_at, sees_all, steps_left
from landscape_callbacks.diagnosis.trend import LossTrend
from landscape_callbacks.surface.probe import probe_surface
from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.reporting import Report

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*")
SPECTRUM = torch.tensor([4.0, 1.0, 0.5, 0.25], dtype=torch.float64)


class _Quadratic(LightningModule):
    """½wᵀHw − xᵀw: curvatures SPECTRUM, gradient noise with the covariance of x."""

    def __init__(self, optimizer):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(4, dtype=torch.float64))
        self.build = optimizer

    def training_step(self, batch, batch_idx):
        return 0.5 * (SPECTRUM * self.weights**2).sum() - (batch[0] @ self.weights).mean() + 10.0

    def configure_optimizers(self):
        return self.build([self.weights])


class _Looker(Monitor):
    needs_other_weights = True

    def __init__(self, *, full_batch, batches=16, initial_loss=10.0, at=20):
        super().__init__(every_n_steps=at, max_overhead=None, batches=batches)
        self.full_batch, self.initial_loss, self.at, self.look = full_batch, initial_loss, at, None

    def measure(self, trainer, pl_module, snapshot):
        if snapshot.step == self.at:
            trend = LossTrend().report()
            self.look = look_at(trainer, snapshot, trend, initial_loss=self.initial_loss, full_batch=self.full_batch)
        return Report()


def _look(optimizer, path, *, data=None, batch_size=8, accumulate=1, **settings):
    looker = _Looker(**settings)
    data = torch.zeros(400, 4, dtype=torch.float64) if data is None else data
    trainer = Trainer(
        max_steps=40,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accumulate_grad_batches=accumulate,
        callbacks=[looker],
        default_root_dir=path,
    )
    trainer.fit(_Quadratic(optimizer), DataLoader(TensorDataset(data), batch_size=batch_size))
    return looker.look


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.01), 2 / 4),
        (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.5), 3 / 4),
        (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.5, nesterov=True), 3 / (2 * 4)),
        (lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=1.0), 2 / 5),
    ],
)
def test_the_largest_stable_rate(optimizer, rate, tmp_path):
    look = _look(optimizer, tmp_path, full_batch=True)
    assert isinstance(look, Look)
    assert look.largest_stable_rate == pytest.approx(rate, rel=1e-3)
    assert math.isinf(look.situation.batch_size)


def test_the_largest_stable_rate_of_adam_is_that_of_its_preconditioned_steps(tmp_path):
    look = _look(lambda p: torch.optim.Adam(p, lr=1e-3, eps=1e-4), tmp_path, full_batch=True)
    # Gradient and second moment at step 20 by hand: replay Adam on the diagonal quadratic.
    w, m, v = torch.ones(4, dtype=torch.float64), torch.zeros(4), torch.zeros(4)
    for step in range(1, 21):
        gradient = SPECTRUM * w
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        preconditioner = (1 - 0.9**step) * ((v / (1 - 0.999**step)).sqrt() + 1e-4)
        w = w - 1e-3 * m / preconditioner
    expected = 38.0 / float((SPECTRUM / preconditioner).max())
    assert look.largest_stable_rate == pytest.approx(expected, rel=1e-3)


def test_without_positive_curvature_no_rate_is_too_large(tmp_path):
    look = _look(lambda p: torch.optim.SGD(p, lr=0.01), tmp_path, full_batch=True)
    measurement = look.probe.measurement
    for curvature, rate in [(-1.0, math.inf), (0.0, math.inf), (math.nan, math.nan)]:
        changed = replace(measurement, largest_curvature=curvature, largest_ritz_value=curvature)
        other = replace(look, probe=replace(look.probe, measurement=changed))
        assert other.largest_stable_rate == pytest.approx(rate, nan_ok=True)


def test_what_a_cut_wins_is_the_height_of_the_noise_floor(tmp_path):
    noise = torch.randn(8 * 64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    look = _look(lambda p: torch.optim.SGD(p, lr=0.1), tmp_path, data=noise, full_batch=False, batches=32, at=36)
    # Half of the floor's trace bound: D_cut = ¼ η tr(Σ) / B, with tr(Σ) = 4 and B = 8.
    assert look.cut_gain == pytest.approx(0.25 * 0.1 * 4 / 8, rel=0.25)
    assert look.situation.batch_size == 8


def test_a_step_counts_all_its_batches(tmp_path):
    noise = torch.randn(8 * 200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    look = _look(lambda p: torch.optim.SGD(p, lr=0.1), tmp_path, data=noise, full_batch=False, accumulate=4)
    assert look.situation.batch_size == 32


def test_where_there_can_be_no_verdict_a_sentence_says_why(tmp_path):
    assert "not known" in _look(lambda p: torch.optim.Adagrad(p, lr=0.1), tmp_path, full_batch=True)
    assert "zero" in _look(lambda p: torch.optim.SGD(p, lr=0.0), tmp_path, full_batch=True)
    few = _look(lambda p: torch.optim.SGD(p, lr=0.1), tmp_path, full_batch=False, batches=4, batch_size=300)
    assert "a probe needs 4" in few


class _Trainer:
    """The numbers of a trainer that steps_left reads."""

    def __init__(self, *, max_steps=-1, max_epochs=-1, batches=10, accumulate=1, done=0):
        self.max_steps, self.max_epochs = max_steps, max_epochs
        self.num_training_batches, self.accumulate_grad_batches, self.global_step = batches, accumulate, done
        self.fit_loop = self
        self.epoch_loop = self
        self._batches_that_stepped = done


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({}, None),
        ({"max_steps": 100, "done": 30}, 70),
        ({"max_epochs": 5, "done": 12}, 38),
        ({"max_epochs": 5, "accumulate": 4, "done": 1}, 14),
        ({"max_steps": 20, "max_epochs": 5}, 20),
        ({"max_epochs": 5, "batches": math.inf}, None),
        ({"max_steps": 10, "done": 12}, 0),
        ({"max_epochs": None, "max_steps": 7}, 7),
    ],
)
def test_steps_left(settings, left):
    assert steps_left(_Trainer(**settings)) == left


class _Watcher(Callback):
    def __init__(self):
        self.found = None

    def on_train_start(self, trainer, pl_module):
        self.found = sees_all(trainer)


@pytest.mark.parametrize(
    ("loader", "settings", "expected"),
    [
        ({"batch_size": 32}, {}, True),
        ({"batch_size": 40}, {"shuffle": True}, True),
        ({"batch_size": 16}, {}, False),
        ({"batch_size": 16, "shuffle": True}, {"limit_train_batches": 1}, False),
        ({"batch_size": 16}, {"overfit_batches": 1}, True),
        ({"batch_size": 20, "shuffle": True, "drop_last": True}, {}, False),
        ({"batch_size": 32, "drop_last": True}, {}, True),
        ("stream", {"limit_train_batches": 1}, False),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_step_sees_all_data_only_where_an_epoch_is_one_batch_and_always_the_same(
    loader, settings, expected, tmp_path
):
    data = TensorDataset(torch.zeros(32, 4, dtype=torch.float64))
    shuffle = settings.pop("shuffle", False)
    batches = (
        DataLoader(_Stream(), batch_size=8)
        if loader == "stream"
        else DataLoader(data, **{"shuffle": shuffle, **loader})
    )
    watcher = _Watcher()
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[watcher], default_root_dir=tmp_path, **settings,
    )  # fmt: skip
    trainer.fit(_Quadratic(lambda p: torch.optim.SGD(p, lr=0.01)), batches)
    assert watcher.found is expected


class _Stream(IterableDataset):
    def __iter__(self):
        return iter(TensorDataset(torch.zeros(32, 4, dtype=torch.float64)))


def _fit_with(callbacks, root, steps):
    """One epoch of batches of 8 on a quadratic."""
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=callbacks, default_root_dir=root,
    )  # fmt: skip
    data = torch.randn(8 * steps, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    trainer.fit(_Quadratic(lambda p: torch.optim.SGD(p, lr=0.01)), DataLoader(TensorDataset(data), batch_size=8))


def test_two_monitors_on_one_surface_share_a_probe(tmp_path, monkeypatch):
    probes = []
    monkeypatch.setattr(probing, "probe_surface", lambda *a, **k: (probes.append(k["seed"]), probe_surface(*a, **k))[1])
    saddle = SaddlePointMonitor(every_n_steps=40, max_overhead=None, batches=4)
    adjuster = PlateauLearningRateAdjuster(every_n_steps=15, max_overhead=None, batches=4)
    _fit_with([saddle, adjuster], tmp_path, steps=100)
    assert len(probes) == len(set(probes)) >= 1
    assert saddle.cadence.measurements == adjuster.cadence.measurements == len(probes)
    assert saddle.cost == adjuster.probe_cost > 0


def test_a_monitor_that_takes_no_snapshots_does_not_join_a_probe(tmp_path):
    saddle = SaddlePointMonitor(every_n_steps=20, max_overhead=None, batches=4)
    adjuster = PlateauLearningRateAdjuster(policy="trend", batches=4)
    _fit_with([saddle, adjuster], tmp_path, steps=60)
    assert saddle.settings == adjuster.settings
    assert saddle.cadence.measurements > 0
    assert adjuster.cadence.measurements == 0
    assert adjuster.probe_cost == 0.0
