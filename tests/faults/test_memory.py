"""Memory: what is stated before the first measurement holds, nothing grows, and running out of it costs no training
run.
"""

from __future__ import annotations

import gc
import logging
import re
import resource
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import (
    CriticalLearningRateMonitor,
    GradientNormMonitor,
    HessianEigenvalueMonitor,
    LandscapeMonitor,
    LossSliceMonitor,
)
from landscape_callbacks.surface import LossSurface, extreme_eigenvalues
from landscape_callbacks.surface.microbatched_surface import MicrobatchedSurface
from landscape_callbacks.surface.retained_graph import RetainedGraph
from landscape_callbacks.training.coordinator import Coordinator
from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from landscape_callbacks.training.microbatches import split_batch
from tests.hard_module import RowLogger, fingerprint
from tests.memory_counter import counted

EVERY_STEP: dict[str, Any] = {"every_n_steps": 1, "max_overhead": None}


class Module(pl.LightningModule):
    def __init__(self, net: nn.Module | None = None, optimizer: str = "sgd") -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)) if net is None else net
        self.optimizer = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        make = torch.optim.Adam if self.optimizer == "adam" else torch.optim.SGD
        return make(self.parameters(), lr=0.01)


def data(samples: int = 48, width: int = 4, batch_size: int = 8) -> DataLoader:
    x = torch.randn(samples, width, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=batch_size)


def fit(module: pl.LightningModule, callbacks: list[Any], loader: Any = None, **arguments: Any) -> RowLogger:
    rows = RowLogger()
    options: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_checkpointing": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False} | arguments
    pl.Trainer(logger=rows, callbacks=callbacks, **options).fit(module, data() if loader is None else loader)
    return rows


# --- what is stated is kept


def stated_bytes(caplog: pytest.LogCaptureFixture) -> list[float]:
    said = [record.message for record in caplog.records if "holds up to" in record.message]
    assert len(said) == 1
    units = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
    return [float(number) * units[unit] for number, unit in re.findall(r"([\d.]+) (B|kB|MB|GB)", said[0])]


