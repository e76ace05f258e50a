"""The adjuster with policy="diagnose", on problems whose right answer is known."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import PlateauLearningRateAdjuster
from landscape_callbacks.diagnosis.learning_rate_policy import PolicyState
from landscape_callbacks.training.lightning_namespace import MisconfigurationException

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*")


class _Problem(LightningModule):
    """Minimises ``loss(weights, batch)`` by SGD from ``start``."""

    def __init__(self, loss, start, *, lr, optimizer=torch.optim.SGD, **settings):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.objective, self.lr, self.optimizer_class, self.settings = loss, lr, optimizer, settings
        self.seen = []

    def training_step(self, batch, batch_idx):
        return self.objective(self.weights, batch[0])

    def configure_optimizers(self):
        return self.optimizer_class([self.weights], lr=self.lr, **self.settings)


class _Losses(Callback):
    def __init__(self):
        self.losses, self.rates = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def _adjuster(**settings):
    # Without a budget, so that decisions do not depend on the speed of the machine.
    return PlateauLearningRateAdjuster(**{"policy": "diagnose", "max_overhead": None, **settings})


def _fit(model, callbacks, path, *, steps, data=None, batch_size=1, checkpoint=None):
    data = torch.zeros(256, 1) if data is None else data
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=callbacks,
        default_root_dir=path,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not measure.*")
        trainer.fit(model, DataLoader(TensorDataset(data), batch_size=batch_size), ckpt_path=checkpoint)
    return trainer


def _two_minima(weights, batch):
    """A saddle at 0 with curvatures 2 and -2, minima at (0, ±√2) with curvatures 2 and 4."""
    x, y = weights
    return x**2 - y**2 + 0.25 * y**4 + 1.0


def test_at_a_saddle_the_rate_is_raised_toward_the_stable_limit(tmp_path):
    plain, helped, adjuster = _Losses(), _Losses(), _adjuster(full_batch=True)
    _fit(_Problem(_two_minima, [0.1, 1e-8], lr=0.01), [plain], tmp_path, steps=500)
    _fit(_Problem(_two_minima, [0.1, 1e-8], lr=0.01), [adjuster, helped], tmp_path, steps=500)
    step, decision = adjuster.history[0]
    assert decision.action == "raise"
    assert decision.reason.startswith("Strict saddle")
    # Curvature 2: the largest stable rate is 1, and a raise goes tenfold at most.
    assert decision.factor == pytest.approx(10.0)
    assert step < 200
    assert min(plain.losses) > 0.5
    assert helped.losses[-1] == pytest.approx(0.0, abs=1e-6)


def _quadratic(weights, batch):
    """Curvatures 1 and 0.1: the largest stable rate is 2."""
    return 0.5 * (weights[0] ** 2 + 0.1 * weights[1] ** 2)


def test_a_rate_too_small_to_show_is_raised_at_once(tmp_path):
    adjuster, losses = _adjuster(full_batch=True), _Losses()
    spectrum = torch.tensor([1.0, 0.1], dtype=torch.float64)
    _fit(
        _Problem(lambda w, b: 0.5 * (spectrum * w**2).sum(), [1.0, 1.0], lr=1e-9),
        [adjuster, losses],
        tmp_path,
        steps=300,
    )
    _step, decision = adjuster.history[0]
    assert decision.reason.startswith("Step too small")
    assert losses.rates[-1] == pytest.approx(0.5 * 2.0 / 1.0, rel=1e-3)
    assert losses.losses[-1] < 1e-6


def test_a_warm_up_is_not_taken_for_steps_too_small(tmp_path):
    class WarmUp(_Problem):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1e-9 if step < 150 else 1.0)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    adjuster, losses = _adjuster(full_batch=True), _Losses()
    _fit(WarmUp(_quadratic, [1.0, 1.0], lr=1.0), [adjuster, losses], tmp_path, steps=300)
    assert adjuster.probe_cost > 0.0
    assert adjuster.history == []
    assert losses.rates[-1] == 1.0
    assert losses.losses[-1] < 1e-6


def test_a_rate_above_the_limit_is_cut_below_it_before_the_run_is_lost(tmp_path):
    adjuster, losses = _adjuster(full_batch=True), _Losses()
    spectrum = torch.tensor([1.0, 0.1], dtype=torch.float64)
    _fit(
        _Problem(lambda w, b: 0.5 * (spectrum * w**2).sum(), [1.0, 1.0], lr=6.0),
        [adjuster, losses],
        tmp_path,
        steps=300,
    )
    step, decision = adjuster.history[0]
    assert decision.action == "cut"
    assert decision.reason.startswith("Unstable")
    assert step < 8
    assert losses.rates[-1] == pytest.approx(1.0, rel=1e-3)
    assert losses.losses[-1] < 1e-6


def _noisy(weights, batch):
    return 0.5 * (weights**2).sum() - (batch @ weights).mean()


def test_a_noise_floor_is_cut_and_the_floor_falls(tmp_path):
    noise = torch.randn(8 * 1200, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    adjuster = _adjuster(horizon=100, batches=8, cooldown=50)
    _fit(_Problem(_noisy, [0.5] * 4, lr=0.5), [adjuster], tmp_path, steps=1200, data=noise, batch_size=8)
    assert adjuster.history
    for _, decision in adjuster.history:
        assert decision.action == "cut"
        assert decision.reason.startswith("Noise floor: going on can lower the loss by at most")
        assert decision.info["decrease_bound"] < 0.5 * decision.info["cut_gain"]


def test_a_flat_place_is_pointed_out_and_left_alone(tmp_path):
    def dead(weights, batch):
        return (weights.clamp(min=0.0) ** 2).sum() + 1.0

    adjuster, losses = _adjuster(full_batch=True), _Losses()
    with pytest.warns(RuntimeWarning, match="Flat: gradient and curvature"):
        _fit(_Problem(dead, [-1.0, -2.0], lr=0.1), [adjuster, losses], tmp_path, steps=200)
    assert adjuster.history == []
    assert set(losses.rates) == {0.1}


class _Net(LightningModule):
    """Dropout, batch norm and a logged metric: what a probe could disturb."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 1))

    def training_step(self, batch, batch_idx):
        loss = (self.net(batch[0]) - batch[0].sum(dim=1, keepdim=True)).square().mean()
        self.log("train_loss", loss, reduce_fx="sum")
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def _fit_net(path, adjuster):
    torch.manual_seed(0)
    model, losses = _Net(), _Losses()
    data = torch.randn(128, 4)
    trainer = _fit(model, [losses, *([adjuster] if adjuster else [])], path, steps=60, data=data, batch_size=8)
    return model, losses, trainer, torch.get_rng_state()


