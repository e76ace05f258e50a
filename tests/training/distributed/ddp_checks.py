"""What two processes under DDP do, one check after the other; the tests look at the results."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Sampler, TensorDataset

from landscape_callbacks import GradientNormMonitor, HessianEigenvalueMonitor, LossPlaneMonitor, LossSliceMonitor
from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.reporting import Report
from tests.hard_module import RowLogger
from tests.training.distributed.runs import Module, data, fit, plain, same_bits

RANK = int(os.environ.get("LOCAL_RANK", "0"))


def monitors(budget: float | None = None, every: int = 1, spectrum: bool = False) -> list[Any]:
    """All kinds of measurements: norms, noise, eigenvalues and what goes with them, slices, planes."""
    common: dict[str, Any] = {"max_overhead": budget}
    more: dict[str, Any] = (
        {"trace": True, "density": True, "largest": 2, "tolerance": 1e-6} if spectrum else {"smallest": 0}
    )
    return [
        GradientNormMonitor(every_n_steps=every, per_module=2, noise_scale_batches=3, **common),
        HessianEigenvalueMonitor(every_n_steps=every, **more, **common),
        LossSliceMonitor(
            directions=["gradient", "update", "largest_eigenvector", "random", "initial"],
            every_n_steps=every,
            batches=2,
            figures=False,
            **common,
        ),
        LossPlaneMonitor(points=3, planes=["random", "trajectory"], figures=False, **common),
    ]


def everything_measured() -> Any:
    return plain(fit(monitors(spectrum=True), Module(), ranks=2, validation=True))


def adam() -> Any:
    return plain(fit([HessianEigenvalueMonitor(every_n_steps=1, max_overhead=None)], Module("adam"), ranks=2))


def manual_optimization() -> Any:
    return plain(fit([HessianEigenvalueMonitor(every_n_steps=1, max_overhead=None)], Module(manual=True), ranks=2))


def untouched() -> Any:
    return {
        "sgd": same_bits(fit([], Module(), ranks=2), fit(monitors(), Module(), ranks=2)),
        "adam, accumulation, clipping": same_bits(
            *(
                fit(own, Module("adam"), ranks=2, accumulate_grad_batches=2, gradient_clip_val=0.1)
                for own in ([], monitors())
            )
        ),
        "manual": same_bits(
            *(
                fit(own, Module(manual=True), ranks=2)
                for own in ([], [HessianEigenvalueMonitor(every_n_steps=1, max_overhead=None)])
            )
        ),
    }


class _Slow(Monitor):
    """Costs a different time on each rank, and remembers when it measured."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.steps: list[int] = []

    def measure(self, trainer: Any, pl_module: Any, snapshot: Any) -> Report:
        time.sleep(0.002 + 0.004 * RANK)
        self.steps.append(snapshot.step)
        return Report({"landscape/probe": snapshot.loss()})


def cadence() -> Any:
    monitor = _Slow(every_n_steps=1, max_overhead=0.3)
    fit([monitor], Module(), ranks=2, max_epochs=25)
    return monitor.steps


