"""A network as a list of steps: affine layers, fixed Lipschitz maps, sums and concatenations; its (2,1) spectral complexity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch

from nonvacuous.bounds.spectral_complexity import (
    FixedMap,
    Joined,
    LayerNorms,
    NetworkStep,
    SpectralComplexity,
    spectral_complexity,
)
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.chains import Chain, Layer
from nonvacuous.operators.appended import Appended
from nonvacuous.operators.certified import gamma


@dataclass(frozen=True)
class Weights:
    """An affine layer that reads result ``reads`` (0 is the input, step k gives result k + 1).

    ``adds``: whether its architecture can add constants; ``fixed``: it has no weights at all (average pooling).
    """

    reads: int
    layer: Layer
    adds: bool
    fixed: bool
    name: str

    @property
    def rows(self) -> int:
        """Numbers it gives, the appended 1 not counted."""
        inner = self.layer.map
        return inner.linear.rows if isinstance(inner, Appended) else inner.rows


@dataclass(frozen=True)
class Fixed:
    """A fixed map, its Lipschitz constant, and an upper end of the norm of what it makes of 0."""

    reads: int
    lipschitz: float
    offset: float = 0.0


@dataclass(frozen=True)
class Join:
    """A sum, or a concatenation."""

    reads: tuple[int, ...]
    concatenated: bool


@dataclass(frozen=True)
class WeightGraph:
    """The steps in order; the last gives the scores (for two classes their difference where a layer gives them).

    Attributes:
        biased: whether anything adds constants, so that sizes count the appended 1.
        inputs: coordinates of an input, the appended 1 not counted.
        classes: K.
    """

    steps: tuple[Weights | Fixed | Join, ...]
    biased: bool
    inputs: int
    classes: int
    found: Chain | UnsupportedModule

    @property
    def chain(self) -> Chain:
        """The same as a chain of layers; raises :class:`UnsupportedModule`, naming what is none."""
        if isinstance(self.found, UnsupportedModule):
            raise self.found
        return self.found

    @property
    def layers(self) -> tuple[Weights, ...]:
        """The affine layers that have weights."""
        return tuple(step for step in self.steps if isinstance(step, Weights) and not step.fixed)

    @property
    def widest(self) -> int:
        """Largest dimension of an input or output of a layer, the appended 1 included."""
        sides = [max(step.layer.map.rows, step.layer.map.columns) for step in self.steps if isinstance(step, Weights)]
        return max(sides, default=self.inputs)

    def complexity(self, reference: WeightGraph | None) -> SpectralComplexity:
        """R_A, distances from a reference fixed before the data (None: from zero); raises InvalidInput for one of another architecture."""
        if reference is not None and [_form(step) for step in reference.steps] != [_form(step) for step in self.steps]:
            raise InvalidInput("the reference's layers are not those of the network: no distance between them is defined")
        others = (None,) * len(self.steps) if reference is None else reference.steps
        tolerance = 0.01 if isinstance(self.found, UnsupportedModule) else 0.0025  # what the chain's norms need anyway
        steps = [_norms(step, other, tolerance) for step, other in zip(self.steps, others, strict=True)]
        return spectral_complexity(steps, self.biased)


def _form(step: Weights | Fixed | Join) -> object:
    return (step.reads, step.fixed, step.layer.map.shape_in, step.layer.map.shape_out) if isinstance(step, Weights) else step


def _norms(step: Weights | Fixed | Join, other: Weights | Fixed | Join | None, tolerance: float) -> NetworkStep:
    if isinstance(step, Join):
        return Joined(step.reads, step.concatenated)
    if isinstance(step, Fixed):
        return FixedMap(step.lipschitz, step.offset, step.reads)
    spectral = step.layer.linear_spectral(tolerance)
    if step.fixed:
        return FixedMap(spectral, 0.0, step.reads)
    bias = None
    if step.adds:
        offset = cast(Appended, step.layer.map).offset
        bias = float(torch.linalg.vector_norm(offset)) * (1 + gamma(offset.numel() + 4)) + step.layer.slack[0]
    distance = step.layer.distance(other.layer if isinstance(other, Weights) else None, step.rows)
    if not math.isfinite(spectral):
        raise InvalidInput(f"{step.name}: its norm overflows")
    return LayerNorms(spectral, distance, 1.0, bias, step.reads)
