"""The Gaussian posterior: its divergence against torch, the price of its prior, unbiased trials, what it refuses."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from nonvacuous.core.errors import InvalidEvidence, InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind
from nonvacuous.measures.losses import ZERO_ONE, Loss
from nonvacuous.measures.posterior import (
    Block,
    GaussianPosterior,
    around,
    check_sampleable,
    chosen,
    drawn_losses,
    gibbs_risk,
    rebuilt,
)
from nonvacuous.measures.predictor import as_predictor
from nonvacuous.numerics.tails import kl_inverse_upper
from nonvacuous.runtime.data import as_sample

PRICE = math.log(math.pi**2 / 3 - 1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def price(j: int) -> float:
    return PRICE + 2 * math.log(abs(j) + 1)


@pytest.mark.parametrize("exponent", [-6.0, -1.5, 0.0, 2.0])
@pytest.mark.parametrize("with_initial", [False, True])
def test_the_divergence_is_torchs_plus_the_price_of_the_prior(exponent: float, with_initial: bool) -> None:
    model, initial = network(), None
    if with_initial:
        initial = copy.deepcopy(model)
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * torch.randn_like(p)
    posterior = around(model, initial, 2.0**exponent)
    truth = 0.0
    starts = dict(initial.named_parameters()) if initial is not None else {}
    for block, (name, p) in zip(posterior.blocks, model.named_parameters(), strict=True):
        mean = starts[name].detach().double() if starts else torch.zeros_like(p, dtype=torch.float64)
        q = Independent(Normal(p.detach().double(), torch.full_like(p, block.posterior_std, dtype=torch.float64)), p.ndim)
        prior = Independent(Normal(mean, torch.full_like(p, block.prior_std, dtype=torch.float64)), p.ndim)
        truth += float(kl_divergence(q, prior)) + price(block.prior_index)
    kl = posterior.kl_nats
    assert kl.lower <= truth * (1 + 1e-12) and truth <= kl.upper and kl.kind is Kind.EXACT
    assert kl.upper - kl.lower < 1e-8 * (1 + truth)


def test_the_prior_is_a_mixture_whose_weights_sum_to_one() -> None:
    total = math.fsum(math.exp(-price(j)) for j in range(-200_000, 200_001))
    assert 1 - 2e-5 < total <= 1


def test_the_mixture_costs_no_more_than_the_chosen_part_and_its_price() -> None:
    """KL(Q‖Σ wⱼ Pⱼ) ≤ KL(Q‖Pⱼ) + ln(1/wⱼ), integrated numerically for one weight."""
    for mean, std in ((0.3, 0.1), (-2.0, 0.5), (0.0, 1.0)):
        x = np.linspace(mean - 12 * std, mean + 12 * std, 40_001)
        q = stats.norm.pdf(x, mean, std)
        mixture = sum(math.exp(-price(j)) * stats.norm.pdf(x, 0, 2.0 ** (j / 4)) for j in range(-60, 61))
        exact = float(np.trapezoid(np.where(q > 0, q * np.log(np.maximum(q, 1e-300) / mixture), 0), x))
        model = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            model.weight.fill_(mean)
        block = Block("weight", 1, mean**2, std, round(math.log2(math.hypot(mean, std)) * 4))
        assert exact <= GaussianPosterior(model, (block,)).kl_nats.upper


def test_the_prior_width_is_the_best_of_its_grid() -> None:
    posterior = around(network(), None, 0.25)
    for block in posterior.blocks:
        others = [
            Block(block.name, block.size, block.squared_distance, block.posterior_std, j).kl_nats for j in range(-40, 41)
        ]
        assert block.kl_nats <= min(others) + 1e-9


def test_draws_have_the_stated_mean_and_deviation_and_nothing_moves() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    posterior = around(model, None, 0.5)
    generator = torch.Generator().manual_seed(0)
    draws = [posterior.draw(generator) for _ in range(4000)]
    for block, (name, p) in zip(posterior.blocks, model.named_parameters(), strict=True):
        all_ = torch.stack([draw[name] for draw in draws]).double()
        error = block.posterior_std / math.sqrt(len(draws))
        assert float((all_.mean(0) - p.detach().double()).abs().max()) < 5 * error
        assert abs(float(all_.std(0).mean()) / block.posterior_std - 1) < 0.03
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_trials_are_unbiased_where_the_gibbs_risk_is_known() -> None:
    """One weight, score w·x with w ~ N(μ, s²): the drawn network says 1 on x > 0 with probability Φ(μ/s)."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.5)
    x = torch.tensor([[1.0], [2.0], [-1.0], [3.0], [-2.0]])
    y = torch.tensor([1, 0, 0, 1, 1])  # the third and first and fourth right for w > 0
    posterior = rebuilt(model, None, [1.0], [0])
    right = stats.norm.cdf(0.5)
    risk = (3 * (1 - right) + 2 * right) / 5
    sample, predictor = as_sample((x, y)), as_predictor(model)
    means = drawn_losses(
        predictor, posterior, sample, ZERO_ONE, draws=4000, batch_size=3, generator=torch.Generator().manual_seed(1)
    ).means
    assert len(means) == 4000
    assert abs(np.mean(means) - risk) < 5 * np.std(means) / math.sqrt(4000)
    interval = gibbs_risk(means, 1e-6)
    assert risk in interval and interval.kind is Kind.CONFIDENCE and interval.delta == 1e-6
    again = drawn_losses(
        predictor, posterior, sample, ZERO_ONE, draws=4000, batch_size=3, generator=torch.Generator().manual_seed(1)
    ).means
    assert again == means


