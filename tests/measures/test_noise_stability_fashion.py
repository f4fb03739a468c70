"""A certificate from Algorithm 1 on real data: a small network, sent as random projections in 8 bits, with nothing known beforehand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nonvacuous.bounds.compression import CompressionBound
from nonvacuous.core.certificate import Assumption, Certificate
from nonvacuous.measures.losses import ZERO_ONE
from nonvacuous.measures.predictor import as_predictor
from nonvacuous.measures.risks import observe
from nonvacuous.measures.sign_projections import sign_projection
from nonvacuous.runtime import sources
from nonvacuous.runtime.training import train


@pytest.mark.slow
@pytest.mark.data("fashion-mnist")
def test_fashion_mnist_is_certified_well_below_guessing() -> None:
    """60,000 pictures pay for 640 numbers of 8 bits: certified below one half where guessing errs at 0.9; and the test set agrees."""
    sample, fresh = sources.load("fashion-mnist", "train"), sources.load("fashion-mnist", "test")
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 10), nn.ReLU(), nn.Linear(10, 10))
    train(model, sample, epochs=3, learning_rate=0.01, progress=False)
    bound, found = CompressionBound(), {}
    for counts in ((512, 128), (384, 128), (256, 128)):
        sent = sign_projection(model, counts, bits=8)
        decoded = as_predictor(sent.decoded(model))
        evidence = sent.evidence(observe(decoded, sample, ZERO_ONE).risk.upper, sample.n)
        found[counts] = (bound.solve(evidence, 0.05), observe(decoded, fresh, ZERO_ONE).risk.upper, evidence)
    print({counts: row[:2] for counts, row in found.items()})
    assert all(value > test for value, test, _ in found.values())
    value, _, evidence = found[512, 128]
    assert value < 0.5
    hypotheses = tuple(Assumption(h.name, h.statement, False) for h in bound.hypotheses)
    certificate = Certificate(bound.name, {}, evidence._asdict(), 0.05, value, "zero_one", "compressed", hypotheses)
    assert Certificate.from_json(certificate.to_json()).value == value
