"""The line search for the critical learning rate, against closed forms."""

import math

import pytest

from landscape_callbacks.diagnosis.critical_rate import critical_learning_rate


@pytest.mark.parametrize("initial", [1e-4, 0.01, 0.3, 0.5, 2.0, 50.0])
def test_critical_rate_of_a_parabola_is_exact(initial):
    found = critical_learning_rate(lambda rate: 2.0 * (1.0 - 4.0 * rate) ** 2, initial)
    assert found.value == pytest.approx(0.5, rel=1e-6)
    assert found.lower <= found.value <= found.upper
    assert found.forwards <= 6


@pytest.mark.parametrize("initial", [0.05, 0.2, 0.5, 1.5])
def test_critical_rate_of_a_line_with_higher_terms(initial):
    def loss_at(rate):
        return 2.0 * (1.0 - 4.0 * rate) ** 2 + 3.0 * rate**4

    low, high = 0.3, 0.6  # independent bisection
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if loss_at(middle) < loss_at(0.0) else (low, middle)
    found = critical_learning_rate(loss_at, initial)
    assert found.value == pytest.approx(low, rel=0.02)


def test_critical_rate_counts_its_forwards_and_takes_a_known_loss():
    calls = []

    def loss_at(rate):
        calls.append(rate)
        return (1.0 - rate) ** 2

    found = critical_learning_rate(loss_at, 0.7, loss_at_zero=1.0)
    assert found.forwards == len(calls)
    assert 0.0 not in calls
    assert found.value == pytest.approx(2.0)


def test_critical_rate_is_infinite_downhill_and_zero_uphill():
    assert critical_learning_rate(lambda rate: -rate, 1.0).value == math.inf
    assert critical_learning_rate(lambda rate: rate, 1.0).value == 0.0


def test_critical_rate_of_a_loss_that_overflows():
    found = critical_learning_rate(lambda rate: (1.0 - rate) ** 2 if rate < 10 else math.inf, 50.0, forwards=8)
    assert found.value == pytest.approx(2.0)


def test_critical_rate_refuses_a_useless_start():
    with pytest.raises(ValueError, match=r"got 0\.0"):
        critical_learning_rate(lambda rate: rate, 0.0)
    with pytest.raises(ValueError, match="at least 3"):
        critical_learning_rate(lambda rate: rate, 1.0, forwards=2)
