"""Strategies that cannot be measured are refused before training, with what to use instead. None of them runs on a
CPU.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from landscape_callbacks import (
    GradientNormMonitor,
    HessianEigenvalueMonitor,
    LossPlaneMonitor,
    LossSliceMonitor,
    PlateauLearningRateAdjuster,
)
from landscape_callbacks.training.compatibility import require_supported_strategy
from landscape_callbacks.training.lightning_namespace import MisconfigurationException

READERS = (
    GradientNormMonitor,
    HessianEigenvalueMonitor,
    LossSliceMonitor,
    LossPlaneMonitor,
    PlateauLearningRateAdjuster,
)


class _Trainer:
    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        self.world_size = 2


def trainer_under(*names: str) -> Any:
    """A trainer whose strategy has a class of the last name, derived from those before it."""
    strategy: type = object
    for name in names:
        strategy = type(name, (strategy,), {})
    return _Trainer(strategy())


@pytest.mark.parametrize("monitor", READERS)
@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("FSDPStrategy",), "flat buffers"),
        (("DeepSpeedStrategy",), "keeps gradients and partitioned weights to itself"),
        (("DDPStrategy", "DeepSpeedStrategy"), "keeps gradients and partitioned weights to itself"),
        (
            ("FSDPStrategy", "MyOwnStrategy"),
            "cannot measure under MyOwnStrategy, which keeps parameters in flat buffers",
        ),
        (("DDPStrategy", "XLAStrategy"), "compiles the step as a whole"),
    ],
)
def test_refused_strategies(monitor: type, names: tuple[str, ...], why: str) -> None:
    with pytest.raises(MisconfigurationException, match=why) as refusal:
        monitor().setup(trainer_under(*names), BoringModel(), "fit")
    assert "ModelParallelStrategy(...) with torch's fully_shard" in str(refusal.value)
    assert "strategy='ddp'" in str(refusal.value)


def test_an_unknown_strategy_is_refused_by_its_name() -> None:
    with pytest.raises(MisconfigurationException, match="this trainer uses PipelineStrategy"):
        HessianEigenvalueMonitor().setup(trainer_under("PipelineStrategy"), BoringModel(), "fit")


@pytest.mark.parametrize("name", ["SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy"])
def test_supported_strategies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    HessianEigenvalueMonitor().setup(trainer_under(name), BoringModel(), "fit")


def test_what_reads_no_weights_is_not_refused() -> None:
    PlateauLearningRateAdjuster(policy="trend").setup(trainer_under("DeepSpeedStrategy"), BoringModel(), "fit")


def test_other_stages_are_left_alone() -> None:
    for stage in ("validate", "test", "predict"):
        HessianEigenvalueMonitor().setup(trainer_under("DeepSpeedStrategy"), BoringModel(), stage)


def test_the_refusal_comes_before_the_first_batch() -> None:
    class Counted(BoringModel):
        steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            type(self).steps += 1
            return super().training_step(batch, batch_idx)

    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, callbacks=[HessianEigenvalueMonitor()]
    )
    trainer.strategy.__class__ = type("DeepSpeedStrategy", (type(trainer.strategy),), {})
    with pytest.raises(MisconfigurationException, match="DeepSpeedStrategy"):
        trainer.fit(Counted())
    assert Counted.steps == 0


@pytest.mark.parametrize("monitor", READERS)
@pytest.mark.parametrize("version", ["2.6.0+cpu", "2.12.1", "2.13.0+cpu", "3.0.0"])
def test_shards_need_a_torch_that_was_tried(monitor: type, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    trainer = trainer_under("ModelParallelStrategy")
    if version.startswith(("2.6", "2.12")):
        with pytest.raises(MisconfigurationException, match=rf"from torch 2.13 on, and this is torch {version[:3]}"):
            require_supported_strategy(monitor.__name__, trainer)
    else:
        require_supported_strategy(monitor.__name__, trainer)
