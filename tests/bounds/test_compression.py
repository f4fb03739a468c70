"""Compressed networks: the same bits as the code-length bound, sign projections on real matrices, cushions in the log domain."""

from __future__ import annotations

from math import inf, isfinite, log

import numpy as np
import pytest

from nonvacuous.bounds.code_length import OccamBound
from nonvacuous.bounds.compression import CompressionBound, Cushions, log_cushion_complexity
from nonvacuous.core.bound import Predictor
from nonvacuous.core.errors import InvalidEvidence

bound, occam = CompressionBound(), OccamBound()


@pytest.mark.parametrize(("numbers", "bits", "depth"), [(1, 1, 1), (180, 8, 3), (10_000, 16, 5), (7, 32, 200)])
def test_it_is_the_code_length_bound_of_the_message(numbers, bits, depth):
    length = numbers * bits + (depth + 1) * (2 * int(np.floor(np.log2(numbers + bits))) + 1)
    e = bound.Evidence(0.1, numbers, bits, depth, 10**6)
    assert bound.solve(e, 0.05) == occam.solve(occam.Evidence(0.1, length, 10**6), 0.05)


def test_it_speaks_of_the_compressed_network_only():
    assert bound.predictors == (Predictor.COMPRESSED,)


def test_the_memoriser_gets_nothing():
    """A network that stores n coin-flip labels takes n bits at least, whatever its form."""
    for n in (100, 10**4, 10**6):
        assert bound.solve(bound.Evidence(0.0, n, 1, 1, n), 0.05) >= 0.5


def test_sign_projections_estimate_the_matrix_without_bias():
    """Algorithm 1: E (1/k)Σ⟨A, M⟩M = A, with error in a fixed direction of about ‖A‖_F/√k."""
    rng = np.random.default_rng(0)
    a, k = rng.normal(size=(6, 5)), 20_000
    m = rng.choice([-1.0, 1.0], size=(k, 6, 5))
    estimate = np.einsum("k,kij->ij", np.einsum("kij,ij->k", m, a), m) / k
    u, v = rng.normal(size=6), rng.normal(size=5)
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    assert abs(u @ (estimate - a) @ v) < 4 * np.linalg.norm(a) / np.sqrt(k)


def test_cushions_stay_in_the_log_domain():
    layers = [Cushions(1e-200, 1e-200)] * 200
    value = log_cushion_complexity(layers, 1e10, 1e300, 1e-300)
    expected = 2 * (log(1e10) + log(200) + 600 * log(10)) + log(200) + 800 * log(10)
    assert isfinite(value) and value == pytest.approx(expected, rel=1e-12)
    assert log_cushion_complexity([Cushions(0.0, 1.0)], 1.0, 1.0, 1.0) == inf
    with pytest.raises(InvalidEvidence):
        log_cushion_complexity([], 1.0, 1.0, 1.0)


def test_larger_cushions_make_the_complexity_smaller():
    values = [log_cushion_complexity([Cushions(c, 0.5)] * 3, 2.0, 1.0, 1.0) for c in (0.1, 0.2, 0.9)]
    assert values == sorted(values, reverse=True)
