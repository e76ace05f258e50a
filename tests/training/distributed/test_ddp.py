"""DDP on two processes: the pooled values of one process, one decision on all ranks, nothing that makes a rank wait.

Each test looks at the result of one of the checks in ``ddp_checks.py``.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from landscape_callbacks import HessianEigenvalueMonitor
from tests.training.distributed.ddp_checks import PLACES, monitors
from tests.training.distributed.runs import Module, data, fit

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
Rows = list[tuple[int, dict[str, float]]]


def by_step(rows: Rows) -> dict[tuple[int, str], float]:
    """Values a step and tag; times and the number of products are left out, as they may differ."""
    return {
        (step, tag): value
        for step, row in rows
        for tag, value in row.items()
        if not tag.startswith("landscape/") and tag != "hessian/products"
    }


def assert_same_values(found: Rows, expected: Rows, rounding: float) -> None:
    ours, theirs = by_step(found), by_step(expected)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if not key[1].endswith("_error"):  # bounds that hold for either; they are differences of almost equal numbers
            # An eigenvector is known to the root of its eigenvalue's error.
            allowed = rounding**0.5 if "eigenvector" in key[1] else rounding
            assert ours[key] == pytest.approx(value, rel=allowed, abs=allowed, nan_ok=True), key


def test_all_values_are_those_of_the_pooled_batches(ranks: list[dict[str, Any]]) -> None:
    pooled = fit(monitors(spectrum=True), Module(), ranks=1, validation=True)
    for rank in ranks:
        found = rank["everything_measured"]
        for name, weights in pooled["weights"].items():
            torch.testing.assert_close(found["weights"][name], weights, rtol=1e-12, atol=1e-12)
        assert_same_values(found["rows"], pooled["rows"], 1e-6)
    tags = {tag for _, row in pooled["rows"] for tag in row}
    assert {
        "gradient/norm",
        "gradient/noise_scale",
        "hessian/largest_eigenvalue",
        "hessian/largest_eigenvalue_2",
        "hessian/smallest_eigenvalue",
        "hessian/trace",
        "stability/ratio",
        "slice/gradient/curvature",
        "slice/update/best_step",
        "slice/largest_eigenvector/curvature",
        "slice/random/barrier",
    } <= tags


def test_the_preconditioned_ratio_of_adam_is_that_of_the_pooled_batches(ranks: list[dict[str, Any]]) -> None:
    pooled = fit([HessianEigenvalueMonitor(every_n_steps=1, max_overhead=None)], Module("adam"), ranks=1)
    assert sum("stability/ratio" in row for _, row in pooled["rows"]) == 2
    assert_same_values(ranks[0]["adam"]["rows"], pooled["rows"], 1e-3)


def test_the_live_graph_of_manual_optimization_gives_pooled_values(ranks: list[dict[str, Any]]) -> None:
    pooled = fit([HessianEigenvalueMonitor(every_n_steps=1, max_overhead=None)], Module(manual=True), ranks=1)
    assert len(pooled["rows"]) == 3
    assert_same_values(ranks[1]["manual_optimization"]["rows"], pooled["rows"], 1e-3)


def test_training_is_bit_identical(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["untouched"] == {"sgd": True, "adam, accumulation, clipping": True, "manual": True}


def test_ranks_of_different_speed_measure_at_the_same_steps(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["cadence"] for rank in ranks)
    assert first == second
    assert 2 <= len(first) < 75, "the budget of 30 % is to bind, or nothing is shown"


def test_no_collective_when_nothing_is_measured(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        counts = rank["collectives"]
        assert set(counts["without"]) == {0}
        measured = [step for step, count in enumerate(counts["every 4 steps"]) if count]
        assert measured == [0, 4, 8]
        budget = counts["with a budget"]
        assert budget[0] == 0 and budget[1] > 0
        # A planned step at which the budget says no costs one word; every fourth step can be one.
        assert all(count == 0 for step, count in enumerate(budget) if step % 4 and step != 1)


def test_statistics_over_all_ranks_inside_the_forward_pass(ranks: list[dict[str, Any]]) -> None:
    pooled = fit(monitors()[1:3], Module(norm="over ranks"), ranks=1)
    for rank in ranks:
        assert_same_values(rank["normalized_over_ranks"]["rows"], pooled["rows"], 1e-3)


def test_why_sync_batch_norm_itself_is_not_run_here(ranks: list[dict[str, Any]]) -> None:
    assert "SyncBatchNorm layers only work with GPU modules" in ranks[0]["synchronized_batch_norm"]


def test_batches_of_unequal_size_on_the_ranks(ranks: list[dict[str, Any]]) -> None:
    """The loss is the mean of the ranks' means, as in training; over several batches it is weighted by samples."""
    x, y = data()
    net = Module().net
    losses = [torch.nn.functional.cross_entropy(net(x[part]), y[part]) for part in (slice(0, 5), slice(20, 25))]
    gradients = torch.autograd.grad(sum(losses) / 2, net.parameters())
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    for rank in ranks:
        found = rank["uneven_batches"]
        rows = by_step(found["with"]["rows"])
        assert rows[0, "gradient/norm"] == pytest.approx(float(norm), rel=1e-10)
        assert rows[2, "hessian/largest_eigenvalue"] > 0.0
        assert found["with"]["weights"].keys() == found["without"]["weights"].keys()
        assert all(torch.equal(found["with"]["weights"][name], w) for name, w in found["without"]["weights"].items())
    first, second = (by_step(rank["uneven_batches"]["with"]["rows"]) for rank in ranks)
    assert first == pytest.approx(second, rel=0.0, abs=0.0, nan_ok=True)


