"""What a run's monitors saw, in a few lines at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only

from landscape_callbacks.callbacks.saddle_point_monitor import SaddlePointMonitor
from landscape_callbacks.training.monitor import Monitor

_NAMES = {
    "gradient_norms": "gradient norms",
    "critical_learning_rate": "critical learning rate",
}
_FEW = 3


@rank_zero_only
def print_summary(trainer: Any, parts: Mapping[str, Monitor], max_overhead: float | None) -> None:
    """Prints what was measured, what it cost, the verdict, and where to look."""
    bar = trainer.progress_bar_callback
    write = bar.print if bar is not None and bar.is_enabled else print
    write("\n".join(summary_lines(trainer, parts, max_overhead)))


def summary_lines(trainer: Any, parts: Mapping[str, Monitor], max_overhead: float | None) -> list[str]:
    """The summary, line by line."""
    coordinator = next(iter(parts.values())).coordinator
    metrics = trainer._logger_connector._callback_metrics
    eigenvalues = parts.get("eigenvalues")
    counts = [f"{_NAMES.get(name, name)} {part.cadence.measurements}x" for name, part in parts.items()]
    lines = ["Loss landscape", f"  measured: {', '.join(counts)}; {coordinator.overhead():.1%} of the time of the fit"]
    if coordinator.failed:
        lines[-1] += f"; {coordinator.failed} measurements failed (see the warnings)"
    curvature = [
        f"{label} {float(metrics[tag]):.4g}"
        + (f" ± {float(metrics[f'{tag}_error']):.1g}" if f"{tag}_error" in metrics else "")
        for label, tag in (
            ("largest eigenvalue", "hessian/largest_eigenvalue"),
            ("smallest", "hessian/smallest_eigenvalue"),
            ("stability ratio", "stability/ratio"),
        )
        if tag in metrics
    ]
    if curvature and eigenvalues is not None and eigenvalues.cadence.last_step is not None:
        lines.append(f"  at step {eigenvalues.cadence.last_step}, the last measured: {', '.join(curvature)}")
    diagnosis = parts.get("diagnosis")
    if isinstance(diagnosis, SaddlePointMonitor):
        look = diagnosis.look
        if look is None:
            lines.append(f"  verdict: none yet. {_why_no_look(diagnosis)}")
        else:
            lines.append(f"  verdict: {look.verdict.sentence}")
            if look.verdict.suggestion:
                lines.append(f"  suggestion: {look.verdict.suggestion}")
    if max_overhead is not None and eigenvalues is not None and eigenvalues.cadence.measurements < _FEW:
        lines.append(
            f"  few measurements: they come when the run has paid for them within max_overhead={max_overhead:g}. "
            "max_overhead=None, every_n_steps=200 measures every 200 steps, whatever it costs."
        )
    plane = parts.get("plane")
    if max_overhead is not None and plane is not None and not plane.cadence.measurements:
        lines.append("  no plane: what was left of the budget at the end did not pay for one")
    if coordinator.log_dir is not None:
        boards = [logger for logger in trainer.loggers if type(logger).__name__ == "TensorBoardLogger"]
        if boards:
            lines.append(f"  look at it: tensorboard --logdir {boards[0].root_dir}")
        else:
            lines.append(f"  look at it: python -m landscape_callbacks report {coordinator.log_dir} -o report.html")
    return lines


def _why_no_look(diagnosis: SaddlePointMonitor) -> str:
    cadence = diagnosis.cadence
    if cadence.max_overhead is None:
        return "The loss gave no reason to look."
    from_step = cadence.estimate / cadence.max_overhead
    return (
        f"A look costs about {cadence.estimate:.0f} training steps, "
        f"which the budget allows from step {from_step:.0f} on."
    )
