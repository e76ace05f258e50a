"""Losses are gathered on the device and handed out in blocks."""

from __future__ import annotations

import pytest
import torch

from landscape_callbacks.training.loss_history import LossHistory, loss_of_outputs


def test_a_block_is_handed_out_when_it_is_full():
    history = LossHistory(block=3)
    for step in range(3):
        assert not history.is_full()
        history.add(torch.tensor(float(step), requires_grad=True), steps=True)
    assert history.is_full()
    assert history.take() == [0.0, 1.0, 2.0]
    assert not history.is_full()
    assert history.take() == []


def test_accumulated_losses_are_averaged_into_one_step():
    history = LossHistory(block=2)
    for loss, steps in [(1.0, False), (3.0, True), (5.0, True)]:
        history.add(torch.tensor([[loss]]), steps=steps)
    assert history.take() == [2.0, 5.0]


def test_losses_keep_their_digits_and_no_graph():
    history = LossHistory()
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    loss = (weight * (1.0 + 1e-12)).sum()
    history.add(loss, steps=True)
    with torch.no_grad():
        loss.zero_()  # a later change in place must not reach what was gathered
    assert history.take() == [1.0 + 1e-12]


def test_state_holds_what_waits():
    history, other = LossHistory(block=4), LossHistory(block=4)
    for loss in (1.5, 2.5):
        history.add(torch.tensor(loss), steps=True)
    other.load_state_dict(history.state_dict())
    for each in (history, other):
        each.add(torch.tensor(3.5), steps=True)
        assert each.take() == [1.5, 2.5, 3.5]
    history.clear()
    assert history.state_dict() == []


def test_a_block_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        LossHistory(block=0)


def test_the_loss_among_lightnings_outputs():
    loss = torch.tensor(2.0)
    assert loss_of_outputs({"loss": loss}) is loss
    assert loss_of_outputs(loss) is loss
    for nothing in (None, {}, {"loss": None}, {"loss": 2.0}, torch.ones(2)):
        assert loss_of_outputs(nothing) is None