CONFIGURATIONS: dict[str, Any] = {
    "one value": (HessianEigenvalueMonitor, {"smallest": 0, "stability": False}, "sgd"),
    "both ends": (HessianEigenvalueMonitor, {"largest": 3, "smallest": 3}, "sgd"),
    "preconditioned": (HessianEigenvalueMonitor, {"largest": 2}, "adam"),
    "float64 basis": (HessianEigenvalueMonitor, {"basis_dtype": "float64"}, "sgd"),
    "trace and density": (HessianEigenvalueMonitor, {"trace": True, "density": True}, "sgd"),
    "several batches": (HessianEigenvalueMonitor, {"batches": 3}, "adam"),
    "noise scale": (GradientNormMonitor, {"noise_scale_batches": 3}, "sgd"),
    "lines along eigenvectors": (
        LossSliceMonitor,
        {"directions": ["largest_eigenvector", "smallest_eigenvector", "initial"], "figures": False},
        "sgd",
    ),
    "slices": (LossSliceMonitor, {"directions": ["gradient", "update", "random"], "figures": False}, "sgd"),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_peak_that_is_stated_is_kept(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monitor, arguments, optimizer = CONFIGURATIONS[name]
    peaks: list[int] = []
    real = Coordinator._measure

    def counting(self: Coordinator, *details: Any) -> None:
        with counted() as counter:
            real(self, *details)
        peaks.append(counter.peak)

    monkeypatch.setattr(Coordinator, "_measure", counting)
    torch.manual_seed(0)
    module = Module(
        nn.Sequential(nn.Linear(100, 300), nn.Tanh(), nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 3)), optimizer
    )
    with caplog.at_level(logging.INFO):
        fit(module, [monitor(**arguments, **EVERY_STEP)], data(width=100, batch_size=2), max_steps=4)
    stated = sum(stated_bytes(caplog))
    assert len(peaks) == 4
    assert 0.4 * stated <= max(peaks) <= stated


def test_what_is_stated_names_the_monitors_that_measure_together(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    monitors = [HessianEigenvalueMonitor(**EVERY_STEP), LossSliceMonitor(figures=False, **EVERY_STEP)]
    with caplog.at_level(logging.INFO):
        fit(Module(), [*monitors, CriticalLearningRateMonitor(**EVERY_STEP)])
    said = [record.message for record in caplog.records if "holds up to" in record.message]
    assert [sentence.partition(": measuring holds up to")[0] for sentence in said] == [
        "HessianEigenvalueMonitor, LossSliceMonitor",
        "CriticalLearningRateMonitor",
    ]


def test_a_basis_elsewhere_is_stated_apart_and_changes_no_value(caplog: pytest.LogCaptureFixture) -> None:
    values = {}
    for place in (None, "cpu"):
        torch.manual_seed(0)
        rows = fit(Module(), [HessianEigenvalueMonitor(basis_device=place, tolerance=1e-6, **EVERY_STEP)])
        values[place] = [row["hessian/largest_eigenvalue"] for _, row in rows.our_rows()]
    assert values[None] == values["cpu"]


def test_basis_keywords_reach_the_eigenvalue_monitor() -> None:
    monitor = LandscapeMonitor(basis_device="cpu", basis_dtype="float64")
    request = monitor.parts["eigenvalues"].request  # type: ignore[attr-defined]
    assert (request.basis_device, request.basis_dtype) == ("cpu", "float64")
    with pytest.raises(MisconfigurationException, match="'bfloat16'"):
        HessianEigenvalueMonitor(basis_dtype="bfloat16")
    with pytest.raises(MisconfigurationException, match="'nowhere'"):
        HessianEigenvalueMonitor(basis_device="nowhere")


# --- nothing grows


class Usage(pl.Callback):
    """Takes down what the process holds after each measurement."""

    def __init__(self) -> None:
        self.tensors: list[int] = []
        self.objects: list[int] = []
        self.resident: list[int] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step % 50 == 0:
            gc.collect()
            alive = [entry for entry in gc.get_objects() if isinstance(entry, Tensor) and not is_lazy(entry)]
            self.tensors.append(sum(tensor.numel() for tensor in alive))
            self.objects.append(len(gc.get_objects()))
            self.resident.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


class Silent(RowLogger):
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        pass


def test_nothing_grows_over_two_hundred_measurements() -> None:
    usage = Usage()
    monitors: list[Any] = [HessianEigenvalueMonitor(tolerance=0.05, **EVERY_STEP), GradientNormMonitor(**EVERY_STEP)]
    monitors.append(LossSliceMonitor(directions=["gradient"], points=3, figures=False, validation=False, **EVERY_STEP))
    options: dict[str, Any] = {
        "max_steps": 250,
        "max_epochs": -1,
        "accelerator": "cpu",
        "devices": 1,
        "enable_checkpointing": False,
    }
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "logger": Silent()}
    pl.Trainer(callbacks=[*monitors, usage], **options).fit(Module(), data(samples=8))
    assert monitors[0].cadence.measurements == 250
    assert monitors[0].coordinator.failed == 0
    # The first 50 steps fill caches; the 200 measurements that follow leave nothing behind but the curves that
    # figures are drawn from.
    assert usage.tensors[-1] - usage.tensors[0] < 6 * 250
    assert usage.objects[-1] - usage.objects[0] < 2000
    assert usage.resident[-1] - usage.resident[0] < 30_000


# --- running out


def refuse(monkeypatch: pytest.MonkeyPatch, fits: Any) -> list[int]:
    """An accelerator whose memory holds only graphs that ``fits(loss)`` accepts."""
    real, calls = RetainedGraph.__init__, [0]

    def init(self: RetainedGraph, loss: Tensor, space: Any) -> None:
        calls[0] += 1
        if not fits():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        real(self, loss, space)

    monkeypatch.setattr(RetainedGraph, "__init__", init)
    return calls


def run_of(monitors: list[Any], net: nn.Module | None = None) -> tuple[str, RowLogger]:
    torch.manual_seed(5)
    module = Module(net)
    rows = fit(module, monitors, max_epochs=2)
    return fingerprint(module.state_dict()), rows


def test_fewer_vectors_then_microbatches_then_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing ever fits: every way is tried once, with one warning, and training is what it was."""
    untouched, _ = run_of([])
    calls = refuse(monkeypatch, lambda: False)
    monitor = HessianEigenvalueMonitor(**EVERY_STEP)
    with caplog.at_level(logging.INFO), pytest.warns(RuntimeWarning, match="ran out of memory") as caught:
        watched, _ = run_of([monitor])
    assert watched == untouched
    assert len([w for w in caught if "out of memory" in str(w.message)]) == 1
    said = [record.message for record in caplog.records if "After running out of memory" in record.message]
    assert [
        "small" in said[0],
        *(f"in {parts} micro" in said[i] for i, parts in enumerate((2, 4, 8), 1)),
        "off" in said[4],
    ] == [True] * 5
    assert len(said) == 5
    assert monitor.coordinator.failed == 5
    assert calls[0] == 5


def test_microbatches_give_the_values_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, whole = run_of([HessianEigenvalueMonitor(tolerance=1e-6, **EVERY_STEP)])
    monitor = HessianEigenvalueMonitor(tolerance=1e-6, **EVERY_STEP)

    def fits() -> bool:
        economy = monitor.coordinator._economy.get(monitor.settings)
        return economy is not None and economy.microbatches >= 4

    refuse(monkeypatch, fits)
    with pytest.warns(RuntimeWarning, match="ran out of memory"):
        watched, rows = run_of([monitor])
    assert watched == expected
    found = {
        step: row["hessian/largest_eigenvalue"] for step, row in rows.our_rows() if "hessian/largest_eigenvalue" in row
    }
    reference = {step: row["hessian/largest_eigenvalue"] for step, row in whole.our_rows()}
    assert sorted(found) == list(range(3, 12))
    assert found == pytest.approx({step: reference[step] for step in found}, rel=1e-4)


@pytest.mark.parametrize("net", [nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))])
def test_batches_whose_samples_depend_on_each_other_are_not_split(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, lambda: False)
    monitor = HessianEigenvalueMonitor(**EVERY_STEP)
    with pytest.warns(RuntimeWarning, match="ran out of memory"):
        run_of([monitor], net)
    assert monitor.coordinator.failed == 2
    assert monitor.coordinator._economy[monitor.settings].off


def test_a_loss_that_is_a_sum_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    class Summed(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * len(batch[0])

    refuse(monkeypatch, lambda: False)
    monitor = HessianEigenvalueMonitor(**EVERY_STEP)
    with pytest.warns(RuntimeWarning, match="ran out of memory"):
        fit(Summed(), [monitor])
    assert monitor.coordinator.failed == 3
    assert monitor.coordinator._economy[monitor.settings].off


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_a_failed_measurement_held_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    real, held = LossSurface.hessian_vector_product, []

    def product(self: LossSurface, vector: Tensor) -> Tensor:
        scratch = real(self, vector)
        held.append(scratch.data_ptr())
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(LossSurface, "hessian_vector_product", product)
    before: list[int] = []

    class Alive(pl.Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            before.append(
                sum(tensor.numel() for tensor in gc.get_objects() if isinstance(tensor, Tensor) and not is_lazy(tensor))
            )

        def on_train_batch_end(self, *args: Any) -> None:
            pass

    fit(Module(), [HessianEigenvalueMonitor(**EVERY_STEP), Alive()])
    assert held
    assert before[1] - before[0] < 100


# --- parts


def test_splitting() -> None:
    x, rows = torch.arange(10).reshape(5, 2), ["a", "b", "c", "d", "e"]
    pieces = split_batch({"x": x, "rows": rows, "mask": torch.ones(3), "none": None}, 5, 2)
    assert pieces is not None
    assert [count for _, count in pieces] == [2, 3]
    assert torch.equal(torch.cat([piece["x"] for piece, _ in pieces]), x)
    assert [piece["rows"] for piece, _ in pieces] == [["a", "b"], ["c", "d", "e"]]
    assert all(torch.equal(piece["mask"], torch.ones(3)) and piece["none"] is None for piece, _ in pieces)
    assert split_batch("no tensors", 5, 2) is None
    assert split_batch(x, 5, 6) is None


def test_microbatched_surface_is_the_surface_of_the_mean() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    whole = LossSurface(lambda: net(x).square().mean(), net.named_parameters())
    parts = [lambda: net(x[:2]).square().mean(), lambda: net(x[2:]).square().mean()]
    split = MicrobatchedSurface(parts, [2, 4], net.named_parameters())
    vector = whole.space.random(1)
    assert torch.allclose(split.loss(), whole.loss())
    assert torch.allclose(split.gradient(), whole.gradient())
    assert torch.allclose(split.hessian_vector_product(vector), whole.hessian_vector_product(vector))
    assert torch.allclose(split.losses_along(vector, [-0.1, 0.0, 0.1]), whole.losses_along(vector, [-0.1, 0.0, 0.1]))
    central = MicrobatchedSurface(parts, [2, 4], net.named_parameters(), differentiation="central_difference")
    assert torch.allclose(central.hessian_vector_product(vector), whole.hessian_vector_product(vector), rtol=1e-5)


def test_few_extra_vectors_find_the_same_values() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3
    surface = LossSurface(lambda: nn.functional.cross_entropy(net(x), y), net.named_parameters())
    many, few = (extreme_eigenvalues(surface, 2, 2, tolerance=1e-6, extra_vectors=count) for count in (14, 6))
    assert torch.allclose(many.values, few.values, rtol=1e-5)
    with pytest.raises(ValueError, match="extra_vectors=3"):
        extreme_eigenvalues(surface, extra_vectors=3)
