"""The Hessian as a preconditioned optimizer sees it."""

from __future__ import annotations

from torch import Tensor

from landscape_callbacks.surface.eigenpairs import SymmetricOperator


class PreconditionedSurface:
    """The symmetric operator S H S with a diagonal S, which has the eigenvalues of S² H.

    For an optimizer that divides the gradient by a diagonal D, such as Adam with D = √v̂ + ε, give ``scale`` = D^(-½):
    the eigenvalues are those of D⁻¹H, whose largest one Adam's stability is about (Cohen et al. 2022, arXiv
    2207.14484). An eigenvector y belongs to the direction ``scale * y`` in weights.

    Args:
        surface: A :class:`LossSurface`, or anything with ``space`` and ``hessian_vector_product``.
        scale: The diagonal of S: flat, shape (n,), finite, not negative. Zero holds a parameter fixed.

    Raises:
        ValueError: When the shape does not fit, or an entry is negative or not finite.

    Example:
        >>> import torch
        >>> from landscape_callbacks.surface import LossSurface, extreme_eigenvalues
        >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        >>> surface = LossSurface(lambda: (weight**2).sum(), [weight])
        >>> scaled = PreconditionedSurface(surface, torch.tensor([2.0, 1.0], dtype=torch.float64))
        >>> [round(value, 6) for value in extreme_eigenvalues(scaled, largest=2).values.tolist()]
        [8.0, 2.0]
    """

    def __init__(self, surface: SymmetricOperator, scale: Tensor) -> None:
        self.surface = surface
        self.space = surface.space
        if scale.shape != (self.space.local_dimension,):
            raise ValueError(
                f"scale has to be a flat vector of {self.space.local_dimension} entries, "
                f"got shape {tuple(scale.shape)}."
            )
        # A comparison with NaN is false, so that NaN is refused as well.
        if not bool(((scale >= 0) & (scale < float("inf"))).all()):
            raise ValueError("scale has to be finite and not negative in every entry; it is the square root of 1/D.")
        self.scale = scale.detach().to(dtype=self.space.dtype, device=self.space.device)

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        """S H S times a flat vector (n,); a new tensor (n,)."""
        return self.surface.hessian_vector_product(self.scale * vector).mul_(self.scale)
