"""Normalizer-free residual networks: the variance by block against its recursion, and what happens without the constants."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import nonvacuous
from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.lipschitz import global_upper, sampled_lower
from nonvacuous.networks.normalizer_free import (
    NormalizerFreeBlock,
    NormalizerFreeNet,
    ScaledActivation,
    activation_gain,
    signal_by_block,
)
from nonvacuous.networks.normalizers import folded
from nonvacuous.operators.cost import cost
from nonvacuous.runtime.bundled import digits


@pytest.mark.parametrize(
    ("activation", "variance"),
    [
        (torch.relu, (1 - 1 / math.pi) / 2),
        (lambda z: 3 * z, 9.0),
        (torch.erf, 2 / math.pi * math.asin(2 / 3)),
    ],
)
def test_gain_against_closed_forms(activation, variance) -> None:
    assert activation_gain(activation) == pytest.approx(variance**-0.5, rel=1e-7)


def test_gain_refuses_a_constant_and_infinity() -> None:
    with pytest.raises(InvalidInput, match="no scale"):
        activation_gain(torch.zeros_like)
    with pytest.raises(InvalidInput, match="finite"):
        activation_gain(torch.log)


def _relative_errors(width: int, inputs: torch.Tensor) -> list[float]:
    found = []
    for seed in range(3):
        net = NormalizerFreeNet(1, 10, [(width, 3), (width, 3, 2)], padding_mode="circular", seed=seed)
        found.append([s.measured / s.predicted - 1 for s in signal_by_block(net, inputs)])
    return torch.tensor(found).abs().mean(0).tolist()


@pytest.mark.parametrize("picture", ["noise", "digits"])
def test_variance_by_block_follows_the_recursion_and_closer_the_wider(picture) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 1, 8, 8, generator=generator) if picture == "noise" else digits("train").inputs[:16] - 0.3
    narrow, wide = _relative_errors(8, inputs), _relative_errors(128, inputs)
    assert max(wide) < 0.1 and sum(wide) < sum(narrow)


def test_predictions_are_one_plus_alpha_squared_a_block() -> None:
    net = NormalizerFreeNet(1, 10, [(8, 4), (16, 2, 2)], alpha=0.5)
    variances, variance = [], 1.0
    for block in net.blocks:
        variance = block.variance_after(variance)
        variances.append(variance)
    assert variances == pytest.approx([1.25, 1.5, 1.75, 2.0, 1.25, 1.5])
    assert [block.beta**2 for block in net.blocks] == pytest.approx([1, 1.25, 1.5, 1.75, 2.0, 1.25])


def test_without_the_constants_the_signal_grows_geometrically() -> None:
    """The control: He initialization, h + f(h), no β: every block doubles the mean square, which the measure must show."""
    torch.manual_seed(0)
    h, sizes = torch.randn(8, 64, 8, 8), []
    for _ in range(12):
        convs = [nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular", bias=False) for _ in range(2)]
        for conv in convs:
            nn.init.normal_(conv.weight, std=math.sqrt(2 / (64 * 9)))
        h = (h + convs[1](convs[0](h.relu()).relu())).detach()
        sizes.append(float(h.square().mean()))
    assert sizes[-1] > 2**10
    net = NormalizerFreeNet(64, 10, [(64, 12)], padding_mode="circular")
    assert signal_by_block(net, torch.randn(8, 64, 8, 8))[-1].measured < 1.6


def test_trains_on_digits_and_has_a_bound_and_a_cost() -> None:
    train, test = digits("train"), digits("test")
    net = NormalizerFreeNet(1, 10, [(8, 2), (16, 1, 2)])
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(100):
        rows = torch.arange(step * 64, step * 64 + 64) % train.n
        adam.zero_grad()
        nn.functional.cross_entropy(net(train.inputs[rows]), train.targets[rows]).backward()
        adam.step()
    net.eval()
    assert (net(test.inputs).argmax(1) == test.targets).float().mean() > 0.8
    upper = global_upper(net, (1, 8, 8), tolerance=0.1).upper
    assert sampled_lower(net, test.inputs[:8]).lower <= upper < math.inf
    plain = folded(net)
    assert torch.allclose(plain(test.inputs[:9]), net(test.inputs[:9]), atol=1e-3)
    by_hand = 64 * 9 * 8 + 64 * (8 * 8 + 4 * 8 * 8 * 9) + 16 * (16 * 8 + 9 * 16 * 8 + 9 * 16 * 16) + 160
    assert cost(plain, test.inputs[:1]).macs == by_hand


@pytest.mark.slow
def test_is_audited() -> None:
    train, test = digits("train"), digits("test")
    net = NormalizerFreeNet(1, 10, [(4, 2)])
    report = nonvacuous.audit(net, train=(train.inputs, train.targets), test=(test.inputs, test.targets))
    assert report.certificates and all(0 < c.value <= 1 for c in report.certificates)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: NormalizerFreeNet(1, 10, []), "at least one stage"),
        (lambda: NormalizerFreeNet(1, 10, [(0, 2)]), "sizes"),
        (lambda: NormalizerFreeNet(1, 10, [(4, 2)], alpha=math.nan), "α"),
        (lambda: NormalizerFreeBlock(4, 8, beta=1.0, alpha=0.2), "transition"),
        (lambda: NormalizerFreeBlock(4, 4, beta=0.0, alpha=0.2), "β"),
        (lambda: ScaledActivation(nn.Threshold(100.0, 0.0)), "no scale"),
        (lambda: signal_by_block(NormalizerFreeNet(1, 10, [(4, 1)]), torch.zeros(2, 3, 8, 8)), "does not take"),
        (lambda: signal_by_block(NormalizerFreeNet(1, 10, [(4, 1)]), torch.zeros(0, 1, 8, 8)), "images"),
        (lambda: signal_by_block(NormalizerFreeNet(1, 10, [(4, 1)]), torch.full((2, 1, 8, 8), math.nan)), "finite"),
    ],
)
def test_bad_input(wrong, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        wrong()
