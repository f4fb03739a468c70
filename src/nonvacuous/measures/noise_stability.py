"""Noise stability (Arora, Ge, Neyshabur and Zhang 2018): the four quantities of their compression bound on a network and its inputs.

Trained networks carry their inputs better than noise.  With x^i = Aᵢφ(x^(i−1)) the output of weight layer i of d and J^{i,j} the
Jacobian at x^i of the map from there to x^j, minima over the inputs x and (for μᵢ→) over j ≥ i:

- layer cushion μᵢ = ‖Aᵢφ(x^(i−1))‖/(‖Aᵢ‖_F ‖φ(x^(i−1))‖)                        (Definition 4),
- interlayer cushion μᵢ→ = ‖J^{i,j}x^i‖/(‖J^{i,j}‖_F ‖x^i‖), which is 1/√hᵢ for j = i, J the identity on hᵢ numbers   (Definition 5),
- activation contraction c = max ‖x^i‖/‖φ(x^i)‖                                     (Definition 6),
- interlayer smoothness ρ = ‖η‖‖x^j‖/(‖x^i‖ ‖M(x^i + η) − M(x^i) − Jη‖) for the noise η that compression of the layers up to i leaves
  (Definition 7; the paper has no biases, so that M(x^i) = Jx^i there).

All are *indicators*: the theorem hides constants.  Biases take no part in Aᵢφ.  The Jacobians are never stored for more than one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nonvacuous.bounds.compression import Cushions, log_cushion_complexity
from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.weight_chain import Trace, WeightChain

MOST_NUMBERS = 2**23
"""Numbers of Jacobian rows that are held at once."""


@dataclass(frozen=True)
class LayerStability:
    """One weight layer i; tensors have an entry for each of the n inputs.

    Attributes:
        name: of the module.
        width: hᵢ, numbers of its output x^i.
        cushions: [n], ‖Aᵢφ‖/(‖Aᵢ‖_F‖φ‖); Aᵢ the filters of a convolution, so that the ratio may exceed 1.
        contractions: [n], ‖x^i‖/‖φ(x^i)‖; ∞ where φ gives 0, and 1 for the last layer.
        interlayer: [later layers, n], ‖Jx^i‖/(‖J‖_F‖x^i‖).
        concentrations: [later layers, n], largest share of ‖J‖_F that one position of a convolution's output has, times √positions: 1 where
            all are alike.  Its maximum is the paper's β (well-distributed Jacobian); 1 for linear layers.
        attenuation: [layers from i on], ‖x̂^j − x^j‖/‖x^j‖, mean over the inputs, for Gaussian noise as large as what layer i reads (the
            paper's Figure 1).  Biases count in x^j: an untrained network whose biases drown its input scores low for that reason.
        projections: kᵢ of Algorithm 1 at which it moves the layer's own output by the share ``relative_noise`` (root mean squares).
        weights: numbers in Aᵢ.
        windows: Π⌈κ/s⌉ over the axes of a convolution of kernel κ and stride s, the square of the paper's ⌈κ/s⌉ in two dimensions; 1 for
            linear layers.
        exact: the Frobenius norms are; else estimated by random signs.
    """

    name: str
    width: int
    cushions: Tensor
    contractions: Tensor
    interlayer: Tensor
    concentrations: Tensor
    attenuation: Tensor
    projections: float
    weights: int
    windows: int
    exact: bool

    @property
    def cushion(self) -> float:
        """μᵢ."""
        return float(self.cushions.min())

    @property
    def interlayer_cushion(self) -> float:
        """μᵢ→."""
        own = 1 / math.sqrt(self.width)
        return min(own, float(self.interlayer.min())) if self.interlayer.numel() else own

    @property
    def well_distributed(self) -> float:
        """β over the later layers; 1 for linear layers and the last."""
        return float(self.concentrations.max()) if self.concentrations.numel() else 1.0

    @property
    def spread(self) -> float:
        """β⌈κ/s⌉, by which a convolution's cushions are worth less; 1 for linear layers."""
        return self.well_distributed * math.sqrt(self.windows)


@dataclass(frozen=True)
class NoiseStability:
    """The layers, first layer first, and what concerns all of them.

    Attributes:
        smoothness: ρ, the smallest over layers and inputs, one for each independent draw of the noise.
        largest_output: max ‖x^d‖ over the inputs.
        relative_noise: size of the noise behind ``smoothness``.
        convolutional: some layer is a convolution.
    """

    layers: tuple[LayerStability, ...]
    smoothness: tuple[float, ...]
    largest_output: float
    relative_noise: float
    convolutional: bool

    @property
    def contraction(self) -> float:
        """c."""
        return max(float(layer.contractions.max()) for layer in self.layers)

    @property
    def interlayer_smoothness(self) -> float:
        """The smallest ρ of all draws; a further draw falls below it with probability at most 1/(draws + 1), the δ of ρ_δ."""
        return min(self.smoothness, default=math.inf)

    @property
    def smooth_enough(self) -> bool:
        """Whether ρ_δ ≥ 3d, as the theorem asks."""
        return self.interlayer_smoothness >= 3 * len(self.layers)

    def log_complexity(self, margin: float) -> float:
        """ln of the sample size below which Theorem 4.1 (with convolutions 5.1) is vacuous, up to its hidden factors; an indicator."""
        if not math.isfinite(self.contraction):
            return math.inf
        cushions = [Cushions(layer.cushion, layer.interlayer_cushion, layer.spread) for layer in self.layers]
        return log_cushion_complexity(cushions, self.contraction, self.largest_output, margin)

    def __str__(self) -> str:
        lines = [f"{'layer':<24} {'μ':>9} {'μ→':>9} {'c':>9} {'β':>7} {'noise left':>10} {'k':>10} {'weights':>9}"]
        for layer in self.layers:
            lines.append(
                f"{layer.name:<24} {layer.cushion:>9.4g} {layer.interlayer_cushion:>9.4g} {float(layer.contractions.max()):>9.4g} "
                f"{layer.well_distributed:>7.3g} {float(layer.attenuation[-1]):>10.4g} {layer.projections:>10.4g} {layer.weights:>9}"
            )
        enough = "≥" if self.smooth_enough else "<"
        return "\n".join([*lines, f"smoothness {self.interlayer_smoothness:.4g} {enough} 3d = {3 * len(self.layers)}"])


def noise_stability(
    model: torch.nn.Module,
    inputs: Tensor,
    *,
    relative_noise: float = 0.1,
    draws: int = 9,
    probes: int = 1024,
    seed: int = 0,
    batch_size: int = 128,
    advance: Callable[[int], None] | None = None,
) -> NoiseStability:
    """Cushions, contraction, smoothness and noise curves of a chain of linear layers and convolutions on ``inputs`` (n, *shape).

    Exact (to float64) but for the noise, which is drawn from ``seed``, and for Jacobians towards layers of more than ``probes`` outputs,
    whose ‖J‖²_F are estimated by that many random signs (relative standard error at most √(2/probes)).

    Args:
        relative_noise: share of a layer's output by which compression moves it, for ``smoothness``.  The weights get independent normal
            entries, the limit of Algorithm 1's (1/k)Σ⟨A, M⟩M − A for large k up to a multiple of A.
        draws: of that noise; 0 leaves the smoothness out.
        advance: called with the number of inputs done after each batch of the first pass (a progress bar).

    Raises as :class:`~nonvacuous.measures.weight_chain.WeightChain`; InvalidInput for arguments out of range.

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    >>> _ = [torch.nn.init.eye_(w) if len(w) == 2 else torch.nn.init.ones_(w) for w in net.parameters()]
    >>> found = noise_stability(net, torch.ones(1, 2))
    >>> round(found.layers[0].cushion, 4), found.layers[0].interlayer_cushion  # ‖x‖/(√2 ‖x‖); min(1/√2, 2/(√2·√2))
    (0.7071, 0.7071...)
    """
    if not (0 < relative_noise < math.inf and draws >= 0 and probes >= 1 and batch_size >= 1):
        raise InvalidInput("relative_noise, probes and batch_size must be positive, draws at least 0")
    chain = WeightChain(model, inputs)
    depth = len(chain)
    generator = torch.Generator().manual_seed(seed)
    rows: list[_Batch] = []
    for batch in _batches(inputs, batch_size):
        rows.append(_measured(chain, batch, probes, generator))
        if advance is not None:
            advance(len(batch))
    whole = _Batch.joined(rows)
    noise = [relative_noise * float(_ratio(whole.signal[i].sum(), whole.spread[i].sum(), 0.0).sqrt()) for i in range(depth)]
    smoothness = [
        min(_smoothness(chain, batch, moves) for batch in _batches(inputs, batch_size))
        for moves in ([_normal(chain.weight(i), generator) * noise[i] for i in range(depth)] for _ in range(draws))
    ]
    layers = tuple(
        LayerStability(
            name=chain.names[i],
            width=whole.widths[i],
            cushions=whole.cushions[i],
            contractions=whole.contractions[i],
            interlayer=whole.interlayer[i],
            concentrations=whole.concentrations[i],
            attenuation=whole.attenuation[i].mean(1),
            projections=(float(chain.weight(i).norm()) / noise[i]) ** 2 if noise[i] else math.inf,
            weights=chain.weight(i).numel(),
            windows=_windows(chain.layers[i]),
            exact=all(width <= probes for width in whole.widths[i + 1 :]),
        )
        for i in range(depth)
    )
    return NoiseStability(
        layers=layers,
        smoothness=tuple(smoothness),
        largest_output=float(whole.outputs.max()),
        relative_noise=relative_noise,
        convolutional=any(map(chain.convolves, range(depth))),
    )


def _windows(layer: torch.nn.Module) -> int:
    if isinstance(layer, torch.nn.Linear):
        return 1
    sizes: list[tuple[int, int]] = list(zip(layer.kernel_size, layer.stride, strict=True))  # type: ignore[arg-type]
    return math.prod(-(-kernel // stride) for kernel, stride in sizes)


@dataclass(frozen=True)
class _Batch:
    """Per layer: examples last, later layers first where there are any."""

    widths: list[int]
    cushions: list[Tensor]
    contractions: list[Tensor]
    interlayer: list[Tensor]
    concentrations: list[Tensor]
    attenuation: list[Tensor]
    signal: list[Tensor]  # ‖Aφ‖²
    spread: list[Tensor]  # E‖Gφ‖² for standard normal G in A's place
    outputs: Tensor

    @staticmethod
    def joined(parts: list[_Batch]) -> _Batch:
        def along(name: str) -> list[Tensor]:
            return [torch.cat(group, -1) for group in zip(*[getattr(part, name) for part in parts], strict=True)]

        names = ("cushions", "contractions", "interlayer", "concentrations", "attenuation", "signal", "spread")
        joint = {name: along(name) for name in names}
        return _Batch(widths=parts[0].widths, outputs=torch.cat([part.outputs for part in parts]), **joint)


def _batches(inputs: Tensor, size: int) -> Iterator[Tensor]:
    return (batch.double() for batch in inputs.split(size))


def _norms(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def _ratio(over: Tensor, under: Tensor, none: float) -> Tensor:
    """over/under, and ``none`` where under is 0: there the defining inequality holds for every number."""
    return torch.where(under > 0, over / torch.where(under > 0, under, 1.0), none)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def _applied(layer: torch.nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """The layer's map with another weight and no bias."""
    if isinstance(layer, torch.nn.Linear):
        return torch.nn.functional.linear(x, weight)
    return layer._conv_forward(x, weight, None)  # type: ignore[operator]


def _measured(chain: WeightChain, batch: Tensor, probes: int, generator: torch.Generator) -> _Batch:
    depth = len(chain)
    with torch.no_grad():
        trace = chain.run(batch)
        linear = [_norms(chain.linear_part(i, trace.outputs[i])) for i in range(depth)]
        read = [_norms(x) for x in trace.inputs]
        given = [_norms(x) for x in trace.outputs]
        cushions = [_ratio(linear[i], read[i] * chain.weight(i).norm(), 1.0) for i in range(depth)]
        contractions = [
            torch.where(given[i] > 0, _ratio(given[i], read[i + 1], math.inf), 1.0)
            if i + 1 < depth
            else torch.ones_like(given[i])
            for i in range(depth)
        ]
        attenuation = [_attenuated(chain, batch, trace, i, generator) for i in range(depth)]
        spread = [
            _applied(chain.layers[i], torch.ones_like(chain.weight(i)), trace.inputs[i].square()).flatten(1).sum(1)
            for i in range(depth)
        ]
    squares = _squares(chain, batch, probes, generator)
    interlayer, concentrations = [], []
    for i in range(depth):
        later, shares = [], []
        if i + 1 < depth:
            carried = torch.func.jvp(chain.tail(batch, i), (trace.outputs[i],), (trace.outputs[i],))[1]
            for j, moved in enumerate(carried, i + 1):
                own = squares[i, j]
                later.append(_ratio(_norms(moved), own.sum(1).sqrt() * given[i], 1.0))
                shares.append(_ratio(own.amax(1) * own.shape[1], own.sum(1), 1.0).sqrt())
        none = batch.new_zeros(0, len(batch))
        interlayer.append(torch.stack(later) if later else none)
        concentrations.append(torch.stack(shares) if shares else none)
    return _Batch(
        widths=[x[0].numel() for x in trace.outputs],
        cushions=cushions,
        contractions=contractions,
        interlayer=interlayer,
        concentrations=concentrations,
        attenuation=attenuation,
        signal=[x.square() for x in linear],
        spread=spread,
        outputs=given[-1],
    )


def _attenuated(chain: WeightChain, batch: Tensor, trace: Trace, i: int, generator: torch.Generator) -> Tensor:
    """[layers from i on, batch]: relative error that Gaussian noise of the norm of layer i's input leaves in each output."""
    noise = _normal(trace.inputs[i], generator)
    noise = noise * (_norms(trace.inputs[i]) / _norms(noise)).reshape(-1, *[1] * (noise.ndim - 1))
    noisy = chain.run(batch, moved={i: lambda x: x + noise}).outputs
    pairs = zip(noisy[i:], trace.outputs[i:], strict=True)
    errors = [(_norms(there - here), _norms(here)) for there, here in pairs]
    return torch.stack([torch.where(error > 0, _ratio(error, size, math.inf), 0.0) for error, size in errors])


def _squares(chain: WeightChain, batch: Tensor, probes: int, generator: torch.Generator) -> dict[tuple[int, int], Tensor]:
    """{(i, j): [batch, positions]}: Σ of the squares of J^{i,j}'s columns at each position of layer i's output; by rows, backwards."""
    depth, found = len(chain), {}
    with torch.enable_grad():
        trace = chain.run(batch, replaced={0: lambda x: x.detach().requires_grad_()})
        for j in range(1, depth):
            target, sources = trace.outputs[j], trace.outputs[:j]
            units = target[0].numel()
            sums = [x.new_zeros(len(x), x[0, 0].numel() if chain.convolves(i) else 1) for i, x in enumerate(sources)]
            widest = max(x.numel() for x in trace.outputs)
            for start, stop in _ranges(min(units, probes), max(1, MOST_NUMBERS // widest)):
                if units <= probes:
                    ends = torch.eye(units, dtype=target.dtype, device=target.device)[start:stop, None].expand(
                        -1, len(target), -1
                    )
                else:
                    ends = torch.randint(0, 2, (stop - start, len(target), units), generator=generator).to(target) * 2 - 1
                ends = ends.reshape(stop - start, *target.shape)
                grads = torch.autograd.grad(target, sources, ends, retain_graph=True, is_grads_batched=True)
                for total, grad in zip(sums, grads, strict=True):
                    total += grad.square().sum(0).reshape(len(target), -1, total.shape[1]).sum(1)
            for i, total in enumerate(sums):
                found[i, j] = total.detach() / (1 if units <= probes else probes)
    return found


def _ranges(count: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, count)) for start in range(0, count, size))


def _smoothness(chain: WeightChain, batch: Tensor, moves: list[Tensor]) -> float:
    """The smallest ρ over pairs of layers and inputs of a batch, for weights Aᵢ + moves[i]; ∞ for a network of one layer."""
    depth, best = len(chain), math.inf
    with torch.no_grad():
        trace = chain.run(batch)
        added: list[Tensor] = []

        def moved(i: int) -> Callable[[Tensor], Tensor]:
            def remember(x: Tensor) -> Tensor:
                added.append(_applied(chain.layers[i], moves[i], x))
                return x

            return remember

        noisy = chain.run(
            batch,
            moved={i: moved(i) for i in range(depth)},
            replaced={i: lambda x: x + added[-1] for i in range(depth)},
        )
        for i in range(depth - 1):
            noise = noisy.outputs[i] - trace.outputs[i]
            carried = torch.func.jvp(chain.tail(batch, i), (trace.outputs[i],), (noise,))[1]
            arrived = chain.tail(batch, i)(noisy.outputs[i])
            for there, here, tangent in zip(arrived, trace.outputs[i + 1 :], carried, strict=True):
                bent = _norms(there - here - tangent) * _norms(trace.outputs[i])
                best = min(best, float(_ratio(_norms(noise) * _norms(here), bent, math.inf).min()))
    return best
