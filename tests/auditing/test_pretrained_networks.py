"""Real networks, from small digit classifiers to ImageNet networks and a transformer, audited as they come on data of their shape."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import nonvacuous
from nonvacuous.auditing import anatomy
from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.measures.lipschitz import Ball, global_table, local_upper, sampled_lower
from nonvacuous.measures.normalization import normalization_gain
from nonvacuous.operators.cost import cost
from nonvacuous.operators.normalizer_table import normalizer_table
from tests.auditing import pretrained_networks as networks

MAKERS = {
    "usps": lambda: networks.digit_net("usps"),
    "svhn": lambda: networks.digit_net("svhn"),
    "mobilenet": networks.mobilenet_v2,
    "efficientnet": networks.efficientnet_lite0,
}
SHAPES = {"usps": (1, 16, 16), "svhn": (3, 32, 32), "mobilenet": (3, 32, 32), "efficientnet": (3, 32, 32)}
EXAMPLES = 40


def _pictures(name: str, classes: int) -> tuple[Tensor, Tensor]:
    """Uniform noise of the right shape, and every class in turn: what is tested is that the audit goes through."""
    pixels = torch.rand(EXAMPLES, *SHAPES[name], generator=torch.Generator().manual_seed(0))
    return pixels, torch.arange(EXAMPLES) % classes


def _audited(model: nn.Module, x: Tensor, y: Tensor) -> nonvacuous.Audit:
    half = EXAMPLES // 2
    found = nonvacuous.audit(model, train=(x[:half], y[:half]), test=(x[half:], y[half:]))
    assert found.facts.train.n == half
    assert "binomial-tail" in {certificate.bound for certificate in found.certificates}
    assert all(skipped.reason.strip() for skipped in found.skipped)
    return found


def _macs(model: nn.Module, x: Tensor) -> int:
    """Products of every convolution and linear layer, counted from the shapes that hooks see."""
    counts = []

    def count(part: nn.Module, _: object, out: Tensor) -> None:
        counts.append(out.numel() * part.weight[0].numel())

    hooks = [part.register_forward_hook(count) for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return sum(counts)


@pytest.mark.parametrize(
    ("name", "norms", "largest", "euclidean"),
    [
        ("efficientnet", 49, 47.15, 73.27),
        ("mobilenet", 52, 31.62, 74.38),
        ("svhn", 6, -3.67, 0.63),
        ("usps", 2, 0.92, 2.05),
    ],
)
def test_batch_norms_shrink_one_real_network_and_blow_up_another(name, norms, largest, euclidean):
    model = MAKERS[name]()
    table = normalizer_table(model)
    assert len(table.rows) == norms
    assert (table.log10_largest, table.log10_euclidean) == pytest.approx((largest, euclidean), abs=0.005)
    scales = [
        m.weight.detach().abs() / (m.running_var + m.eps).sqrt() for m in model.modules() if isinstance(m, nn.BatchNorm2d)
    ]
    assert table.log10_largest == pytest.approx(sum(math.log10(float(s.max())) for s in scales), abs=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_costs_of_real_networks_are_those_of_their_layers(name):
    model, x = MAKERS[name](), torch.rand(2, *SHAPES[name])
    found = cost(model, x)
    assert found.macs == _macs(model, x)
    assert found.parameters == sum(p.numel() for p in model.parameters())


def test_mobilenet_has_the_cost_that_its_authors_state():
    found = cost(networks.mobilenet_v2(), torch.zeros(1, 3, 224, 224))
    assert (found.macs / 1e6, found.parameters / 1e6) == (pytest.approx(300, rel=0.01), pytest.approx(3.4, abs=0.15))


@pytest.mark.parametrize("name", ["usps", pytest.param("svhn", marks=pytest.mark.slow)])
def test_a_digit_network_with_batch_norm_is_audited_whole(name):
    model = MAKERS[name]()
    found = _audited(model, *_pictures(name, 10))
    assert found.anatomy.absent.keys() <= {"pair"}  # no range of the inputs is declared
    assert found.anatomy.norms.log10_normalizers == pytest.approx(normalizer_table(model).log10_largest, abs=1e-6)
    assert found.anatomy.total.parameters == sum(p.numel() for p in model.parameters())
    for slope in found.anatomy.slopes:
        assert 0 < slope.lower <= 10**slope.log10_upper
    assert "spectral-margin" in {certificate.bound for certificate in found.certificates}


@pytest.mark.slow
def test_mobilenet_is_audited_with_residual_blocks_and_its_products(monkeypatch):
    monkeypatch.setattr(anatomy, "SAMPLED", 1)  # slopes at one input
    model = networks.mobilenet_v2()
    found = _audited(model, *_pictures("mobilenet", 1000))
    assert found.anatomy.norms.log10_normalizers == pytest.approx(31.62, abs=0.005)
    assert found.anatomy.norms.log10_euclidean == pytest.approx(74.38, abs=0.005)
    everywhere = found.anatomy.slopes[0]
    # folding each batch norm into its convolution is better than multiplying the two products, residual sums included
    assert math.log10(everywhere.lower) < everywhere.log10_upper
    assert everywhere.log10_upper < found.anatomy.norms.log10_normalizers + found.anatomy.norms.log10_weights


@pytest.mark.slow
def test_efficientnet_is_audited_and_says_why_its_training_sample_proves_nothing():
    model = networks.efficientnet_lite0()
    found = _audited(model, *_pictures("efficientnet", 1000))
    assert found.anatomy.total.parameters == sum(p.numel() for p in model.parameters())
    reasons = {skipped.bound: skipped.reason for skipped in found.skipped}
    assert "_blocks_args" in reasons["spectral-margin"]  # a list of numbers beside the parameters, which no bound pays for
    products = normalization_gain(model, SHAPES["efficientnet"], tolerance=0.5)
    assert products.log10_normalizers == pytest.approx(47.15, abs=0.005)
    upper = global_table(model, SHAPES["efficientnet"], tolerance=0.5).log10_upper
    lower = sampled_lower(model, _pictures("efficientnet", 1000)[0][:1], steps=4).lower
    assert 0 < math.log10(lower) < upper < products.log10_normalized


def test_minilm_costs_what_its_matrix_products_do():
    model, length = networks.minilm(), 7
    found = cost(model, torch.ones(2, length, dtype=torch.long))
    layer = length * (4 * 384**2 + 2 * 384 * 1536) + 2 * length**2 * 384
    assert found.macs == 2 * (6 * layer + 384 * 4)


class _FromEmbeddings(nn.Module):
    def __init__(self, model: networks.MiniLM) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x).mean(1))
        return out


def test_minilm_has_no_lipschitz_constant_but_one_on_a_ball():
    model = networks.minilm()
    with pytest.raises(UnsupportedModule, match="token ids"):
        global_table(model, (6,))
    x = model.embed(torch.tensor([[101, 2023, 2003, 2307, 999, 102]])).detach()
    after = _FromEmbeddings(model).eval()
    everywhere = global_table(after, (6, 384), tolerance=0.5)
    assert everywhere.log10_upper == math.inf
    assert "attention" in everywhere.reason
    local = local_upper(after, Ball(x[0], 1e-3), tolerance=0.5)
    assert sampled_lower(after, x).lower < local.upper < math.inf


@pytest.mark.slow
def test_minilm_is_audited_on_token_ids():
    ids = torch.randint(0, 30522, (EXAMPLES, 6), generator=torch.Generator().manual_seed(0))
    found = _audited(networks.minilm(), ids, torch.arange(EXAMPLES) % 4)
    assert found.anatomy.total.parameters > 22_500_000
    assert "token ids" in found.anatomy.absent["slopes"]
    assert {"seeger", "occam-binomial"} <= {certificate.bound for certificate in found.certificates}
