"""A prior trained on a part of the sample: what the other part proves, what level two finds again, and what it must refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats
from tests.learning.soundness import Finite, too_many
from torch import nn

from nonvacuous.bounds.pac_bayes import SeegerBound
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput, UnsupportedModule
from nonvacuous.learning.augmented import one_cycle, shifted, trained_with_augmentation
from nonvacuous.learning.data_dependent import SCALES, DataDependent
from nonvacuous.learning.gaussian_head import GaussianHead
from nonvacuous.learning.holdout import HoldOut, declared_split
from nonvacuous.learning.method import Task
from nonvacuous.learning.methods import method_of
from nonvacuous.learning.run import certify
from nonvacuous.learning.trained_features import GibbsOnNetwork, TrainedFeatures
from nonvacuous.runtime.bundled import digits
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.models import initialise, mlp
from nonvacuous.runtime.samples import Sample
from nonvacuous.runtime.weights import weights_digest

METHOD = DataDependent(prior_fraction=0.6, epochs=15, posterior_epochs=5)
COMMITTED = Path(__file__).parents[2] / "results" / "certificates" / "fashion-mnist"


def small() -> nn.Module:
    return mlp(64, 32, 10)


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(small, digits("train"), 0.05, 1)


@pytest.fixture(scope="module")
def done(task):
    return METHOD.certified(task)


def measured(method, certificate, model, task):
    return {name: getattr(value, "upper", value) for name, value in method.evidence(certificate, model, task).items()}


# -- the certificate ------------------------------------------------------------------------------------------------


def test_the_bound_counts_the_other_part_alone(task, done):
    split = declared_split(task, 1 - 0.6)
    c = done.certificate
    assert c.evidence["n"] == split.held_out.n < task.train.n / 2
    assert c.digests["sample"] != c.digests["train"]
    assert c.value == SeegerBound().solve(SeegerBound().evidence(**c.evidence), 0.05)
    assert c.value < 0.3
    assert c.evidence["kl_nats"] >= math.log(len(SCALES) * 16)  # the choice of σ₀ and of settings is paid
    assert done.certificate.predictor == "gibbs"


def test_a_prior_deviation_settled_beforehand_costs_nothing(task):
    method = replace(METHOD, scale=1 / 4, alternatives=1)
    assert method.price_nats < 1e-300 < METHOD.price_nats
    done = method.certified(task)
    assert done.certificate.measurement["scale"] == 1 / 4
    assert measured(method, done.certificate, done.model, task)["kl_nats"] == pytest.approx(
        done.certificate.evidence["kl_nats"]
    )
    with pytest.raises(InvalidEvidence, match="paid for"):  # a deviation found by trying is not one that was settled
        replace(METHOD, scale=1 / 2).evidence(done.certificate, done.model, task)
    with pytest.raises(InvalidInput, match="prior deviations"):
        replace(METHOD, scale=0.3)


def test_labels_of_the_bound_part_do_not_touch_the_prior(task, done):
    """The split and the prior's network are those of the same sample with the bound part's labels all changed."""
    split = declared_split(task, 1 - 0.6)
    batch = next(iter(task.train.batches(10_000)))
    held = {x.numpy().tobytes() for x in next(iter(split.held_out.batches(10_000))).inputs}
    changed = [(int(y) + 1) % 10 if x.numpy().tobytes() in held else int(y) for x, y in zip(*batch, strict=True)]
    other = Task(small, as_sample((batch.inputs, torch.tensor(changed)), classes=10), 0.05, 1)
    assert weights_digest(METHOD.prior_network(other)) == done.certificate.digests["prior"]


def test_the_comparator_is_a_hold_out_certificate_of_the_same_part(task, done):
    beside = done.comparator
    assert beside.certificate.bound != done.certificate.bound
    assert beside.certificate.digests["sample"] == done.certificate.digests["sample"]
    assert beside.certificate.digests["weights"] == done.certificate.digests["prior"]
    errors, n = beside.certificate.evidence["errors"], beside.certificate.evidence["n"]
    assert beside.certificate.value == pytest.approx(stats.beta.ppf(0.95, errors + 1, n - errors), abs=1e-9)
    method = method_of(beside.certificate)
    assert isinstance(method, HoldOut)
    assert measured(method, beside.certificate, beside.model, task) == {"errors": errors, "n": n}


def test_certify_keeps_the_comparator_of_the_same_split(task):
    one = certify(small, task.train, method=METHOD, seed=1)
    assert one.comparator.certificate.measurement["trained_by"] == "data-dependent"
    assert certify(small, task.train, method=METHOD, seed=1, comparator=False).comparator is None


# -- level two ------------------------------------------------------------------------------------------------------


def test_measured_again_from_the_saved_weights(task, done):
    blank = METHOD.skeleton(lambda: initialise(small, 99), done.certificate)
    blank.load_state_dict(done.model.state_dict())
    for name, value in measured(METHOD, done.certificate, blank, task).items():
        assert value == pytest.approx(done.certificate.evidence[name], rel=1e-9)


def test_another_prior_is_refused(task, done):
    blank = METHOD.skeleton(small, done.certificate)
    blank.load_state_dict(done.model.state_dict())
    with torch.no_grad():
        blank.features.last.weight[0, 0] += 1.0
    with pytest.raises(InvalidEvidence, match="prior's network"):
        METHOD.evidence(done.certificate, blank, task)
    with pytest.raises(InvalidEvidence, match="own stochastic"):
        METHOD.evidence(done.certificate, small(), task)


def test_training_the_prior_again_gives_the_same_bits(task, done):
    assert weights_digest(METHOD.prior_network(task)) == done.certificate.digests["prior"]


def test_an_unfinished_training_goes_on_with_the_same_bits(task, tmp_path, monkeypatch):
    how = {"purpose": "prior", "rate": 1e-3, "batch": 64, "mirrored": True, "shift": 1, "half": False, "epochs": 3}
    whole = trained_with_augmentation(task, task.train, **how)
    kept = Task(small, task.train, 0.05, 1, folder=tmp_path)
    from nonvacuous.learning import augmented

    passes = iter(range(2))
    draw = Task.generator

    def stopping(self, purpose):
        if next(passes, None) is None:
            raise KeyboardInterrupt
        return draw(self, purpose)

    monkeypatch.setattr(Task, "generator", stopping)
    with pytest.raises(KeyboardInterrupt):
        trained_with_augmentation(kept, task.train, **how)
    monkeypatch.undo()
    assert augmented.Checkpoint(tmp_path / "prior.safetensors").facts()["epoch"] == 2
    assert weights_digest(trained_with_augmentation(kept, task.train, **how)) == weights_digest(whole)
    with pytest.raises(InvalidInput, match="another run"):
        trained_with_augmentation(kept, task.train, **{**how, "rate": 2e-3})


# -- the classifier -------------------------------------------------------------------------------------------------


def test_the_prior_is_centred_on_the_network():
    network = initialise(small, 0)
    features = TrainedFeatures(network)
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model = GibbsOnNetwork(features, GaussianHead(32, 32, 10, 0.5))
        mean, std = model.law(features(x))
        assert torch.allclose(mean.float(), network(x), atol=1e-5)
        sigma = 0.5 * network[-1].weight.square().mean().sqrt()
        hidden = network[:-1](x)
        assert torch.allclose(std.float(), sigma * hidden.norm(dim=1, keepdim=True).expand(5, 10), rtol=1e-4)
        drawn = torch.stack([model(x, torch.Generator().manual_seed(i)) for i in range(2000)])
        assert torch.all((drawn.mean(0) - mean).abs() < 5 * std / math.sqrt(2000))


def test_networks_without_a_last_linear_layer_are_refused():
    x = torch.rand(2, 8)
    with pytest.raises(UnsupportedModule, match=r"no nn\.Linear"):
        TrainedFeatures(nn.Sequential(nn.Flatten(), nn.ReLU()))
    with pytest.raises(UnsupportedModule, match="end with that layer"):
        TrainedFeatures(nn.Sequential(nn.Linear(8, 3), nn.Softmax(1)))(x)
    zero = nn.Linear(8, 3)
    nn.init.zeros_(zero.weight)
    with pytest.raises(UnsupportedModule, match="zero"):
        TrainedFeatures(nn.Sequential(zero))(x)


def test_shifts_move_whole_pictures():
    picture = torch.zeros(200, 1, 6, 6)
    picture[:, 0, 2, 3] = 1.0
    moved = shifted(picture, 1, torch.Generator().manual_seed(0))
    rows, columns = torch.nonzero(moved[:, 0])[:, 1:].unbind(1)
    assert moved.sum() == 200
    assert set(rows.tolist()) == {1, 2, 3}
    assert set(columns.tolist()) == {2, 3, 4}


def test_the_rate_rises_and_falls_once():
    rates = [one_cycle(step, 100) for step in range(100)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.01


# -- what it may not promise ----------------------------------------------------------------------------------------

QUICK = DataDependent(prior_fraction=0.5, epochs=3, batch_size=32, posterior_epochs=3, alternatives=1, learning_rate=0.05)


def test_labels_of_noise_are_never_certified_below_their_risk():
    """Labels are 1 with probability 0.4 whatever the input: no classifier, drawn or not, has a risk below 0.4."""
    world, delta, repetitions = Finite(torch.full((10,), 0.4)), 0.2, 12
    below = sum(
        QUICK.certified(Task(world.factory, world.sample(80, seed), delta, 0)).certificate.value < 0.4
        for seed in range(repetitions)
    )
    assert below < too_many(repetitions, delta)


def test_a_prior_that_remembers_its_part_gains_nothing():
    """Labels by fair coins: a network that has its own part by heart is at chance on the other, and so is the certificate."""
    generator = torch.Generator().manual_seed(0)
    sample = as_sample((torch.randn(300, 40, generator=generator), torch.randint(2, (300,), generator=generator)), classes=2)
    method = DataDependent(prior_fraction=0.5, epochs=60, batch_size=32, posterior_epochs=3)
    task = Task(lambda: mlp(40, 200, 2), sample, 0.05, 0)
    done = method.certified(task)
    kept = next(iter(declared_split(task, 0.5).kept.batches(1000)))
    with torch.no_grad():
        assert (done.comparator.model(kept.inputs).argmax(1) == kept.targets).float().mean() > 0.95
    assert done.certificate.value >= 0.5


def test_settings_and_samples_that_cannot_be_used_are_refused(task):
    with pytest.raises(InvalidInput):
        DataDependent(prior_fraction=1.0)
    with pytest.raises(InvalidInput, match="at least"):
        DataDependent(posterior_epochs=0)
    tiny: Sample = as_sample((torch.rand(20, 4), torch.arange(20) % 2), classes=2)
    with pytest.raises(InvalidInput, match="too few"):
        DataDependent().certified(Task(lambda: mlp(4, 2), tiny))
    flat = as_sample((torch.rand(100, 4), torch.arange(100) % 2), classes=2)
    with pytest.raises(InvalidInput, match="shift"):
        DataDependent(shift=1).certified(Task(lambda: mlp(4, 2), flat))


# -- the committed certificates -------------------------------------------------------------------------------------


def test_the_committed_certificates_speak_of_one_split():
    gibbs = Certificate.load(COMMITTED / "data-dependent" / "gibbs.json")
    beside = Certificate.load(COMMITTED / "hold-out" / "prior-network.json")
    assert gibbs.digests["sample"] == beside.digests["sample"]
    assert gibbs.digests["prior"] == beside.digests["weights"]
    assert beside.value < gibbs.value < min(0.09, beside.value + 0.005)
