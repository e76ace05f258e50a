"""The learning-rate adjuster in real Trainer runs."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import PlateauLearningRateAdjuster, read_records
from landscape_callbacks.training.learning_rate import learning_rates
from landscape_callbacks.training.lightning_namespace import MisconfigurationException

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*")


class _Scripted(LightningModule):
    """A model whose loss follows a script: what the adjuster sees is known, step by step."""

    def __init__(self, script, *, schedule=None, optimizers=1, interval="step"):
        super().__init__()
        self.script, self.schedule, self.count, self.interval = script, schedule, optimizers, interval
        self.automatic_optimization = optimizers == 1
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(2)) for _ in range(2)])
        self.step = 0

    def on_save_checkpoint(self, checkpoint):
        checkpoint["script_step"] = self.step

    def on_load_checkpoint(self, checkpoint):
        self.step = checkpoint["script_step"]

    def training_step(self, batch, batch_idx):
        value = self.script[self.step]
        self.step += 1
        loss = sum((weight.square().sum() - weight.square().sum().detach()) for weight in self.weights) + value
        if not self.automatic_optimization:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_accuracy", self.script[self.step - 1])

    def configure_optimizers(self):
        optimizers = [
            torch.optim.SGD([{"params": [weight], "lr": 0.01 * (1 + i)}], momentum=0.5)
            for i, weight in enumerate(self.weights)
        ]
        if self.count == 2:
            return optimizers
        optimizer = torch.optim.SGD(
            [{"params": [weight], "lr": 0.01 * (1 + i)} for i, weight in enumerate(self.weights)], momentum=0.5
        )
        if self.schedule is None:
            return optimizer
        config = {"scheduler": self.schedule(optimizer), "interval": self.interval, "monitor": "val_accuracy"}
        return {"optimizer": optimizer, "lr_scheduler": config}


class _Rates(Callback):
    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append([rate for optimizer in trainer.optimizers for rate in learning_rates(optimizer)])


def _fit(model, adjuster, path, *, steps, callbacks=(), epoch_length=50, checkpoint=None, **settings):
    callbacks = [*([adjuster] if adjuster is not None else []), *callbacks]
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=settings.pop("logger", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=callbacks,
        default_root_dir=path,
        limit_val_batches=settings.pop("limit_val_batches", 0),
        **settings,
    )
    data = DataLoader(TensorDataset(torch.zeros(epoch_length, 1)), batch_size=1)
    trainer.fit(model, data, DataLoader(TensorDataset(torch.zeros(1, 1))), ckpt_path=checkpoint)
    return trainer


def _adjuster(**settings):
    """Settings under which a plateau of a few hundred steps is found."""
    return PlateauLearningRateAdjuster(**{"policy": "trend", "horizon": 30, "cooldown": 10, **settings})


def _plateau_after(fall, flat, *, noise=0.01, seed=0):
    generator = np.random.default_rng(seed)
    steps = np.arange(fall + flat)
    return (np.maximum(1.0 - steps / fall, 0.0) + noise * generator.standard_normal(fall + flat)).tolist()


def test_a_plateau_is_cut_and_a_fall_is_not(tmp_path):
    rates = _Rates()
    adjuster = _adjuster(max_actions=1)
    _fit(_Scripted(_plateau_after(120, 280)), adjuster, tmp_path, steps=400, callbacks=[rates])
    assert adjuster.state.actions == 1
    assert adjuster.state.last_step > 120
    rates = np.array(rates.rates)
    np.testing.assert_array_equal(
        rates[: adjuster.state.last_step + 1], [[0.01, 0.02]] * (adjuster.state.last_step + 1)
    )
    np.testing.assert_allclose(
        rates[adjuster.state.last_step + 1 :], [[0.005, 0.01]] * (399 - adjuster.state.last_step)
    )


def test_a_run_that_falls_is_left_bit_identical(tmp_path):
    script = _plateau_after(400, 0)
    plain, watched = _Scripted(script), _Scripted(script)
    torch.manual_seed(1)
    _fit(plain, None, tmp_path, steps=400)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    trainer = _fit(watched, _adjuster(), tmp_path, steps=400)
    assert torch.equal(state, torch.get_rng_state())
    for first, second in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(first, second)
    for group in trainer.optimizers[0].param_groups:
        assert group["lr"] in (0.01, 0.02)


def test_the_action_is_logged_with_its_reason(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    adjuster = _adjuster(factor=0.25, max_actions=1)
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    trainer = _fit(_Scripted(_plateau_after(120, 280)), adjuster, tmp_path, steps=400, logger=logger)
    assert trainer.callback_metrics["learning_rate/scale"] == 0.25
    (record,) = [record for record in read_records(logger.log_dir) if record.kind == "action"]
    assert record.step == adjuster.state.last_step
    assert record.info["action"] == "cut"
    assert record.info["learning_rates_before"] == [0.01, 0.02]
    assert record.info["learning_rates"] == [0.0025, 0.005]
    assert record.info["reason"].startswith("The loss has stopped falling")


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: schedules.LambdaLR(o, lambda step: 0.99**step),
        lambda o: schedules.OneCycleLR(o, [0.1, 0.2], total_steps=1000),
    ],
)
def test_the_schedule_goes_on_from_the_cut(schedule, tmp_path):
    script = _plateau_after(120, 780)
    plain, cut = _Rates(), _Rates()
    adjuster = _adjuster(max_actions=2)
    _fit(_Scripted(script, schedule=schedule), None, tmp_path, steps=900, callbacks=[plain])
    _fit(_Scripted(script, schedule=schedule), adjuster, tmp_path, steps=900, callbacks=[cut])
    assert adjuster.state.actions == 2
    ratio = np.array(cut.rates) / np.array(plain.rates)
    assert set(np.round(ratio.ravel(), 9)) == {1.0, 0.5, 0.25}
    np.testing.assert_allclose(ratio[adjuster.state.last_step + 1 :], 0.25)


def test_a_resumed_run_decides_as_the_uninterrupted_one(tmp_path):
    script = _plateau_after(120, 680)

    def adjuster():
        return _adjuster(max_actions=5, cooldown=50)

    def decay(optimizer):
        return schedules.LambdaLR(optimizer, _slow_decay)

    through, before, after, alone = _Rates(), _Rates(), _Rates(), _Rates()
    whole = adjuster()
    _fit(_Scripted(script, schedule=decay), whole, tmp_path, steps=800, callbacks=[through])
    assert whole.state.actions >= 2
    # An interruption after the first action, in the middle of a block of losses.
    cut = 1 + next(
        i for i, pair in enumerate(zip(through.rates, through.rates[1:], strict=False)) if pair[1][0] < 0.9 * pair[0][0]
    )
    saved = 50 * (cut // 50 + 1)
    save = ModelCheckpoint(dirpath=tmp_path, filename="saved", every_n_train_steps=saved)
    _fit(_Scripted(script, schedule=decay), adjuster(), tmp_path, steps=saved, callbacks=[before, save])
    resumed = adjuster()
    _fit(
        _Scripted(script, schedule=decay),
        resumed,
        tmp_path,
        steps=800,
        callbacks=[after],
        checkpoint=save.best_model_path,
    )
    assert before.rates + after.rates == through.rates
    assert resumed.state == whole.state
    # Without the callback the cut stays, and nothing more happens.
    _fit(
        _Scripted(script, schedule=decay),
        None,
        tmp_path,
        steps=800,
        callbacks=[alone],
        checkpoint=save.best_model_path,
    )
    scale = 0.5 ** sum(a[0] < 0.9 * b[0] for b, a in zip(before.rates, before.rates[1:], strict=False))
    assert scale < 1.0
    expected = [[0.01 * scale * _slow_decay(step), 0.02 * scale * _slow_decay(step)] for step in range(saved, 800)]
    np.testing.assert_allclose(alone.rates, expected)


def _slow_decay(step):
    return 0.9999**step


def test_a_second_fit_starts_over(tmp_path):
    adjuster = _adjuster(max_actions=1)
    script = _plateau_after(120, 280)
    _fit(_Scripted(script), adjuster, tmp_path, steps=400)
    assert adjuster.state.scale == 0.5
    rates = _Rates()
    _fit(_Scripted(script), adjuster, tmp_path, steps=100, callbacks=[rates])
    assert adjuster.state.scale == 1.0
    assert rates.rates[-1] == [0.01, 0.02]


def test_all_actions_can_be_undone(tmp_path):
    class Undo(_Rates):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.fit_loop.epoch_loop._batches_that_stepped == 850:
                adjuster.revert(trainer)

    def decay(optimizer):
        return schedules.LambdaLR(optimizer, _slow_decay)

    adjuster = _adjuster(factor=0.3, max_actions=2)
    undo, plain = Undo(), _Rates()
    _fit(_Scripted(_plateau_after(120, 780), schedule=decay), adjuster, tmp_path, steps=900, callbacks=[undo])
    _fit(_Scripted(_plateau_after(120, 780), schedule=decay), None, tmp_path, steps=900, callbacks=[plain])
    assert adjuster.state.scale == 1.0
    np.testing.assert_allclose(undo.rates[840][0] / plain.rates[840][0], 0.09)
    np.testing.assert_allclose(undo.rates[851:], plain.rates[851:], rtol=1e-12)


def test_several_optimizers_keep_their_ratios(tmp_path):
    rates = _Rates()
    adjuster = _adjuster(max_actions=1)
    _fit(_Scripted(_plateau_after(120, 280), optimizers=2), adjuster, tmp_path, steps=800, callbacks=[rates])
    assert adjuster.state.actions == 1
    assert rates.rates[0] == [0.01, 0.02]
    assert rates.rates[-1] == [0.005, 0.01]


def test_min_lr_is_the_end(tmp_path):
    rates = _Rates()
    adjuster = _adjuster(factor=0.1, min_lr=0.004)
    _fit(_Scripted(_plateau_after(120, 780)), adjuster, tmp_path, steps=900, callbacks=[rates])
    assert adjuster.state.actions == 1
    np.testing.assert_allclose(rates.rates[-1], [0.004, 0.008])


def test_a_monitored_metric_with_mode_max(tmp_path):
    # Read every second step: it rises for 120 readings and then stays.
    steps = np.arange(800)
    accuracy = np.minimum(steps / 240, 1.0) + 0.01 * np.random.default_rng(3).standard_normal(800)
    adjuster = _adjuster(monitor="val_accuracy", mode="max", max_actions=1)
    _fit(_Scripted(accuracy.tolist()), adjuster, tmp_path, steps=800, epoch_length=2, limit_val_batches=1)
    assert adjuster.state.actions == 1
    assert adjuster.state.last_step > 240


def test_a_metric_that_is_not_logged_is_named(tmp_path):
    adjuster = PlateauLearningRateAdjuster(monitor="val_los", policy="trend")
    with pytest.warns(RuntimeWarning, match="watches 'val_los', which is not among the logged metrics"):
        _fit(_Scripted([1.0] * 60), adjuster, tmp_path, steps=60)


def test_a_second_controller_is_pointed_out(tmp_path):
    def nested(optimizer):
        return schedules.ReduceLROnPlateau(optimizer)

    adjuster = PlateauLearningRateAdjuster(policy="trend")
    with pytest.warns(UserWarning, match="ReduceLROnPlateau scheduler acts on plateaus too"):
        _fit(
            _Scripted([1.0] * 60, schedule=nested, interval="epoch"),
            adjuster,
            tmp_path,
            steps=10,
            epoch_length=5,
            limit_val_batches=1,
        )
    with pytest.warns(UserWarning, match="2 PlateauLearningRateAdjuster callbacks"):
        _fit(
            _Scripted([1.0] * 60),
            adjuster,
            tmp_path,
            steps=10,
            callbacks=[PlateauLearningRateAdjuster(policy="trend", monitor="x")],
        )
    averaging = StochasticWeightAveraging(swa_lrs=0.01)
    with pytest.warns(UserWarning, match="StochasticWeightAveraging goes to its own swa_lrs"):
        _fit(_Scripted([1.0] * 60), _adjuster(), tmp_path, steps=5, callbacks=[averaging], max_epochs=5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*PlateauLearningRateAdjuster.*")
        _fit(_Scripted([1.0] * 60), PlateauLearningRateAdjuster(policy="trend"), tmp_path, steps=10)


def test_accumulated_batches_count_as_one_step(tmp_path):
    script = _plateau_after(240, 1000)
    adjuster = _adjuster(max_actions=1)
    _fit(_Scripted(script), adjuster, tmp_path, steps=300, accumulate_grad_batches=4, epoch_length=52)
    watch = adjuster.state_dict()["watch"]
    assert adjuster.watch.trend.report().steps + len(watch["untold"]) + len(watch["waiting"]) == 300
    assert 60 < adjuster.state.last_step < 300


def test_skipped_steps_and_losses_that_are_no_numbers_do_no_harm(tmp_path):
    class Skips(_Scripted):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return None if self.step % 7 == 0 else loss

    script = _plateau_after(300, 0)
    script[100:120] = [math.nan] * 20
    adjuster = _adjuster()
    _fit(Skips(script), adjuster, tmp_path, steps=250)
    assert adjuster.watch.trend.report().nonfinite > 10
    assert adjuster.state.actions == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"policy": "guess"}, "policy has to be one of"),
        ({"factor": 1.5}, "factor"),
        ({"factor": "half"}, "factor"),
        ({"mode": "auto"}, "mode has to be one of 'min', 'max'"),
        ({"cooldown": -1}, "cooldown"),
        ({"min_lr": -1.0}, "min_lr"),
        ({"max_lr": 0}, "max_lr"),
        ({"max_actions": 1.5}, "max_actions"),
        ({"horizon": 0}, "horizon"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(settings, said):
    with pytest.raises(MisconfigurationException, match=said):
        PlateauLearningRateAdjuster(**{"policy": "trend", **settings})


def test_two_instances_have_different_keys():
    first = PlateauLearningRateAdjuster(policy="trend")
    second = PlateauLearningRateAdjuster(policy="trend", monitor="val_loss")
    assert first.state_key != second.state_key
