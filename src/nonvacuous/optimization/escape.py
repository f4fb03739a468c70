"""One exponential neuron, and no local minimum is bad any more: the theorem, a certified bad minimum, and how runs end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from scipy.integrate import BDF
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.deep_linear import gamma
from nonvacuous.runtime.models import outputs

Loss = Callable[[Tensor], Tensor]


def cubed_hinge(z: Tensor) -> Tensor:
    """ℓ(z) = max(0, 1 + z)³ of z = −y·f(x): twice differentiable, non-decreasing, and critical only where it is zero, z ≤ −1."""
    return (1 + z).clamp(min=0) ** 3


def binary(labels: Any, n: int | None = None) -> Tensor:
    """Labels ``[n]`` as float64 of ±1.

    :raises InvalidInput: anything but −1 and 1, or not n of them.
    """
    found = torch.as_tensor(labels)
    values = sorted(set(found.flatten().tolist()))
    if found.dim() != 1 or any(value not in (-1, 1) for value in values):
        shown = ", ".join(f"{value:g}" for value in values[:5])
        raise InvalidInput(
            f"the theorem is for labels −1 and 1, shape [n]; got shape {tuple(found.shape)} with {shown}. Map them"
        )
    if n is not None and len(found) != n:
        raise InvalidInput(f"{len(found)} labels for {n} examples. Pass one a row")
    return found.double()


class ExponentialNeuron(nn.Module):
    """f(x) + a·exp(wᵀx + b) for any binary classifier f with one output; to be trained with λa²/2 added to the loss.

    Theorem. Let ℓ be non-decreasing and twice differentiable, with every critical point of ℓ a global minimum at some z < 0, and
    let some weights of f classify every example right. Then at every local minimum of Σℓ(−y_i f̃(x_i)) + λa²/2: a = 0, it is a
    global minimum, and so are the weights of f for the loss without the neuron. Why: at a critical point a·∂/∂a − ∂/∂b of the
    loss is λa², so a = 0; then Σℓ′y_i exp(wᵀx_i + b) = 0 for every w near, hence ℓ′ = 0 at every example.

    What it does not say: that a local minimum exists, or that descent stays bounded. From a bad start the loss may fall for ever
    while w, b → ∞ and a → 0 like t^(−1/2) (:func:`gradient_flow` shows such runs and reports them as diverging).

    Args:
        model: takes ``[n, d]``, gives ``[n]`` or ``[n, 1]``.
        inputs: d. amplitude, bias: initial a and b; the direction w starts at zero. penalty: λ > 0.

    Source: Liang, Sun, Lee and Srikant 2018, "Adding one neuron can eliminate all bad local minima", Theorem 1.

    >>> wrapped = ExponentialNeuron(nn.Linear(2, 1).double(), 2, amplitude=1.0)
    >>> x = torch.zeros(1, 2, dtype=torch.float64)
    >>> round((wrapped(x) - wrapped.model(x).squeeze()).item(), 12)
    1.0
    """

    def __init__(self, model: nn.Module, inputs: int, *, amplitude: float = 0.0, bias: float = 0.0, penalty: float = 1.0):
        super().__init__()
        if not 0 < penalty < math.inf:
            raise InvalidInput(f"the penalty λ = {penalty!r} must be positive and finite: without it the theorem fails")
        self.model, self.penalty = model, penalty
        like = next((p for p in model.parameters()), torch.zeros((), dtype=torch.float64))
        self.a = nn.Parameter(torch.as_tensor(amplitude, dtype=like.dtype))
        self.b = nn.Parameter(torch.as_tensor(bias, dtype=like.dtype))
        self.w = nn.Parameter(torch.zeros(inputs, dtype=like.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """``[n]``."""
        return single(self.model, x) + self.a * torch.exp(x.flatten(1) @ self.w + self.b)

    def objective(self, x: Tensor, y: Tensor, loss: Loss = cubed_hinge) -> Tensor:
        """Σℓ(−y_i f̃(x_i)) + λa²/2."""
        return loss(-y * self(x)).sum() + self.penalty * self.a**2 / 2


def single(model: nn.Module, x: Tensor) -> Tensor:
    """The model's one output ``[n]``.

    :raises InvalidInput: more than one output an example.
    """
    out = outputs(model, x)
    if out.shape not in ((len(x),), (len(x), 1)):
        raise InvalidInput(
            f"a binary classifier with one output is needed; the model gave {tuple(out.shape)} for {len(x)} examples"
        )
    return out.reshape(len(x))


@dataclass(frozen=True)
class DeadMinimum:
    """A certified local minimum of the plain network.

    radius: with every row (weights and bias) of the first layer moved by less than this, and all other layers by anything at all,
    the loss is at least ``loss``. better: the loss of other weights that were given, or None. bad: it is not global.
    """

    loss: float
    radius: float
    better: float | None

    @property
    def bad(self) -> bool:
        """Some weights are known to do better."""
        return self.better is not None and self.better < self.loss


def kill(model: nn.Sequential, x: Tensor, y: Tensor, *, margin: float = 1.0) -> None:
    """Move a ReLU network, in place, to a bad minimum: its first layer dead on every example, its last bias the best constant.

    The first biases are lowered until every pre-activation is at most −margin; the constant is the one that minimises the cubed
    hinge, (√n₊ − √n₋)/(√n₊ + √n₋).
    """
    first, last = _ends(model)
    y = binary(y, len(x))
    with torch.no_grad():
        first.bias.sub_((first(x.flatten(1)) + margin).amax(0).clamp(min=0))
        plus, minus = float((y > 0).sum()) ** 0.5, float((y < 0).sum()) ** 0.5
        constant = single(model, x)[0]
        last.bias.add_((plus - minus) / (plus + minus) - constant)


def dead_minimum(model: nn.Sequential, x: Tensor, y: Tensor, better: nn.Module | None = None) -> DeadMinimum:
    """Certify that a ReLU network sits in a local minimum of Σ max(0, 1 − y f)³: a region where the output is one constant.

    If every first-layer pre-activation is below zero at every example, moving the layer's rows by less than the distance to zero
    over √(‖x‖² + 1) leaves all of them there. Whatever the later layers, the output is then the same at every example, and no
    constant does better than the best one, which this network gives.

    Args:
        model: Linear and ReLU, starting (after an optional Flatten) with Linear, ReLU; one output. x ``[n, d]``, y ``[n]`` of ±1.
        better: the same architecture with better weights, to show that the minimum is not global.

    Raises:
        InvalidInput: no such network, labels not ±1, a unit that is alive, or an output that is not the best constant.
    """
    first, _ = _ends(model)
    y = binary(y, len(x))
    flat = x.flatten(1).double()
    with torch.no_grad():
        weight, bias = first.weight.double(), first.bias.double()
        before = flat @ weight.T + bias
        before = before + gamma(weight.shape[1] + 2) * (flat.abs() @ weight.abs().T + bias.abs())
        distance = float((-before / ((flat**2).sum(1, keepdim=True) + 1).sqrt()).min()) * (1 - 1e-12)
        if distance <= 0:
            raise InvalidInput(
                f"{int((before >= 0).any(0).sum())} units of the first layer are alive on some example. kill() the layer"
            )
        value = float(single(model, x)[0])
        loss = float(cubed_hinge(-y * value).sum())
        plus, minus = float((y > 0).sum()) ** 0.5, float((y < 0).sum()) ** 0.5
        best = (plus - minus) / (plus + minus)
        least = float(cubed_hinge(-y * best).sum())
        if loss > least * (1 + 1e-9) + 1e-12:
            raise InvalidInput(f"the output is {value:.6g}, not the best constant {best:.6g}: the last bias still leads down")
        other = None if better is None else float(cubed_hinge(-y * single(better, x).double()).sum())
    return DeadMinimum(loss, distance, other)


def _ends(model: nn.Sequential) -> tuple[nn.Linear, nn.Linear]:
    layers = [layer for layer in model if not isinstance(layer, nn.Flatten)]
    kinds = [type(layer) for layer in layers]
    if len(layers) < 3 or kinds[:2] != [nn.Linear, nn.ReLU] or kinds[-1] is not nn.Linear or set(kinds) - {nn.Linear, nn.ReLU}:
        raise InvalidInput("a Sequential of Linear and ReLU is needed that begins with Linear, ReLU and ends with Linear")
    first, last = layers[0], layers[-1]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    if first.bias is None or last.bias is None:
        raise InvalidInput("the first and the last layer need a bias. Make them with bias=True")
    return first, last


@dataclass(frozen=True)
class EscapeDirection:
    """From a = 0, move w by ``tilt`` (the loss does not change), then a by ``sign``: the loss falls at the rate ``slope`` < 0."""

    tilt: Tensor
    sign: float
    slope: float


def escape_direction(
    wrapped: ExponentialNeuron, x: Tensor, y: Tensor, *, reach: float = 0.1, seed: int = 0
) -> EscapeDirection | None:
    """A way down from a point with a = 0, within ``reach`` of it in w; None where the loss's slope is zero at every example.

    At a = 0 the loss does not see w, and its derivative by a is −Σℓ′(−y f)y exp(wᵀx + b), a sum of different exponentials, which
    vanishes for no open set of w unless every ℓ′ does (equal inputs with cancelling slopes apart).
    """
    y = binary(y, len(x))
    if float(wrapped.a.detach()) != 0.0:
        raise InvalidInput(f"a = {float(wrapped.a.detach()):g}: with a ≠ 0 the plain gradient leads down. Set a to 0")
    with torch.no_grad():
        f = single(wrapped.model, x).double()
    z = (-y * f).requires_grad_()
    (slopes,) = torch.autograd.grad(cubed_hinge(z).sum(), z)
    if float(slopes.abs().max()) == 0.0:
        return None
    generator = torch.Generator().manual_seed(seed)
    flat = x.flatten(1).double()
    tilts = torch.randn(64, flat.shape[1], dtype=torch.float64, generator=generator)
    tilts = reach * tilts / tilts.norm(dim=1, keepdim=True)
    tilts[0] = 0
    w, b = wrapped.w.detach().double(), float(wrapped.b.detach())
    rates = -(torch.exp(flat @ (w + tilts).T + b) * (slopes * y)[:, None]).sum(0)
    best = int(rates.abs().argmax())
    rate = float(rates[best])
    return None if rate == 0.0 else EscapeDirection(tilts[best], -math.copysign(1.0, rate), -abs(rate))


class End(Enum):
    """How a run ends."""

    FINITE = "at a finite global minimum, a = 0"
    DIVERGING = "diverging: the loss falls while the weights grow without bound"
    OPEN = "undecided when time was up"


@dataclass(frozen=True)
class Flow:
    """A run of gradient flow: times ``[T]``; the objective, a (its modulus) and ‖(w, b)‖ at each.

    exponent: of t in a, over the last decade. end: how the run ended.
    """

    times: np.ndarray
    objective: np.ndarray
    amplitude: np.ndarray
    reach: np.ndarray
    exponent: float
    end: End


def gradient_flow(wrapped: ExponentialNeuron, x: Tensor, y: Tensor, *, until: float = 1e5, steps: int = 5000) -> Flow:
    """Gradient flow of the wrapped objective (cubed hinge) from the module's weights to time ``until``; the module ends there.

    Read off the last decade of time. DIVERGING: ‖(w, b)‖ still grows, and a falls like t^(−1/2), the exponent within 0.15.
    FINITE: ‖(w, b)‖ stands still, a falls faster than 1/t, and the loss without penalty is below a thousandth of the start's. OPEN
    otherwise, or when ``steps`` steps of the implicit integrator do not reach ``until`` (networks with kinks may chatter).

    :raises InvalidInput: labels not ±1, or weights that are not double precision.
    """
    y = binary(y, len(x))
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    if any(p.dtype != torch.float64 for p in parameters):
        raise InvalidInput("the flow needs double precision. Call .double() on the wrapped model and its inputs")
    sizes = [p.numel() for p in parameters]

    def load(state: np.ndarray) -> None:
        with torch.no_grad():
            for p, part in zip(parameters, torch.from_numpy(state.copy()).split(sizes), strict=True):
                p.copy_(part.view_as(p))

    def slope(state: np.ndarray) -> np.ndarray:
        load(state)
        grads = torch.autograd.grad(wrapped.objective(x, y), parameters, allow_unused=True)
        return np.concatenate(
            [np.zeros(p.numel()) if g is None else g.flatten().numpy() for g, p in zip(grads, parameters, strict=True)]
        )

    start = torch.cat([p.detach().flatten() for p in parameters]).numpy()
    solver = BDF(lambda _, state: -slope(state), 0.0, start, until, rtol=1e-7, atol=1e-10, first_step=1e-4)
    times: list[float] = []
    rows: list[tuple[float, float, float]] = []
    while solver.status == "running" and len(times) < steps:
        solver.step()
        load(solver.y)
        with torch.no_grad():
            inner = torch.cat([wrapped.w, wrapped.b[None]])
            rows.append((float(wrapped.objective(x, y)), abs(float(wrapped.a)), float(inner.norm())))
        times.append(solver.t)
    t = np.array(times)
    objective, amplitude, reach = map(np.array, zip(*rows, strict=True))
    exponent, end = (
        _ended(wrapped.penalty, t, objective, amplitude, reach) if solver.status == "finished" else (math.nan, End.OPEN)
    )
    return Flow(t, objective, amplitude, reach, exponent, end)


def _ended(
    penalty: float, t: np.ndarray, objective: np.ndarray, amplitude: np.ndarray, reach: np.ndarray
) -> tuple[float, End]:
    late = t >= t[-1] / 10
    then, now = np.interp(math.log(t[-1] / 10), np.log(t), np.log(amplitude + 1e-300)), math.log(amplitude[-1] + 1e-300)
    exponent = float((now - then) / math.log(10))
    growing = reach[-1] > reach[late][0] * (1 + 1e-3)
    if growing and abs(exponent + 0.5) < 0.15:
        return exponent, End.DIVERGING
    rest = objective[-1] - penalty * amplitude[-1] ** 2 / 2
    settled = exponent < -1 and not growing and rest < 1e-3 * objective[0]
    return exponent, End.FINITE if settled else End.OPEN
