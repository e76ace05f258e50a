"""Student's t against scipy, far into the tail."""

import math

import pytest
from scipy import stats

from landscape_callbacks.diagnosis import student


@pytest.mark.parametrize("degrees_of_freedom", [1, 2, 3, 7, 15, 24, 100.5, 5000])
@pytest.mark.parametrize("t", [-3.0, -0.1, 0.0, 0.3, 1.0, 2.5, 6.0, 30.0])
def test_tail_agrees_with_scipy(t, degrees_of_freedom):
    expected = stats.t.sf(t, degrees_of_freedom)
    assert student.tail(t, degrees_of_freedom) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("degrees_of_freedom", [1, 3, 7, 24, 300])
@pytest.mark.parametrize("probability", [0.9, 0.5, 0.05, 1e-3, 1e-6, 1e-12])
def test_quantile_agrees_with_scipy(probability, degrees_of_freedom):
    expected = stats.t.isf(probability, degrees_of_freedom)
    assert student.quantile(probability, degrees_of_freedom) == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_limits_and_refusals():
    assert student.tail(math.inf, 5) == 0.0
    assert math.isnan(student.tail(math.nan, 5))
    with pytest.raises(ValueError, match=r"got 0\.0"):
        student.quantile(0.0, 5)
    with pytest.raises(ValueError, match="above 0, got 0"):
        student.quantile(0.1, 0)


def test_a_number_whose_square_overflows_is_exceeded_by_none():
    assert student.tail(1e200, 5) == 0.0
    assert student.tail(-1e200, 5) == 1.0


@pytest.mark.parametrize("degrees_of_freedom", [0, -1])
def test_without_degrees_of_freedom_the_tail_is_not_known(degrees_of_freedom):
    assert math.isnan(student.tail(2.0, degrees_of_freedom))


@pytest.mark.parametrize("probability", [1.0, 1.5, -0.5])
def test_what_is_no_probability_has_no_quantile(probability):
    with pytest.raises(ValueError, match="inside"):
        student.quantile(probability, 5)
