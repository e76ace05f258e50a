"""What two processes with sharded parameters do, one check after the other; the tests look at the results."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from landscape_callbacks import GradientNormMonitor, HessianEigenvalueMonitor, LossPlaneMonitor, LossSliceMonitor
from landscape_callbacks.surface.krylov import KrylovSpace
from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.reporting import Report
from tests.training.distributed.runs import Module, fit, full, plain, same_bits


class Sharded(Module):
    """Layers of 7, 6 and 3 rows, of which two processes cannot share two evenly, in three parts."""

    def configure_model(self) -> None:
        if hasattr(self.net[0].weight, "placements"):
            return
        mesh = self.device_mesh["data_parallel"]
        for layer in self.net:
            if isinstance(layer, nn.Linear) and layer.out_features != 3:
                fully_shard(layer, mesh=mesh)
        fully_shard(self.net, mesh=mesh)


class TensorParallel(Module):
    """The first layer cut by rows, the second by columns; both ranks see the same data."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    def configure_model(self) -> None:
        if not hasattr(self.net[0].weight, "placements"):
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)


def monitors(smallest: int = 0) -> list[Any]:
    common: dict[str, Any] = {"every_n_steps": 1, "max_overhead": None}
    return [
        GradientNormMonitor(per_module=2, noise_scale_batches=3, **common),
        HessianEigenvalueMonitor(largest=2, smallest=smallest, tolerance=1e-6 if smallest else 1e-2, **common),
        LossSliceMonitor(
            directions=["gradient", "update", "largest_eigenvector", "initial"], batches=2, figures=False, **common
        ),
        LossPlaneMonitor(points=3, planes=["trajectory"], max_overhead=None, figures=False),
    ]


def strategy(data: int = 2) -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=2 // data)


class _Look(Monitor):
    """Compares what the surface gives, put together over ranks, and takes down what this rank holds."""

    needs_other_weights = True

    def __init__(self) -> None:
        super().__init__(every_n_steps=1, max_overhead=None)
        self.found: list[dict[str, Any]] = []

    def measure(self, trainer: Any, pl_module: Any, snapshot: Any) -> Report:
        space = snapshot.space
        vector = space.random(seed=5)
        product = snapshot.surface.hessian_vector_product(vector)
        krylov = KrylovSpace(snapshot.surface, vector, capacity=6)
        for _ in range(4):
            krylov.grow()

        def whole(flat: torch.Tensor) -> list[torch.Tensor]:
            return [full(piece) for piece in space.split_like_parameters(flat)]

        gram = torch.stack(
            [space.coefficients(krylov.basis[: krylov.size], row) for row in krylov.basis[: krylov.size]]
        )
        self.found.append(
            {
                "weights": [full(parameter) for parameter in space.parameters],
                "vector": whole(vector),
                "product": whole(product),
                "gradient": whole(snapshot.gradient()),
                "norm": float(space.norm(vector)),
                "loss": snapshot.loss(),
                "entries": (space.local_dimension, space.dimension),
                "basis": tuple(krylov.basis.shape),
                "gram": gram,
                "shards": all(hasattr(parameter, "placements") for parameter in pl_module.parameters()),
                "approximation": getattr(snapshot.surface.approximation, "relative_error", None),
            }
        )
        return Report()


def sharded_everything_measured() -> Any:
    return plain(fit(monitors(smallest=1), Sharded(), ranks=2, strategy=strategy()))


def sharded_adam() -> Any:
    own = [HessianEigenvalueMonitor(every_n_steps=1, max_overhead=None)]
    return plain(fit(own, Sharded("adam"), ranks=2, strategy=strategy(), limit_train_batches=2))


def pieces() -> Any:
    look = _Look()
    fit([look], Sharded(), ranks=2, strategy=strategy())
    return look.found


def sharded_untouched() -> Any:
    found = {}
    for name, optimizer, arguments in (
        ("sgd", "sgd", {"validation": True, "val_check_interval": 1}),
        ("adam, accumulation", "adam", {"accumulate_grad_batches": 2}),
    ):
        runs = [fit(own, Sharded(optimizer), ranks=2, strategy=strategy(), **arguments) for own in ([], monitors())]
        found[name] = same_bits(*runs)
    return found


class _Fails(Monitor):
    """Raises on both ranks, in the middle of a forward pass at other weights."""

    needs_other_weights = True

    def __init__(self, gradient: bool) -> None:
        super().__init__(every_n_steps=1, max_overhead=None)
        self.gradient = gradient

    def measure(self, trainer: Any, pl_module: Any, snapshot: Any) -> Report:
        Tripwire.armed = True
        try:
            with snapshot.surface.displaced() as move_to:
                move_to((snapshot.space.random(0), 0.1))
                snapshot.surface.gradient() if self.gradient else snapshot.surface.loss()
        finally:
            Tripwire.armed = False
        return Report()


class Tripwire(nn.Module):
    armed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if Tripwire.armed:
            raise ValueError("on purpose")
        return x


class Wired(Sharded):
    def __init__(self) -> None:
        super().__init__()
        self.net.insert(3, Tripwire())


def failing() -> Any:
    reference = fit([], Wired(), ranks=2, strategy=strategy())
    found = {}
    for gradient in (False, True):
        own = _Fails(gradient)
        run = fit([own, GradientNormMonitor(every_n_steps=1, max_overhead=None)], Wired(), ranks=2, strategy=strategy())
        found[gradient] = {"untouched": same_bits(reference, run), "failed": own.coordinator.failed}
    return found


def refused() -> Any:
    said = {}
    for name, module, own in (
        ("double backward", Sharded(), HessianEigenvalueMonitor(differentiation="double_backward", max_overhead=None)),
        ("manual", Sharded(manual=True), HessianEigenvalueMonitor(max_overhead=None)),
        ("not sharded", _Configured(), HessianEigenvalueMonitor(max_overhead=None)),
    ):
        try:
            fit([own], module, ranks=2, strategy=strategy())
            said[name] = "nothing"
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


class _Configured(Module):
    def configure_model(self) -> None:
        pass


def tensor_parallel() -> Any:
    look = _Look()
    own = [look, *monitors()[:3]]
    run = fit(own, TensorParallel(), ranks=2, strategy=strategy(data=1), loader="whole")
    reference = fit([], TensorParallel(), ranks=2, strategy=strategy(data=1), loader="whole")
    return {**plain(run), "pieces": look.found, "untouched": same_bits(reference, run)}


CHECKS = (sharded_everything_measured, sharded_adam, pieces, sharded_untouched, failing, refused, tensor_parallel)
