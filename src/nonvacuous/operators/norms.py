"""Norms of layers as brackets: spectral (ℓ2), Frobenius, (2,1), ℓ1, ℓ∞, stable rank, path norm.

Every norm speaks of the layer as one linear map from inputs of a given shape, a convolution included: the matrix it would be,
never the reshaped kernel, whose σ is not a bound (``torch.nn.utils.parametrizations.spectral_norm`` uses it).  Biases do not
count.  Layers are taken as in eval mode.  A layer of your own takes part through :func:`register`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators import normalizers as _normalizers  # their rules enter the registry
from nonvacuous.operators import pooling as _pooling
from nonvacuous.operators.certified import UNIT, frobenius_norms, gamma, upper_end
from nonvacuous.operators.direct import upper_end_of_matrix
from nonvacuous.operators.krylov import golub_kahan, probable_upper, random_start, rayleigh
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import Chain, Stack, Sum
from nonvacuous.operators.norm_entries import EntryNorms
from nonvacuous.operators.rules import find, register

__all__ = [
    "frobenius_norm",
    "l1_norm",
    "l21_norm",
    "linear_map",
    "linf_norm",
    "register",
    "spectral_norm",
    "spectral_norm_of",
    "stable_rank",
]
del _normalizers, _pooling

MEMORY = 2**28
"""Bytes a direct factorisation may take by default."""
SMALL = 512
"""Up to so many singular values the dense matrix is the quickest way, and gives the norm to about nine digits."""
STEPS = 120


def linear_map(module: nn.Module, input_shape: Sequence[int]) -> LinearMap:
    """The linear part of a layer, or of a model of linear parts, with its adjoint.

    Raises UnsupportedModule for a layer that is not linear or unknown, InvalidInput for weights with NaN or a shape that does not
    fit.

    >>> linear_map(nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 9, 9)).shape_out
    (8, 5, 5)
    """
    found = find(module, _shape(input_shape))
    if isinstance(found, Measured):
        raise UnsupportedModule(f"{type(module).__name__} is not linear: it has a Lipschitz constant, but no linear map")
    return found


def spectral_norm(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    tolerance: float = 0.01,
    memory: int = MEMORY,
    delta: float = 0.0,
    seed: int | torch.Generator = 0,
) -> Measured:
    """A bracket of the ℓ2 operator norm of a layer on inputs of ``input_shape`` (without the batch).

    The lower end is the Rayleigh quotient of a vector that Golub–Kahan found.  The upper end is proved: by a Cholesky factor of
    ``t²I − AᵀA`` for the matrix, or for the blocks of a circulant map that contains a convolution (:mod:`convolution`); neither
    relies on an iteration having converged.  Rounding is counted.  For max pooling, not linear, the Lipschitz constant.

    Args:
        module: a layer with a rule, or a model whose forward is made of linear parts (residual sums included).
        tolerance: relative width aimed at.  A convolution with many channels on an image hardly larger than its kernel, or a long
            chain, may stay wider where its matrix does not fit into ``memory``; the bracket is true all the same.
        memory: bytes the factorisations may take.
        delta: if positive and the bracket is still too wide, the upper end may be one that fails with at most this probability
            over the random start; the result is then of kind CONFIDENCE.
        seed: of the random start vector.

    Raises:
        UnsupportedModule: no rule; the message says how to register one.
        InvalidInput: NaN in the weights, a shape that does not fit, zero variance.

    >>> spectral_norm(nn.AvgPool2d(2), (3, 8, 8)).upper  # each output the mean of four: 4·(1/4)², root
    0.5000...
    """
    found = find(module, _shape(input_shape))
    if isinstance(found, Measured):
        return found
    return spectral_norm_of(found, tolerance=tolerance, memory=memory, delta=delta, seed=seed)


def spectral_norm_of(
    linear: LinearMap,
    *,
    tolerance: float = 0.01,
    memory: int = MEMORY,
    delta: float = 0.0,
    seed: int | torch.Generator = 0,
) -> Measured:
    """:func:`spectral_norm` of a linear map.  Without a rule of its own a map is written out, if that fits into ``memory``."""
    if not 0 < tolerance < 1:
        raise InvalidInput(f"tolerance is a relative width in (0, 1); got {tolerance}")
    if linear.smaller_side == 0:
        return Measured.exact(0.0)
    thin, tall = sorted((linear.rows, linear.columns))
    if thin <= SMALL and thin * tall <= SMALL * 4096 and 24 * thin * tall <= memory:
        exact, slack = _of_matrix(linear.dense(), min(tolerance, 1e-8)), entries_error(linear)
        return Measured(max(0.0, exact.lower - slack), (exact.upper + slack) * (1 + 2 * UNIT), Kind.EXACT) if slack else exact
    size = absolute_size(linear)
    lower = min(size, _lower(linear, size, tolerance, seed))
    upper = min(size, _upper(linear, lower, tolerance, memory, seed))
    dense_bytes, work = 8 * (2 * thin * tall + thin**2), thin**2 * tall
    if upper > lower * (1 + tolerance) and not hasattr(linear, "upper") and dense_bytes <= memory and work < 1e12:
        matrix = linear.dense()
        start, step = lower * (1 + tolerance / 2), tolerance / 4
        found = upper_end_of_matrix(matrix, float(frobenius_norms(matrix)), start, step)
        upper = min(upper, found + entries_error(linear))
    if upper > lower * (1 + tolerance) and delta > 0:
        run = golub_kahan(linear, random_start(linear, seed), 4 * STEPS, 0.0, torch.float64)
        probable = probable_upper(run, linear.columns, delta)
        if probable < upper:
            return Measured(lower, max(lower, probable), Kind.CONFIDENCE, delta)
    return Measured(lower, max(lower, upper), Kind.EXACT)


def _of_matrix(matrix: torch.Tensor, tolerance: float) -> Measured:
    """Bracket for a matrix in full: its singular vector's Rayleigh quotient, and a Cholesky certificate just above."""
    if not bool(torch.isfinite(matrix).all()):
        raise InvalidInput("the weights hold NaN or infinity: no norm can be given")
    thin = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
    values, vectors = torch.linalg.eigh(thin.mT @ thin)
    vector = vectors[:, -1]
    norms = EntryNorms.of_matrix(matrix)
    size = math.sqrt(norms.l1.upper * norms.linf.upper) * (1 + 4 * UNIT)
    image = float(torch.linalg.vector_norm(thin @ vector)) / float(torch.linalg.vector_norm(vector))
    error = gamma(sum(matrix.shape) + 16)
    lower = max(0.0, image * (1 - error) - gamma(sum(matrix.shape) + 4) * size)
    start = max(image, math.sqrt(max(0.0, float(values[-1])))) * (1 + tolerance / 4)
    return Measured(lower, max(lower, upper_end(matrix.unsqueeze(0), start, tolerance / 4)), Kind.EXACT)


