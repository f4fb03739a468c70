"""The Gaussian linear head: exact Gibbs risk, divergence of differences, both certificates, and what they may not promise."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats

from nonvacuous.bounds.disintegrated import DisintegratedBound
from nonvacuous.bounds.pac_bayes import SeegerBound
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.learning.disintegrated import Disintegrated
from nonvacuous.learning.features import PictureFeatures, features_for
from nonvacuous.learning.gaussian_head import GaussianHead
from nonvacuous.learning.method import Task
from nonvacuous.learning.objectives import OBJECTIVES, inverted_kl
from nonvacuous.learning.pac_bayes import PacBayes
from nonvacuous.learning.quadrature import correct_chance, lead_probability, quadrature_error
from nonvacuous.numerics.tails import kl_inverse_upper
from nonvacuous.runtime.data import as_sample

SETTINGS = {"directions": 40, "epochs": 20, "batch_size": 100, "alternatives": 1}


def random_head(seed=0, p=7, r=4, k=3):
    generator = torch.Generator().manual_seed(seed)
    head = GaussianHead(p, r, k, 2.0)
    head.basis.copy_(torch.linalg.qr(torch.randn(p, r, generator=generator, dtype=torch.float64))[0])
    head.mean.copy_(torch.randn(r, k, generator=generator, dtype=torch.float64))
    head.log_std.copy_(0.7 * torch.randn(r, k, generator=generator, dtype=torch.float64) - 0.5)
    return head


def clouds(n=600, seed=0, labels=None):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=generator)
    x = torch.randn(n, 5, generator=generator)
    x[:, :3] += 2.5 * torch.nn.functional.one_hot(y, 3)
    return as_sample((x, y if labels is None else labels(generator, n)), classes=3)


# -- quadrature -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_quadrature_is_a_tight_lower_bound(seed):
    generator = torch.Generator().manual_seed(seed)
    mean = 2 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    std = (torch.randn(6, 4, generator=generator, dtype=torch.float64)).exp()
    y, lead = torch.randint(4, (6,), generator=generator), torch.rand(6, generator=generator, dtype=torch.float64) / 10
    found = lead_probability(mean, std, y, lead)
    for i in range(6):
        m, s, own = mean[i].numpy(), std[i].numpy(), int(y[i])
        others = [j for j in range(4) if j != own]

        def integrand(x, m=m, s=s, own=own, others=others, t=float(lead[i])):
            scores = [(m[own] + s[own] * x - t - m[j]) / s[j] for j in others]
            return stats.norm.pdf(x) * math.prod(stats.norm.cdf(u) for u in scores)

        exact = integrate.quad(integrand, -12, 12, epsabs=1e-13, limit=400, points=[0])[0]
        allowed = 1e-8 + float(quadrature_error(std[i : i + 1], y[i : i + 1], 1 / 64))
        assert exact - allowed <= float(found[i]) <= exact + 1e-12
        assert allowed < 1e-3


def test_the_proved_error_covers_the_actual_one_where_it_is_large():
    mean = torch.tensor([[0.3, 0.0, -0.2]], dtype=torch.float64)
    std, y = torch.tensor([[3.0, 1.0, 0.5]], dtype=torch.float64), torch.tensor([0])
    exact = lead_probability(mean, std, y, torch.zeros(1))
    seen = 0.0
    for step in (2.0, 1.0, 0.5):
        x = torch.arange(-12, 12 + step, step, dtype=torch.float64)
        terms = torch.special.ndtr((mean[0, 0] + 3 * x[:, None] - mean[0, 1:]) / std[0, 1:]).prod(1)
        crude = step * (torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * terms).sum()
        error = abs(float(crude - exact))
        seen = max(seen, error)
        assert error <= float(quadrature_error(std, y, step)) + 1e-8
    assert seen > 1e-3


def test_the_training_quadrature_agrees_with_the_certain_one():
    mean, std = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64), torch.tensor([[1.0, 0.8, 1.2]], dtype=torch.float64)
    for y in range(3):
        target = torch.tensor([y])
        difference = correct_chance(mean, std.square(), target) - lead_probability(mean, std, target, torch.zeros(1))
        assert abs(float(difference)) < 1e-4


# -- objectives -----------------------------------------------------------------------------------------------------


def test_the_inverted_kl_and_its_gradient():
    for q, c in ((0.1, 0.02), (0.02, 0.0085), (0.4, 0.3)):
        risk, budget = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (q, c))
        value = inverted_kl(risk, budget)
        assert value.item() == pytest.approx(kl_inverse_upper(q, c), abs=1e-12)
        value.backward()
        h = 1e-6
        by_risk = (kl_inverse_upper(q + h, c) - kl_inverse_upper(q - h, c)) / (2 * h)
        by_budget = (kl_inverse_upper(q, c + h) - kl_inverse_upper(q, c - h)) / (2 * h)
        assert float(risk.grad) == pytest.approx(by_risk, rel=1e-5)
        assert float(budget.grad) == pytest.approx(by_budget, rel=1e-5)


def test_the_inverted_kl_is_the_smallest_objective():
    risk, budget = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.02, dtype=torch.float64)
    least = float(inverted_kl(risk, budget))
    assert all(float(f(risk, budget)) >= least for f in OBJECTIVES.values())


# -- the head -------------------------------------------------------------------------------------------------------


def test_the_divergence_is_that_of_the_projected_gaussians():
    head = random_head()
    r, k = head.mean.shape
    contrasts = torch.linalg.svd(torch.ones(1, k, dtype=torch.float64))[2][1:]  # orthonormal rows adding up to zero
    total = 0.0
    for i in range(r):
        covariance = contrasts @ torch.diag((2 * head.log_std[i]).exp()) @ contrasts.T
        shift = contrasts @ head.mean[i]
        total += 0.5 * float(covariance.trace() - (k - 1) - covariance.logdet() + shift @ shift)
    measured = head.kl_nats()
    assert measured.lower <= total <= measured.upper
    assert measured.upper - measured.lower < 1e-6
    whole = 0.5 * float(((2 * head.log_std).exp() - 1 - 2 * head.log_std + head.mean.square()).sum())
    assert measured.upper < whole  # moving all classes together is free


def test_moving_all_classes_together_costs_nothing():
    head = random_head()
    before = head.kl_nats().upper
    head.mean += 5.0
    assert head.kl_nats().upper == pytest.approx(before, rel=1e-9)


def test_the_log_ratio_of_draws_has_the_divergence_as_its_mean():
    head, generator = random_head(), torch.Generator().manual_seed(1)
    head.mean *= 3
    ratios = torch.tensor([head.draw(generator).log_ratio.upper for _ in range(4000)])
    assert float(ratios.mean()) == pytest.approx(head.kl_nats().upper, abs=5 * float(ratios.std()) / math.sqrt(4000))


def test_drawn_networks_have_the_law_of_the_logits():
    head, generator = random_head(), torch.Generator().manual_seed(2)
    x = torch.randn(2, 7, generator=generator)
    logits = torch.stack([x.double() @ head.draw(generator).weights for _ in range(4000)])
    mean, std = head.law(x)
    assert torch.all((logits.mean(0) - mean).abs() < 5 * std / math.sqrt(4000))
    assert torch.allclose(logits.std(0), std, rtol=0.07)


def test_a_basis_that_is_not_orthonormal_is_refused():
    head = random_head()
    head.basis[0, 0] += 1e-6
    with pytest.raises(InvalidEvidence, match="orthonormal"):
        head.kl_nats()


# -- features -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 20), (1, 8, 8), (30,)])
def test_features_have_length_one_and_the_stated_size(shape):
    features = features_for(shape, mirrored=False)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    found = features(x)
    assert found.shape == (3, features.size)
    assert torch.allclose(found.norm(dim=1), torch.ones(3))
    assert torch.allclose(found[:1], features(x[:1]), atol=1e-6)  # nothing of the other examples is in it


def test_mirrored_features_do_not_change_in_a_mirror():
    features, x = PictureFeatures(1, True), torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(features(x), features(x.flip(3)), atol=1e-5)


# -- the methods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PacBayes, Disintegrated])
def test_certified_and_measured_again(kind):
    method, task = kind(**SETTINGS), Task(None, clouds(), 0.05, 3)
    done = method.certified(task)
    assert done.certificate.value < 0.6
    blank = method.skeleton(lambda: None, done.certificate)
    blank.load_state_dict(done.model.state_dict())
    again = method.evidence(done.certificate, blank, task)
    for name, stated in done.certificate.evidence.items():
        assert getattr(again[name], "upper", again[name]) == pytest.approx(stated, rel=1e-9)
    fresh = clouds(4000, seed=9)
    wrong = sum(int((blank(b.inputs).argmax(1) != b.targets).sum()) for b in fresh.batches(1000))
    assert wrong / 4000 <= done.certificate.value


def test_another_network_than_the_one_drawn_is_refused():
    method, task = Disintegrated(**SETTINGS), Task(None, clouds(200), 0.05, 3)
    done = method.certified(task)
    done.model.weights[0, 0] += 1.0
    with pytest.raises(InvalidEvidence, match="draws"):
        method.evidence(done.certificate, done.model, task)


@pytest.mark.parametrize("kind", [PacBayes, Disintegrated])
def test_labels_without_meaning_are_never_certified_below_chance(kind):
    """True risk 2/3 whatever is learnt: a violation at δ = 0.05 in any of eight seeds would be a surprise."""
    method = kind(**{**SETTINGS, "epochs": 10, "scale": 64.0})
    for seed in range(8):
        coins = clouds(150, seed, labels=lambda g, n: torch.randint(3, (n,), generator=g))
        assert method.certified(Task(None, coins, 0.05, seed)).certificate.value >= 2 / 3


def test_a_second_look_costs_more():
    first, second = (DisintegratedBound.Evidence(0.1, 50.0, k, 1000) for k in (1, 2))
    bound, seeger = DisintegratedBound(), SeegerBound()
    assert bound.solve(second, 0.05) > bound.solve(first, 0.05)
    share = 0.05 * 6 / math.pi**2
    assert bound.solve(first, 0.05) == pytest.approx(seeger.solve(seeger.Evidence(0.1, 50.0, 1000), share), abs=1e-12)


def test_settings_and_samples_that_cannot_be_used_are_refused():
    with pytest.raises(InvalidInput, match="nearest"):
        PacBayes(scale=7.0)
    with pytest.raises(InvalidInput, match="Possible"):
        PacBayes(objective="hinge")
    with pytest.raises(InvalidInput, match="8 examples"):
        PacBayes().certified(Task(None, clouds(5)))
