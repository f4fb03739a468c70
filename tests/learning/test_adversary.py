"""An adversary who knows the distribution, sees the sample, and picks the posterior to be certified as far below its risk as it can be.

The domain is finite and the prior uniform over all its classifiers, so divergence and both risks of a posterior are exact. A posterior that
maximises n·kl(r̂, r) − KL, or r less any function of r̂ and KL, has stationary log-odds a·(true margin) − b·(empirical margin) at each
point: the two-parameter family searched here holds the best attack.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from tests.learning.soundness import too_many
from torch import Tensor

from nonvacuous.bounds.disintegrated import DisintegratedBound
from nonvacuous.bounds.pac_bayes import SeegerBound

POINTS, N, DELTA, CHANCE = 30, 40, 0.2, 1e-4
TRUTH = torch.linspace(0.05, 0.95, POINTS, dtype=torch.float64)
"""The chance of label 1 at each point."""

STRENGTHS = torch.cat([torch.zeros(1), torch.logspace(-1, 2.5, 40)]).double()


class Attacks(NamedTuple):
    """One posterior an entry, over the family: chance of saying 1 at each point [A, POINTS]; risks and divergence [A]."""

    says_one: Tensor
    empirical: Tensor
    true: Tensor
    kl_nats: Tensor


def sampled(generator: torch.Generator) -> Tensor:
    """Shares of the sample's N examples that are (point, label), [POINTS, 2]."""
    where = torch.randint(POINTS, (N,), generator=generator)
    label = (torch.rand(N, generator=generator, dtype=torch.float64) < TRUTH[where]).long()
    return torch.bincount(2 * where + label, minlength=2 * POINTS).reshape(POINTS, 2).double() / N


def attacks(shares: Tensor) -> Attacks:
    """Posteriors that like classifiers of large true and small empirical risk, over a grid of how much they like either."""
    true_margin = 1 - 2 * TRUTH  # by how much saying 1 raises the risk at a point
    empirical_margin = (shares[:, 0] - shares[:, 1]) * POINTS
    a, b = (grid.reshape(-1, 1) for grid in torch.meshgrid(STRENGTHS, STRENGTHS, indexing="ij"))
    one = torch.sigmoid(a * true_margin - b * empirical_margin)
    entropy = -(torch.xlogy(one, one) + torch.xlogy(1 - one, 1 - one)).sum(1)
    return Attacks(
        one,
        one @ shares[:, 0] + (1 - one) @ shares[:, 1],
        (one * (1 - TRUTH) + (1 - one) * TRUTH).mean(1),
        POINTS * math.log(2) - entropy,
    )


def gap(q: Tensor, p: Tensor) -> Tensor:
    """kl(q, p) of two biased coins where q < p, else 0."""
    kl = torch.xlogy(q, q / p) + torch.xlogy(1 - q, (1 - q) / (1 - p))
    return torch.where(q < p, kl, 0.0)


def surplus(found: Attacks, kl_counts: float = 1.0) -> Tensor:
    """n·kl(r̂, r) less what Seeger's bound allows: above 0 the certificate lies below the risk. ``kl_counts`` less than 1: a false bound."""
    return N * gap(found.empirical, found.true) - kl_counts * found.kl_nats - math.log(2 * math.sqrt(N) / DELTA)


def violated(repetitions: int, kl_counts: float = 1.0) -> int:
    """In how many samples some posterior breaks the bound."""
    generator = torch.Generator().manual_seed(5)
    return sum(bool((surplus(attacks(sampled(generator)), kl_counts) > 0).any()) for _ in range(repetitions))


def test_no_posterior_breaks_seegers_bound_more_often_than_delta() -> None:
    assert violated(200) < too_many(200, DELTA, CHANCE)


def test_the_adversary_breaks_a_bound_that_forgets_the_divergence() -> None:
    assert violated(60, kl_counts=0.0) >= too_many(60, DELTA, CHANCE)


def test_the_adversary_breaks_a_bound_with_a_quarter_of_the_divergence() -> None:
    assert violated(60, kl_counts=1 / 4) >= too_many(60, DELTA, CHANCE)


def test_the_worst_attack_against_the_bound_as_it_is_issued() -> None:
    """The shortcut of `surplus` and the class agree on which side of the risk the certificate of the worst attack lies."""
    generator, bound = torch.Generator().manual_seed(6), SeegerBound()
    closest = []
    for _ in range(25):
        found = attacks(sampled(generator))
        excess = surplus(found)
        worst = int(excess.argmax())
        e = bound.Evidence(float(found.empirical[worst]), float(found.kl_nats[worst]), N)
        assert bound.proves(e, DELTA, float(found.true[worst])) == bool(excess[worst] >= 0)
        closest.append(bound.solve(e, DELTA) - float(found.true[worst]))
    assert min(closest) < 0.1  # the attack comes near


def test_a_network_drawn_from_the_worst_posterior() -> None:
    """One drawn classifier: the bound reads its own log-ratio, and the first look at it costs 6/π² of δ."""
    generator, bound, repetitions, broken = torch.Generator().manual_seed(7), DisintegratedBound(), 100, 0
    for _ in range(repetitions):
        shares = sampled(generator)
        found = attacks(shares)
        one = found.says_one[int(surplus(found).argmax())]
        drawn = torch.rand(POINTS, generator=generator, dtype=torch.float64) < one
        log_ratio = float(torch.where(drawn, one, 1 - one).log().sum()) + POINTS * math.log(2)
        empirical = float(torch.where(drawn, shares[:, 0], shares[:, 1]).sum())
        true = float(torch.where(drawn, 1 - TRUTH, TRUTH).mean())
        e = bound.Evidence(empirical, max(0.0, log_ratio), 1, N)
        broken += bound.proves(e, DELTA, true)
    assert broken < too_many(repetitions, DELTA, CHANCE)


@pytest.mark.slow
def test_no_posterior_breaks_seegers_bound_in_two_thousand_samples() -> None:
    """With 2,000 samples a bound that fails with probability 0.25 would be caught."""
    assert violated(2000) < too_many(2000, DELTA, CHANCE) < 0.25 * 2000
