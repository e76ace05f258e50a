"""The error budget: what all looks of an endless run may spend together."""

import math

import pytest
from scipy.special import digamma

from landscape_callbacks.diagnosis.error_budget import ErrorBudget


@pytest.mark.parametrize("center", [40.0, 4000.0, 4e6])
def test_shares_sum_to_at_most_one_and_are_largest_at_the_center(center):
    budget = ErrorBudget(0.05, shortest=60, center=center)
    shares = [budget.share(level) for level in range(500)]
    assert 0.9 < sum(shares) <= 1
    lengths = [60 * 2**level for level in range(500)]
    assert lengths[shares.index(max(shares))] == min(lengths, key=lambda length: abs(length / max(center, 60) - 1.0))


def test_an_endless_run_spends_no_more_than_its_rate():
    budget = ErrorBudget(0.05, shortest=60, center=4000)
    spent = sum(budget.spend(level) for level in range(40) for _ in range(1000))
    assert 0.8 * 0.05 < spent <= 0.05


def test_looks_are_counted_by_window():
    budget = ErrorBudget(0.05, shortest=60, center=4000)
    budget.spend(3)
    budget.spend(3)
    budget.spend(1)
    assert budget.looks == [0, 1, 0, 2]


@pytest.mark.parametrize("center", [40.0, 4000.0, 4e6])
def test_shares_of_all_levels_sum_to_one_from_below(center):
    # Σ 1/((n + a)² + 1) over n >= 0 is the imaginary part of the digamma function at a + i.
    budget, offset = ErrorBudget(0.05, shortest=60, center=center), math.log2(60 / center)
    whole = budget.share(0) * (1 + offset**2) * digamma(offset + 1j).imag
    assert 1 - 1e-4 < whole <= 1


def test_shares_fall_with_the_square_of_the_doublings():
    budget = ErrorBudget(0.05, shortest=60, center=60 * 2**3)
    largest = budget.share(3)
    assert [largest / budget.share(level) for level in range(6)] == pytest.approx([10, 5, 2, 1, 2, 5])
