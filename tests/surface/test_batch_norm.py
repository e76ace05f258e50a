"""Batch-norm policies: what is evaluated, and that nothing is left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from landscape_callbacks.surface import LossSurface
from landscape_callbacks.surface.batch_norm import with_batch_norm


def net_and_data() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    inputs, labels = torch.randn(50, 4, dtype=torch.float64) * 3 + 1, torch.randint(0, 3, (50,))
    for _ in range(5):
        net(inputs[:25])
    return net, inputs, labels


def loss_of(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(net(inputs), labels)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("policy", ["batch", "frozen", "recalibrated"])
def test_policies_evaluate_what_they_say_and_leave_no_trace(policy: str, training: bool) -> None:
    net, inputs, labels = net_and_data()
    reference = copy.deepcopy(net)
    if policy == "batch":
        reference.train()
    elif policy == "frozen":
        reference.eval()
    else:
        reference[1].reset_running_stats()
        reference[1].momentum = None
        reference.train()
        reference(inputs[:25])
        reference(inputs[25:])
        reference.eval()
    expected = loss_of(reference, inputs, labels)
    net.train(training)
    before = copy.deepcopy(net.state_dict())
    recalibrate = (lambda: (net(inputs[:25]), net(inputs[25:]))) if policy == "recalibrated" else None
    closure = with_batch_norm(lambda: loss_of(net, inputs, labels), net, policy, recalibrate)
    torch.testing.assert_close(closure(), expected)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net[1].training == training
    assert net[1].momentum == 0.1


def test_recalibrated_and_batch_statistics_agree_on_one_batch() -> None:
    net, inputs, labels = net_and_data()
    surfaces = [
        LossSurface(with_batch_norm(lambda: loss_of(net, inputs, labels), net, policy, recalibrate), net.parameters())
        for policy, recalibrate in (("batch", None), ("recalibrated", lambda: net(inputs)), ("frozen", None))
    ]
    direction = surfaces[0].space.random(0)
    batch, recalibrated, frozen = (surface.losses_along(direction, [-0.5, 0.0, 0.5]) for surface in surfaces)
    # The running variance divides by n - 1, that of the batch by n.
    torch.testing.assert_close(batch, recalibrated, rtol=0.02, atol=0.02)
    assert float((frozen - batch).abs().max()) > 0.1


def test_gradients_pass_through() -> None:
    net, inputs, labels = net_and_data()
    closure = with_batch_norm(lambda: loss_of(net, inputs, labels), net, "batch")
    surface = LossSurface(closure, net.named_parameters())
    direction = surface.space.random(0) * 1e-5
    low, high = surface.losses_along(direction, [-1.0, 1.0])
    assert float(high - low) / 2 == pytest.approx(float(surface.gradient() @ direction), rel=1e-5)


def test_statistics_come_back_after_an_exception() -> None:
    net, inputs, _ = net_and_data()
    before = net[1].running_mean.clone()

    def closure() -> torch.Tensor:
        net(inputs)
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        with_batch_norm(closure, net, "batch")()
    assert torch.equal(net[1].running_mean, before)


def test_bad_policies_are_named() -> None:
    net, _, _ = net_and_data()
    with pytest.raises(ValueError, match="got 'eval'"):
        with_batch_norm(lambda: torch.zeros(()), net, "eval")
    with pytest.raises(ValueError, match="goes with policy 'recalibrated'"):
        with_batch_norm(lambda: torch.zeros(()), net, "recalibrated")
    with pytest.raises(ValueError, match="got policy 'batch' with it"):
        with_batch_norm(lambda: torch.zeros(()), net, "batch", lambda: None)
