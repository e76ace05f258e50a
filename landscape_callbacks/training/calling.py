"""What being a callback costs before the callback does anything: Lightning enters a profiler around every call."""

from __future__ import annotations

import time
from typing import Any

from landscape_callbacks.training.lightning_namespace import module_of

# The start and the end of a batch, and four around backward and the optimizer's step.
_HOOKS_A_BATCH = 6
_REPEATS = 50


def seconds_to_be_called(trainer: Any, callback: Any) -> float:
    """About what Lightning takes to call a callback's hooks in one batch.

    Measured on Lightning's profiler that does nothing, so that a user's profiler sees no call that was none.
    """
    profiler = module_of(trainer, "profilers").PassThroughProfiler()
    started = time.perf_counter()
    for _ in range(_REPEATS):
        with profiler.profile(f"[Callback]{callback.state_key}.on_train_batch_start"):
            pass
    return _HOOKS_A_BATCH * (time.perf_counter() - started) / _REPEATS
