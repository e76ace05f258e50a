from __future__ import annotations

import pytest

from landscape_callbacks.training.cadence import Cadence, Clock
from landscape_callbacks.training.gated_cadence import GatedCadence
from landscape_callbacks.training.requested_cadence import RequestedCadence


def simulate(cadence: Cadence, steps: int, step_seconds: float, cost: float) -> tuple[list[int], float]:
    """Steps at which a run measures, and the share of time it spent on it."""
    clock, now, measured = Clock(0.0), 0.0, []
    for step in range(steps):
        clock.steps = step
        if cadence.is_due(step) and cadence.affords(step, clock.training_seconds(now)):
            now += cost
            clock.paused(cost)
            cadence.measured(step, cost)
            cadence.plan(step, clock.training_seconds(now), clock.seconds_per_step(now))
            measured.append(step)
        now += step_seconds
    return measured, cadence.spent / now


def test_without_a_budget_every_nth_step_is_measured() -> None:
    measured, _ = simulate(Cadence(5, None), 21, 1.0, 100.0)
    assert measured == [0, 5, 10, 15, 20]


def test_the_first_measurement_comes_at_step_one_whatever_it_costs() -> None:
    measured, _ = simulate(Cadence(100, 0.01), 50, 1.0, 1000.0)
    assert measured == [1]


@pytest.mark.parametrize("cost", [0.001, 1.0, 17.0])
def test_the_budget_holds_after_the_first_measurement_is_paid_back(cost: float) -> None:
    measured, share = simulate(Cadence(10, 0.05), 2000, 1.0, cost)
    assert share <= 0.05
    assert len(measured) >= min(200, int(0.04 * 2000 / cost))
    assert all(step % 10 == 0 for step in measured[1:])


def test_a_budget_that_is_not_needed_is_not_spent() -> None:
    measured, share = simulate(Cadence(50, 0.05), 1001, 1.0, 0.1)
    assert measured == [1, *range(50, 1001, 50)]
    assert share < 0.01


def test_training_that_slows_down_speeds_up_nothing() -> None:
    """A plan made while training was slow is checked again when its step has come."""
    cadence = Cadence(1, 0.1)
    cadence.measured(1, 1.0)
    cadence.plan(1, training_seconds=100.0, seconds_per_step=100.0)
    assert cadence.next_step == 2
    assert not cadence.affords(2, training_seconds=10.0)


def test_state_survives() -> None:
    cadence = Cadence(10, 0.05)
    cadence.measured(1, 2.0)
    cadence.plan(1, 1.0, 0.1)
    other = Cadence(10, 0.05)
    other.load_state_dict(cadence.state_dict())
    assert other == cadence


def test_the_clock_takes_measuring_out() -> None:
    clock = Clock(100.0, training_seconds=7.0)
    clock.paused(2.0)
    clock.steps = 4
    assert clock.training_seconds(105.0) == 10.0
    assert clock.seconds_per_step(105.0) == 2.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cadence(7, 0.05),
        lambda: Cadence(7, None),
        lambda: GatedCadence(7, 0.05, estimate=12.0, first_is_free=False),
        lambda: RequestedCadence(1, 0.05),
    ],
)
def test_started_over_it_is_as_new_with_its_settings(make):
    cadence = make()
    cadence.measured(35, 0.25)
    cadence.plan(35, 10.0, 0.1)
    assert cadence != make()
    cadence.start_over()
    assert cadence == make()
