"""Scaling a learning rate: every torch scheduler, driven by a real Trainer, keeps it to the end and over a resume."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import SGD, Adam
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader

from landscape_callbacks.training.learning_rate import (
    learning_rates,
    peak_learning_rates,
    plateau_schedulers,
    scale_learning_rate,
    schedulers_of,
    unknown_schedulers,
)

FACTOR = 0.3
STEPS = 24
SCALED_AFTER = 7


def _decay(step):
    return 0.9**step


def _warm_up(step):
    return min(1.0, step / 10)


def _sequential(optimizer, *, milestones=(5, 12)):
    return schedules.SequentialLR(
        optimizer,
        [
            schedules.LinearLR(optimizer, 0.1, total_iters=5),
            schedules.CosineAnnealingLR(optimizer, 6, eta_min=0.01),
            schedules.ExponentialLR(optimizer, 0.8),
        ],
        milestones=list(milestones),
    )


def _restarts_in_sequence(optimizer):
    return schedules.SequentialLR(
        optimizer,
        [
            schedules.ConstantLR(optimizer, 0.5, total_iters=3),
            schedules.CosineAnnealingWarmRestarts(optimizer, 4, 2, eta_min=0.01),
        ],
        milestones=[9],
    )


def _chained(optimizer):
    return schedules.ChainedScheduler(
        [schedules.LinearLR(optimizer, 0.2, total_iters=9), schedules.StepLR(optimizer, 4, gamma=0.7)]
    )


def _nested(optimizer):
    return schedules.ChainedScheduler(
        [
            _sequential_of_multiplicative(optimizer),
            schedules.ExponentialLR(optimizer, 0.95),
        ]
    )


def _sequential_of_multiplicative(optimizer):
    return schedules.SequentialLR(
        optimizer,
        [schedules.MultiplicativeLR(optimizer, _nine_tenths), schedules.PolynomialLR(optimizer, 30, 2.0)],
        milestones=[10],
    )


def _nine_tenths(step):
    return 0.9


SCHEDULERS = {
    "none": None,
    "LambdaLR": lambda o: schedules.LambdaLR(o, _decay),
    "LambdaLR warm-up": lambda o: schedules.LambdaLR(o, [_warm_up, _decay]),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, _nine_tenths),
    "StepLR": lambda o: schedules.StepLR(o, 5, 0.5),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [3, 9, 15], 0.5),
    "ConstantLR": lambda o: schedules.ConstantLR(o, 0.3, 12),
    "LinearLR": lambda o: schedules.LinearLR(o, 0.1, total_iters=15),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 20, 1.5),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 9, eta_min=0.02),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 5, 2, eta_min=0.02),
    "CyclicLR": lambda o: schedules.CyclicLR(o, [0.01, 0.02], [0.1, 0.4], 4, mode="triangular2"),
    "CyclicLR exp_range": lambda o: schedules.CyclicLR(o, 0.01, 0.1, 4, mode="exp_range", gamma=0.97),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, [0.5, 1.0], total_steps=STEPS + 2),
    "OneCycleLR three phases": lambda o: schedules.OneCycleLR(o, 0.5, total_steps=STEPS + 2, three_phase=True),
    "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(o, patience=2, factor=0.5),
    "SWALR": lambda o: SWALR(o, swa_lr=0.03, anneal_epochs=10),
    "SequentialLR": _sequential,
    "SequentialLR, scaled at its milestone": lambda o: _sequential(o, milestones=(SCALED_AFTER, SCALED_AFTER + 4)),
    "SequentialLR with restarts": _restarts_in_sequence,
    "SequentialLR of MultiplicativeLR": _sequential_of_multiplicative,
    "ChainedScheduler": _chained,
    "ChainedScheduler of SequentialLR": _nested,
}


class _Model(LightningModule):
    """Two groups, with a loss whose plateau makes ReduceLROnPlateau act whatever the rate is."""

    def __init__(self, schedule, *, interval="step", tensor_rate=False, optimizers=1):
        super().__init__()
        self.schedule, self.interval, self.tensor_rate, self.count = schedule, interval, tensor_rate, optimizers
        self.automatic_optimization = optimizers == 1
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 1) for _ in range(2)])

    def training_step(self, batch, batch_index):
        loss = sum(layer(batch).square().mean() for layer in self.layers)
        self.log("constant", 1.0)
        if not self.automatic_optimization:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
            for scheduler in self.lr_schedulers():
                scheduler.step()
        return loss

    def configure_optimizers(self):
        def rate(value):
            return torch.tensor(value, dtype=torch.float64) if self.tensor_rate else value

        if not self.automatic_optimization:
            optimizers = [
                SGD(layer.parameters(), lr=0.1 * (1 + i), momentum=0.9) for i, layer in enumerate(self.layers)
            ]
            return optimizers, [self.schedule(optimizer) for optimizer in optimizers]
        groups = [{"params": layer.parameters(), "lr": rate(0.1 * (1 + i))} for i, layer in enumerate(self.layers)]
        optimizer = SGD(groups, lr=rate(0.1), momentum=0.9, **({"foreach": False} if self.tensor_rate else {}))
        if self.schedule is None:
            return optimizer
        config = {"scheduler": self.schedule(optimizer), "interval": self.interval, "monitor": "constant"}
        return {"optimizer": optimizer, "lr_scheduler": config}


class _Recorder(Callback):
    """The rates that each step is taken with; scales them once if asked."""

    def __init__(self, factor=None, after=SCALED_AFTER):
        self.factor, self.after, self.rates = factor, after, {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        index = [o is optimizer for o in trainer.optimizers].index(True)
        self.rates.setdefault(index, []).append(learning_rates(optimizer))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_index):
        steps = trainer.fit_loop.epoch_loop._batches_that_stepped + 1
        if self.factor is not None and steps == self.after:
            configs = trainer.lr_scheduler_configs
            for optimizer in trainer.optimizers:
                scale_learning_rate(optimizer, self.factor, [config.scheduler for config in configs])


def _fit(model, recorder, path, *, steps=STEPS, epoch_length=3, checkpoint=None, save_at=None):
    callbacks = [recorder]
    if save_at is not None:
        callbacks.append(ModelCheckpoint(dirpath=path, filename="saved", every_n_train_steps=save_at))
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=save_at is not None,
        callbacks=callbacks,
        default_root_dir=path,
    )
    data = torch.ones(epoch_length * 2, 2)
    trainer.fit(model, DataLoader(data, batch_size=2), ckpt_path=checkpoint)
    return trainer


def _assert_scaled(plain, scaled, first, factor=FACTOR):
    assert len(plain) == len(scaled)
    torch.testing.assert_close(torch.tensor(scaled[:first]), torch.tensor(plain[:first]), rtol=0, atol=0)
    expected = [[factor * rate for rate in rates] for rates in plain[first:]]
    # Rates near the end of a cosine come from differences of larger numbers.
    torch.testing.assert_close(
        torch.tensor(scaled[first:], dtype=torch.float64),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-9,
        atol=1e-15,
    )


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*optimizer.step.*")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rest_of_the_schedule_is_scaled(name, tmp_path):
    interval = "epoch" if name == "ReduceLROnPlateau" else "step"
    plain, scaled = _Recorder(), _Recorder(FACTOR)
    _fit(_Model(SCHEDULERS[name], interval=interval), plain, tmp_path)
    trainer = _fit(_Model(SCHEDULERS[name], interval=interval), scaled, tmp_path)
    assert len(plain.rates[0]) == STEPS
    if name != "none":
        assert len({tuple(rates) for rates in plain.rates[0]}) > 1, "the schedule has to move to show anything"
    _assert_scaled(plain.rates[0], scaled.rates[0], SCALED_AFTER)
    for config in trainer.lr_scheduler_configs:
        torch.testing.assert_close(
            torch.tensor(config.scheduler.get_last_lr()), torch.tensor(learning_rates(trainer.optimizers[0]))
        )


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*optimizer.step.*")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_resume_keeps_the_scaled_rate_without_any_callback(name, tmp_path):
    interval = "epoch" if name == "ReduceLROnPlateau" else "step"
    runs = []
    for factor in (None, FACTOR):
        before, after = _Recorder(factor), _Recorder()
        _fit(_Model(SCHEDULERS[name], interval=interval), before, tmp_path / str(factor), steps=12, save_at=12)
        saved = tmp_path / str(factor) / "saved.ckpt"
        _fit(_Model(SCHEDULERS[name], interval=interval), after, tmp_path, checkpoint=saved)
        runs.append(before.rates[0] + after.rates[0])
    assert len(runs[0]) == STEPS
    _assert_scaled(*runs, SCALED_AFTER)


@pytest.mark.parametrize("name", ["StepLR", "LambdaLR", "CosineAnnealingWarmRestarts", "SequentialLR"])
def test_schedules_by_epoch(name, tmp_path):
    plain, scaled = _Recorder(), _Recorder(FACTOR, after=5)
    _fit(_Model(SCHEDULERS[name], interval="epoch"), plain, tmp_path, epoch_length=2)
    _fit(_Model(SCHEDULERS[name], interval="epoch"), scaled, tmp_path, epoch_length=2)
    _assert_scaled(plain.rates[0], scaled.rates[0], 5)


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*optimizer.step.*")
@pytest.mark.parametrize("name", ["none", "LambdaLR", "OneCycleLR", "CosineAnnealingLR", "SequentialLR"])
def test_a_rate_held_as_tensor_stays_the_same_tensor(name, tmp_path):
    if name == "SequentialLR" and torch.__version__.startswith("2.6."):
        pytest.skip("torch 2.6 itself mixes up such rates; docs/support.md says so")
    plain, scaled = _Recorder(), _Recorder(FACTOR)
    _fit(_Model(SCHEDULERS[name], tensor_rate=True), plain, tmp_path)
    trainer = _fit(_Model(SCHEDULERS[name], tensor_rate=True), scaled, tmp_path)
    _assert_scaled(plain.rates[0], scaled.rates[0], SCALED_AFTER)
    assert all(isinstance(group["lr"], torch.Tensor) for group in trainer.optimizers[0].param_groups)


def test_a_tensor_that_groups_share_is_scaled_once_and_in_place():
    rate = torch.tensor(0.5)
    optimizer = Adam([{"params": [torch.nn.Parameter(torch.ones(1))]} for _ in range(2)], lr=rate, foreach=False)
    scheduler = schedules.LambdaLR(optimizer, _decay)
    held = [group["lr"] for group in optimizer.param_groups]
    scale_learning_rate(optimizer, 0.5, [scheduler, scheduler])
    assert learning_rates(optimizer) == [0.25, 0.25]
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, held, strict=True))
    assert [float(value) for value in scheduler.base_lrs] == [0.25, 0.25]


def test_several_optimizers_under_manual_optimization(tmp_path):
    plain, scaled = _Recorder(), _Recorder(FACTOR)
    _fit(_Model(_decaying, optimizers=2), plain, tmp_path, steps=2 * STEPS)
    _fit(_Model(_decaying, optimizers=2), scaled, tmp_path, steps=2 * STEPS)
    for index in range(2):
        _assert_scaled(plain.rates[index], scaled.rates[index], SCALED_AFTER)


def _decaying(optimizer):
    return schedules.LambdaLR(optimizer, _decay)


def test_only_the_schedulers_of_the_optimizer_are_touched():
    first, second = (SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1) for _ in range(2))
    mine, other = _decaying(first), _decaying(second)
    scale_learning_rate(first, 2.0, [mine, other])
    assert (learning_rates(first), learning_rates(second)) == ([0.2], [0.1])
    assert (mine.base_lrs, other.base_lrs) == ([0.2], [0.1])


def test_scaling_back_restores_the_schedule(tmp_path):
    class Twice(_Recorder):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_index):
            steps = trainer.fit_loop.epoch_loop._batches_that_stepped + 1
            if steps in (4, 9):
                factor = 0.25 if steps == 4 else 4.0
                scale_learning_rate(trainer.optimizers[0], factor, [c.scheduler for c in trainer.lr_scheduler_configs])

    plain, twice = _Recorder(), Twice()
    _fit(_Model(SCHEDULERS["OneCycleLR"]), plain, tmp_path)
    _fit(_Model(SCHEDULERS["OneCycleLR"]), twice, tmp_path)
    torch.testing.assert_close(torch.tensor(twice.rates[0][9:]), torch.tensor(plain.rates[0][9:]), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.tensor(twice.rates[0][4:9]), torch.tensor(plain.rates[0][4:9]) / 4, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_a_factor_that_is_no_factor_is_refused(factor):
    optimizer = SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ValueError, match="positive finite factor"):
        scale_learning_rate(optimizer, factor)
    assert learning_rates(optimizer) == [0.1]


def test_the_floor_of_reduce_on_plateau_stays_what_the_user_set():
    optimizer = SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = schedules.ReduceLROnPlateau(optimizer, min_lr=0.01, patience=0)
    scale_learning_rate(optimizer, 0.5, [scheduler])
    for _ in range(5):
        scheduler.step(1.0)
    assert learning_rates(optimizer) == [0.01]


def test_the_peak_looks_at_what_a_schedule_returns_to():
    def build():
        return SGD(
            [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1 * (1 + i)} for i in range(2)], momentum=0.9
        )

    optimizer = build()
    assert peak_learning_rates(optimizer) == [0.1, 0.2]
    scheduler = schedules.LambdaLR(optimizer, _warm_up)
    assert (learning_rates(optimizer), peak_learning_rates(optimizer, [scheduler])) == ([0.0, 0.0], [0.1, 0.2])
    optimizer = build()
    assert peak_learning_rates(optimizer, [SCHEDULERS["OneCycleLR"](optimizer)]) == [0.5, 1.0]
    optimizer = build()
    assert peak_learning_rates(optimizer, [SCHEDULERS["CyclicLR"](optimizer)]) == [0.1, 0.4]


def test_schedulers_are_found_inside_others_and_named_when_unknown():
    optimizer = SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    nested = _nested(optimizer)
    plateau = schedules.ReduceLROnPlateau(optimizer)
    found = list(schedulers_of(optimizer, [nested, plateau, nested]))
    assert len(found) == 6
    assert plateau_schedulers(optimizer, [nested, plateau]) == [plateau]

    class Own:
        pass

    assert unknown_schedulers([nested, Own()]) == ["Own"]
