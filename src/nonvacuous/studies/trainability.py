"""Which theorems on optimization a network's training meets, what they promise then, and how its recorded curve compares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization import tangent_rate
from nonvacuous.optimization.escape import ExponentialNeuron
from nonvacuous.optimization.hypotheses import Condition, Standing, weakest
from nonvacuous.optimization.implicit_bias import tangent_kernel
from nonvacuous.optimization.output_skips import ANALYTIC, OutputSkips

KERNEL_EXAMPLES = 24
MOST_ENTRIES = 50_000_000
SILENT = (nn.Flatten, nn.Identity, nn.Dropout)


@dataclass(frozen=True)
class TheoremCheck:
    """One theorem against one network: its ``theorem`` (with source), ``conditions``, what it promises where all are met, and how
    the recorded curve compares ("" where nothing was recorded, or there is no rate to compare).
    """

    theorem: str
    conditions: tuple[Condition, ...]
    promise: str
    comparison: str = ""

    @property
    def standing(self) -> Standing:
        """FAILED if a hypothesis fails, UNKNOWN if one is unknown, else MET."""
        return weakest(self.conditions)

    def to_dict(self) -> dict[str, Any]:
        """What ``audit.json`` says of it."""
        return {
            "theorem": self.theorem,
            "standing": self.standing.value,
            "conditions": [{"name": c.name, "standing": c.standing.value, "reason": c.reason} for c in self.conditions],
            "promise": self.promise,
            "comparison": self.comparison,
        }


@dataclass(frozen=True)
class Curve:
    """A recorded training curve: its first and last loss, how many epochs, in how many the loss rose, and the geometric mean of
    the factor an epoch.
    """

    first: float
    last: float
    epochs: int
    rises: int
    factor: float

    @classmethod
    def of(cls, losses: Sequence[float]) -> Curve | None:
        """Of the mean losses after each epoch; None for fewer than two, or one that is not a number."""
        if len(losses) < 2 or not all(math.isfinite(loss) for loss in losses):
            return None
        first, last = losses[0], losses[-1]
        factor = (last / first) ** (1 / (len(losses) - 1)) if first > 0 and last > 0 else math.nan
        rises = sum(b > a for a, b in pairwise(losses))
        return cls(first, last, len(losses), rises, factor)

    def __str__(self) -> str:
        fall = f", a factor {self.factor:.4g} an epoch" if math.isfinite(self.factor) else ""
        return f"The recorded loss went from {self.first:.4g} to {self.last:.4g} in {self.epochs} epochs{fall}; it rose in {self.rises}."


@dataclass(frozen=True)
class Anatomy:
    """What the theorems ask of an architecture, read off its modules."""

    linear: tuple[nn.Linear, ...]
    others: tuple[nn.Module, ...]
    inputs: Tensor
    targets: Tensor
    n: int
    squared: bool | None
    initial: nn.Module | None

    @classmethod
    def of(
        cls, model: nn.Module, inputs: Tensor, targets: Tensor, n: int, squared: bool | None, initial: nn.Module | None
    ) -> Anatomy:
        """Leaves of ``model``, those that compute nothing of their own left out."""
        leaves = [m for m in model.modules() if not list(m.children()) and not isinstance(m, SILENT)]
        linear = tuple(m for m in leaves if isinstance(m, nn.Linear))
        return cls(linear, tuple(m for m in leaves if not isinstance(m, nn.Linear)), inputs, targets, n, squared, initial)

    def only_linear(self) -> Condition:
        """A chain of linear layers without biases."""
        names = sorted(
            {type(m).__name__ for m in self.others} | ({"biases"} if any(m.bias is not None for m in self.linear) else set())
        )
        return Condition.checked(
            "linear layers only, without biases",
            not names and len(self.linear) > 1,
            f"found {', '.join(names) or 'nothing else'}",
        )

    def squared_loss(self) -> Condition:
        """The loss trained on is the squared error."""
        if self.squared is None:
            return Condition.unknown("squared loss", "the loss trained on is not recorded")
        return Condition.checked("squared loss", self.squared, "squared error" if self.squared else "the loss is another")

    def homogeneous(self) -> Condition:
        """Scaling the weights scales the output: ReLU or linear, no bias, no normalizer."""
        wrong = [
            type(m).__name__ for m in self.others if not isinstance(m, (nn.ReLU, nn.LeakyReLU, nn.MaxPool2d, nn.AvgPool2d))
        ]
        wrong += ["biases"] * any(getattr(m, "bias", None) is not None for m in (*self.linear, *self.others))
        return Condition.checked(
            "homogeneous in the weights", not wrong, f"found {', '.join(sorted(set(wrong))) or 'ReLU and linear maps only'}"
        )

    def started(self) -> list[Tensor] | None:
        """Initial weights of the linear layers, where the initial network was given."""
        if self.initial is None:
            return None
        return [m.weight.detach().double().cpu() for m in self.initial.modules() if isinstance(m, nn.Linear)]


def theorems(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    n: int | None = None,
    squared: bool | None = None,
    initial: nn.Module | None = None,
    losses: Sequence[float] = (),
    training_error: float | None = None,
) -> tuple[TheoremCheck, ...]:
    """Every theorem of :mod:`nonvacuous.optimization` against this network and its training sample; nothing is trained.

    A hypothesis whose constant the theorem does not state, or which nothing given here can settle, is *unknown*, never met.

    Args:
        model: the network as trained. inputs ``[b, …]``, targets ``[b]`` or ``[b, k]``: training examples; n: how many there are in
            all, b by default. squared: whether the loss trained on is the squared error, None if nobody knows.
        initial: the network before training, if kept.
        losses: mean training loss after each epoch. training_error: fraction of the sample that the network gets wrong.
    """
    anatomy = Anatomy.of(model, inputs, targets, len(inputs) if n is None else n, squared, initial)
    curve = Curve.of(losses)
    rate = "" if curve is None else str(curve)
    return (
        _deep_linear(anatomy, rate),
        _wide_linear(anatomy, rate),
        _zero_asymmetric(anatomy, rate),
        _exponential(model, anatomy, training_error),
        _skips(model, anatomy, rate),
        _near_identity(model, anatomy),
        _tangent(model, anatomy, curve),
        _margin(anatomy, training_error, initial, model),
    )


def _deep_linear(a: Anatomy, rate: str) -> TheoremCheck:
    data = Condition.unknown(
        "XXᵀ, XYᵀ of full rank, Σ with distinct eigenvalues, d_y ≤ d_x", "analyse_deep_linear(X, Y, widths) checks it"
    )
    return TheoremCheck(
        "Deep linear landscape (Kawaguchi 2016, Theorem 2.3)",
        (a.only_linear(), a.squared_loss(), data),
        "Every local minimum of the training loss is global, every other critical point a saddle.",
        rate,
    )


def _wide_linear(a: Anatomy, rate: str) -> TheoremCheck:
    width = min((m.out_features for m in a.linear[:-1]), default=0)
    start = Condition.unknown("Gaussian initial weights", "the law of the initial weights is not recorded")
    constant = Condition.unknown("width ≥ C·L·max{…}", f"the least hidden width is {width:,}; the theorem does not state C")
    return TheoremCheck(
        "Wide deep linear networks (Du and Hu 2019, Theorem 4.1)",
        (a.only_linear(), a.squared_loss(), start, constant),
        "The excess loss falls by 1 − ηLλ_r(XᵀX)/(4d_out) a step of full gradient descent.",
        rate,
    )


def _zero_asymmetric(a: Anatomy, rate: str) -> TheoremCheck:
    started = a.started()
    if started is None:
        start = Condition.unknown("identity start, last layer zero", "the initial network was not given")
    else:
        met = len(started) > 1 and not bool(started[-1].any()) and all(_is_identity(W) for W in started[:-1])
        start = Condition.checked("identity start, last layer zero", met, "compared with the initial network")
    square = len({size for m in a.linear for size in m.weight.shape}) == 1
    shapes = " × ".join(str(m.out_features) for m in a.linear) or "none"
    step = Condition.unknown("step size ≤ min{1/(4L³φ⁶), 1/(144L²φ⁴)}, whitened inputs", "the step size is not recorded")
    return TheoremCheck(
        "Zero-asymmetric residual networks (Wu, Wang and Ma 2019, Theorem 4.3)",
        (a.only_linear(), a.squared_loss(), Condition.checked("square layers", square, f"layer widths {shapes}"), start, step),
        "The loss falls by 1 − η/2 a step of full gradient descent, from the first step on.",
        rate,
    )


def _is_identity(W: Tensor) -> bool:
    return W.shape[0] == W.shape[1] and bool((torch.eye(len(W), dtype=W.dtype) == W).all())


def _exponential(model: nn.Module, a: Anatomy, training_error: float | None) -> TheoremCheck:
    there = isinstance(model, ExponentialNeuron)
    labels = set(a.targets.unique().tolist()) if a.targets.dim() == 1 and not a.targets.is_complex() else set()
    realised = Condition.unknown("some weights classify every training example right", "not shown by this network")
    if training_error == 0:
        realised = Condition.checked("some weights classify every training example right", True, "this network does")
    shown = ", ".join(f"{x:g}" for x in sorted(labels)[:4]) + (", …" if len(labels) > 4 else "")
    return TheoremCheck(
        "One exponential neuron (Liang et al. 2018, Theorem 1)",
        (
            Condition.checked(
                "a·exp(wᵀx + b) added, λa²/2 in the loss",
                there,
                "ExponentialNeuron(model) adds it" if not there else "it is there",
            ),
            Condition.checked("labels ±1", labels <= {-1, 1} and bool(labels), f"labels {shown or 'of another shape'}"),
            realised,
        ),
        "Every local minimum is global. It need not exist: runs may diverge while the loss falls.",
    )


def _skips(model: nn.Module, a: Anatomy, rate: str) -> TheoremCheck:
    if isinstance(model, OutputSkips):
        conditions = model.conditions(a.inputs)
    else:
        activations = [m for m in a.others if type(m).__module__ == "torch.nn.modules.activation"]
        wrong = sorted({type(m).__name__ for m in activations if not isinstance(m, ANALYTIC)})
        widest = max((m.out_features for m in a.linear[:-1]), default=0)
        conditions = (
            Condition.checked(
                "activations are analytic and strictly increasing", bool(activations) and not wrong, ", ".join(wrong) or "yes"
            ),
            Condition.checked(
                "at least n neurons skip to the output",
                False,
                f"no OutputSkips; the widest hidden layer has {widest:,} neurons, n = {a.n:,}",
            ),
        )
    return TheoremCheck(
        "Skips to the output (Nguyen, Mukkamala and Hein 2019, Theorem 3.4)",
        conditions,
        "From every point a path leads to any loss above zero; the infimum need not be attained.",
        rate,
    )


def _near_identity(model: nn.Module, a: Anatomy) -> TheoremCheck:
    name = "every block within ε < 1 of the identity, h(0) = 0"
    if a.linear and not a.others:
        square = all(m.in_features == m.out_features for m in a.linear)
        far = (
            max(
                float(torch.linalg.matrix_norm(m.weight.detach().double().cpu() - torch.eye(m.in_features), 2))
                for m in a.linear
            )
            if square
            else math.inf
        )
        shifted = any(m.bias is not None and bool(m.bias.detach().any()) for m in a.linear)
        near = Condition.checked(
            name, far < 1 and not shifted, f"the farthest layer is at {far:.3g}" if square else "layers change the width"
        )
    elif type(model) is nn.Sequential and any(m in list(model) and m.in_features != m.out_features for m in a.linear):
        near = Condition.checked(name, False, "a chain whose layers change the width")
    else:
        near = Condition.unknown(
            name, "residual branches cannot be seen from outside; near_identity.sides(branches, x, y) takes them"
        )
    return TheoremCheck(
        "Near-identity compositions (Bartlett, Evans and Long 2018)",
        (near, a.squared_loss()),
        "The derivative by each block, as a function, vanishes at global minima only; that by the parameters may vanish elsewhere.",
    )


def _tangent(model: nn.Module, a: Anatomy, curve: Curve | None) -> TheoremCheck:
    two = len(a.linear) == 2 and len(a.others) == 1 and isinstance(a.others[0], nn.ReLU) and a.linear[1].out_features == 1
    architecture = Condition.checked(
        "two layers, ReLU, one output", two, f"{len(a.linear)} linear layers, {len(a.others)} other parts"
    )
    name = "λ_min of the tangent kernel is positive"
    kernel = Condition.unknown(name, "not computed, since the architecture is another")
    if two:
        start = a.initial if a.initial is not None else model
        size = sum(p.numel() for p in start.parameters())
        seen = max(2, min(KERNEL_EXAMPLES, len(a.inputs), MOST_ENTRIES // size))
        try:
            values = tangent_rate.spectrum(tangent_kernel(start, a.inputs[:seen]))
        except (RuntimeError, InvalidInput) as error:  # a model without a kernel
            kernel = Condition.unknown(name, f"could not be computed: {str(error).splitlines()[0]:.80}")
        else:
            least = f"{float(values[0]):.3g} on the first {seen} examples {'before' if a.initial is not None else 'after'} training"
            kernel = Condition.unknown(name, least + "; on all examples it can only be smaller")
            if not float(values[0]) > 1e-7 * float(values[-1]):
                kernel = Condition.checked(name, False, least)
    width = Condition.unknown("width of order n⁶/λ₀⁴, step size of order λ₀/n²", f"n = {a.n:,}; the constants are not stated")
    return TheoremCheck(
        "Over-parameterised networks (Du, Zhai, Póczos and Singh 2019, Theorem 4.1)",
        (architecture, a.squared_loss(), kernel, width),
        "The training loss falls by 1 − ηλ₀/2 a step of full gradient descent, to zero.",
        "" if curve is None else str(curve),
    )


def _margin(a: Anatomy, training_error: float | None, initial: nn.Module | None, model: nn.Module) -> TheoremCheck:
    fitted = Condition.unknown("every training example is classified right", "not recorded")
    if training_error is not None:
        fitted = Condition.checked(
            "every training example is classified right", training_error == 0, f"training error {training_error:.4g}"
        )
    loss = Condition.unknown("cross-entropy or exponential loss", "the loss trained on is not recorded")
    if a.squared is not None:
        loss = Condition.checked(loss.name, not a.squared, "squared error" if a.squared else "a classification loss")
    limit = Condition.unknown("gradient flow, time without end", "a statement on a limit that no finite run reaches")
    moved = ""
    if initial is not None:
        size = away = 0.0
        for p, q in zip(model.parameters(), initial.parameters(), strict=False):
            if p.shape == q.shape:
                now, then = p.detach().double().cpu(), q.detach().double().cpu()
                size, away = size + float(then.square().sum()), away + float((now - then).square().sum())
        if size > 0:
            far = math.sqrt(away / size)
            moved = f"The weights moved by {far:.3g} of their initial norm; the lazy regime asks for a small number."
    return TheoremCheck(
        "Implicit bias to the largest margin (Lyu and Li 2020; linear: Soudry et al. 2018)",
        (
            a.homogeneous(),
            loss,
            fitted,
            limit,
        ),
        "The normalised margin rises in the end, and the direction tends to a stationary point of the margin problem, as 1/log t.",
        moved,
    )
