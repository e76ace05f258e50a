"""A logged metric is read once where it is logged."""

from __future__ import annotations

import pytest
import torch

from landscape_callbacks.callbacks.metric_watch import MetricWatch


class _Trainer:
    world_size = 1

    def __init__(self, **metrics):
        self.callback_metrics = {name: torch.tensor(value) for name, value in metrics.items()}


def test_a_metric_of_validation_is_not_read_again_at_the_end_of_the_epoch():
    watch = MetricWatch("val_loss", "min", 50)
    trainer = _Trainer(val_loss=1.0)
    assert watch.read(trainer, "validation")
    assert not watch.read(trainer, "epoch")
    assert watch.read(trainer, "validation")
    assert watch.trend.report().steps == 2


def test_a_metric_of_training_is_read_at_the_end_of_the_epoch_only():
    watch = MetricWatch("train_loss", "min", 50)
    assert not watch.read(_Trainer(val_loss=1.0), "validation")
    assert watch.read(_Trainer(train_loss=1.0), "epoch")
    assert not watch.read(_Trainer(train_loss=1.0), "validation")
    assert watch.trend.report().steps == 1


@pytest.mark.parametrize(("mode", "state"), [("min", "rising"), ("max", "progressing")])
def test_what_is_better_falls(mode, state):
    watch = MetricWatch("accuracy", mode, 50)
    for step in range(240):
        watch.read(_Trainer(accuracy=0.001 * step), "epoch")
    assert watch.trend.state == state


def test_a_missing_metric_is_named_with_those_that_are_there():
    watch = MetricWatch("val_los", "min", 50)
    assert "watches 'val_los'" in watch.is_missing(_Trainer(val_loss=1.0))
    assert "(val_loss)" in watch.is_missing(_Trainer(val_loss=1.0))
    assert "(none)" in watch.is_missing(_Trainer())
    watch.read(_Trainer(val_los=1.0), "epoch")
    assert watch.is_missing(_Trainer()) is None


def test_state_goes_on_where_it_stopped():
    watch, other = MetricWatch("loss", "max", 50), MetricWatch("loss", "max", 50)
    watch.read(_Trainer(loss=1.0), "validation")
    other.load_state_dict(watch.state_dict())
    assert not other.read(_Trainer(loss=2.0), "epoch")
    assert other.read(_Trainer(loss=2.0), "validation")
    watch.read(_Trainer(loss=2.0), "validation")
    assert other.state_dict() == watch.state_dict()
