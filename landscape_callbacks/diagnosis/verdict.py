"""The verdict on where training is: a label, the figures that it rests on with their errors, the cost, and words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

LABELS = (
    "progressing",
    "noise floor",
    "strict saddle",
    "approximate second-order point",
    "flat",
    "step too small",
    "unstable",
    "undetermined",
)


@dataclass(frozen=True)
class Evidence:
    """One figure of a verdict.

    Attributes:
        name: What it is.
        value: The estimate.
        error: Its standard error; NaN when it has none (a bound, a setting).
        unit: Its unit in words, such as ``"loss"``.
    """

    name: str
    value: float
    error: float
    unit: str


@dataclass(frozen=True)
class Verdict:
    """Where training is.

    Attributes:
        label: One of :data:`LABELS`.
        edge: Whether the curvature is at the stability limit (0.9 to 1.3 of it). That is where full-batch training goes
            by itself; it is no alarm.
        evidence: The figures, the decisive ones first.
        samples: Samples in the probe.
        cost: Samples of training that the same work would have served.
        finding: What was found, in words; without the label, which it stands beside.
        suggestion: What to do about it; empty when nothing.
        saddle_score: From 0 (no sign of a saddle) to 1 (negative curvature beyond doubt, with a decrease along it that
            dwarfs what gradient steps promise).
        suggested_learning_rate: The learning rate to go to; ``None`` when there is none to name.
    """

    label: str
    edge: bool
    evidence: tuple[Evidence, ...]
    samples: int
    cost: float
    finding: str
    suggestion: str
    saddle_score: float
    suggested_learning_rate: float | None

    @property
    def sentence(self) -> str:
        """Label, finding and cost in one line of plain text, for logs."""
        return f"{self.label}. {self.finding} Cost: {self.samples} samples."

    @property
    def warning(self) -> bool:
        """Whether a person should be told: all but healthy training, a settled run, and no answer."""
        return self.label in ("strict saddle", "flat", "step too small", "unstable")

    def as_info(self) -> dict[str, Any]:
        """Plain values under the keys of a record of kind ``"verdict"``."""
        return {
            "verdict": self.label,
            "edge": self.edge,
            "sentence": self.finding,
            "suggestion": self.suggestion,
            "evidence": [vars(entry).copy() for entry in self.evidence],
            "samples": self.samples,
            "cost": self.cost,
            "saddle_score": self.saddle_score,
            "suggested_learning_rate": self.suggested_learning_rate,
            "warning": self.warning,
        }

    def as_markdown(self) -> str:
        """The verdict as Markdown, for TensorBoard's text tab."""
        lines = [f"**{self.label}**{' (at the edge of stability)' if self.edge else ''}", "", self.finding]
        if self.suggestion:
            lines += ["", f"Suggestion: {self.suggestion}"]
        lines += ["", "| evidence | value | standard error | unit |", "|---|---|---|---|"]
        for entry in self.evidence:
            error = "" if math.isnan(entry.error) else f"{entry.error:.2g}"
            lines.append(f"| {entry.name} | {entry.value:.4g} | {error} | {entry.unit} |")
        lines += ["", f"Cost: {self.samples} samples looked at, as much work as {self.cost:.0f} samples of training."]
        return "\n".join(lines)
