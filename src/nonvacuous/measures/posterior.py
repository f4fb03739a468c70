"""A Gaussian posterior around trained weights: its divergence from a prior fixed before the data, and its Gibbs risk.

Prior: each parameter tensor b has independent N(w⁰, σ_b²) entries, σ_b = 2^(j_b/4) for an integer j_b with weight
wⱼ = 1/((π²/3 − 1)(|j| + 1)²); the mixture over all (j_b) is one prior, so choosing the j_b after the data costs Σ ln(1/w_{j_b}) in the
divergence and nothing else. Posterior: N(w, s_b²) entries; the s_b are free.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nonvacuous.core.errors import InvalidEvidence, InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures.losses import Loss
from nonvacuous.measures.predictor import Predictor, evaluating
from nonvacuous.measures.risks import check_losses
from nonvacuous.measures.state import check_registered
from nonvacuous.numerics.interval import iv
from nonvacuous.numerics.tails import kl_inverse_upper
from nonvacuous.runtime.data import Sample

GRID = 4  # prior deviations per octave
SEARCH_EXPONENTS = range(-6, 3)
SEARCH_TRIALS = 4
SEARCH_EXAMPLES = (len(SEARCH_EXPONENTS) + 2) * SEARCH_TRIALS * 128
"""Evaluations the search for the posterior's noise costs at most."""

_PRICE = math.log(math.pi**2 / 3 - 1)


@dataclass(frozen=True)
class Block:
    """One parameter tensor: its ``name``, distance² of the trained from the initial entries, and the deviations."""

    name: str
    size: int
    squared_distance: float
    posterior_std: float
    prior_index: int

    @property
    def prior_std(self) -> float:
        """σ_b = 2^(j/4)."""
        return 2.0 ** (self.prior_index / GRID)

    @property
    def kl_nats(self) -> float:
        """KL of this block, plus the price ln(1/wⱼ) of its prior deviation."""
        ratio = (self.posterior_std / self.prior_std) ** 2
        gaussian = 0.5 * self.size * (ratio - 1 - math.log(ratio)) + self.squared_distance / (2 * self.prior_std**2)
        return gaussian + _PRICE + 2 * math.log(abs(self.prior_index) + 1)


@dataclass(frozen=True)
class GaussianPosterior:
    """Independent Gaussian entries around the weights of ``module``; ``blocks`` in the order of its parameters."""

    module: nn.Module
    blocks: tuple[Block, ...]

    @property
    def kl_nats(self) -> Measured:
        """KL(Q‖P), prices of the deviations included, rounded outward."""
        value = math.fsum(block.kl_nats for block in self.blocks)
        slack = 2.0**-40 * math.fsum(
            block.size * (1 + abs(math.log(block.posterior_std / block.prior_std))) + block.kl_nats for block in self.blocks
        )
        return Measured(max(0.0, value - slack), value + slack, Kind.EXACT)

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of all parameters, on the module's device, from a CPU stream (the same on every device)."""
        drawn = {}
        for block, (name, parameter) in zip(self.blocks, self.module.named_parameters(), strict=True):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            drawn[name] = parameter.detach() + block.posterior_std * noise.to(parameter.device, parameter.dtype)
        return drawn


class Draws(NamedTuple):
    """Mean loss of each trial, and the networks' own time."""

    means: tuple[float, ...]
    forward_seconds: float


def check_sampleable(module: nn.Module, initial: nn.Module | None) -> None:
    """Raise :class:`UnsupportedModule` if some number the network uses is neither a Gaussian parameter nor fixed beforehand."""
    check_registered(module)
    known = dict(initial.named_buffers()) if initial is not None else {}
    for name, buffer in module.named_buffers():
        if name not in known or not torch.equal(buffer.detach().cpu(), known[name].detach().cpu()):
            raise UnsupportedModule(
                f"{name} is a buffer that training may have set (such as batch-norm's running statistics): it is not part of the "
                "Gaussian posterior, so a PAC-Bayes bound would not pay for it. Pass initial weights in which it has the same value, or "
                "use layers without buffers (group or layer norm)"
            )
    for name, parameter in module.named_parameters():
        if not parameter.is_floating_point():
            raise UnsupportedModule(f"{name} holds integers; a Gaussian posterior needs floating-point parameters")


def around(module: nn.Module, initial: nn.Module | None, relative_std: float) -> GaussianPosterior:
    """The posterior with deviation ``relative_std`` times each tensor's root-mean-square size, and the best prior deviations.

    Args: ``initial`` has the prior's means (zero without it). Raises :class:`UnsupportedModule`, :class:`InvalidInput`.
    """
    blocks = []
    for name, size, distance, rms in _tensors(module, initial):
        std = relative_std * (rms if rms > 0 else 1.0)
        best = math.log2(max(std**2 + distance / max(size, 1), 1e-300)) / 2 * GRID
        between = range(
            min(0, math.floor(best)), max(0, math.ceil(best)) + 1
        )  # best without its price, and towards the cheapest
        index = min(between, key=lambda j: Block(name, size, distance, std, j).kl_nats)
        blocks.append(Block(name, size, distance, std, index))
    return GaussianPosterior(module, tuple(blocks))