@pytest.mark.parametrize("place", PLACES)
def test_an_exception_on_one_rank_takes_the_others_out_and_training_goes_on(
    ranks: list[dict[str, Any]], place: str
) -> None:
    first, second = (rank["failing_rank"][place] for rank in ranks)
    assert first["untouched"] and second["untouched"]
    assert first["failed"] == second["failed"] == 1
    assert math.isfinite(first["others measured"])
    assert "1 of 2 ranks could not measure" in first["said"][0]
    assert f"[rank 1] {'inner' if place == 'inside' else '_Fails'} could not measure at step 1" in second["said"][0]
    assert f"ValueError: on purpose {place}" in second["said"][0]


def test_a_loss_that_fails_on_one_rank_costs_one_line(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        found = rank["failing_loss"]
        assert found["untouched"] and found["failed"] == 1
        assert math.isfinite(found["rows"]["slice/random/curvature"])
        assert math.isfinite(found["rows"]["slice/gradient/curvature"]), "measured again at the next step"


def test_memory_that_runs_out_on_one_rank_makes_all_of_them_split_their_batches(ranks: list[dict[str, Any]]) -> None:
    own = HessianEigenvalueMonitor(every_n_steps=1, max_overhead=None, smallest=0, tolerance=1e-6)
    pooled = by_step(fit([own], Module(), ranks=1, max_epochs=3)["rows"])
    for rank in ranks:
        found = rank["out_of_memory"]
        assert found["untouched"]
        measured = {
            key: value for key, value in by_step(found["rows"]).items() if key[1] == "hessian/largest_eigenvalue"
        }
        assert found["failed"] + len(measured) == 9
        assert len(measured) >= 4
        assert measured == pytest.approx({key: pooled[key] for key in measured}, rel=1e-6)


def test_a_logger_that_raises_on_rank_zero_makes_nobody_wait(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["failing_logger"] for rank in ranks)
    assert first == {"untouched": True, "failed": 3, "steps": 3}
    assert second == {"untouched": True, "failed": 0, "steps": 3}


def test_a_norm_that_fails_on_one_rank_makes_nobody_wait(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["failing_gradient_norm"] == ranks[1]["failing_gradient_norm"]
    assert ranks[0]["failing_gradient_norm"] == {"untouched": True, "failed": 1, "measurements": 3}
