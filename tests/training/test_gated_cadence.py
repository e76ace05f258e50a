"""Expensive looks come when asked for, and unasked ever more rarely."""

from __future__ import annotations

from landscape_callbacks.training.gated_cadence import GatedCadence


def _measured_at(cadence, steps, *, requests=(), urgent=(), seconds=0.0):
    """The steps at which measurements happen in a run of ``steps`` steps."""
    taken = []
    for step in range(steps):
        if step in requests:
            cadence.request()
        if step in urgent:
            cadence.request(at_once=True)
        if cadence.is_due(step) and cadence.affords(step, 0.01 * step):
            taken.append(step)
            cadence.measured(step, seconds)
            cadence.plan(step, 0.01 * step, 0.01)
    return taken


def test_unasked_measurements_come_ever_more_rarely():
    assert _measured_at(GatedCadence(10, None), 1000) == [10, 30, 70, 150, 310, 630, 950]


def test_a_request_is_served_after_the_smallest_distance():
    assert _measured_at(GatedCadence(10, None), 160, requests=[12, 100]) == [10, 20, 60, 100]


def test_an_urgent_request_is_served_at_once():
    assert _measured_at(GatedCadence(50, None), 60, urgent=[3, 4]) == [3, 4]


def test_after_a_reset_the_waits_begin_anew():
    cadence = GatedCadence(10, None)
    _measured_at(cadence, 200)
    cadence.reset(200)
    assert next(step for step in range(200, 400) if cadence.is_due(step)) == 210


def test_unasked_measurements_wait_for_their_step_and_requests_do_not():
    cadence = GatedCadence(10, None)
    cadence.unasked_from = 100
    assert not cadence.is_due(50)
    assert cadence.is_due(100)
    cadence.request()
    assert cadence.is_due(50)


def test_the_budget_holds_for_requests_too():
    # A measurement of 1 s at 10 ms a step and 10 %: the next one needs 20 s of training.
    taken = _measured_at(GatedCadence(10, 0.1), 4000, requests=range(0, 4000, 10), seconds=1.0)
    assert taken[0] == 10
    assert all(later >= 100 * 10 * (count + 2) for count, later in enumerate(taken[1:]))
    assert len(taken) == 3


def test_state_goes_on_where_it_stopped():
    cadence, other = GatedCadence(10, None), GatedCadence(10, None)
    _measured_at(cadence, 40)
    cadence.request()
    cadence.unasked_from = 77
    other.load_state_dict(cadence.state_dict())
    assert other == cadence
