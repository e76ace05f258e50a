"""The line search for the critical learning rate, against closed forms."""

import math

import numpy as np
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


# The mean slope of it is η - 2.
def _parabola(rate):
    return (1.0 - rate) ** 2


def _kinked(rate):
    return rate * float(np.interp(rate, [1.0, 2.5, 4.0], [-1.0, 0.6, 1.0]))


@pytest.mark.parametrize(
    ("loss_at", "initial", "forwards", "tried"),
    [
        # With both sides of one sign the secant may go 4 to 100 times as far up, and up to 100 times as far down.
        (_parabola, 1.0, 3, [1.0, 4.0]),
        (_parabola, 4e-4, 9, [4e-4, 1.6e-3, 0.16, 2.0]),
        (_parabola, 1 / 9, 9, [1 / 9, 4 / 9, 2.0]),
        (_parabola, 0.4, 9, [0.4, 1.6, 6.4, 2.0]),
        (_parabola, 32.0, 9, [32.0, 8.0, 2.0]),
        (_parabola, 804.0, 9, [804.0, 201.0, 50.25, 2.0]),
        (_parabola, 8.0, 9, [8.0, 2.0]),
        (lambda rate: _parabola(1000 * rate), 8e-4, 9, [8e-4, 3.2e-3, 2e-3]),
        # A straight line points nowhere.
        (lambda rate: rate, 1.0, 4, [1.0, 1 / 4, 1 / 16]),
        (lambda rate: -rate, 1.0, 4, [1.0, 4.0, 16.0]),
        (lambda rate: math.inf if rate else 0.0, 1.0, 4, [1.0, 0.1, 0.01]),
        (lambda rate: -math.inf if rate else 0.0, 1.0, 4, [1.0, 0.1, 0.01]),
        (lambda rate: math.nan if rate else 0.0, 1.0, 4, [1.0, 0.1, 0.01]),
        # The newest secant points to 0.25, out of the bracket (1, 2.5): the one through its ends takes over.
        (_kinked, 1.0, 5, [1.0, 4.0, 2.5, 1.0 + 1.5 / 1.6]),
        # Where the loss jumps to infinity no secant exists: the bracket is halved (in logarithms) until half of it is 2 %.
        (
            lambda rate: -rate if rate < 10 else math.inf,
            1.0,
            30,
            [1.0, 4.0, *(2.0**power for power in (4, 3, 3.5, 3.25, 3.375, 3.3125, 3.34375))],
        ),
    ],
)
def test_rates_are_tried_in_this_order_and_the_bracket_is_told(loss_at, initial, forwards, tried):
    calls = []

    def counted(rate):
        calls.append(rate)
        return loss_at(rate)

    found = critical_learning_rate(counted, initial, forwards=forwards)
    assert calls == pytest.approx([0.0, *tried])
    assert found.forwards == len(calls)
    raised = [rate for rate in calls if rate and not -math.inf < loss_at(rate) < loss_at(0.0)]
    assert found.upper == min(raised, default=math.inf)
    assert found.lower == max(rate for rate in calls if rate < found.upper and rate not in raised)


def test_a_rate_that_is_critical_to_the_last_digit_ends_the_search():
    found = critical_learning_rate(_parabola, 8.0)
    assert (found.value, found.lower, found.upper, found.forwards) == (2.0, 0.0, 2.0, 3)


def test_three_forwards_hit_the_critical_rate_of_a_parabola():
    assert critical_learning_rate(_parabola, 1.0, forwards=3).value == pytest.approx(2.0)
