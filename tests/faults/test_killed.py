"""A process that is killed inside of a measurement and resumes from its last checkpoint ends where an undisturbed one
does.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import GradientNormMonitor, HessianEigenvalueMonitor, LossSliceMonitor, read_records

EVERY_STEP: dict[str, Any] = {"every_n_steps": 1, "max_overhead": None}
KILLED_AT = 7
STEPS = 12


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.02)


class Killer(HessianEigenvalueMonitor):
    """The process ends inside of a measurement, without a chance to do anything about it."""

    at = -1

    def measure(self, trainer: Any, pl_module: Any, snapshot: Any) -> Any:
        report = super().measure(trainer, pl_module, snapshot)
        if snapshot.step == self.at:
            with snapshot.surface.displaced() as move_to:
                move_to((snapshot.gradient(), 1.0))
                os._exit(9)
        return report


def train(
    folder: Path, killed_at: int = -1, resume: bool = False, watched: bool = True
) -> tuple[pl.Trainer, list[Any]]:
    torch.manual_seed(3)
    module = Module()
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(1))
    # One batch an epoch: Lightning resumes a plain loader at the start of an epoch only.
    data = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=48)
    checkpoints = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}", save_last=True)
    monitors: list[Any] = []
    if watched:
        killer = Killer(tolerance=1e-4, **EVERY_STEP)
        killer.at = killed_at
        slices = LossSliceMonitor(directions=["gradient", "update", "initial"], figures=False, **EVERY_STEP)
        monitors = [killer, GradientNormMonitor(**EVERY_STEP), slices]
    options: dict[str, Any] = {"max_steps": STEPS, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    logger = CSVLogger(folder, name="logs", version=0)
    trainer = pl.Trainer(
        callbacks=[*monitors, checkpoints], logger=logger, enable_model_summary=False, log_every_n_steps=1, **options
    )
    keywords: dict[str, Any] = {"ckpt_path": str(folder / "last.ckpt")} if resume else {}
    if resume and "weights_only" in inspect.signature(trainer.fit).parameters:  # new in Lightning 2.6
        keywords["weights_only"] = True
    trainer.fit(module, data, **keywords)
    return trainer, monitors


if __name__ == "__main__":
    train(Path(sys.argv[1]), killed_at=KILLED_AT)


def eigenvalues(folder: Path) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for record in read_records(folder / "logs" / "version_0"):
        if record.kind == "eigenvalues":
            found.setdefault(record.step, []).append({"largest": record.arrays["largest"].tolist(), **record.info})
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    whole, broken, bare = (tmp_path_factory.mktemp(name) for name in ("whole", "broken", "bare"))
    undisturbed, _ = train(whole)
    untouched, _ = train(bare, watched=False)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, __file__, str(broken)], env=environment, capture_output=True, check=False)
    assert done.returncode == 9, done.stderr
    before = eigenvalues(broken)
    resumed, monitors = train(broken, resume=True)
    return undisturbed, untouched, resumed, whole, broken, before, monitors


def test_training_ends_as_if_nothing_had_happened(runs: Any) -> None:
    undisturbed, untouched, resumed, *_ = runs
    for name, value in undisturbed.lightning_module.state_dict().items():
        assert torch.equal(value, resumed.lightning_module.state_dict()[name])
        assert torch.equal(value, untouched.lightning_module.state_dict()[name])


def test_records_before_the_kill_are_kept_and_go_on(runs: Any) -> None:
    *_, broken, before, _ = runs
    assert sorted(before) == list(range(KILLED_AT))
    after = eigenvalues(broken)
    assert sorted(after) == list(range(STEPS))
    for step, entries in before.items():
        assert after[step][: len(entries)] == entries


def test_warm_starts_are_restored(runs: Any) -> None:
    """The resumed run spends the very products of the undisturbed one and finds the same values, to the bit."""
    *_, whole, broken, _, _ = runs
    expected, found = eigenvalues(whole), eigenvalues(broken)
    for step in range(STEPS):
        assert found[step][-1]["products"] == expected[step][-1]["products"], step
        assert found[step][-1]["largest"] == expected[step][-1]["largest"], step


def test_cadence_and_anchors_are_restored(runs: Any) -> None:
    *_, monitors = runs
    killer, norms, slices = monitors
    assert killer.cadence.measurements == norms.cadence.measurements == STEPS
    assert slices.anchors.initial is not None
    torch.manual_seed(3)
    start = torch.cat([parameter.detach().flatten() for parameter in Module().parameters()])
    assert torch.equal(slices.anchors.initial, start)


def test_checkpoints_load_with_weights_only(runs: Any) -> None:
    _, _, _, whole, *_ = runs
    state = torch.load(whole / "last.ckpt", weights_only=True)["callbacks"]
    own = next(value for key, value in state.items() if key.startswith("Killer"))
    vectors = own["warm_starts"]
    assert sorted(vectors) == ["hessian", "steps"]
    assert all(v.dtype == torch.bfloat16 and v.device.type == "cpu" for v in vectors.values())
    json.dumps({key: value for key, value in own.items() if key != "warm_starts"})
