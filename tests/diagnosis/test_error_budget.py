"""The error budget: what all looks of an endless run may spend together."""

import pytest

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
