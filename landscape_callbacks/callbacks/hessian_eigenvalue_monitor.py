"""Sharpness while training: extreme Hessian eigenvalues, and where they stand against the optimizer's stability
limit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from landscape_callbacks.diagnosis.stability import curvature_limit
from landscape_callbacks.records import Record
from landscape_callbacks.surface.eigenpairs import Eigenpairs
from landscape_callbacks.surface.spectrum import spectral_density, trace
from landscape_callbacks.training.compatibility import (
    require_choice,
    require_device,
    require_positive,
    require_positive_int,
)
from landscape_callbacks.training.memory import Memory, dtype_named, eigenvalue_memory, vector_memory
from landscape_callbacks.training.monitor import Monitor
from landscape_callbacks.training.optimizers import OptimizerDescription
from landscape_callbacks.training.replay import LossFunction
from landscape_callbacks.training.reporting import Report
from landscape_callbacks.training.snapshot import EigenRequest, Snapshot

# Flat vectors that trace and density hold at their peak.
_TRACE_VECTORS = 16
_DENSITY_VECTORS = 37
# Rounding leaves asymmetries of 1e-6 in float32 and 0.005 in bfloat16; wrong derivatives gave 0.02 to 0.6.
_ASYMMETRY = 0.01
_COARSE_ASYMMETRY = 0.05


class HessianEigenvalueMonitor(Monitor):
    r"""Logs the largest and smallest eigenvalues of the loss's Hessian, each with its error, and the stability ratio.

    The largest eigenvalue is the *sharpness*: plain gradient descent with learning rate η is stable along its
    eigenvector while it is below 2/η. A negative smallest eigenvalue shows a direction of descent that the gradient
    need not see. In deep nets it is there nearly always, so it proves no saddle (see :class:`SaddlePointMonitor`).

    =====================================  ============================================================================
    tag                                    meaning
    =====================================  ============================================================================
    ``hessian/largest_eigenvalue``         the largest; the next ones end in ``_2``, ``_3``, …
    ``hessian/smallest_eigenvalue``        the lowest (most negative); the next ones end in ``_2``, …
    ``hessian/<name>_error``               error bound of the value it stands beside
    ``hessian/trace``, ``…/trace_error``   with ``trace``: Hutch++ and its standard error
    ``hessian/products``                   Hessian-vector products spent, each about two forward and backward passes
    ``hessian/approximation_error``        only where products are approximate: their estimated relative error
    ``hessian/asymmetry``                  only where products are not symmetric: by which share of the spectral radius
    ``stability/ratio``                    curvature that the optimizer sees, over its limit: 1 is the edge of stability
    =====================================  ============================================================================

    ``stability/ratio`` is for SGD (also momentum and Nesterov), Adam, AdamW, NAdam and RMSprop, whose limits differ;
    for the adaptive ones it takes the preconditioned Hessian (Cohen et al. 2022, arXiv 2207.14484), which costs a
    second run of products. With small batches the ratio settles below 1 in stable training: it is a gauge of full-batch
    training. Compare runs at equal batch size.

    Args:
        every_n_steps: Smallest distance of two measurements (optimizer steps).
        max_overhead: Share of training time that measurements may take; ``None``: measure exactly every n steps.
        largest: How many of the largest eigenvalues.
        smallest: How many of the smallest.
        method: ``"lanczos"`` (reorthogonalised, restarted) or ``"power_iteration"`` (the textbook method, slower).
        tolerance: Relative error to reach. The guard against missed eigenvalues makes most values far more accurate
            than this.
        trace: Estimate the trace too.
        density: Estimate the spectral density too (stochastic Lanczos quadrature).
        stability: Log ``stability/ratio``.
        batches: Batches to average the loss over: the last ones that passed by.
        parameters: Regular expression on parameter names (``re.search``); ``None``: all trainable parameters.
        loss_fn: Called as ``loss_fn(pl_module, batch) -> scalar`` instead of replaying ``training_step``.
        eval_mode: Dropout off, batch-norm statistics frozen while measuring.
        differentiation: ``"double_backward"``, ``"central_difference"`` of gradients, or ``"auto"``: the second only
            where the first raises, which is warned about once and marked by ``hessian/approximation_error``.
        verbose: Print a line a measurement (rank zero).

    Raises:
        MisconfigurationException: When an argument is wrong; in ``setup`` when the trainer cannot be supported.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from landscape_callbacks import HessianEigenvalueMonitor
        >>> trainer = Trainer(callbacks=[HessianEigenvalueMonitor(largest=3)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        *,
        every_n_steps: int = 100,
        max_overhead: float | None = 0.05,
        largest: int = 1,
        smallest: int = 1,
        method: str = "lanczos",
        tolerance: float = 1e-2,
        trace: bool = False,
        density: bool = False,
        stability: bool = True,
        batches: int = 1,
        parameters: str | None = None,
        loss_fn: LossFunction | None = None,
        eval_mode: bool = False,
        differentiation: str = "auto",
        basis_device: str | None = None,
        basis_dtype: str | None = None,
        verbose: bool = False,
    ) -> None:
        name = type(self).__name__
        super().__init__(
            every_n_steps=every_n_steps,
            max_overhead=max_overhead,
            parameters=parameters,
            loss_fn=loss_fn,
            eval_mode=eval_mode,
            batches=batches,
            differentiation=differentiation,
            verbose=verbose,
        )
        self.request = EigenRequest(
            largest=require_positive_int(name, "largest", largest),
            smallest=require_positive_int(name, "smallest", smallest, minimum=0),
            tolerance=require_positive(name, "tolerance", tolerance),
            method=require_choice(name, "method", method, ("lanczos", "power_iteration")),
            basis_device=require_device(name, "basis_device", basis_device),
            basis_dtype=require_choice(name, "basis_dtype", basis_dtype, (None, "float32", "float64")),
        )
        self.trace = bool(trace)
        self.density = bool(density)
        self.stability = bool(stability)

    def prepare(self, snapshot: Snapshot) -> None:
        """Announces the eigenvalues wanted."""
        snapshot.expect(self.request)

    def memory(self, snapshot: Snapshot) -> Memory:
        """A Krylov basis, the vectors of a product, and the eigenvectors that are kept meanwhile."""
        wanted = self.request.largest + self.request.smallest
        place: dict[str, Any] = {
            "basis_device": self.request.basis_device,
            "basis_dtype": dtype_named(self.request.basis_dtype),
        }
        plain = eigenvalue_memory(snapshot.space, wanted, **place)
        needs = [plain]
        if self.stability:
            needs.append(eigenvalue_memory(snapshot.space, 1, held=wanted, preconditioned=True, **place))
        if self.trace:
            needs.append(vector_memory(snapshot.space, wanted + _TRACE_VECTORS))
        if self.density:
            needs.append(vector_memory(snapshot.space, wanted + _DENSITY_VECTORS))
        graphs = vector_memory(snapshot.space, 2 * (self.settings.batches - 1))
        largest = max(need.beside_parameters for need in needs) + graphs.beside_parameters
        return replace(plain, beside_parameters=largest, basis=max(need.basis for need in needs))

    def measure(self, trainer: Any, pl_module: Any, snapshot: Snapshot) -> Report:
        """Eigenvalues with their errors, the stability ratio, and on request the trace and the density."""
        pairs = snapshot.eigenpairs()
        scalars, arrays = self._eigenvalue_scalars(pairs)
        optimizer, step_pairs = (
            (snapshot.optimizer(), snapshot.sharpness_of_steps(self.request.tolerance))
            if self.stability
            else (None, None)
        )
        limit = ratio = None
        products = pairs.products
        if optimizer is not None and step_pairs is not None and optimizer.learning_rate:
            limit = limit_of(optimizer)
            ratio = float(step_pairs.values[0]) / limit
            scalars["stability/ratio"] = ratio
            products += step_pairs.products if optimizer.preconditioner is not None else 0
        elif optimizer is not None and optimizer.kind == "unknown":
            self.coordinator.warn("stability", f"stability/ratio is left out: {optimizer.why_not}")
        known: dict[str, Any] = {}
        if self.trace and not snapshot.economy.few_vectors:
            estimate = trace(snapshot.surface, seed=snapshot.step)
            scalars["hessian/trace"], scalars["hessian/trace_error"] = float(estimate.value), float(estimate.error)
            known = {"trace": scalars["hessian/trace"], "trace_error": scalars["hessian/trace_error"]}
            products += estimate.products
        records = [
            Record(
                "eigenvalues",
                "hessian",
                snapshot.step,
                arrays,
                {
                    "loss": snapshot.loss(),
                    "learning_rate": optimizer.learning_rate if optimizer is not None else None,
                    "limit": limit,
                    "ratio": ratio,
                    "preconditioned": optimizer is not None and optimizer.preconditioner is not None,
                    "converged": all(pairs.converged),
                    "products": products,
                    "approximation_error": None
                    if snapshot.surface.approximation is None
                    else snapshot.surface.approximation.relative_error,
                },
            )
        ]
        if self.density and not snapshot.economy.few_vectors:
            density = spectral_density(snapshot.surface, seed=snapshot.step)
            products += density.products
            records.append(
                Record(
                    "density",
                    "hessian",
                    snapshot.step,
                    {"grid": density.grid.numpy(), "density": density.density.numpy()},
                    known,
                )
            )
        scalars["hessian/products"] = float(products)
        if (approximation := snapshot.surface.approximation) is not None:
            scalars["hessian/approximation_error"] = approximation.relative_error
            self.coordinator.warn(
                "approximation",
                f"{type(self).__name__}: eigenvalues are approximate. {approximation.reason}; products are central "
                "differences of gradients at a "
                f"distance of {approximation.step:.2g}, off by about {approximation.relative_error:.1g} of their norm "
                "(logged as hessian/approximation_error).",
            )
        elif pairs.asymmetry > (_ASYMMETRY if snapshot.surface.rounding < 1e-4 else _COARSE_ASYMMETRY):
            scalars["hessian/asymmetry"] = pairs.asymmetry
            self.coordinator.warn(
                "asymmetry",
                f"{type(self).__name__}: Hessian-vector products are not symmetric, by {pairs.asymmetry:.1g} "
                "of the spectral radius (logged as hessian/asymmetry). The backward of an operation is not the "
                "derivative of its forward (nn.Embedding(scale_grad_by_freq=True), a custom autograd function), or "
                "cannot be differentiated rightly. The values are those of the symmetric part, no better than their "
                "errors.",
            )
        if self.verbose:
            edge = "" if ratio is None else f", stability ratio {ratio:.3f}"
            pl_module.print(
                f"step {snapshot.step}: largest eigenvalue {float(pairs.values[0]):.4g} ± "
                f"{float(pairs.errors[0]):.1g}{edge}"
            )
        return Report(scalars, records)

    def _eigenvalue_scalars(self, pairs: Eigenpairs) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        values, errors = [float(value) for value in pairs.values], [float(error) for error in pairs.errors]
        ends = {
            "largest": (values[: pairs.largest], errors[: pairs.largest]),
            "smallest": (values[pairs.largest :][::-1], errors[pairs.largest :][::-1]),
        }
        wanted = {"largest": self.request.largest, "smallest": self.request.smallest}
        scalars: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = {}
        for end, (end_values, end_errors) in ends.items():
            end_values, end_errors = end_values[: wanted[end]], end_errors[: wanted[end]]
            for place, (value, error) in enumerate(zip(end_values, end_errors, strict=True), start=1):
                name = f"hessian/{end}_eigenvalue" + (f"_{place}" if place > 1 else "")
                scalars[name], scalars[f"{name}_error"] = value, error
            arrays[end], arrays[f"{end}_error"] = np.array(end_values), np.array(end_errors)
        return scalars, arrays


def limit_of(optimizer: OptimizerDescription) -> float:
    """The curvature limit of an optimizer at its current learning rate."""
    if not optimizer.learning_rate:
        return float("inf")
    return curvature_limit(
        optimizer.kind,
        optimizer.learning_rate,
        momentum=optimizer.momentum,
        betas=optimizer.betas or (0.0, 0.0),
        dampening=optimizer.dampening,
        decoupled_weight_decay=optimizer.weight_decay if optimizer.decoupled_weight_decay else 0.0,
    )
