"""Parameters sharded by ``fully_shard`` (FSDP2) or by tensor parallelism, on two processes, against dense references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from landscape_callbacks import HessianEigenvalueMonitor
from tests.training.distributed.runs import POOLED_BATCH, Module, data, fit
from tests.training.distributed.sharded_checks import TensorParallel, monitors
from tests.training.distributed.test_ddp import assert_same_values, by_step

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(
        tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13),
        reason="refused with older torch, see compatibility.py",
    ),
]


def dense(net: nn.Module, weights: list[torch.Tensor], batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, gradient and Hessian of the pooled batch at some weights, by torch.func on the whole weights."""
    x, y = (part[batch * POOLED_BATCH : (batch + 1) * POOLED_BATCH] for part in data())
    shapes = {name: parameter.shape for name, parameter in net.named_parameters()}

    def loss(flat: torch.Tensor) -> torch.Tensor:
        pieces = torch.split(flat, [shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(net, named, (x,)), y)

    flat = torch.cat([weight.flatten() for weight in weights])
    return loss(flat), torch.func.grad(loss)(flat), torch.func.hessian(loss)(flat)


def whole(pieces: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([piece.flatten() for piece in pieces])


def untied(module: Module) -> nn.Module:
    """The network of a module before it is sharded."""
    return module.net


@pytest.mark.parametrize(("check", "accuracy"), [("pieces", 1e-8), ("tensor_parallel", 1e-12)])
def test_losses_gradients_and_products_are_those_of_the_dense_hessian(
    ranks: list[dict[str, Any]], check: str, accuracy: float
) -> None:
    net = untied(Module() if check == "pieces" else TensorParallel())
    for rank in ranks:
        looks = rank[check] if check == "pieces" else rank[check]["pieces"]
        assert len(looks) == 3
        for batch, look in enumerate(looks):
            loss, gradient, hessian = dense(net, look["weights"], batch)
            vector = whole(look["vector"])
            assert look["loss"] == pytest.approx(float(loss), rel=1e-12)
            assert look["norm"] == pytest.approx(float(vector.norm()), rel=1e-12)
            torch.testing.assert_close(whole(look["gradient"]), gradient, rtol=1e-10, atol=1e-12)
            product = hessian @ vector
            assert float((whole(look["product"]) - product).norm() / product.norm()) < accuracy
            torch.testing.assert_close(look["gram"], torch.eye(4, dtype=torch.float64), rtol=0.0, atol=1e-12)


def test_central_differences_are_chosen_for_shards_and_the_second_backward_for_tensor_parallel(
    ranks: list[dict[str, Any]],
) -> None:
    assert 0.0 < ranks[0]["pieces"][0]["approximation"] < 1e-8
    assert ranks[0]["tensor_parallel"]["pieces"][0]["approximation"] is None


def test_a_process_holds_its_pieces_only(ranks: list[dict[str, Any]]) -> None:
    """The Krylov basis takes 1/ranks of the memory, but for rows that cannot be shared evenly."""
    rows = 7 + 1 + 6 + 1 + 6 + 1  # one row at most of each of the six parameters
    own = []
    for rank in ranks:
        look = rank["pieces"][0]
        local, everything = look["entries"]
        assert look["shards"]
        assert look["basis"] == (7, local)
        assert local <= everything / 2 + rows / 2
        own.append(local)
    assert sum(own) == everything == sum(parameter.numel() for parameter in Module().parameters())


def test_all_values_are_those_of_one_process(ranks: list[dict[str, Any]]) -> None:
    own = fit(monitors(smallest=1), Module(), ranks=1)
    for rank in ranks:
        found = rank["sharded_everything_measured"]
        for name, weights in own["weights"].items():
            torch.testing.assert_close(found["weights"][name], weights, rtol=1e-12, atol=1e-12)
        expected = [
            (step, {tag: value for tag, value in row.items() if not tag.startswith("slice/largest")})
            for step, row in own["rows"]
        ]
        ours = [
            (
                step,
                {
                    tag: v
                    for tag, v in row.items()
                    if not tag.startswith("slice/largest") and "approximation" not in tag
                },
            )
            for step, row in found["rows"]
        ]
        assert_same_values(ours, expected, 1e-6)
        assert len([1 for step, tag in by_step(found["rows"]) if tag == "slice/largest_eigenvector/curvature"]) == 3
    assert {"gradient/norm", "gradient/norm/net.4", "stability/ratio", "slice/update/curvature"} <= {
        t for _, t in by_step(ours)
    }


def test_the_preconditioned_ratio_of_adam(ranks: list[dict[str, Any]]) -> None:
    own = fit([HessianEigenvalueMonitor(every_n_steps=1, max_overhead=None)], Module("adam"), ranks=1)
    found, expected = by_step(ranks[1]["sharded_adam"]["rows"]), by_step(own["rows"])
    for step in (1,):
        assert found[step, "stability/ratio"] == pytest.approx(expected[step, "stability/ratio"], rel=1e-3)


def test_training_is_bit_identical(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["sharded_untouched"] == {"sgd": True, "adam, accumulation": True}
        assert rank["tensor_parallel"]["untouched"]


def test_a_forward_pass_that_stops_halfway_leaves_training_untouched(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["failing"] == {False: {"untouched": True, "failed": 3}, True: {"untouched": True, "failed": 3}}


def test_tensor_parallel_values_are_those_of_one_process(ranks: list[dict[str, Any]]) -> None:
    class Whole(TensorParallel):
        def configure_model(self) -> None:
            pass

    own = fit(monitors()[:3], Whole(), ranks=1)
    for rank in ranks:
        found = [
            (step, {tag: value for tag, value in row.items() if "trace" not in tag})
            for step, row in rank["tensor_parallel"]["rows"]
        ]
        ours, expected = by_step(found), by_step(own["rows"])
        assert ours.keys() == expected.keys()
        for key in expected:
            if key[1].startswith(("gradient/", "hessian/largest", "slice/gradient")) and not key[1].endswith("_error"):
                assert ours[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("double backward", "Use 'auto' or 'central_difference'"),
        ("manual", "Give loss_fn=..."),
        ("not sharded", "no part of the module is under fully_shard"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(ranks: list[dict[str, Any]], case: str, says: str) -> None:
    assert ranks[0]["refused"][case].startswith("MisconfigurationException: HessianEigenvalueMonitor")
    assert says in ranks[0]["refused"][case]
