"""Gradient norms while training, without clutter and without a read a parameter."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from landscape_callbacks.surface.gradients import gradient_noise_scale, gradient_norms
from landscape_callbacks.training.cadence import Cadence
from landscape_callbacks.training.compatibility import require_positive_int
from landscape_callbacks.training.gradient_access import (
    clips_gradients,
    gradient_scale,
    named_gradients,
    norms_by_module,
    optimizer_tag,
)
from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.replay import LossFunction
from landscape_callbacks.training.reporting import Report, current_step
from landscape_callbacks.training.snapshot import Snapshot

# Of the budget, where the noise scale is measured too.
_SHARE_OF_NORMS = 0.2


class GradientNormMonitor(Monitor):
    r"""Logs the L2 norm of the gradient that the optimizer is given, before and after clipping.

    The norm is that of the accumulated, unscaled gradient, taken in one fused call and brought over in one transfer a
    measurement.

    ========================================  ==========================================================================
    tag                                       meaning
    ========================================  ==========================================================================
    ``gradient/norm``                         before clipping, over all measured parameters (loss units a unit weight)
    ``gradient/norm_clipped``                 after clipping, where the trainer or the module clips
    ``gradient/norm/<module>``                of a submodule, with ``per_module``
    ``gradient/norm/optimizer_<i>``           of each optimizer's parameters, where there are several
    ``gradient/nonfinite_steps``              measured steps with an infinite or NaN gradient, from the first one on
    ``gradient/noise_scale``                  B_simple (samples), with ``noise_scale_batches``
    ``gradient/noise_scale_error``            its standard error
    ========================================  ==========================================================================

    A non-finite norm is logged as it is. With 16-bit AMP a step whose gradients overflowed is such a step; the scaler
    skips it.

    Args:
        every_n_steps: Smallest distance of two measurements (optimizer steps).
        max_overhead: Share of training time that measurements may take; ``None``: measure exactly every n steps.
        per_module: Depth of module names to log norms for: 1 logs ``encoder``, ``head``, …; 2 also ``encoder.layer1``.
            0: total only.
        parameters: Regular expression on parameter names (``re.search``); ``None``: all trainable parameters.
        noise_scale_batches: Estimate the gradient noise scale (McCandlish et al. 2018) from this many recent
            batches, each replayed at the current weights. 0: off. Needs at least 3.
        loss_fn: Called as ``loss_fn(pl_module, batch) -> scalar`` instead of replaying ``training_step``; for the
            noise scale only.
        eval_mode: Dropout off and batch-norm statistics frozen; for the noise scale only.
        verbose: Print a line a measurement (rank zero).

    Raises:
        MisconfigurationException: When an argument is wrong; in ``setup`` when the trainer cannot be supported.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from landscape_callbacks import GradientNormMonitor
        >>> trainer = Trainer(callbacks=[GradientNormMonitor(per_module=1)], logger=False, enable_checkpointing=False)
    """

    reads_gradients = True

    def __init__(
        self,
        *,
        every_n_steps: int = 10,
        max_overhead: float | None = 0.05,
        per_module: int = 0,
        parameters: str | None = None,
        noise_scale_batches: int = 0,
        loss_fn: LossFunction | None = None,
        eval_mode: bool = False,
        verbose: bool = False,
    ) -> None:
        name = type(self).__name__
        minimum = 3 if noise_scale_batches else 0
        self.noise_scale_batches = require_positive_int(
            name, "noise_scale_batches", noise_scale_batches, minimum=minimum
        )
        self.per_module = require_positive_int(name, "per_module", per_module, minimum=0)
        self.measures_snapshots = bool(noise_scale_batches)
        super().__init__(
            every_n_steps=every_n_steps,
            max_overhead=max_overhead,
            parameters=parameters,
            loss_fn=loss_fn,
            eval_mode=eval_mode,
            batches=max(1, noise_scale_batches),
            verbose=verbose,
        )
        self.norm_cadence = self.cadence
        if noise_scale_batches and self.max_overhead is not None:
            self.cadence.max_overhead = (1 - _SHARE_OF_NORMS) * self.max_overhead
        if noise_scale_batches:
            # One cadence each: at a step at which both are due, the first would be taken for the second.
            share = None if self.max_overhead is None else _SHARE_OF_NORMS * self.max_overhead
            self.norm_cadence = Cadence(self.every_n_steps, share)
        self.nonfinite_steps = 0
        self._measuring = self._stepped = False
        self._failure: Exception | None = None
        self._seconds = 0.0
        self._unclipped: dict[int, tuple[list[str], Tensor]] = {}

    @property
    def cadences(self) -> tuple[Cadence, ...]:
        """That of the norms, and that of the noise scale."""
        return (self.cadence, self.norm_cadence)

    def measure(self, trainer: Any, pl_module: Any, snapshot: Snapshot) -> Report:
        """The gradient noise scale, from one gradient a recent batch at the current weights."""
        if len(snapshot.surfaces) < self.noise_scale_batches:
            return Report()
        sizes = [seen.samples for seen in snapshot.batches]
        gradients = [surface.gradient(retain=False) for surface in snapshot.surfaces]
        scale = gradient_noise_scale(snapshot.space, gradients, sum(sizes) / len(sizes))
        return Report({"gradient/noise_scale": scale.value, "gradient/noise_scale_error": scale.error})

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Decides whether the norms of this step are measured."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._measuring = self.coordinator.is_due(trainer, self.norm_cadence, current_step(trainer))
            self._unclipped, self._failure = {}, None
            self._seconds, self._stepped = 0.0, False
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Takes the norms before clipping, once an optimizer and batch; they stay on the device."""
        if not self._measuring or id(optimizer) in self._unclipped or self._failure is not None:
            return
        started = time.perf_counter()
        self._stepped = True
        try:
            names, gradients = named_gradients(pl_module, optimizer, self.settings.parameters)
            norms = gradient_norms(gradients)
            scale = gradient_scale(trainer, optimizer)
            self._unclipped[id(optimizer)] = (names, norms if scale is None else norms / scale.to(norms))
        except Exception as error:
            # Raised where all ranks can hear of it.
            self._failure = error
        self._seconds += time.perf_counter() - started

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Takes the norms after clipping and logs everything of this step after one transfer."""
        if not self._stepped:
            return
        self._measuring = self._stepped = False
        step = current_step(trainer)
        with self.coordinator.timed(trainer, [self.norm_cadence], step, already=self._seconds):
            with self.coordinator.guarded(type(self).__name__, trainer, step):
                failure, self._failure = self._failure, None
                if failure is not None:
                    raise failure
                scalars = self._read(trainer, pl_module)
                self.coordinator.log(trainer, Report(scalars), step)
                if self.verbose:
                    pl_module.print(f"step {step}: gradient norm {scalars['gradient/norm']:.4g}")
        self._unclipped = {}

    def _read(self, trainer: Any, pl_module: Any) -> dict[str, float]:
        pieces = [norms for _, norms in self._unclipped.values()]
        clips = clips_gradients(trainer, pl_module)
        if clips:
            pieces += [
                gradient_norms(named_gradients(pl_module, o, self.settings.parameters)[1]) for o in trainer.optimizers
            ]
        # One transfer: everything this measurement reads is in one tensor.
        flat = torch.cat([piece.double() for piece in pieces]).tolist()
        names = [name for own, _ in self._unclipped.values() for name in own]
        norms = flat[: len(names)]
        scalars = {"gradient/norm": math.hypot(*norms)}
        if clips:
            scalars["gradient/norm_clipped"] = math.hypot(*flat[len(names) :])
        start = 0
        if len(trainer.optimizers) > 1:
            for key, (own, _) in self._unclipped.items():
                scalars[f"gradient/norm/{optimizer_tag(trainer, key)}"] = math.hypot(*norms[start : start + len(own)])
                start += len(own)
        scalars.update(
            {f"gradient/norm/{module}": norm for module, norm in norms_by_module(names, norms, self.per_module).items()}
        )
        self.nonfinite_steps += not all(map(math.isfinite, norms))
        if self.nonfinite_steps:
            scalars["gradient/nonfinite_steps"] = float(self.nonfinite_steps)
        return scalars

    def state_dict(self) -> dict[str, Any]:
        """The cadences and the count of non-finite steps, as plain values."""
        return {
            **super().state_dict(),
            "norm_cadence": self.norm_cadence.state_dict(),
            "nonfinite_steps": self.nonfinite_steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues an interrupted run."""
        super().load_state_dict(state_dict)
        self.norm_cadence.load_state_dict(state_dict["norm_cadence"])
        self.nonfinite_steps = int(state_dict["nonfinite_steps"])