def _lower(linear: LinearMap, size: float, tolerance: float, seed: int | torch.Generator) -> float:
    dtype = torch.float32 if 1e-12 < size < 1e12 else torch.float64
    run = golub_kahan(linear, random_start(linear, seed), STEPS, tolerance / 8, dtype)
    return rayleigh(linear, run.vector, linear.rows + linear.columns, size)


def entries_error(linear: LinearMap) -> float:
    """Norm of the rounding errors in the entries of a map written out: none for one layer, whose entries are weights.

    For chains and sums, which may cancel, every entry is a sum over at most rows + columns of each part, of products of parts.
    """
    if hasattr(linear, "entries_error"):
        return float(linear.entries_error())
    if not isinstance(linear, Chain | Sum | Stack):
        return 0.0
    return gamma(rounding_terms(linear)) * absolute_size(linear)


def rounding_terms(linear: LinearMap) -> int:
    """Roundings that an entry of the result of applying the map may have gone through."""
    if isinstance(linear, Chain | Sum | Stack):
        return sum(rounding_terms(part) + 4 for part in linear.maps)
    return linear.rows + linear.columns


def absolute_size(linear: LinearMap) -> float:
    """An upper end of ``‖|A|‖₂``, and so of ``‖A‖₂``: √(ℓ1·ℓ∞) of the entries, products and sums of such for chains and sums."""
    if isinstance(linear, Chain):
        return math.prod(absolute_size(part) for part in linear.maps) * (1 + 1e-12)
    if isinstance(linear, Sum):
        pairs = zip(linear.factors, linear.maps, strict=True)
        return math.fsum(abs(factor) * absolute_size(part) for factor, part in pairs) * (1 + 1e-12)
    if isinstance(linear, Stack):
        return math.sqrt(math.fsum(absolute_size(part) ** 2 for part in linear.maps)) * (1 + 1e-12)
    if hasattr(linear, "absolute_size"):
        return float(linear.absolute_size())
    if hasattr(linear, "entry_norms"):
        norms = linear.entry_norms()
        return min(math.sqrt(norms.l1.upper * norms.linf.upper) * (1 + 4 * UNIT), norms.frobenius.upper)
    return _entry_norms(linear).frobenius.upper


