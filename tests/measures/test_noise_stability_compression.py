"""Algorithm 1 as a code: what decodes is what was sent, unbiased, exact at full length; its certificate and its price."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from nonvacuous.bounds.compression import CompressionBound
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.losses import margins
from nonvacuous.measures.noise_stability import noise_stability
from nonvacuous.measures.sign_projections import FORMATS, SignProjection, _estimate, _products, _signs, sign_projection


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 9), nn.ReLU(), nn.Linear(9, 2, bias=False)
    )


def test_a_decoder_needs_the_numbers_and_the_shapes_only() -> None:
    sent = sign_projection(network(), [20, 500, 16], bits=16, seed=4)
    mine, yours = sent.decoded(network(0)), sent.decoded(network(99))
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), yours.parameters(), strict=True))
    received = SignProjection(*read(sent.to_bytes(), [20, 500, 16], [3, 9], 16), 16, 4).decoded(network(7))
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), received.parameters(), strict=True))


def read(message: bytes, counts: list[int], biases: list[int], bits: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The numbers of a message, as somebody who has the counts cuts them out."""
    numbers = torch.frombuffer(bytearray(message), dtype=FORMATS[bits])
    parts = numbers.split([*counts, *biases])
    return parts[: len(counts)], parts[len(counts) :]


@pytest.mark.parametrize("bits", FORMATS)
def test_the_evidence_counts_what_is_sent(bits: int) -> None:
    sent = sign_projection(network(), [20, 500, 16], bits=bits)
    e = sent.evidence(0.1, 1000)
    assert e == CompressionBound.Evidence(0.1, 20 + 500 + 16 + 3 + 9, bits, 3, 1000)
    assert 8 * len(sent.to_bytes()) == e.projections * e.bits_per_number


@torch.no_grad()
def test_at_full_length_nothing_is_lost_but_the_rounding() -> None:
    model = network()
    back = sign_projection(model, [32, 1024, 32], bits=32).decoded(network(1))
    for a, b in zip(model.parameters(), back.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    coarse = sign_projection(model, [32, 1024, 32], bits=8).decoded(network(1))
    error = [float((a - b).norm() / a.norm()) for a, b in zip(model.parameters(), coarse.parameters(), strict=True)]
    assert 1e-4 < max(error) < 2**-4  # half a unit in the third place after the leading one


def test_the_estimate_is_that_of_algorithm_1_unbiased_and_better() -> None:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(48, generator=rng, dtype=torch.float64)
    signs, order = _signs(48, 3)
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    while len(hadamard) < 64:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    matrices = (hadamard * signs)[order[:24], :48]
    assert bool((matrices.abs() == 1).all())
    assert torch.allclose(_products(a, 24, 3), matrices @ a)
    assert torch.allclose(_estimate(matrices @ a, 48, 3), (matrices @ a) @ matrices / 24)
    draws = torch.stack([_estimate(_products(a, 24, seed), 48, seed) for seed in range(4000)])
    error = draws - a
    assert float(error.mean(0).norm()) < 3 * float(error.norm(dim=1).mean()) / math.sqrt(4000)
    independent = float(a @ a) * (48 - 1) / 24  # Σ_a (‖A‖² − A_a²)/k
    assert float(error.square().sum(1).mean()) == pytest.approx(
        independent * (64 - 24) / 63, rel=0.03
    )  # rows without replacement


def test_what_has_no_place_in_the_code_is_refused() -> None:
    with pytest.raises(UnsupportedModule, match=r"1\.weight"):
        sign_projection(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), [16])
    with pytest.raises(UnsupportedModule, match="weight_g"):  # the decoder would go on reading them
        sign_projection(torch.nn.utils.weight_norm(nn.Linear(4, 4)), [16])
    holder = nn.Linear(4, 4)
    holder.table = torch.randn(100)
    with pytest.raises(UnsupportedModule, match="table"):
        sign_projection(holder, [16])
    held = nn.Linear(4, 4)
    held.register_parameter("table", nn.Parameter(torch.randn(100)))
    with pytest.raises(UnsupportedModule, match="table"):
        sign_projection(held, [16])
    with pytest.raises(UnsupportedModule, match="no linear layer"):
        sign_projection(nn.ReLU(), [])
    for counts in ([17], [0], [4, 4]):
        with pytest.raises(InvalidInput, match="counts"):
            sign_projection(nn.Linear(4, 4), counts)
    with pytest.raises(InvalidInput, match="bits"):
        sign_projection(nn.Linear(4, 4), [4], bits=7)
    with pytest.raises(InvalidInput, match="another architecture"):
        sign_projection(nn.Linear(4, 4), [4]).decoded(nn.Linear(4, 3))


def test_numbers_beyond_the_format_saturate() -> None:
    model = nn.Linear(4, 4, bias=False)
    model.weight.data.fill_(1e6)
    sent = sign_projection(model, [16], bits=8)
    assert float(sent.projections[0].float().abs().max()) == 448.0
    model.weight.data[0, 0] = math.nan
    with pytest.raises(InvalidInput, match="NaN"):
        sign_projection(model, [16], bits=8)


def trained(x: Tensor, y: Tensor, *widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(*[part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())][:-1])
    adam = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        adam.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        adam.step()
    return model


def test_compression_of_a_trained_network_within_its_margins() -> None:
    """L₀(f̂) ≤ L_γ(f) with γ twice the largest shift of an output; and the noise measured predicts the shift of a layer."""
    data = load_digits()
    x, y = torch.tensor(data.data / 16).float(), torch.tensor(data.target)
    model, errors = trained(x, y, 64, 32, 10), []
    with torch.no_grad():
        for counts in ([512, 128], [1024, 256], [2048, 512]):
            sent = sign_projection(model, counts, bits=16)
            small = sent.decoded(model)
            shift = float((small(x) - model(x)).abs().max())
            wrong = float((small(x).argmax(1) != y).double().mean())
            assert wrong <= float((margins(model(x), y) <= 2 * shift).double().mean())
            errors.append(wrong)
    assert errors[0] > errors[1] > errors[2] < 0.01
    found = noise_stability(model, x, draws=0)
    assert all(
        layer.projections > layer.weights for layer in found.layers
    )  # independent signs would need more numbers than weights


def test_the_memoriser_pays_for_its_table_in_this_code() -> None:
    """n coin-flip labels stored in n weights, one a key; at the length at which they survive, the bound says nothing."""
    n = 256
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, 2, n)).float()
    keys = torch.eye(n)
    table = nn.Linear(n, 1, bias=False)
    table.weight.data.copy_(2 * labels - 1)
    bound, values = CompressionBound(), []
    for k in (8, 64, 256):
        sent = sign_projection(table, [k], bits=8)
        wrong = float(((sent.decoded(table)(keys)[:, 0] > 0).float() != labels).double().mean())
        values.append((wrong, bound.solve(sent.evidence(wrong, n), 0.05)))
    assert values[-1][0] == 0.0 and all(value > 0.5 for _, value in values)  # fresh labels are wrong half the time
