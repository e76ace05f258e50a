"""What being called costs is measured without a trace in the user's profiler."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.profilers import SimpleProfiler

from landscape_callbacks import LandscapeMonitor
from landscape_callbacks.training.calling import seconds_to_be_called


def test_it_takes_some_microseconds_and_leaves_no_trace() -> None:
    profiler = SimpleProfiler()
    trainer = pl.Trainer(profiler=profiler, logger=False, enable_checkpointing=False, accelerator="cpu")
    assert 0.0 < seconds_to_be_called(trainer, LandscapeMonitor()) < 0.01
    assert not profiler.recorded_durations
