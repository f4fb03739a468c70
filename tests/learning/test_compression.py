"""Compression: the certified network is the one the stream decodes to, and nothing is certified below its risk."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
import torch
from scipy.linalg import hadamard as hadamard_matrix
from torch import Tensor, nn

from nonvacuous.bounds.code_length import OccamBinomialBound
from nonvacuous.core.errors import InvalidEvidence, InvalidInput, UnsupportedModule
from nonvacuous.learning.coding import DamagedStream, Encoder
from nonvacuous.learning.compression import Compression
from nonvacuous.learning.compression_features import EnergyFeatures, frequency_weights, odd_in_a_mirror
from nonvacuous.learning.compression_stream import Message, read, written
from nonvacuous.learning.method import Certified, Task
from nonvacuous.learning.quantization import AnnealedLevels
from nonvacuous.learning.subspace import Subspace, hadamard
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.models import linear, mlp
from nonvacuous.runtime.weights import weights_digest

METHOD = Compression(dimension=128, epochs=15, batch_size=100)


def teacher(n: int, seed: int, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Three classes by a fixed linear teacher on 5 of 12 inputs; with probability ``noise`` a label drawn at random instead."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 12, generator=generator)
    w = torch.randn(5, 3, generator=torch.Generator().manual_seed(99))
    y = (x[:, :5] @ w).argmax(1)
    drawn = torch.randint(0, 3, (n,), generator=generator)
    return x, torch.where(torch.rand(n, generator=generator) < noise, drawn, y)


def task(x: Tensor, y: Tensor, seed: int = 0, factory=lambda: mlp(12, 16, 3), delta: float = 0.05) -> Task:
    return Task(factory, as_sample((x, y), classes=3), delta=delta, seed=seed)


@pytest.fixture(scope="module")
def run() -> tuple[Task, Certified]:
    given = task(*teacher(2000, 1), seed=5)
    return given, METHOD.certified(given)


def test_it_learns_and_covers(run: tuple[Task, Certified]) -> None:
    _, done = run
    x, y = teacher(20_000, 2)
    risk = (done.model(x).argmax(1) != y).float().mean().item()
    assert risk <= done.certificate.value < 0.35
    assert done.certificate.predictor == "compressed" and done.certificate.evidence["code_bits"] < 400


def test_the_stream_alone_gives_the_certified_network_bit_by_bit(run: tuple[Task, Certified]) -> None:
    given, done = run
    data = bytes.fromhex(done.certificate.measurement["stream"])
    decoded = METHOD.decoded(data, replace(given, train=as_sample(teacher(200, 77))), 3)
    assert weights_digest(decoded) == weights_digest(done.model)
    assert torch.equal(decoded(teacher(50, 3)[0]), done.model(teacher(50, 3)[0]))
    assert 8 * len(data) - 7 <= done.certificate.evidence["code_bits"] <= 8 * len(data)


def test_level_two_measures_the_same_and_refuses_another_network(run: tuple[Task, Certified]) -> None:
    given, done = run
    measured = METHOD.evidence(done.certificate, done.model, given)
    assert measured["code_bits"] == done.certificate.evidence["code_bits"] and measured["n"] == 2000
    assert measured["errors"] <= done.certificate.evidence["errors"]
    saved = METHOD.skeleton(lambda: mlp(12, 16, 3), done.certificate)
    saved.load_state_dict(done.model.state_dict())
    assert METHOD.evidence(done.certificate, saved, given) == measured
    with torch.no_grad():
        next(saved.parameters()).view(-1)[0].add_(1e-6)
    with pytest.raises(InvalidEvidence, match="not the one"):
        METHOD.evidence(done.certificate, saved, given)


def test_the_same_seed_gives_the_same_certificate(run: tuple[Task, Certified]) -> None:
    given, done = run
    assert METHOD.certified(given).certificate == done.certificate


def test_hostile_streams_are_refused(run: tuple[Task, Certified]) -> None:
    given, done = run
    data = bytes.fromhex(done.certificate.measurement["stream"])
    for broken in (data + b"\0", data[:-1], b"", bytes(500), b"\xff" * 500):
        with pytest.raises(DamagedStream):
            METHOD.decoded(broken, given, 3)


def test_a_message_comes_back_and_all_of_it_is_paid() -> None:
    message = Message(3, 2**40, 2, -7, -3, (4, -4, 0), torch.tensor([0, 1, -2, 0, 2]))
    stream = written(message, 16)
    found, bits = read(stream.data, 3, 16)
    assert bits == stream.length and torch.equal(found.coordinates, message.coordinates)
    assert replace(found, coordinates=0) == replace(message, coordinates=0)
    assert written(replace(message, seed=0), 16).length < bits - 40
    assert written(replace(message, alternative=0), 1).length < bits - 3


@pytest.mark.parametrize(("size", "dimension"), [(5, 3), (16, 16), (3, 11)])
def test_the_subspace_is_its_dense_matrix(size: int, dimension: int) -> None:
    space = Subspace(size, dimension, seed=4)
    order = space.order
    h = torch.tensor(hadamard_matrix(order), dtype=torch.float32)
    first, second = space.signs
    dense = (second[:, None] * (h @ (first[:, None] * h)) / order)[:size, space.places]
    w = torch.randn(dimension, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.allclose(space.expand(w), dense @ w, atol=1e-6)
    assert torch.equal(hadamard(torch.eye(order)[0]), h[0])
    cotangent = torch.arange(size).float()
    (space.expand(w) @ cotangent).backward()
    assert torch.allclose(w.grad, dense.T @ cotangent, atol=1e-5)


def test_integers_expand_exactly() -> None:
    space = Subspace(3000, 4096, seed=1)
    q = torch.randint(-2, 3, (4096,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(space.expand(q.float()).double(), space.expand(q.double()))


def test_annealing_ends_at_the_length_of_the_code() -> None:
    levels = AnnealedLevels(400, 1, 0.2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        choice = torch.randint(0, 3, (400,), generator=torch.Generator().manual_seed(1))
        levels.scores.copy_(50 * nn.functional.one_hot(choice, 3))
    p = torch.tensor([(choice != 1).float().mean() / 2, (choice == 1).float().mean()])
    length = -((choice != 1) * p[0].log() + (choice == 1) * p[1].log()).sum()
    assert levels.nats(0.0).item() == pytest.approx(length.item(), rel=1e-2)
    assert torch.equal(levels.decided(), choice - 1)
    fresh = AnnealedLevels(400, 1, 0.2, torch.Generator().manual_seed(0))
    assert fresh.nats(1.0).item() < 1 < fresh.nats(0.0).item()  # an open level costs nothing while T = 1


def test_batch_norm_is_refused_with_a_remedy() -> None:
    factory = lambda: nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))  # noqa: E731
    with pytest.raises(UnsupportedModule, match="GroupNorm or LayerNorm"):
        METHOD.certified(task(*teacher(200, 0), factory=factory))


def test_a_table_in_an_attribute_is_refused() -> None:
    x, y = teacher(200, 0)

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.table = nn.Linear(12, 3), (x, y)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)

    with pytest.raises(UnsupportedModule, match="table"):
        METHOD.certified(task(x, y, factory=Looks))


def test_bad_input_says_what_would_do() -> None:
    x, y = teacher(20, 0)
    with pytest.raises(InvalidInput, match="too few for compression"):
        METHOD.certified(task(x, y))
    with pytest.raises(InvalidInput, match="alternative 4 of 4"):
        replace(METHOD, alternatives=4, alternative=4).certified(task(*teacher(200, 0)))
    with pytest.raises(InvalidInput, match="no trainable weights"):
        METHOD.certified(task(*teacher(200, 0), factory=lambda: nn.Sequential(nn.Flatten(), nn.ReLU())))
    with pytest.raises(InvalidInput, match="classes need"):
        METHOD.certified(task(*teacher(200, 0), factory=lambda: linear(12, 2)))


def test_the_memoriser_is_never_certified_below_its_risk() -> None:
    """A network wide enough to store random labels: the code of what it stores is longer than what it explains."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(300, 12, generator=generator), torch.randint(0, 3, (300,), generator=generator)
    greedy = Compression(dimension=2048, epochs=150, batch_size=100, active=0.3, price=0.02, levels=2)
    done = greedy.certified(task(x, y, factory=lambda: mlp(12, 256, 3)))
    assert done.certificate.evidence["errors"] < 100  # it does store them
    assert done.certificate.value >= 2 / 3