def test_training_is_bit_identical_while_nothing_acts(tmp_path):
    adjuster = _adjuster(every_n_steps=10, batches=4)
    plain, plain_losses, plain_trainer, plain_random = _fit_net(tmp_path, None)
    watched, watched_losses, watched_trainer, watched_random = _fit_net(tmp_path, adjuster)
    assert adjuster.probe_cost > 0.0
    assert adjuster.history == []
    assert plain_losses.losses == watched_losses.losses
    assert torch.equal(plain_random, watched_random)
    for (name, first), second in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(first, second), name
    assert torch.equal(plain_trainer.callback_metrics["train_loss"], watched_trainer.callback_metrics["train_loss"])
    first, second = (trainer.optimizers[0].state_dict() for trainer in (plain_trainer, watched_trainer))
    assert first["param_groups"] == second["param_groups"]


def test_a_raise_after_which_the_loss_rises_is_taken_back(tmp_path):
    class Raised(Callback):
        def on_train_start(self, trainer, pl_module):
            # As if the rate had been raised fourfold where the loss was 0.5.
            adjuster.state = PolicyState(scale=4.0, actions=1, last_step=0, trial=4.0, trial_loss=0.5)

    adjuster, losses = _adjuster(full_batch=True), _Losses()
    _fit(_Problem(_two_minima, [1.0, 0.1], lr=0.04), [adjuster, Raised(), losses], tmp_path, steps=20)
    assert [decision.action for _, decision in adjuster.history] == ["revert"]
    assert adjuster.state.scale == 1.0
    assert losses.rates[-1] == pytest.approx(0.01)


