"""Stochastic networks: their divergence, their law, and the certificate by backprop."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from nonvacuous.core.errors import InvalidEvidence, InvalidInput, UnsupportedModule
from nonvacuous.learning.deep_pac_bayes import DeepPacBayes
from nonvacuous.learning.leading_block import LeadingBlock
from nonvacuous.learning.method import Task
from nonvacuous.learning.stochastic import GRID, StochasticLinear, StochasticNetwork, chain, matrices
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.sources import load

SMALL = DeepPacBayes(plain_epochs=10, epochs=6, draws=3, learning_rate=5e-3, batch_size=64)


def orthogonal(size, seed):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[
        0
    ].float()


def layer(rotated=True):
    generator = torch.Generator().manual_seed(3)
    prior, mean = torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator)
    std = torch.rand(3, 5, generator=generator) + 0.1
    bases = (orthogonal(5, 1), orthogonal(3, 2)) if rotated else (None, None)
    return StochasticLinear(prior, mean, std, *bases)


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def digits(n=None):
    sample = load("digits", "train")
    return sample if n is None else sample.subset(torch.arange(n), "the training sample").with_classes(10)


def dense_kl(one, index):
    """KL of the layer as two dense Gaussians over its 15 weights."""
    mixing = torch.kron(
        one.basis_out.double() if one.basis_out is not None else torch.eye(3, dtype=torch.float64),
        one.basis_in.double() if one.basis_in is not None else torch.eye(5, dtype=torch.float64),
    )
    root = mixing * one.log_std.detach().double().exp().flatten()
    variance = 2.0 ** (2 * index / GRID) / one.prior.shape[1]
    posterior = MultivariateNormal(one.mean().flatten(), root @ root.T)
    prior = MultivariateNormal(one.prior.double().flatten(), variance * torch.eye(15, dtype=torch.float64))
    return float(kl_divergence(posterior, prior)) + math.log((math.pi**2 / 3 - 1) * (abs(index) + 1) ** 2)


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("index", [-3, 0, 5])
def test_the_divergence_is_that_of_the_dense_gaussians(rotated, index):
    one = layer(rotated)
    kl = one.kl_nats(index)
    truth = dense_kl(one, index)
    assert kl.lower - 1e-6 <= truth <= kl.upper + 1e-9
    assert kl.upper - truth < 1e-4


def test_a_basis_that_is_not_quite_orthogonal_is_paid_for():
    one = layer()
    one.basis_in += 0.01 * torch.randn(5, 5, generator=torch.Generator().manual_seed(7))
    assert one.kl_nats(0).upper >= dense_kl(one, 0)
    one.basis_in *= 2
    with pytest.raises(InvalidInput, match="not orthogonal"):
        one.kl_nats(0)


def leading(rotated=True):
    """A layer at its start and what is trained of it, moved away from there; curvature is felt in a block of 2 x 3 of its 3 x 5 weights."""
    generator, whole = torch.Generator().manual_seed(9), layer(rotated)
    felt = torch.zeros(3, 5)
    felt[-2:, -3:] = torch.rand(2, 3, generator=generator) + 0.5
    block = LeadingBlock(whole, felt)
    with torch.no_grad():
        block.log_scale += 0.4
        block.moved += torch.randn(block.moved.shape, generator=generator)
        block.log_ratio.copy_(-torch.rand(block.moved.shape, generator=generator))
    block.written_into(whole)
    return whole, block


@pytest.mark.parametrize("rotated", [True, False])
def test_the_trained_block_has_the_divergence_and_the_law_of_the_layer_it_is_written_into(rotated):
    whole, block = leading(rotated)
    assert block.moved.shape == ((2, 3) if rotated else (3, 5))
    index = block.index()
    assert index == 2  # e^0.4 is nearest to 2^(2/4)
    price = math.log(math.pi**2 / 3 - 1) + 2 * math.log(index + 1)
    assert block.kl_nats().item() == pytest.approx(whole.kl_nats(index).upper - price, abs=1e-3)
    x = torch.tensor([[0.5, -1.0, 2.0, 0.3]]).expand(200_000, 4)
    with torch.no_grad():
        found, expected = (part(x, torch.Generator().manual_seed(seed)) for seed, part in enumerate((block, whole)))
    spread = torch.cov(expected.T)
    assert torch.allclose(found.mean(0), expected.mean(0), atol=5 * spread.diagonal().max().item() ** 0.5 / 300)
    assert torch.allclose(torch.cov(found.T), spread, atol=0.03 * spread.diagonal().max().item())


def test_the_prior_deviation_feels_the_divergence_though_it_stays_on_its_grid():
    _, block = leading()
    block.kl_nats().backward()
    closed_form = -(block.moved.detach() / block.scale().detach()).square().sum()
    assert block.log_scale.grad.item() == pytest.approx(closed_form.item(), rel=1e-5)


def test_outputs_have_the_law_of_a_freshly_drawn_weight_matrix():
    one, x = layer(), torch.tensor([[0.5, -1.0, 2.0, 0.3]])
    outputs = one(x.expand(200_000, 4), torch.Generator().manual_seed(0)).detach()
    noise = torch.randn(200_000, 3, 5, generator=torch.Generator().manual_seed(1))
    weights = one.basis_out @ (one.rotated_mean + one.log_std.exp() * noise) @ one.basis_in.T
    drawn = (weights @ torch.cat([x, torch.ones(1, 1)], 1).T).squeeze(2).detach()
    assert torch.allclose(outputs.mean(0), drawn.mean(0), atol=0.03)
    assert torch.allclose(torch.cov(outputs.T), torch.cov(drawn.T), atol=0.1)


def test_without_noise_it_is_the_network_it_was_made_from():
    torch.manual_seed(0)
    plain, x = network(), torch.randn(4, 64)
    layers = iter(StochasticLinear(w, w, 1e-8, orthogonal(w.shape[1], 1), orthogonal(w.shape[0], 2)) for w in matrices(plain))
    built = StochasticNetwork([next(layers) if isinstance(part, nn.Linear) else part for part in chain(plain)])
    assert torch.allclose(built(x), plain(x), atol=1e-4)


def test_a_certificate_on_digits_and_its_second_measurement():
    task = Task(network, digits())
    result = SMALL.certified(task)
    assert result.certificate.value < 0.9
    assert result.certificate.predictor == "gibbs"
    again = SMALL.evidence(result.certificate, result.model, task)
    stated = result.certificate.evidence
    assert again["kl_nats"].upper == pytest.approx(stated["kl_nats"], rel=1e-9)
    assert again["gibbs_risk"].upper == pytest.approx(stated["gibbs_risk"], rel=1e-9)
    rebuilt = SMALL.skeleton(network, result.certificate)
    rebuilt.load_state_dict(result.model.state_dict())
    assert SMALL.evidence(result.certificate, rebuilt, task)["kl_nats"].upper == pytest.approx(stated["kl_nats"], rel=1e-6)
    x = torch.cat([batch.inputs for batch in task.train.batches()][:1])
    assert not torch.equal(result.model(x), result.model(x))  # the saved model is the Gibbs classifier


def test_another_seed_is_another_prior():
    task = Task(network, digits(300))
    result = DeepPacBayes(plain_epochs=1, epochs=1, draws=1).certified(task)
    method = DeepPacBayes(plain_epochs=1, epochs=1, draws=1)
    elsewhere = method.evidence(result.certificate, result.model, replace(task, seed=1))
    assert elsewhere["kl_nats"].lower > result.certificate.evidence["kl_nats"] * 1.01


@pytest.mark.parametrize("seed", range(3))
def test_labels_that_are_noise_are_never_certified_below_their_risk(seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(400, 64, generator=generator), torch.randint(10, (400,), generator=generator)
    result = DeepPacBayes(plain_epochs=40, epochs=3, draws=2).certified(
        Task(network, as_sample((x, y), classes=10), seed=seed)
    )
    assert result.certificate.value >= 0.9


def test_a_run_that_is_gone_on_with_ends_with_the_same_bits(tmp_path, monkeypatch):
    task = Task(network, digits(300), folder=tmp_path / "a")
    whole = SMALL.certified(task)
    from nonvacuous.learning import deep_pac_bayes

    writes, real = [], deep_pac_bayes.Checkpoint.write

    def stopping(self, *args):
        real(self, *args)
        writes.append(1)
        if len(writes) == 3:
            raise KeyboardInterrupt

    broken = replace(task, folder=tmp_path / "b")
    monkeypatch.setattr(deep_pac_bayes.Checkpoint, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        SMALL.certified(broken)
    monkeypatch.undo()
    resumed = SMALL.certified(broken)
    assert resumed.certificate.evidence == whole.certificate.evidence
    with pytest.raises(InvalidInput, match="another run"):
        replace(SMALL, learning_rate=1e-3).certified(broken)


def test_what_it_cannot_sample_is_named():
    def convolutional():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))

    with pytest.raises(UnsupportedModule, match="Conv2d"):
        SMALL.certified(Task(convolutional, digits(300)))
    with pytest.raises(InvalidInput, match="measuring"):
        DeepPacBayes(measuring=1.0)
    with pytest.raises(InvalidInput, match="epochs"):
        DeepPacBayes(epochs=0)
    result = DeepPacBayes(plain_epochs=1, epochs=1, draws=1).certified(Task(network, digits(100)))
    with pytest.raises(InvalidEvidence, match="Linear"):
        SMALL.evidence(result.certificate, nn.Linear(64, 10), Task(network, digits(100)))


def test_draws_are_the_calls_one_after_another() -> None:
    layers = [
        StochasticLinear(torch.randn(5, 4), torch.randn(5, 4), 0.3),
        nn.Tanh(),
        StochasticLinear(*[torch.randn(2, 6)] * 2, 0.2),
    ]
    network, x = StochasticNetwork([nn.ReLU(), *layers]), torch.randn(7, 3)
    generator, other = (torch.Generator().manual_seed(3) for _ in range(2))
    with torch.no_grad():
        found, expected = list(network.draws(x, 4, generator)), [network(x, other) for _ in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(found[0], found[1])
