"""The trend of a logged metric, such as a validation loss."""

from __future__ import annotations

from typing import Any

from landscape_callbacks.diagnosis.trend import LossTrend
from landscape_callbacks.training.distributed import mean_where_known


class MetricWatch:
    """Reads a metric after each validation that logs it, or else after each epoch, and follows its trend.

    Args:
        monitor: Name of the metric among ``trainer.callback_metrics``.
        mode: ``"min"`` when lower is better, ``"max"`` when higher is.
        horizon: Of the trend, in readings.

    Attributes:
        trend: The trend so far, of what should fall.
    """

    def __init__(self, monitor: str, mode: str, horizon: float) -> None:
        self.monitor = monitor
        self.sign = 1.0 if mode == "min" else -1.0
        self.trend = LossTrend(horizon=horizon)
        self._read_after: str | None = None

    def read(self, trainer: Any, after: str) -> bool:
        """Takes a reading if one belongs to this hook; says whether it did.

        Args:
            trainer: The trainer.
            after: ``"validation"`` or ``"epoch"``. It is read at the first hook at which it is there:
                a metric of validation is still there at the end of the epoch, and would be read twice.
        """
        if self._read_after not in (None, after):
            return False
        logged = trainer.callback_metrics.get(self.monitor)
        reading = mean_where_known(trainer, None if logged is None else float(logged))
        if reading is None:
            return False
        self._read_after = after
        self.trend.update(self.sign * reading)
        return True

    def is_missing(self, trainer: Any) -> str | None:
        """A sentence when the metric has never been there; ``None`` otherwise."""
        if self._read_after is not None:
            return None
        there = ", ".join(sorted(trainer.callback_metrics)) or "none"
        return (
            f"watches {self.monitor!r}, which is not among the logged metrics ({there}). Log it, or set monitor=None "
            "for the training loss."
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values; see :meth:`load_state_dict`."""
        return {"trend": self.trend.state_dict(), "read_after": self._read_after}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues an interrupted run."""
        self.trend.load_state_dict(state["trend"])
        self._read_after = state["read_after"]
