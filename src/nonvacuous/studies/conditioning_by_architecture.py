"""Conditioning fixed by the architecture (optimization lecture): gradients of the first layer, and the curvature's spectrum, by depth.

Fully connected ReLU networks of one width at initialisation, torch's default unless said otherwise, L hidden layers:

* plain: h ← ReLU(Wh + b). Torch's default weights have variance 1/(3 · fan-in), so that the squared gradient shrinks by 6 a layer.
* residual: h ← h + f(h), f two layers, each behind a ReLU (He et al. 2016, in the order of their second paper).
* batch norm, layer norm: h ← ReLU(N(Wh + b)); batch norm in training mode.
* weight norm: W = g v/‖v‖ with the initialisation of its paper, from one batch (Salimans and Kingma 2016, section 3). Without it, g = ‖v‖
  gives the plain network.
* weight-standardised: rows of mean 0 and variance γ²/fan-in, γ² = 2/(1 − 1/π) for ReLU (Qiao et al. 2019; the factor is that of Brock
  et al. 2021, without which there must be a normalizer behind it).
* normaliser-free: h ← h + α f(h/β), f weight-standardised, β² the variance of h to be expected (Brock et al. 2021).

Plain ones vanish. Those that take away means without skip connections *explode*: the squared gradient grows by π/(π − 1) a layer in wide
ReLU networks (Yang et al. 2019 for batch norm). The quantile ratio is the largest eigenvalue of the Gauss–Newton matrix over the
``share`` quantile of the n(k − 1) that can be other than 0, the same number for all.

``python -m nonvacuous.studies.conditioning_by_architecture --out results/conditioning_by_architecture.csv`` writes one row a network.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, relu
from torch.nn.utils.parametrizations import weight_norm

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators.normalizers import standardized
from nonvacuous.optimization.conditioning import spectrum_ratio
from nonvacuous.optimization.conditioning_gram import gram_spectrum
from nonvacuous.runtime.models import initialise
from nonvacuous.runtime.samples import ArraySample
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.tasks import progress_bar

RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
ALPHA = 0.2


class Architecture(Enum):
    """What is done against vanishing gradients."""

    PLAIN = "plain"
    RESIDUAL = "residual"
    BATCH_NORM = "batch norm"
    LAYER_NORM = "layer norm"
    WEIGHT_NORM = "weight norm"
    WEIGHT_STANDARDISED = "weight-standardised"
    NORMALISER_FREE = "normaliser-free"


class StandardisedLinear(nn.Linear):
    """A dense layer whose rows have mean 0 and variance γ²/fan-in, times a gain each."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        nn.init.zeros_(self.bias)
        self.gain = nn.Parameter(torch.full((outputs, 1), RELU_GAIN / math.sqrt(inputs)))

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs] to [n, outputs]."""
        return linear(x, self.gain * standardized(self.weight), self.bias)


class Skip(nn.Module):
    """h + α · layer(ReLU(h/β))."""

    def __init__(self, layer: nn.Module, alpha: float = 1.0, beta: float = 1.0) -> None:
        super().__init__()
        self.layer, self.alpha, self.beta = layer, alpha, beta

    def forward(self, h: Tensor) -> Tensor:
        """[n, width] to [n, width]."""
        return h + self.alpha * self.layer(relu(h / self.beta))


def network(kind: Architecture, inputs: int, width: int, classes: int, depth: int) -> nn.Sequential:
    """``depth`` hidden layers and a linear layer to the classes; weights from torch's global generator. Weight norm still needs
    `set_by_data`.
    """
    if min(inputs, width, depth) < 1 or classes < 2:
        raise InvalidInput(
            f"{inputs} inputs, width {width}, {depth} layers, {classes} classes: give 1 or more, 2 classes at least"
        )
    if kind in (Architecture.RESIDUAL, Architecture.NORMALISER_FREE):
        return nn.Sequential(nn.Flatten(), *_with_skips(kind, inputs, width, depth), nn.ReLU(), nn.Linear(width, classes))
    layers: list[nn.Module] = []
    for place in range(depth):
        layers += [*_layer(kind, width if place else inputs, width), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, classes))


def _with_skips(kind: Architecture, inputs: int, width: int, depth: int) -> list[nn.Module]:
    """``depth`` dense layers: one, then branches of two (of one where one is left); normaliser-free ones of one."""
    if kind is Architecture.NORMALISER_FREE:
        betas = [math.sqrt(1 + place * ALPHA**2) for place in range(depth - 1)]
        return [StandardisedLinear(inputs, width), *(Skip(StandardisedLinear(width, width), ALPHA, beta) for beta in betas)]
    blocks: list[nn.Module] = [nn.Linear(inputs, width)]
    for left in range(depth - 1, 0, -2):
        branch = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)]
        blocks.append(Skip(nn.Sequential(*branch[: 1 if left == 1 else 3])))
    return blocks


def _layer(kind: Architecture, inputs: int, width: int) -> list[nn.Module]:
    if kind is Architecture.WEIGHT_STANDARDISED:
        return [StandardisedLinear(inputs, width)]
    dense = nn.Linear(inputs, width)
    if kind is Architecture.WEIGHT_NORM:
        return [weight_norm(dense)]
    if kind is Architecture.BATCH_NORM:
        return [dense, nn.BatchNorm1d(width)]
    return [dense, nn.LayerNorm(width)] if kind is Architecture.LAYER_NORM else [dense]


@torch.no_grad()
def set_by_data(model: nn.Sequential, x: Tensor) -> None:
    """Give weight-normalised layers the gains and biases with which every output has mean 0 and variance 1 on ``x`` [n, …].

    Outputs that do not vary on x (behind dead neurons) keep their gain. Source: Salimans and Kingma 2016, section 3.
    """
    h = x
    for part in model:
        if hasattr(part, "parametrizations"):
            assert isinstance(part, nn.Linear)
            values = part(h)
            spread = values.std(0, correction=0)
            scale = torch.where(spread > 0, 1 / spread, torch.ones_like(spread))
            shift = values.mean(0) - part.bias
            parametrised: Any = part.parametrizations
            parametrised["weight"].original0.mul_(scale[:, None])
            part.bias.copy_(-shift * scale)
        h = part(h)


def initialised(kind: Architecture, x: Tensor, classes: int, depth: int, *, width: int = 32, seed: int = 0) -> nn.Sequential:
    """The network of ``kind`` for inputs like x [n, …], in float64 and training mode, with the weights of ``seed``."""
    if x.ndim < 2 or not len(x) or not bool(torch.isfinite(x).all()):
        raise InvalidInput(f"inputs of shape {tuple(x.shape)}: give one row an example, without NaN or infinity")
    given = x[0].numel()
    model = initialise(lambda: network(kind, given, width, classes, depth), stream_seed(seed, f"{kind.value} {depth}"))
    model = model.double().train()
    assert isinstance(model, nn.Sequential)
    set_by_data(model, x.double())
    return model


@dataclass(frozen=True)
class Row:
    """One network: the quantile ratio at ``share`` (∞: that quantile is 0 in float64), the largest eigenvalue, and the gradient norms of
    the first and the last layer with weights, ‖∂L/∂θ‖₂ over all parameters of the dense layer.
    """

    architecture: str
    depth: int
    width: int
    seed: int
    examples: int
    share: float
    ratio: float
    top: float
    first: float
    last: float

    @property
    def relative(self) -> float:
        """The first layer's gradient norm over the last one's."""
        return self.first / self.last


def layer_gradients(model: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    """‖∂L/∂θ‖₂ of the mean cross entropy for every dense layer, in order."""
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    value = cross_entropy(model(x), y)
    found = []
    for layer in layers:
        slopes = torch.autograd.grad(value, list(layer.parameters()), retain_graph=True)
        found.append(float(torch.cat([s.reshape(-1) for s in slopes]).norm()))
    return found


def measure(
    kind: Architecture, depth: int, x: Tensor, y: Tensor, *, width: int = 32, seed: int = 0, share: float = 0.5
) -> Row:
    """One network of ``kind`` on examples x [n, …], y [n] (classes 0 … k − 1), in float64 at initialisation."""
    if len(x) != len(y) or len(x) < 2:
        raise InvalidInput(f"{len(x)} examples and {len(y)} targets: give the same number, 2 at least")
    if y.is_floating_point() or int(y.min()) < 0:
        raise InvalidInput("targets are whole numbers 0 … k − 1, one an example")
    x, classes = x.double(), max(2, int(y.max()) + 1)
    model = initialised(kind, x, classes, depth, width=width, seed=seed)
    gradients = layer_gradients(model, x, y)
    spectrum = gram_spectrum(model, cross_entropy, (x, y))
    able = spectrum[len(x) :] if len(spectrum) == len(x) * classes else spectrum  # one 0 an example is the softmax's own
    ratio = spectrum_ratio(able, share)
    return Row(kind.value, depth, width, seed, len(x), share, ratio, float(able[-1]), gradients[0], gradients[-1])


def table(
    kinds: Iterable[Architecture],
    depths: Sequence[int],
    x: Tensor,
    y: Tensor,
    *,
    width: int = 32,
    seeds: int = 1,
    progress: bool = False,
    each: Callable[[Row], object] | None = None,
) -> list[Row]:
    """`measure` for all kinds, depths and seeds; ``each`` is called with every row as it is made."""
    jobs = [(kind, depth, seed) for depth in depths for kind in kinds for seed in range(seeds)]
    if not jobs:
        raise InvalidInput("nothing to measure: give at least one architecture, depth and seed")
    rows = []
    with progress_bar(progress) as bar, bar.task("architectures", len(jobs)) as advance:
        for kind, depth, seed in jobs:
            rows.append(measure(kind, depth, x, y, width=width, seed=seed))
            if each is not None:
                each(rows[-1])
            advance(1)
    return rows


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="CSV file to write.")
@click.option("--examples", default=24, help="Digits to take.")
@click.option("--width", default=32)
@click.option("--seeds", default=3)
@click.option("--depth", "depths", multiple=True, type=int, default=(10, 20, 50, 100))
def main(out: Path, examples: int, width: int, seeds: int, depths: tuple[int, ...]) -> None:
    """One row a network, for every architecture and depth."""
    sample = load("digits")
    assert isinstance(sample, ArraySample) and isinstance(sample.inputs, Tensor)
    if not 2 <= examples <= sample.n:
        raise click.BadParameter(f"{examples} examples: the digits have {sample.n}", param_hint="--examples")
    x, y = sample.inputs[:examples], sample.targets[:examples]
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()

        def write(row: Row) -> None:
            writer.writerow(asdict(row))
            file.flush()

        table(Architecture, depths, x, y, width=width, seeds=seeds, progress=True, each=write)


if __name__ == "__main__":
    main()
