"""Targets as users give them: evaluated with care, and refused where they contradict what is claimed of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput

Target = Callable[[Tensor], Tensor]
Box = tuple[tuple[float, float], ...]

#: Relative error that a target's own floating-point evaluation is allowed.
ROUNDING = 2.0**-48


def as_box(domain: Sequence[float] | Sequence[Sequence[float]], most: int) -> Box:
    """``(a, b)`` or a sequence of such pairs, as floats; at most ``most`` of them."""
    pairs: list[Any] = [domain] if len(domain) == 2 and not hasattr(domain[0], "__len__") else list(domain)
    box = tuple((float(a), float(b)) for a, b in pairs)
    for a, b in box:
        if not (math.isfinite(a) and math.isfinite(b) and a < b):
            raise InvalidInput(f"a domain is finite and has a < b; got [{a}, {b}]")
    if not 1 <= len(box) <= most:
        raise InvalidInput(
            f"domains have 1 to {most} dimensions here; got {len(box)}. A Lipschitz target costs about (L/ε)^d bumps: at "
            f"L/ε = 100, d = {len(box)}, that is 10^{2 * len(box)} of them. A target that is a composition of functions of few variables "
            "can be built piece by piece"
        )
    return box


def check_accuracy(eps: float, scale: float) -> None:
    """Refuses an accuracy that is not positive, or that float64 cannot resolve at values of size ``scale``."""
    if not (eps > 0 and math.isfinite(eps)):
        raise InvalidInput(f"eps is a positive finite number; got {eps}: a network of finite size reaches eps > 0 only")
    if eps < 2.0**-42 * scale:
        raise InvalidInput(
            f"eps = {eps:g} is below what float64 can hold and prove for values of size {scale:g}: at least {2.0**-42 * scale:.2g}"
        )


def describe(x: Tensor) -> str:
    """A point in an error message."""
    return ", ".join(repr(v) for v in x.reshape(-1).tolist())


def values(f: Target, x: Tensor) -> Tensor:
    """f at ``[n]`` or ``[n, d]`` points as float64 ``[n]``; refuses other shapes, and values that are not finite (where)."""
    with torch.no_grad():
        y = f(x)
    if not isinstance(y, Tensor):
        raise InvalidInput(f"the target must map tensors to tensors; it returned a {type(y).__name__}")
    if y.shape != x.shape[:1]:
        wanted = "elementwise, [n] to [n]" if x.dim() == 1 else f"[n, {x.shape[1]}] to [n]"
        raise InvalidInput(f"the target must map {wanted}; it made {tuple(y.shape)} of {tuple(x.shape)}")
    if y.is_complex() or y.dtype == torch.bool:
        raise InvalidInput(f"the target must be real; it returned {y.dtype}")
    y = y.to(torch.float64)
    if not y.isfinite().all():
        where = int((~y.isfinite()).nonzero()[0])
        raise InvalidInput(f"the target is {y[where].item()} at {describe(x[where])}: choose a domain where it is finite")
    return y


def check_slope(f: Target, x: Tensor, y: Tensor, following: Tensor, after: Tensor, lipschitz: float) -> None:
    """Refuses a claimed Lipschitz constant that two samples contradict, naming them, and a jump if that is what they show.

    ``x`` → ``y`` and ``following`` → ``after`` are the pairs, row by row; ``lipschitz`` is for the Euclidean norm.
    """
    distance = (following - x).abs() if x.dim() == 1 else (following - x).square().sum(-1).sqrt()
    excess = (after - y).abs() - lipschitz * distance - ROUNDING * (after.abs() + y.abs() + lipschitz * distance)
    if not len(excess) or float(excess.max()) <= 0:
        return
    worst = int(excess.argmax())
    a, b, fa, fb = x[worst], following[worst], y[worst], after[worst]
    first = f"({describe(a)}) → {fa.item():.6g} and ({describe(b)}) → {fb.item():.6g}"
    for _ in range(60):
        middle = (a + b) / 2
        if torch.equal(middle, a) or torch.equal(middle, b):
            break
        fm = values(f, middle[None])[0]
        a, b, fa, fb = (a, middle, fa, fm) if (fm - fa).abs() > (fb - fm).abs() else (middle, b, fm, fb)
    rise = float((fb - fa).abs())
    jumps = rise > float(excess[worst]) / 2
    remedy = (
        f"it seems to jump by {rise:.4g} at {describe(b)}: a continuous network cannot come closer than half of that, so "
        "split the domain there, or build a piecewise constant target in the mean (one_neuron_resnet)"
        if jumps
        else f"pass lipschitz ≥ {float((after[worst] - y[worst]).abs() / distance[worst]):.6g}, or a bound you can prove"
    )
    raise InvalidInput(f"the target is not {lipschitz:g}-Lipschitz: {first}; {remedy}")