def _upper(linear: LinearMap, lower: float, tolerance: float, memory: int, seed: int | torch.Generator) -> float:
    """A proved upper end; for chains, sums and stacks from those of the parts."""
    if hasattr(linear, "upper"):
        return float(linear.upper(lower, tolerance, memory))
    if isinstance(linear, Chain | Sum | Stack):
        share = tolerance / len(linear.maps)
        parts = [spectral_norm_of(part, tolerance=share, memory=memory, seed=seed).upper for part in linear.maps]
        if isinstance(linear, Chain):
            return math.exp(math.fsum(math.log(p) for p in parts)) * (1 + 1e-12) if all(parts) else 0.0
        if isinstance(linear, Sum):
            return math.fsum(abs(f) * p for f, p in zip(linear.factors, parts, strict=True)) * (1 + 1e-12)
        return math.hypot(*parts) * (1 + 1e-12)
    return math.inf


def _shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in input_shape)
    if any(n < 1 for n in shape):
        raise InvalidInput(f"an input shape (without the batch) has positive sizes; got {shape}")
    return shape


def _entry_norms(linear: LinearMap, memory: int = MEMORY) -> EntryNorms:
    if hasattr(linear, "entry_norms"):
        return linear.entry_norms()
    if 16 * linear.rows * linear.columns > memory:
        raise UnsupportedModule(
            f"a chain or sum of shape {linear.shape_in} → {linear.shape_out}: its entries do not fit into {memory} bytes; "
            "ask for the norms of its parts"
        )
    return EntryNorms.of_matrix(linear.dense())


def frobenius_norm(module: nn.Module, input_shape: Sequence[int]) -> Measured:
    """‖A‖_F of the layer as a linear map; for a convolution every kernel entry counts once for each place it is used at.

    >>> frobenius_norm(nn.Flatten(), (2, 3)).upper  # the identity of 6 numbers
    2.449...
    """
    return _entry_norms(linear_map(module, input_shape)).frobenius


def l21_norm(module: nn.Module, input_shape: Sequence[int]) -> Measured:
    """``‖Aᵀ‖_{2,1}``: Σ over the *outputs* of the ℓ2 norm of their weights (the rows of A, the columns of Aᵀ).

    The convention of Bartlett, Foster & Telgarsky 2017 (``‖M‖_{2,1} = Σ_columns ‖column‖₂``, used on Aᵀ).  For a convolution
    every output position is a row: away from the border ``‖kernel of its channel‖_F``, at the border that of the part inside.
    """
    return _entry_norms(linear_map(module, input_shape)).rows21


def linf_norm(module: nn.Module, input_shape: Sequence[int]) -> Measured:
    """ℓ∞ → ℓ∞ operator norm: the largest absolute row sum."""
    return _entry_norms(linear_map(module, input_shape)).linf


def l1_norm(module: nn.Module, input_shape: Sequence[int]) -> Measured:
    """ℓ1 → ℓ1 operator norm: the largest absolute column sum."""
    return _entry_norms(linear_map(module, input_shape)).l1


def stable_rank(module: nn.Module, input_shape: Sequence[int], *, tolerance: float = 0.01) -> Measured:
    """‖A‖_F²/‖A‖₂², between 1 and the rank.  Raises InvalidInput for zero weights, where it has no value."""
    linear = linear_map(module, input_shape)
    frobenius, spectral = _entry_norms(linear).frobenius, spectral_norm_of(linear, tolerance=tolerance)
    if not spectral.lower > 0:
        raise InvalidInput(f"{type(module).__name__} is (nearly) the zero map: its stable rank 0/0 has no value")
    low = (frobenius.lower / spectral.upper) ** 2 * (1 - 8 * UNIT)
    high = (frobenius.upper / spectral.lower) ** 2 * (1 + 8 * UNIT)
    return Measured(low, high, spectral.kind, spectral.delta).clipped(1.0, float(linear.smaller_side))
