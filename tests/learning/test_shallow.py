"""The shallow network: its random version, its divergence, certificates on digits, level two, fresh labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.learning.in_memory import answers, held
from nonvacuous.learning.method import Task
from nonvacuous.learning.shallow import Shallow
from nonvacuous.learning.shallow_network import ErfNetwork
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.sources import load

METHOD = Shallow(width=200, scale=3.0, epochs=15, learning_rate=1e-2, batch_size=100, draws=3)


def test_the_network_is_the_mean_of_its_random_versions() -> None:
    generator = torch.Generator().manual_seed(0)
    network = ErfNetwork(5, 7, 3)
    with torch.no_grad():
        network.hidden.normal_(generator=generator)
        network.output.normal_(generator=generator)
        x = torch.randn(1, 5, generator=generator).expand(200_000, 5)
        drawn, blurred, mean = network.drawn(x, generator), network.blurred(x, generator), network(x[:1])[0]
    assert torch.allclose(drawn.mean(0), mean, atol=0.03)
    assert torch.allclose(drawn.std(0), blurred.std(0), rtol=0.02)


def test_the_divergence_is_that_of_the_gaussians() -> None:
    network, generator = ErfNetwork(4, 6, 3), torch.Generator().manual_seed(1)
    with torch.no_grad():
        network.hidden.normal_(generator=generator)
        network.output.normal_(generator=generator)
    hidden, output = torch.zeros(6, 4), torch.zeros(3, 6)
    normal = torch.distributions.Normal
    by_hand = torch.distributions.kl_divergence(normal(network.hidden, 0.5**0.5), normal(hidden, 0.5**0.5)).sum()
    by_hand = by_hand + torch.distributions.kl_divergence(normal(network.output, 6**-0.5), normal(output, 6**-0.5)).sum()
    assert float(network.divergence(hidden, output)) == pytest.approx(float(by_hand), rel=1e-5)


@pytest.mark.parametrize("prior_fraction", [0.0, 0.5])
def test_it_certifies_digits_above_the_true_error(prior_fraction: float) -> None:
    train, test = load("digits", "train"), load("digits", "test")
    method = Shallow(
        width=200, scale=3.0, epochs=10, learning_rate=1e-2, batch_size=50, draws=3, prior_fraction=prior_fraction
    )
    done = method.certified(Task(None, train, seed=0))
    inputs, targets = held(test)
    error = float((answers(done.model, inputs).argmax(1) != targets).float().mean())
    assert error < done.certificate.value
    if prior_fraction:
        assert done.certificate.value < 0.7
    again = method.evidence(done.certificate, done.model, Task(None, train, seed=0))
    assert again["gibbs_risk"].upper == done.certificate.evidence["gibbs_risk"]
    assert again["kl_nats"].upper == done.certificate.evidence["kl_nats"]


def test_fresh_labels_are_not_certified_below_chance() -> None:
    generator = np.random.default_rng(0)
    sample = as_sample((generator.normal(size=(300, 6)).astype(np.float32), generator.integers(2, size=300)), classes=2)
    assert METHOD.certified(Task(None, sample, delta=0.2)).certificate.value >= 0.5


def test_too_few_examples_are_refused() -> None:
    sample = as_sample((np.eye(4, dtype=np.float32), np.arange(4)), classes=4)
    with pytest.raises(InvalidInput, match="8"):
        METHOD.certified(Task(None, sample))