def rebuilt(
    module: nn.Module, initial: nn.Module | None, posterior_std: Sequence[float], prior_index: Sequence[int]
) -> GaussianPosterior:
    """The posterior with the stated deviations, one number a parameter tensor; distances are measured anew."""
    tensors = list(_tensors(module, initial))
    fits = len(tensors) == len(posterior_std) == len(prior_index)
    if not fits or not all(2.0**-500 < std < 2.0**500 for std in posterior_std) or not all(abs(j) < 2000 for j in prior_index):
        raise InvalidEvidence(f"a posterior over {len(tensors)} tensors needs as many positive deviations and prior indices")
    return GaussianPosterior(
        module,
        tuple(
            Block(name, size, distance, float(std), int(index))
            for (name, size, distance, _), std, index in zip(tensors, posterior_std, prior_index, strict=True)
        ),
    )


def _tensors(module: nn.Module, initial: nn.Module | None) -> Iterator[tuple[str, int, float, float]]:
    """Name, size, squared distance from the initial weights (surely not too small) and root mean square of each parameter."""
    means = dict(initial.named_parameters()) if initial is not None else {}
    for name, parameter in module.named_parameters():
        weights = parameter.detach().cpu().double()
        if means and (name not in means or means[name].shape != parameter.shape):
            raise InvalidInput(
                f"the initial weights have no {name} of shape {tuple(parameter.shape)}: they are another model's"
            )
        start = means[name].detach().cpu().double() if means else torch.zeros((), dtype=torch.float64)
        size = weights.numel()
        distance = float(((weights - start) ** 2).sum()) * (1 + (size + 4) * 2.0**-52)
        yield name, size, distance, math.sqrt(float((weights**2).mean())) if size else 0.0


def drawn_losses(
    predictor: Predictor,
    posterior: GaussianPosterior,
    sample: Sample,
    loss: Loss,
    *,
    draws: int,
    batch_size: int,
    generator: torch.Generator,
    advance: Callable[[int], None] | None = None,
) -> Draws:
    """Mean losses of ``draws`` independent trials: a fresh network from the posterior on ``batch_size`` examples drawn with replacement.

    Each trial is an unbiased, [0, 1]-valued estimate of the empirical Gibbs risk, and all are independent.
    """
    rows = torch.randint(sample.n, (draws * batch_size,), generator=generator)
    means: list[float] = []
    forward = 0.0
    with evaluating(predictor):
        for batch in sample.batches(batch_size, order=rows):
            network = Predictor(_Drawn(posterior.module, posterior.draw(generator)), predictor.device)
            start = time.perf_counter()
            outputs = network(batch.inputs).cpu()
            forward += time.perf_counter() - start
            losses = loss.per_example(outputs, batch.targets).double()
            check_losses(losses, len(batch.targets), loss)
            means.append(float(losses.mean()))
            if advance is not None:
                advance(len(batch.targets))
    return Draws(tuple(means), forward)


class _Drawn(nn.Module):
    """The network with one draw of its parameters in place; batch statistics and modes are the network's own."""

    def __init__(self, module: nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self._held = (module,)  # in a tuple: not a sub-module, so that nothing is moved or re-registered
        self._weights = weights
        self._first = next(iter(weights.values()))

    def parameters(self, recurse: bool = True):  # type: ignore[no-untyped-def]
        """One parameter, for its type and device."""
        return iter((self._first,))

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self._held[0], self._weights, inputs, named)
        return outputs


def gibbs_risk(means: Sequence[float], delta: float) -> Measured:
    """Interval for the empirical Gibbs risk from independent trials: [0, kl⁻¹(mean, ln(1/δ)/m)], holding with probability 1 − δ.

    Source: Hoeffding 1963, Theorem 1, inequality (2.1); as in Langford and Caruana 2001.

    Raises :class:`InvalidEvidence` for δ outside (0, 1): a mean of trials without a share of δ bounds nothing.
    """
    if not 0 < delta < 1 or not means:
        raise InvalidEvidence(f"measuring the Gibbs risk by {len(means)} trials needs a share of δ in (0, 1); got {delta!r}")
    mean = min(1.0, math.fsum(means) / len(means) * (1 + 2.0**-40))  # the roundings of this mean and of the trials' own
    return Measured(0.0, kl_inverse_upper(mean, -iv.log(delta) / len(means)), Kind.CONFIDENCE, delta)


def chosen(
    predictor: Predictor,
    module: nn.Module,
    initial: nn.Module | None,
    sample: Sample,
    loss: Loss,
    *,
    seed: int,
) -> GaussianPosterior:
    """The posterior whose deviation gives the smallest estimate of Seeger's bound, by a short search on a few examples.

    Choosing the posterior by the data is free: the bound holds for all posteriors at once.
    """
    generator = torch.Generator().manual_seed(seed)

    def estimate(exponent: float) -> float:
        posterior = around(module, initial, 2.0**exponent)
        size = max(1, min(SEARCH_TRIALS * 128, sample.n) // SEARCH_TRIALS)
        means = drawn_losses(
            predictor, posterior, sample, loss, draws=SEARCH_TRIALS, batch_size=size, generator=generator
        ).means
        risk = math.fsum(means) / len(means)
        return kl_inverse_upper(min(1.0, risk), posterior.kl_nats.upper / sample.n)

    coarse = [(estimate(e), e) for e in SEARCH_EXPONENTS]
    _, middle = min(coarse)
    fine = [(estimate(middle + step), middle + step) for step in (-0.5, 0.5)]
    return around(module, initial, 2.0 ** min([*fine, min(coarse)])[1])