class _Collectives:
    """Counts what is called of torch.distributed, a training step."""

    NAMES = ("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "barrier", "reduce_scatter_tensor")

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> _Collectives:
        self._own = {name: getattr(torch.distributed, name) for name in self.NAMES}
        for name, function in self._own.items():
            setattr(torch.distributed, name, self._counted(function))
        return self

    def __exit__(self, *exception: Any) -> None:
        for name, function in self._own.items():
            setattr(torch.distributed, name, function)

    def _counted(self, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return function(*args, **kwargs)

        return call


class _CountSteps(pl.Callback):
    """Takes down the calls of each step: one before the monitors in the list, one behind them."""

    def __init__(self, collectives: _Collectives, *, first: bool) -> None:
        self.collectives = collectives
        self.first = first
        self.counts: list[int] = []

    def on_train_batch_start(self, *args: Any) -> None:
        if self.first:
            self.collectives.calls = 0

    def on_train_batch_end(self, *args: Any) -> None:
        if not self.first:
            self.counts.append(self.collectives.calls)


class _Silent(Module):
    """Logs nothing, so that training itself calls no collective but DDP's own, which are not Python's."""

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass


def collectives() -> Any:
    counts = {}
    for name, own in (
        ("without", []),
        ("every 4 steps", [*monitors(every=4)[:3]]),
        ("with a budget", [*monitors(budget=0.02, every=4)[:3]]),
    ):
        with _Collectives() as counter:
            last = _CountSteps(counter, first=False)
            fit([_CountSteps(counter, first=True), *own, last], _Silent(), ranks=2, max_epochs=4)
            counts[name] = last.counts
    return counts


def normalized_over_ranks() -> Any:
    return plain(fit(monitors()[1:3], Module(norm="over ranks"), ranks=2))


def synchronized_batch_norm() -> Any:
    try:
        fit([], Module(norm="batch"), ranks=2, sync_batchnorm=True)
    except ValueError as error:
        return str(error)


class _Uneven(Sampler):
    """Rank 0 sees batches of 5, 5, 5 samples, rank 1 of 5, 5, 2."""

    def __init__(self) -> None:
        self.indices = list(range(15)) if RANK == 0 else list(range(20, 32))

    def __iter__(self) -> Any:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def uneven_batches() -> Any:
    found = {}
    for name, own in (("without", []), ("with", monitors()[:3])):
        loader = DataLoader(TensorDataset(*data()), batch_size=5, sampler=_Uneven())
        found[name] = plain(fit(own, Module(), ranks=2, loader=loader))
    return found


class _Fails(Monitor):
    """Raises on rank 1 only, at a place of choice, in the first measurement."""

    needs_other_weights = True

    def __init__(self, place: str) -> None:
        super().__init__(every_n_steps=1, max_overhead=None)
        self.place = place
        self.done = 0

    def prepare(self, snapshot: Any) -> None:
        self._raise("before measuring", snapshot)

    def measure(self, trainer: Any, pl_module: Any, snapshot: Any) -> Report:
        self._raise("at the start", snapshot)
        snapshot.gradient()
        with self.coordinator.guarded("inner", trainer, snapshot.step):
            self._raise("inside", snapshot)
            snapshot.surface.hessian_vector_product(snapshot.gradient())
        self._raise("between", snapshot)
        with self.coordinator.guarded("second inner", trainer, snapshot.step):
            snapshot.surface.losses_along(snapshot.gradient(), [-1.0, 1.0])
        with snapshot.surface.displaced() as move_to:
            move_to((snapshot.gradient(), 0.1))
            self._raise("at displaced weights", snapshot)
        self._raise("at the end", snapshot)
        self.done += 1
        return Report({"landscape/probe": snapshot.loss()})

    def _raise(self, place: str, snapshot: Any) -> None:
        if self.place == place and RANK == 1 and snapshot.step == 1:
            raise ValueError(f"on purpose {place}")


PLACES = ("before measuring", "at the start", "inside", "between", "at displaced weights", "at the end")


def failing_rank() -> Any:
    reference = fit([], Module(), ranks=2)
    found = {}
    for place in PLACES:
        monitor = _Fails(place)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = fit(
                [monitor, HessianEigenvalueMonitor(every_n_steps=1, max_overhead=None, stability=False)],
                Module(),
                ranks=2,
            )
        found[place] = {
            "untouched": same_bits(reference, run),
            "done": monitor.done,
            "failed": monitor.coordinator.failed,
            "said": [str(w.message) for w in caught if "could not measure" in str(w.message)],
            "others measured": run["metrics"].get("hessian/largest_eigenvalue"),
        }
    return found


# Of a module, an attribute that the loss edits would be put back after it.
_calls = itertools.count(1)


class _FailsInTheLoss(Module):
    """``loss_fn`` that raises on rank 1 in the third evaluation."""

    def own_loss(self, batch: Any) -> torch.Tensor:
        if next(_calls) == 3 and RANK == 1:
            raise torch.OutOfMemoryError("on purpose")
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])


def failing_loss() -> Any:
    reference = fit([], Module(), ranks=2)
    own = LossSliceMonitor(
        every_n_steps=1, max_overhead=None, figures=False, loss_fn=lambda module, batch: module.own_loss(batch)
    )
    run = fit([own], _FailsInTheLoss(), ranks=2)
    return {"untouched": same_bits(reference, run), "failed": own.coordinator.failed, "rows": run["metrics"]}


class _SmallMemory(Module):
    """Runs out of memory on rank 1 whenever more than 4 samples are differentiated beside training."""

    def own_loss(self, batch: Any) -> torch.Tensor:
        if RANK == 1 and len(batch[0]) > 4 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("on purpose")
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])


def out_of_memory() -> Any:
    reference = fit([], Module(), ranks=2, max_epochs=3)
    own = HessianEigenvalueMonitor(
        every_n_steps=1,
        max_overhead=None,
        smallest=0,
        tolerance=1e-6,
        loss_fn=lambda module, batch: module.own_loss(batch),
    )
    run = fit([own], _SmallMemory(), ranks=2, max_epochs=3)
    return {"untouched": same_bits(reference, run), "rows": run["rows"], "failed": own.coordinator.failed}


class _BadLogger(RowLogger):
    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        if RANK == 0 and any(tag.startswith("hessian/") for tag in metrics):
            raise OSError("no space left")
        super().log_metrics(metrics, step)


def failing_logger() -> Any:
    reference = fit([], Module(), ranks=2)
    own = monitors()
    run = fit(own, Module(), ranks=2, logger=_BadLogger())
    tensors = {kind: run[kind] for kind in ("weights", "gradients")}
    same = all(torch.equal(tensors[kind][name], reference[kind][name]) for kind in tensors for name in tensors[kind])
    return {"untouched": same, "failed": own[0].coordinator.failed, "steps": run["trainer"].global_step}


def failing_gradient_norm() -> Any:
    """An exception between the backward pass and the step, on one rank only."""
    from landscape_callbacks.callbacks import gradient_norm_monitor

    own = GradientNormMonitor(every_n_steps=1, max_overhead=None)
    original = gradient_norm_monitor.gradient_norms

    def broken(gradients: Any) -> Any:
        if RANK == 1 and own.cadence.measurements == 1:
            raise ValueError("on purpose")
        return original(gradients)

    gradient_norm_monitor.gradient_norms = broken
    try:
        reference = fit([], Module(), ranks=2)
        run = fit([own], Module(), ranks=2)
    finally:
        gradient_norm_monitor.gradient_norms = original
    return {
        "untouched": same_bits(reference, run),
        "failed": own.coordinator.failed,
        "measurements": own.cadence.measurements,
    }


CHECKS = (
    everything_measured,
    adam,
    manual_optimization,
    untouched,
    cadence,
    collectives,
    normalized_over_ranks,
    synchronized_batch_norm,
    uneven_batches,
    failing_rank,
    failing_loss,
    out_of_memory,
    failing_logger,
    failing_gradient_norm,
)
