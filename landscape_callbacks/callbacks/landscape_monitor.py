"""The whole product in one line: every monitor with good defaults, on shared snapshots, within one budget."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from landscape_callbacks.callbacks.critical_learning_rate_monitor import CriticalLearningRateMonitor
from landscape_callbacks.callbacks.gradient_norm_monitor import GradientNormMonitor
from landscape_callbacks.callbacks.hessian_eigenvalue_monitor import HessianEigenvalueMonitor
from landscape_callbacks.callbacks.loss_plane_monitor import LossPlaneMonitor
from landscape_callbacks.callbacks.loss_slice_monitor import LossSliceMonitor
from landscape_callbacks.callbacks.saddle_point_monitor import SaddlePointMonitor
from landscape_callbacks.callbacks.summary import print_summary
from landscape_callbacks.training.calling import seconds_to_be_called
from landscape_callbacks.training.compatibility import require_overhead
from landscape_callbacks.training.lightning_namespace import Callback, MisconfigurationException
from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.replay import LossFunction
from landscape_callbacks.training.reporting import current_step

Part = bool | dict[str, Any]

# Shares of the budget. A fifth is kept for what hooks cost at every step and for what no account sees. What parts did
# not spend, the last plane may.
# Eigenvalues and slices measure together, on one share.
_SHARES = {
    "gradient_norms": 0.1,
    "eigenvalues": 0.3,
    "slices": 0.3,
    "critical_learning_rate": 0.05,
    "diagnosis": 0.3,
    "plane": 0.05,
}
_LightningCallback = Callback.__mro__[1]


class LandscapeMonitor(Callback):
    """Watches the loss landscape while a model trains, and leaves training as it was.

    Gradient norms, extreme Hessian eigenvalues with the stability ratio, loss slices, the critical learning rate, a
    diagnosis (stuck, settled, or going on?) and a plane with the path of training at the end. All parts look at one
    snapshot a step, and together spend at most ``max_overhead`` of the training time. At the end of the fit a short
    summary is printed.

    Args:
        max_overhead: Share of training time that all parts together may take. ``None``: no budget, each part measures
            exactly every n steps.
        every_n_steps: Smallest distance of two measurements of curvature and slices (optimizer steps).
        gradient_norms: ``False`` leaves the part out; a mapping gives keywords of :class:`GradientNormMonitor`.
        eigenvalues: The same for :class:`HessianEigenvalueMonitor`.
        slices: The same for :class:`LossSliceMonitor`.
        critical_learning_rate: The same for :class:`CriticalLearningRateMonitor`.
        diagnosis: The same for :class:`SaddlePointMonitor`.
        plane: The same for :class:`LossPlaneMonitor`. The plane is drawn with as many points as the budget has left.
        summary: Print a summary at the end of the fit (rank zero).
        batches: Batches to average curvature and slices over: the last ones that passed by.
        parameters: Regular expression on parameter names (``re.search``); ``None``: all trainable parameters.
        loss_fn: Called as ``loss_fn(pl_module, batch) -> scalar`` instead of replaying ``training_step``.
        eval_mode: Dropout off, batch-norm statistics frozen while measuring.
        basis_device: Where eigenvalues keep their Krylov basis, such as ``"cpu"`` for large models; see
            :class:`HessianEigenvalueMonitor`.
        basis_dtype: ``"float32"`` or ``"float64"``, of that basis.
        figures: Draw figures for the loggers, where matplotlib is installed.
        verbose: Print a line a measurement (rank zero).

    Raises:
        MisconfigurationException: When an argument is wrong; in ``setup`` when the trainer cannot be supported.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from landscape_callbacks import LandscapeMonitor
        >>> trainer = Trainer(callbacks=[LandscapeMonitor()], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        *,
        max_overhead: float | None = 0.05,
        every_n_steps: int = 100,
        gradient_norms: Part = True,
        eigenvalues: Part = True,
        slices: Part = True,
        critical_learning_rate: Part = True,
        diagnosis: Part = True,
        plane: Part = True,
        summary: bool = True,
        batches: int = 1,
        parameters: str | None = None,
        loss_fn: LossFunction | None = None,
        eval_mode: bool = False,
        basis_device: str | None = None,
        basis_dtype: str | None = None,
        figures: bool = True,
        verbose: bool = False,
    ) -> None:
        self.max_overhead = require_overhead(type(self).__name__, max_overhead)
        self.summary = bool(summary)
        self.parts: dict[str, Monitor] = {}
        self._hooks: dict[str, list[Any]] = {}
        self._unbooked, self._calling = 0.0, 0.0
        common = {"parameters": parameters, "loss_fn": loss_fn, "eval_mode": eval_mode, "verbose": verbose}
        surface = {**common, "every_n_steps": every_n_steps, "batches": batches}
        lines = {"directions": ["update", "largest_eigenvector"], "figures": figures, "last_within_budget": True}
        end = {
            "planes": ["trajectory"],
            "every_n_epochs": 0,
            "last_within_budget": True,
            "figures": figures,
            "batches": batches,
        }
        self._add("gradient_norms", GradientNormMonitor, gradient_norms, common)
        self._add(
            "eigenvalues",
            HessianEigenvalueMonitor,
            eigenvalues,
            {**surface, "basis_device": basis_device, "basis_dtype": basis_dtype},
        )
        self._add("slices", LossSliceMonitor, slices, {**surface, **lines})
        self._add("critical_learning_rate", CriticalLearningRateMonitor, critical_learning_rate, common)
        self._add("diagnosis", SaddlePointMonitor, diagnosis, {**common, "first_within_budget": True})
        self._add("plane", LossPlaneMonitor, plane, {**common, **end})
        if not self.parts:
            raise MisconfigurationException(
                "LandscapeMonitor: every part is off; leave at least one on, or take the callback out."
            )
        # Kept: Lightning asks for it in every hook of every batch.
        self._state_key = self._generate_state_key(parts={name: part.state_key for name, part in self.parts.items()})
        if {"eigenvalues", "slices"} <= self.parts.keys():
            curvature, curves = self.parts["eigenvalues"], self.parts["slices"]
            if (curvature.every_n_steps, curvature.max_overhead) == (curves.every_n_steps, curves.max_overhead):
                curves.cadence = curvature.cadence

    def _add(self, name: str, monitor: type[Monitor], part: Part, defaults: dict[str, Any]) -> None:
        if part is False:
            return
        if part is not True and not isinstance(part, Mapping):
            raise MisconfigurationException(
                f"LandscapeMonitor: {name} has to be True, False or keywords of {monitor.__name__} as a mapping, "
                f"got {part!r}."
            )
        own = {} if part is True else dict(part)
        share = None if self.max_overhead is None else self.max_overhead * _SHARES[name]
        try:
            self.parts[name] = monitor(**{**defaults, "max_overhead": share, **own})
        except TypeError as error:
            raise MisconfigurationException(
                f"LandscapeMonitor: {name}={part!r} does not fit {monitor.__name__}: {error}."
            ) from error

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leaves out the parts that need other weights where those cannot be evaluated, and sets the others up."""
        self._hooks = {}
        if stage == "fit" and not pl_module.automatic_optimization:
            self._leave_out(
                [
                    name
                    for name, part in self.parts.items()
                    if part.needs_other_weights and part.settings.loss_fn is None
                ]
            )
        for act in self._acting("setup"):
            act(trainer, pl_module, stage)
        if stage == "fit" and pl_module.automatic_optimization:
            self._hooks["on_before_backward"] = []  # only measures and watches where a step cannot be replayed

    def _leave_out(self, names: list[str]) -> None:
        if names:
            rank_zero_info(
                f"LandscapeMonitor leaves out {', '.join(names)}: under manual optimization the loss cannot be "
                "evaluated at other weights. "
                "Give loss_fn=... to have them."
            )
        self.parts = {name: part for name, part in self.parts.items() if name not in names}
        self._hooks = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts every part."""
        for act in self._acting("on_train_start"):
            act(trainer, pl_module)
        self._unbooked, self._calling = 0.0, seconds_to_be_called(trainer, self)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Passes the batch on to every part, where one may have something to do with it."""
        started = time.perf_counter()
        leader = next(iter(self.parts.values()))
        coordinator, step = leader.coordinator, current_step(trainer)
        if step < coordinator.asleep_until:
            if coordinator.leads(leader):
                coordinator.pass_by(step, batch, batch_idx)
            # Booked when somebody wakes: booking costs about as much as passing by.
            self._unbooked += time.perf_counter() - started + self._calling
            return
        spent = coordinator.spent
        for act in self._acting("on_train_batch_start"):
            act(trainer, pl_module, batch, batch_idx)
        coordinator.sleep()
        coordinator.took_since(started - self._unbooked - self._calling, spent)
        self._unbooked = 0.0

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Ends every part, and prints the summary."""
        for act in self._acting("on_train_end"):
            act(trainer, pl_module)
        if self.summary:
            print_summary(trainer, self.parts, self.max_overhead)

    def _acting(self, hook: str) -> list[Any]:
        """The parts' own methods for a hook; looked up once, since hooks run at every batch."""
        if hook not in self._hooks:
            idle = {getattr(base, hook, None) for base in Callback.__mro__}
            methods = [getattr(part, hook) for part in self.parts.values()]
            # What all monitors share acts for the first one alone; see Coordinator.leads.
            shared = {getattr(Monitor, hook)} if hook in ("on_train_batch_start", "on_before_backward") else set()
            self._hooks[hook] = [
                method
                for index, method in enumerate(methods)
                if method.__func__ not in (idle | shared if index else idle)
            ]
        return self._hooks[hook]

    @property
    def state_key(self) -> str:
        """Tells two instances with different parts apart in a checkpoint."""
        return self._state_key

    def state_dict(self) -> dict[str, Any]:
        """The state of every part."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues an interrupted run."""
        for name, state in state_dict.items():
            if name in self.parts:
                self.parts[name].load_state_dict(state)


def _forward(hook: str) -> Any:
    def call_parts(self: LandscapeMonitor, *args: Any, **kwargs: Any) -> None:
        for act in self._acting(hook):
            act(*args, **kwargs)

    call_parts.__name__ = hook
    call_parts.__doc__ = f"Passes ``{hook}`` on to every part that has something to do there."
    return call_parts


for _hook in [name for name in vars(_LightningCallback) if name.startswith(("on_", "teardown"))]:
    if "checkpoint" not in _hook and _hook not in vars(LandscapeMonitor):
        setattr(LandscapeMonitor, _hook, _forward(_hook))
