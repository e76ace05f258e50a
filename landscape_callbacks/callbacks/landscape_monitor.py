"""The whole product in one line: every monitor with good defaults, on shared snapshots, within one budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from landscape_callbacks.callbacks.gradient_norm_monitor import GradientNormMonitor
from landscape_callbacks.callbacks.hessian_eigenvalue_monitor import HessianEigenvalueMonitor
from landscape_callbacks.training.compatibility import require_overhead
from landscape_callbacks.training.lightning_namespace import Callback, MisconfigurationException
from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.replay import LossFunction

Part = bool | Mapping[str, Any]

# Shares of the budget; what a part does not spend stays unspent, and a tenth is kept for what hooks cost at every step.
_SHARES = {"gradient_norms": 0.2, "eigenvalues": 0.7}
_LightningCallback = Callback.__mro__[1]


class LandscapeMonitor(Callback):
    """Watches the loss landscape while a model trains, and leaves training as it was.

    Logs gradient norms (:class:`GradientNormMonitor`), extreme Hessian eigenvalues and the stability ratio
    (:class:`HessianEigenvalueMonitor`). All parts look at one snapshot a step, and together spend at most ``max_overhead`` of the training time.

    Args:
        max_overhead: Share of training time that all parts together may take. ``None``: no budget, each part measures exactly every n
            steps.
        every_n_steps: Smallest distance of two measurements of curvature (optimizer steps).
        gradient_norms: ``False`` leaves the part out; a mapping gives keywords of :class:`GradientNormMonitor`.
        eigenvalues: ``False`` leaves the part out; a mapping gives keywords of :class:`HessianEigenvalueMonitor`.
        batches: Batches to average curvature over: the last ones that passed by.
        parameters: Regular expression on parameter names (``re.search``); ``None``: all trainable parameters.
        loss_fn: Called as ``loss_fn(pl_module, batch) -> scalar`` instead of replaying ``training_step``.
        eval_mode: Dropout off, batch-norm statistics frozen while measuring.
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
        batches: int = 1,
        parameters: str | None = None,
        loss_fn: LossFunction | None = None,
        eval_mode: bool = False,
        verbose: bool = False,
    ) -> None:
        budget = require_overhead(type(self).__name__, max_overhead)
        common = {"parameters": parameters, "loss_fn": loss_fn, "eval_mode": eval_mode, "verbose": verbose}
        surface = {**common, "every_n_steps": every_n_steps, "batches": batches}
        self.parts: dict[str, Monitor] = {}
        self._hooks: dict[str, list[Any]] = {}
        self._add("gradient_norms", GradientNormMonitor, gradient_norms, common, budget)
        self._add("eigenvalues", HessianEigenvalueMonitor, eigenvalues, surface, budget)
        if not self.parts:
            raise MisconfigurationException("LandscapeMonitor: every part is off; leave at least one on, or take the callback out.")

    def _add(self, name: str, monitor: type[Monitor], part: Part, defaults: dict[str, Any], budget: float | None) -> None:
        if part is False:
            return
        if part is not True and not isinstance(part, Mapping):
            raise MisconfigurationException(
                f"LandscapeMonitor: {name} has to be True, False or keywords of {monitor.__name__} as a mapping, got {part!r}."
            )
        own = {} if part is True else dict(part)
        share = None if budget is None else budget * _SHARES[name]
        try:
            self.parts[name] = monitor(**{**defaults, "max_overhead": share, **own})
        except TypeError as error:
            raise MisconfigurationException(f"LandscapeMonitor: {name}={part!r} does not fit {monitor.__name__}: {error}.") from error

    def _acting(self, hook: str) -> list[Any]:
        """The parts' own methods for a hook; looked up once, since hooks run at every batch."""
        if hook not in self._hooks:
            inherited = {getattr(base, hook, None) for base in Callback.__mro__}
            methods = [getattr(part, hook) for part in self.parts.values()]
            self._hooks[hook] = [method for method in methods if method.__func__ not in inherited]
        return self._hooks[hook]

    @property
    def state_key(self) -> str:
        """Tells two instances with different parts apart in a checkpoint."""
        return self._generate_state_key(parts={name: part.state_key for name, part in self.parts.items()})

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


for _hook in [name for name in vars(_LightningCallback) if name.startswith(("on_", "setup", "teardown"))]:
    if "checkpoint" not in _hook:
        setattr(LandscapeMonitor, _hook, _forward(_hook))