def test_an_optimizer_that_is_not_known_is_left_alone(tmp_path):
    adjuster, losses = _adjuster(full_batch=True), _Losses()
    with pytest.warns(RuntimeWarning, match="could not tell: The update rule of Adagrad is not known"):
        _fit(
            _Problem(_two_minima, [0.1, 1e-8], lr=0.01, optimizer=torch.optim.Adagrad),
            [adjuster, losses],
            tmp_path,
            steps=150,
        )
    assert adjuster.history == []
    assert set(losses.rates) == {0.01}


def test_too_few_equal_batches_are_no_ground_for_a_verdict(tmp_path):
    noise = torch.randn(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    adjuster = _adjuster(batches=4, every_n_steps=10)
    with pytest.warns(RuntimeWarning, match=r"Only [23] batches of . samples"):
        _fit(_Problem(_noisy, [0.5] * 4, lr=0.5), [adjuster], tmp_path, steps=40, data=noise, batch_size=4)
    assert adjuster.probe_cost == 0.0


def test_manual_optimization_needs_a_loss(tmp_path):
    class Manual(_Problem):
        automatic_optimization = False

    with pytest.raises(MisconfigurationException, match="Give loss_fn"):
        _fit(Manual(_two_minima, [0.1, 0.1], lr=0.01), [_adjuster()], tmp_path, steps=10)


def test_a_resumed_run_decides_as_the_uninterrupted_one(tmp_path):
    def run(steps, callbacks, checkpoint=None):
        losses, adjuster = _Losses(), _adjuster(full_batch=True, cooldown=20)
        model = _Problem(_two_minima, [0.1, 1e-8], lr=0.001)
        _fit(model, [adjuster, losses, *callbacks], tmp_path, steps=steps, checkpoint=checkpoint)
        return adjuster, losses

    whole, whole_losses = run(500, [])
    first = whole.history[0][0]
    saved = first + 7
    save = ModelCheckpoint(dirpath=tmp_path, filename="saved", every_n_train_steps=saved)
    _, before = run(saved, [save])
    resumed, after = run(500, [], checkpoint=save.best_model_path)
    assert len(whole.history) > 1
    assert before.rates + after.rates == whole_losses.rates
    assert before.losses + after.losses == whole_losses.losses
    assert resumed.state == whole.state
    assert math.isfinite(resumed.probe_cost)
    assert resumed.probe_cost == whole.probe_cost


class _Dump(_Losses):
    """Leaves what a rank saw where the test finds it."""

    def __init__(self, path, adjuster):
        super().__init__()
        self.path, self.adjuster = path, adjuster

    def on_train_end(self, trainer, pl_module):
        seen = {
            "rates": self.rates,
            "losses": self.losses,
            "actions": [(step, decision.action, decision.factor) for step, decision in self.adjuster.history],
            "state": self.adjuster.state,
            "cost": self.adjuster.probe_cost,
        }
        torch.save(seen, self.path / f"rank{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["diagnose", "trend"])
def test_both_ranks_decide_the_same(tmp_path, policy):
    noise = torch.randn(16 * 700, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    adjuster = _adjuster(policy=policy, horizon=30, batches=8, cooldown=20)
    trainer = Trainer(
        max_steps=700,
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[adjuster, _Dump(tmp_path, adjuster)],
        default_root_dir=tmp_path,
    )
    trainer.fit(_Problem(_noisy, [0.5] * 4, lr=0.5), DataLoader(TensorDataset(noise), batch_size=8))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2))
    assert first["actions"]
    assert first["losses"] != second["losses"], "the ranks have to see different data"
    for key in ("rates", "actions", "state", "cost"):
        assert first[key] == second[key]
