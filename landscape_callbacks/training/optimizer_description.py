"""An optimizer as a linear map: its kind, its hyperparameters, and the diagonal that it preconditions by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from landscape_callbacks.surface.average_surface import AverageSurface
from landscape_callbacks.surface.loss_surface import LossSurface
from landscape_callbacks.surface.metric import MetricSurface


@dataclass(frozen=True)
class OptimizerDescription:
    """An optimizer as a linear map, read after its last step.

    With ``η = learning_rate`` and ``P = preconditioner`` (ones when ``None`` and ``why_not`` is ``None``), a step
    without decoupled weight decay is ``-η P⁻¹ m``, where ``m`` is what the optimizer keeps as momentum: the gradient
    itself, SGD's momentum buffer, Adam's ``exp_avg``. Groups with different learning rates, parameters that the
    optimizer does not hold and parameters that never got a gradient are folded into ``P`` (``inf`` where a parameter
    does not move), so that one ``η`` stands for all.

    Attributes:
        kind: ``"gradient_descent"``, ``"heavy_ball"``, ``"nesterov"``, ``"adam"``, ``"adamw"``, ``"nadam"``,
            ``"rmsprop"`` or ``"unknown"``.
        name: The optimizer's class name.
        learning_rate: The largest learning rate of the groups that hold parameters of the space.
        learning_rates: One a group of the optimizer, in its order.
        momentum: SGD's or RMSprop's momentum; 0 for the Adam family, whose momentum is ``betas[0]``.
        dampening: SGD's dampening.
        betas: Adam's (β₁, β₂); RMSprop's are (0, α); ``None`` for SGD.
        epsilon: The constant in the preconditioner; 0 for SGD.
        weight_decay: The largest weight decay of the groups that hold parameters of the space.
        decoupled_weight_decay: Whether the decay acts on the weights (AdamW) or is part of the gradient.
        coupled_decay: What weight decay adds to the diagonal of the Hessian: one number when all parameters share it,
            else flat, shape (n,). Zero when decoupled.
        amsgrad: Whether Adam uses the largest second moment so far.
        centered: Whether RMSprop subtracts the squared mean gradient.
        steps: Steps done by the parameter that did most; ``None`` when the optimizer does not count (SGD).
        preconditioner: The diagonal ``P``, flat, shape (n,), or ``None`` when it is the identity or unknown.
        why_not: ``None``, or a sentence saying why the linear map is not known.
    """

    kind: str
    name: str
    learning_rate: float | None
    learning_rates: tuple[float, ...]
    momentum: float = 0.0
    dampening: float = 0.0
    betas: tuple[float, float] | None = None
    epsilon: float = 0.0
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    coupled_decay: float | Tensor = 0.0
    amsgrad: bool = False
    centered: bool = False
    steps: int | None = None
    preconditioner: Tensor | None = None
    why_not: str | None = None

    @property
    def nesterov(self) -> bool:
        """Whether the step looks ahead along the momentum."""
        return self.kind in ("nesterov", "nadam")

    @property
    def stability_form(self) -> dict[str, Any]:
        """What :func:`landscape_callbacks.diagnosis.stability.curvature_limit` asks for besides the learning rate."""
        return {
            "kind": self.kind,
            "momentum": self.momentum,
            "betas": self.betas or (0.0, 0.0),
            "dampening": self.dampening,
            "decoupled_weight_decay": self.weight_decay if self.decoupled_weight_decay else 0.0,
        }

    def metric_surface(self, surface: LossSurface | AverageSurface) -> MetricSurface:
        """The surface as this optimizer sees it: the stability limit speaks of the eigenvalues of its Hessian.

        Args:
            surface: The loss surface.

        Raises:
            ValueError: When the linear map is not known; the message is ``why_not``.

        Example:
            >>> import torch
            >>> from landscape_callbacks.surface import LossSurface
            >>> from landscape_callbacks.training.optimizers import describe_optimizer
            >>> w = torch.nn.Parameter(torch.ones(2))
            >>> surface = LossSurface(lambda: 1.5 * (w**2).sum(), [w])
            >>> sgd = torch.optim.SGD([w], lr=0.1, weight_decay=0.5)
            >>> seen = describe_optimizer(sgd, surface.space).metric_surface(surface)
            >>> seen.hessian_vector_product(torch.ones(2))
            tensor([3.5000, 3.5000])
        """
        if self.why_not is not None:
            raise ValueError(self.why_not)
        return MetricSurface(surface, self.preconditioner, self.coupled_decay)