def test_random_labels_are_covered_in_all_but_a_fraction_delta() -> None:
    delta, violated, runs = 0.2, 0, 25
    method = Compression(dimension=64, epochs=6, batch_size=100)
    for seed in range(runs):
        generator = torch.Generator().manual_seed(1000 + seed)
        x, y = torch.randn(300, 12, generator=generator), torch.randint(0, 3, (300,), generator=generator)
        violated += method.certified(task(x, y, seed, lambda: linear(12, 3), delta)).certificate.value < 2 / 3
    assert violated <= delta * runs


def test_an_adversary_who_knows_the_distribution_is_covered() -> None:
    """Labels are fair coins, so that every predictor's risk is ½, and the adversary has 3,000 code words of the shortest lengths.

    Network i answers at random and costs the stream of the natural number i. On every sample the adversary keeps the network with
    the least certificate; over 400 samples one lies below ½ in at most a fraction δ (three standard deviations of slack), and some do:
    the test has power.
    """
    bound, delta, n, runs = OccamBinomialBound(), 0.2, 60, 400
    lengths = torch.tensor([_natural_bits(i) for i in range(3000)])
    most = {  # the most errors at which a word of this length is still certified below ½
        length: max((k for k in range(n) if bound.holds(bound.Evidence(k, length, n), delta, 0.4999)), default=-1)
        for length in set(lengths.tolist())
    }
    limits = torch.tensor([most[length] for length in lengths.tolist()])
    errors = torch.distributions.Binomial(n, torch.tensor(0.5))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        below = sum(bool((errors.sample((3000,)) <= limits).any()) for _ in range(runs))
    assert 0 < below <= delta * runs + 3 * sqrt(runs * delta * (1 - delta))


def _natural_bits(number: int) -> int:
    encoder = Encoder()
    encoder.natural(number)
    return encoder.finish().length


def test_features_do_not_read_colour_pictures_and_are_equal_in_a_mirror() -> None:
    features = EnergyFeatures(mirrored=True)
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(features(x), features(x.flip(3)), atol=1e-5)
    assert features(x).shape == (3, features.size)
    assert features.size < EnergyFeatures(mirrored=False).size
    assert frequency_weights((8, 7, 7)).min() == 1 and not odd_in_a_mirror((8, 7, 7))[0, :, 0].any()
    with pytest.raises(InvalidInput, match="grey pictures"):
        features(torch.zeros(1, 3, 32, 32))
