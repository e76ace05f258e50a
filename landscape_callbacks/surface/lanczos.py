"""Extreme eigenpairs by Lanczos, with a stop that is guarded against eigenvalues not seen yet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape_callbacks.surface.eigenpairs import Eigenpairs, SymmetricOperator
from landscape_callbacks.surface.krylov import Array, Indices, KrylovSpace, NotFiniteError, Ritz
from landscape_callbacks.surface.repeated_zero import with_repeated_zero
from landscape_callbacks.surface.vectors import ParameterSpace

# Basis vectors beyond the wanted ones before a restart.
EXTRA_VECTORS = 14
# Ritz pairs next to the wanted ones that have to be known, to this relative error, before the wanted ones are believed.
_GUARDS = 3
_GUARD_TOLERANCE = 0.1
# Share of the tolerance that the residual itself has to reach for up to three wanted values; more in proportion for
# more of them, since the space has then had longer to tell neighbours apart.
_RESIDUAL_SHARE = 0.3
# Values below this share of the spectral radius need not be relatively accurate.
_FLOOR = 1e-2
# A warm start is a vector of norm one plus a random vector of this norm: what is known still stands out by two orders
# of magnitude in a million dimensions, and what is new is found almost as in a cold start. What only the random part
# finds has to be excluded beyond this relative distance; nearer, the earlier vectors are trusted, and one guard is
# enough.
_RANDOM_SHARE = 3.0
_WARM_DISTANCE = 0.3
_WARM_GUARDS = 1


def extreme_eigenvalues(
    surface: SymmetricOperator,
    largest: int = 1,
    smallest: int = 0,
    *,
    tolerance: float = 1e-3,
    smallest_tolerance: float | None = None,
    initial: Tensor | None = None,
    max_products: int = 300,
    seed: int = 0,
    basis_dtype: torch.dtype | None = None,
    basis_device: torch.device | str | None = None,
    extra_vectors: int = EXTRA_VECTORS,
) -> Eigenpairs:
    """The largest and smallest eigenvalues of a Hessian and their eigenvectors, both ends from the same products.

    Equivalent to ``scipy.sparse.linalg.eigsh(..., which="LA")`` and ``which="SA"`` in one, but stops as soon as the
    values are known. The stop is guarded. Ritz values can stand still without being eigenvalues: as long as two close
    eigenvalues are not told apart, or when the start holds little of an eigenvector. So a value has converged when

    1. residual²/gap, the bound of Kato and Temple, is within the tolerance, and so is the residual itself: an
       eigenvalue is there;
    2. the next three Ritz pairs beyond the wanted ones are known to 10 %: the gap is one between eigenvalues;
    3. an eigenvalue still hidden beside it, farther away than the tolerance, would have a component below one standard
       deviation in the random start. (The component of an eigenvector with eigenvalue λ near the Ritz value θ is at
       most residual·|first entry of the Ritz vector|/|λ − θ|.)

    That leaves a small chance of error where eigenvalues are closer than 1 % and the start is unlucky (5 in 1500
    seeded runs on spectra made for it). Copies of the eigenvalue zero at an end of the spectrum, which convex losses,
    dead units and redundant parameters bring, are searched for by deflation. Copies of any other multiple eigenvalue
    are invisible to a single start vector unless the space becomes invariant, and values closer together than the
    tolerance are not told apart: they count once.

    What asymmetry of the operator adds to a residual (rounding in half precision, a derivative that is wrong) does not
    shrink with more products. Where it alone is beyond the tolerance, they end as soon as it is most of the residual.

    Args:
        surface: A :class:`LossSurface`, or anything with ``space`` and a symmetric ``hessian_vector_product``.
        largest: How many of the largest eigenvalues.
        smallest: How many of the smallest. Together at most n values are returned.
        tolerance: Relative error of the largest values, or of a hundredth of the spectral radius where that is more.
        smallest_tolerance: The same for the smallest ones. The lower edge of a network's spectrum is dense, so the last
            digits cost many products; ``None`` is 50 times ``tolerance``, at most 5 %.
        initial: Flat vector (n,) to start from: ``warm_start`` of eigenpairs found some training steps before. A random
            vector is mixed in, so that new directions are found; one pair is required in point 2, and a distance of
            30 % in point 3. When it is zero or not finite, the start is random.
        max_products: Hessian-vector products to spend at most. Values not known by then are returned with
            ``converged`` false.
        seed: Of the random vectors; the global random state is not touched.
        basis_dtype: Dtype of the basis (float32 or float64); by default that of the space.
        basis_device: Device of the basis, for models that leave no room beside them; by default that of the space.
        extra_vectors: Basis vectors beyond the wanted ones before a restart, at least 6: fewer take less memory and
            more products.

    Returns:
        The eigenpairs with residuals, errors and cost.

    Raises:
        ValueError: When no value is asked for, or an argument is out of its range.

    Example:
        >>> import torch
        >>> from landscape_callbacks.surface import LossSurface
        >>> weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
        >>> curvatures = torch.tensor([5.0, 3.0, 1.0, -2.0], dtype=torch.float64)
        >>> surface = LossSurface(lambda: 0.5 * (curvatures * weight**2).sum(), [weight])
        >>> pairs = extreme_eigenvalues(surface, largest=2, smallest=1)
        >>> [round(value, 6) for value in pairs.values.tolist()]
        [5.0, 3.0, -2.0]
        >>> pairs.converged
        (True, True, True)
    """
    if largest < 0 or smallest < 0 or largest + smallest < 1:
        raise ValueError(f"Ask for at least one eigenvalue, got largest={largest} and smallest={smallest}.")
    if not 0 < tolerance < 1 or (smallest_tolerance is not None and not 0 < smallest_tolerance < 1):
        raise ValueError(f"Tolerances are shares between 0 and 1, got {tolerance} and {smallest_tolerance}.")
    if max_products < 1:
        raise ValueError(f"max_products has to be at least 1, got {max_products}.")
    if basis_dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"The basis has to be float32 or float64 to stay orthogonal, got basis_dtype={basis_dtype}.")
    if extra_vectors < 6:
        raise ValueError(
            f"The stop needs at least 6 basis vectors beyond the wanted ones, got extra_vectors={extra_vectors}."
        )
    space = surface.space
    largest = min(largest, space.dimension)
    smallest = min(smallest, space.dimension - largest)
    if smallest_tolerance is None:
        smallest_tolerance = max(tolerance, min(50 * tolerance, 0.05))
    start, random_share = _start(space, initial, seed)
    krylov = KrylovSpace(
        surface, start, largest + smallest + extra_vectors, seed=seed, dtype=basis_dtype, device=basis_device
    )
    stop = _Stop(largest, smallest, tolerance, smallest_tolerance, random_share)
    while True:
        try:
            krylov.grow()
        except NotFiniteError:
            return Eigenpairs.not_finite(space, largest, smallest, krylov.products)
        ritz = krylov.ritz()
        errors, converged = stop.judge(krylov, ritz)
        if krylov.exhausted or (converged | stop.stuck(ritz)).all() or krylov.products >= max_products:
            break
        if krylov.size == krylov.capacity:
            krylov.restart(ritz, stop.keep(krylov.size))
    pairs = _result(krylov, ritz, stop, errors, converged)
    if krylov.exhausted:
        return pairs

    def again(operator: SymmetricOperator, largest: int, smallest: int, copies: int) -> Eigenpairs:
        return extreme_eigenvalues(
            operator, largest, smallest, tolerance=tolerance, smallest_tolerance=smallest_tolerance,
            max_products=max_products, seed=seed + copies, basis_dtype=basis_dtype, basis_device=basis_device,
            extra_vectors=extra_vectors,
        )  # fmt: skip

    return with_repeated_zero(surface, pairs, ritz.radius, again)


def _start(space: ParameterSpace, initial: Tensor | None, seed: int) -> tuple[Tensor, float | None]:
    """The start vector, and the norm of its random part beside an earlier vector of norm one (None: all is random)."""
    random = space.random(seed)
    random /= space.norm(random)
    if initial is None:
        return random, None
    if initial.shape != random.shape:
        raise ValueError(f"initial has to be a flat vector of {len(random)} entries, got shape {tuple(initial.shape)}.")
    norm = space.norm(initial.to(random))
    if not (torch.isfinite(norm) and norm > 0):
        return random, None
    return torch.add(initial.to(random) / norm, random, alpha=_RANDOM_SHARE), _RANDOM_SHARE


@dataclass(frozen=True)
class _Stop:
    """Which Ritz pairs are wanted, and when they are believed."""

    largest: int
    smallest: int
    tolerance: float
    smallest_tolerance: float
    random_share: float | None

    def wanted(self, size: int) -> Indices:
        """Indices of the wanted among ``size`` Ritz pairs, largest first."""
        largest = min(self.largest, size)
        smallest = min(self.smallest, size - largest)
        return np.concatenate([np.arange(largest), np.arange(size - smallest, size)])

    def keep(self, size: int) -> Indices:
        """Indices of the Ritz pairs that a restart keeps: the wanted ones and half of the others, next to them."""
        spare = (size - self.largest - self.smallest) // 2
        if self.largest and self.smallest:
            spare //= 2
        top = self.largest + spare if self.largest else 0
        bottom = self.smallest + spare if self.smallest else 0
        return np.concatenate([np.arange(top), np.arange(size - bottom, size)])

    def stuck(self, ritz: Ritz) -> NDArray[np.bool_]:
        """Which of the wanted can never converge, and are as near as they will be: shape (k,)."""
        wanted = self.wanted(len(ritz.values))
        tolerances = np.where(np.arange(len(wanted)) < self.largest, self.tolerance, self.smallest_tolerance)
        allowed = tolerances * np.maximum(np.abs(ritz.values[wanted]), _FLOOR * ritz.radius)
        floor = ritz.asymmetries[wanted]
        complete = len(wanted) == self.largest + self.smallest
        return (floor > allowed) & (np.abs(ritz.couplings[wanted]) <= floor) & complete

    def judge(self, krylov: KrylovSpace, ritz: Ritz) -> tuple[Array, NDArray[np.bool_]]:
        """Errors of the wanted Ritz values, and which of them have converged: shapes (k,) and (k,)."""
        size = len(ritz.values)
        wanted = self.wanted(size)
        rounding = float(torch.finfo(krylov.space.dtype).eps) * ritz.radius
        residuals = np.maximum(ritz.residuals, rounding)
        complete = len(wanted) == self.largest + self.smallest
        if krylov.exhausted:
            return residuals[wanted], np.full(len(wanted), complete)
        bounds = np.maximum(_kato_temple(ritz.values, residuals), rounding)
        converged = np.zeros(len(wanted), dtype=bool)
        if complete:
            top = self._end(krylov, ritz, residuals, bounds, np.arange(size), self.largest, self.tolerance)
            reverse = np.arange(size)[::-1]
            bottom = self._end(krylov, ritz, residuals, bounds, reverse, self.smallest, self.smallest_tolerance)
            converged = np.concatenate([top, bottom[::-1]])
        return np.where(converged, bounds[wanted], residuals[wanted]), converged

    def _end(
        self,
        krylov: KrylovSpace,
        ritz: Ritz,
        residuals: Array,
        bounds: Array,
        order: Indices,
        count: int,
        tolerance: float,
    ) -> NDArray[np.bool_]:
        """Which of the first ``count`` pairs in ``order``, from the end of the spectrum inwards, have converged."""
        if count == 0:
            return np.zeros(0, dtype=bool)
        warm = self.random_share is not None
        needed = _WARM_GUARDS if warm else _GUARDS
        own, guards = order[:count], order[count : count + needed]
        sizes = np.maximum(np.abs(ritz.values), _FLOOR * ritz.radius)
        if krylov.invariant:
            # Further copies, if any, lie in the complement; nothing there is beyond the end of the last block.
            block = krylov.ritz(krylov.block_start).values
            last = block[0] if order[0] == 0 else block[-1]
            inner = ritz.values[own[-1]]
            beyond = (last - inner) if order[0] == 0 else (inner - last)
            return np.full(count, beyond <= tolerance * sizes[own[-1]])
        if len(guards) < needed:
            return np.zeros(count, dtype=bool)
        guard_sizes = np.maximum(sizes[guards], _GUARD_TOLERANCE * sizes[own[-1]])
        if (bounds[guards] > max(tolerance, min(_GUARD_TOLERANCE, 100 * tolerance)) * guard_sizes).any():
            return np.zeros(count, dtype=bool)
        allowed = tolerance * sizes[own]
        share = 1.0 if warm else min(1.0, max(1.0, count / 3) * _RESIDUAL_SHARE)
        converged = (bounds[own] <= allowed) & (residuals[own] <= share * allowed)
        deviation = (self.random_share or 1.0) / np.sqrt(krylov.space.dimension)
        distances = np.maximum(tolerance, _WARM_DISTANCE) * sizes[own] if warm else allowed
        for place in np.flatnonzero(converged):
            hidden = ritz.residuals[own[place]] * krylov.start_components(ritz, int(own[place])) / deviation
            converged[place] = hidden <= distances[place]
        return converged


def _kato_temple(values: Array, residuals: Array) -> Array:
    """min(residual, residual²/gap) for descending Ritz values; a gap ends where the neighbour's residual begins."""
    gaps = np.full(len(values), np.inf)
    gaps[:-1] = values[:-1] - values[1:] - residuals[1:]
    gaps[1:] = np.minimum(gaps[1:], values[:-1] - values[1:] - residuals[:-1])
    bounds = residuals.copy()
    apart = gaps > residuals
    bounds[apart] = residuals[apart] ** 2 / gaps[apart]
    return bounds


def _result(krylov: KrylovSpace, ritz: Ritz, stop: _Stop, errors: Array, converged: NDArray[np.bool_]) -> Eigenpairs:
    wanted = stop.wanted(len(ritz.values))
    warm_start = krylov.combine(ritz.rotation[:, wanted].sum(axis=1))
    count = stop.largest + stop.smallest
    if len(wanted) < count:
        # Fewer products than values: what was not reached is not known.
        wanted = np.append(wanted, np.full(count - len(wanted), -1))
        errors = np.append(errors, np.full(count - len(errors), np.nan))
        converged = np.append(converged, np.full(count - len(converged), False))
    known = wanted >= 0
    return Eigenpairs(
        values=torch.from_numpy(np.where(known, ritz.values[wanted], np.nan)),
        vectors=krylov.extract(np.where(known, ritz.rotation[:, wanted], np.nan)),
        residuals=torch.from_numpy(np.where(known, ritz.residuals[wanted], np.nan)),
        errors=torch.from_numpy(errors.astype(np.float64)),
        converged=tuple(bool(value) for value in converged),
        products=krylov.products,
        largest=stop.largest,
        warm_start=warm_start,
        asymmetry=krylov.asymmetry(),
    )