def test_the_interval_of_the_trials_covers() -> None:
    """Trials that are coins: the exact probability that the limit lies below their mean is at most δ."""
    for p in (0.05, 0.4):
        for delta in (0.5, 0.05):
            m = 40
            low = sum(
                stats.binom.pmf(k, m, p) for k in range(m + 1) if gibbs_risk([1.0] * k + [0.0] * (m - k), delta).upper < p
            )
            assert low <= delta
    assert gibbs_risk([0.25] * 100, 0.05).upper >= kl_inverse_upper(0.25, math.log(20) / 100)
    assert gibbs_risk([1.0] * 3, 0.05).upper == 1.0


@pytest.mark.parametrize("delta", [0.0, -1.0, 1.0, float("nan")])
def test_trials_without_a_share_bound_nothing(delta: float) -> None:
    with pytest.raises(InvalidEvidence, match="share"):
        gibbs_risk([0.1, 0.2], delta)
    with pytest.raises(InvalidEvidence, match="0 trials"):
        gibbs_risk([], 0.05)


def test_numbers_outside_the_posterior_are_refused() -> None:
    normed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(UnsupportedModule, match=r"1\.running_mean is a buffer.*group or layer norm"):
        check_sampleable(normed, None)
    initial = copy.deepcopy(normed)
    check_sampleable(normed, initial)  # statistics that nothing has touched were fixed beforehand
    normed[1].running_mean += 1
    with pytest.raises(UnsupportedModule, match="running_mean"):
        check_sampleable(normed, initial)
    counts = nn.Linear(2, 2)
    counts.register_parameter("counts", nn.Parameter(torch.arange(3), requires_grad=False))
    with pytest.raises(UnsupportedModule, match="integers"):
        check_sampleable(counts, None)
    hidden = nn.Linear(2, 2)
    hidden.table = torch.zeros(5)
    with pytest.raises(UnsupportedModule, match="table"):
        check_sampleable(hidden, None)


def test_initial_weights_of_another_model() -> None:
    with pytest.raises(InvalidInput, match="another model's"):
        around(network(), nn.Linear(3, 3), 0.5)


@pytest.mark.parametrize(
    ("stds", "indices"), [([1.0] * 3, [0] * 4), ([0.0] * 4, [0] * 4), ([float("nan")] * 4, [0] * 4), ([1.0] * 4, [10**6] * 4)]
)
def test_a_posterior_that_cannot_be_rebuilt(stds: list[float], indices: list[int]) -> None:
    with pytest.raises(InvalidEvidence):
        rebuilt(network(), None, stds, indices)


def test_a_drawn_network_that_leaves_the_range_of_the_loss_is_noticed() -> None:
    model = nn.Linear(1, 2)
    unbounded = Loss("unbounded", lambda outputs, y: outputs[:, 0] - outputs[:, 0].detach() + outputs.abs().amax(1) / 100)
    with pytest.raises(InvalidInput, match=r"one number in \[0, 1\]"):
        drawn_losses(
            as_predictor(model),
            rebuilt(model, None, [1e4, 1e4], [0, 0]),
            as_sample((torch.ones(4, 1), torch.zeros(4, dtype=torch.long))),
            unbounded,
            draws=20,
            batch_size=4,
            generator=torch.Generator().manual_seed(0),
        )


def test_the_search_is_repeatable_and_better_than_extremes() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 5)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 1).long()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    sample, predictor = as_sample((x, y)), as_predictor(model)
    one, two = (chosen(predictor, model, None, sample, ZERO_ONE, seed=3) for _ in range(2))
    assert one.blocks == two.blocks
    assert one.kl_nats.upper < around(model, None, 2.0**-6).kl_nats.upper
