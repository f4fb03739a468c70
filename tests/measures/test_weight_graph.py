"""Layers of networks with branches, and their spectral complexity, against dense matrices and sums over paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nonvacuous
from nonvacuous.bounds.margin import SpectralMarginBound
from nonvacuous.bounds.spectral_complexity import FixedMap, Joined, LayerNorms, NetworkStep, spectral_complexity
from nonvacuous.core.errors import InvalidEvidence, InvalidInput, UnsupportedModule
from nonvacuous.measures.norm_quantities import weight_graph
from nonvacuous.measures.weight_graph import Join, Weights


class Residual(nn.Module):
    """x + A₂σ(A₁x), or Sx + A₂σ(A₁x)."""

    def __init__(self, inner: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.inner, self.shortcut = inner, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + (x if self.shortcut is None else self.shortcut(x))


def linear_net(bias: bool) -> nn.Sequential:
    torch.manual_seed(1)
    block = nn.Sequential(nn.Linear(4, 6, bias=bias), nn.ReLU(), nn.Linear(6, 4, bias=bias))
    return nn.Sequential(Residual(block), nn.ReLU(), nn.Linear(4, 3, bias=bias))


def convolutional_net() -> nn.Sequential:
    """A ResNet in miniature: batch norm, a plain block, a downsampling block, average pooling."""
    torch.manual_seed(2)

    def conv(a: int, b: int, k: int = 3, s: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(a, b, k, s, k // 2, bias=False), nn.BatchNorm2d(b)]

    net = nn.Sequential(
        *conv(1, 2),
        nn.ReLU(),
        Residual(nn.Sequential(*conv(2, 2), nn.ReLU(), *conv(2, 2))),
        nn.ReLU(),
        Residual(nn.Sequential(*conv(2, 3, s=2), nn.ReLU(), *conv(3, 3)), nn.Sequential(*conv(2, 3, 1, 2))),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 4),
    ).eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in ((part.running_mean, -1, 1), (part.running_var, 0.5, 2)):
                tensor.uniform_(low, high)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias, -1, 1)
    return net


def dense(part: nn.Module, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(A, b) of an affine module, by unit vectors."""
    part = part.double().eval()
    with torch.no_grad():
        b = part(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        return (part(units).flatten(1) - b).T.numpy(), b.numpy()


def norms(pair: tuple[np.ndarray, np.ndarray]) -> tuple[float, float, float]:
    """‖A‖₂, ‖b‖₂, Σ rows of [A, b]."""
    a, b = pair
    return (
        float(np.linalg.norm(a, 2)),
        float(np.linalg.norm(b)),
        float(np.linalg.norm(np.hstack([a, b[:, None]]), axis=1).sum()),
    )


def complexity(terms: list[float]) -> float:
    return sum(term ** (2 / 3) for term in terms) ** 1.5


def block_norm(p: float, q: float) -> float:
    return float(np.linalg.norm([[p, q], [0, 1]], 2))


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_residual_network_by_hand(bias: bool) -> None:
    net = linear_net(bias)
    parts = [net[0].inner[0], net[0].inner[2], net[2]]
    (s1, b1, d1), (s2, b2, d2), (s3, _, d3) = (norms(dense(part, (part.in_features,))) for part in parts)
    sizes = [1.0, block_norm(s1, b1), block_norm(1 + s1 * s2, s2 * b1 + b2)] if bias else [1.0, s1, 1 + s1 * s2]
    x = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = [x, net[0].inner[0](x), net[0](x)]
    for size, v in zip(sizes, seen, strict=True):
        assert math.hypot(float(v.detach().norm()), math.sqrt(50) * bias) <= size * math.hypot(
            float(x.norm()), math.sqrt(50) * bias
        )
    exact = math.log(complexity([sizes[0] * d1 * s2 * s3, sizes[1] * d2 * s3, sizes[2] * d3]))
    graph = weight_graph(net.float(), (4,))
    found = graph.complexity(None)
    assert exact <= found.log_spectral_complexity_nats <= exact + math.log(2) + 1e-5
    assert (graph.widest, graph.classes, graph.inputs, graph.biased) == (6 + bias, 3, 4, bias)
    with pytest.raises(UnsupportedModule, match="residual"):
        _ = graph.chain


def test_a_convolutional_residual_network_by_hand() -> None:
    net = convolutional_net()
    shape, small = (2, 6, 6), (3, 3, 3)
    first = norms(dense(net[:2], (1, 6, 6)))
    one = [norms(dense(part, shape)) for part in (net[3].inner[:2], net[3].inner[3:])]
    two = [norms(dense(net[5].inner[:2], shape)), norms(dense(net[5].inner[3:], small)), norms(dense(net[5].shortcut, shape))]
    last = norms(dense(net[7:], small))
    p, q = [first[0]], [first[1]]  # the results that layers read: after block 0, 1, 2
    sizes = [1.0, block_norm(p[0], q[0])]
    inside = one[0][0] * p[0], one[0][0] * q[0] + one[0][1]
    sizes.append(block_norm(*inside))
    p.append(p[0] + one[1][0] * inside[0])
    q.append(q[0] + one[1][0] * inside[1] + one[1][1])
    inside = two[0][0] * p[1], two[0][0] * q[1] + two[0][1]
    sizes += [block_norm(p[1], q[1]), block_norm(*inside), block_norm(p[1], q[1])]
    p.append(two[1][0] * inside[0] + two[2][0] * p[1])
    q.append(two[1][0] * inside[1] + two[1][1] + two[2][0] * q[1] + two[2][1])
    sizes.append(block_norm(p[2], q[2]))
    after2, after1 = last[0], last[0] * (two[0][0] * two[1][0] + two[2][0])
    gains = [after1 * (1 + one[0][0] * one[1][0]), after1 * one[1][0], after1]
    gains += [after2 * two[1][0], after2, after2, 1.0]
    distances = [part[2] for part in (first, *one, *two, last)]
    exact = math.log(complexity([a * b * c for a, b, c in zip(sizes, gains, distances, strict=True)]))
    graph = weight_graph(net.float(), (1, 6, 6))
    assert len(graph.layers) == 7 and sum(isinstance(step, Join) for step in graph.steps) == 2
    found = graph.complexity(None).log_spectral_complexity_nats
    assert exact <= found <= exact + math.log(2) + 1e-3


def paths(steps: list[NetworkStep], node: int, goal: int) -> float:
    """Σ over all paths from result ``node`` to result ``goal`` of the products of constants; sums only."""
    if node == goal:
        return 1.0
    total = 0.0
    for k, step in enumerate(steps, 1):
        reads = step.reads if isinstance(step, Joined) else (k - 1 if step.reads is None else step.reads,)
        factor = (
            1.0
            if isinstance(step, Joined)
            else step.spectral * step.lipschitz
            if isinstance(step, LayerNorms)
            else step.lipschitz
        )
        total += sum(factor * paths(steps, k, goal) for place in reads if place == node)
    return total


def random_steps(rng: np.random.Generator) -> list[NetworkStep]:
    steps: list[NetworkStep] = [LayerNorms(1.5, 2.0)]
    for k in range(1, 8):
        kind = rng.integers(3)
        place = int(rng.integers(max(0, k - 3), k + 1))
        if kind == 0:
            steps.append(LayerNorms(*np.exp(rng.normal(size=2)).tolist(), reads=place))
        elif kind == 1:
            steps.append(FixedMap(float(np.exp(rng.normal())), reads=place))
        else:
            steps.append(Joined((place, k)))
    return steps


def test_the_complexity_is_the_sum_over_all_paths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        steps = random_steps(rng)
        layers = [(k, step) for k, step in enumerate(steps, 1) if isinstance(step, LayerNorms)]
        terms = []
        for k, step in layers:
            read = k - 1 if step.reads is None else step.reads
            terms.append(paths(steps, 0, read) * step.distance * step.lipschitz * paths(steps, k, len(steps)))
        exact = math.log(complexity(terms)) if any(terms) else -math.inf
        found = spectral_complexity(steps).log_spectral_complexity_nats
        assert exact - 1e-12 <= found <= exact + math.log(2) + 1e-9


def test_what_the_proof_says_of_errors() -> None:
    """Moving the result of each layer by ε moves the scores by at most ΣQε."""
    generator = torch.Generator().manual_seed(0)
    for bias in (False, True):
        net = linear_net(bias).double()
        graph = weight_graph(net, (4,))
        steps = []
        for step in graph.steps:
            if isinstance(step, Weights):
                steps.append(LayerNorms(step.layer.linear_spectral(0.01), 1.0, 1.0, 2.0 if step.adds else None, step.reads))
            else:
                steps.append(FixedMap(step.lipschitz, 0.0, step.reads) if not isinstance(step, Join) else Joined(step.reads))
        x = torch.randn(50, 4, dtype=torch.float64, generator=generator)
        layers = [part for part in net.modules() if isinstance(part, nn.Linear)]
        gains = [paths(steps, k, len(steps)) for k, step in enumerate(steps, 1) if isinstance(step, LayerNorms)]
        truth = net(x)
        for _ in range(20):
            hooks, most = [], 0.0
            for layer, gain in zip(layers, gains, strict=True):
                move = torch.randn(50, layer.out_features, dtype=torch.float64, generator=generator) * torch.rand(
                    1, generator=generator
                )
                hooks.append(layer.register_forward_hook(lambda _m, _i, out, move=move: out + move))
                most += gain * float(move.norm())
            assert float((net(x) - truth).detach().norm()) <= most
            for hook in hooks:
                hook.remove()


def test_never_worse_than_the_block_as_two_layers_of_a_chain() -> None:
    """The paper's chain with [A₁; I] and [A₂, I]: s = √(1 + a²), distances alike."""
    for a in (0.01, 0.3, 1.0, 5.0):
        block: list[NetworkStep] = []
        chain: list[NetworkStep] = []
        for _ in range(6):
            block += [LayerNorms(a, 3 * a, reads=len(block)), LayerNorms(a, 3 * a), Joined((len(block), len(block) + 2))]
            chain += [LayerNorms(math.hypot(1, a), 3 * a)] * 2
        ours, theirs = spectral_complexity(block), spectral_complexity(chain)
        assert ours.log_spectral_complexity_nats < theirs.log_spectral_complexity_nats + math.log(2)
        assert a > 0.1 or ours.log_spectral_complexity_nats < theirs.log_spectral_complexity_nats


def test_distances_from_a_reference() -> None:
    net, start = convolutional_net().float(), convolutional_net().float()
    graph, reference = weight_graph(net, (1, 6, 6)), weight_graph(start, (1, 6, 6))
    assert graph.complexity(reference).log_spectral_complexity_nats < graph.complexity(None).log_spectral_complexity_nats - 5
    with pytest.raises(InvalidInput, match="reference"):
        graph.complexity(weight_graph(nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), (1, 6, 6)))


def test_functional_forms_and_other_joins() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.sigmoid(self.a(x))
            both = torch.cat([x, 0.5 * self.b(x)], 1)
            return self.c((both - 1.0).mean((2, 3)))

    graph = weight_graph(Functional(), (1, 4, 4))
    kinds = [type(step).__name__ for step in graph.steps]
    assert kinds == ["Weights", "Fixed", "Weights", "Fixed", "Join", "Fixed", "Fixed", "Weights"]
    offsets = [getattr(step, "offset", 0.0) for step in graph.steps]
    assert offsets[1] == pytest.approx(0.5 * math.sqrt(32)) and offsets[5] == pytest.approx(8.0)  # σ(0) = ½; |−1|·√64
    assert [step.lipschitz for step in graph.steps if hasattr(step, "lipschitz")] == pytest.approx([0.25, 0.5, 1.0, 0.25])
    assert math.isfinite(graph.complexity(None).log_spectral_complexity_nats)


class Gated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Gated(), "gating"),
        (nn.LayerNorm(4), "LayerNorm"),
        (nn.PReLU(), "slope"),
        (Shifted(), "adds a tensor"),
        (nn.LSTM(4, 4), "LSTM"),
    ],
)
def test_what_has_no_place_is_named(part: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedModule, match=words):
        weight_graph(nn.Sequential(nn.Linear(4, 4), part), (4,))


def test_steps_that_make_no_sense() -> None:
    for steps in (
        [],
        [FixedMap(1.0)],
        [LayerNorms(1.0, 1.0, reads=2)],
        [LayerNorms(1.0, 1.0), Joined(())],
        [LayerNorms(1.0, 1.0, math.nan)],
    ):
        with pytest.raises(InvalidEvidence):
            spectral_complexity(steps)
    with pytest.raises(InvalidEvidence, match="appended 1"):
        spectral_complexity([LayerNorms(1.0, 1.0, bias=1.0)], biased=False)


def test_a_residual_memoriser_gets_nothing() -> None:
    """The network 0·x + Σ yᵢxᵢ, stored in a block beside the identity, over n orthonormal inputs."""
    n = 10**8
    block = [LayerNorms(math.sqrt(n), math.sqrt(n)), LayerNorms(1.0, 1.0), Joined((0, 2))]
    found = spectral_complexity(block)
    bound = SpectralMarginBound()
    e = bound.Evidence(0.0, 1.0, found.log_spectral_complexity_nats, found.norm_grid_nats, 1.0, n, n)
    assert bound.solve(e, 0.05) == 1.0


def test_the_audit_of_a_residual_network_applies_the_bound(tmp_path) -> None:
    x = torch.rand(200, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y = (x.flatten(1).mean(1) * 40).long() % 4
    audit = nonvacuous.audit(convolutional_net().float(), train=(x, y), delta=0.05)
    found = {certificate.bound: certificate for certificate in audit.certificates}["spectral-margin"]
    assert found.value == 1.0
    graph = weight_graph(convolutional_net().float(), (1, 6, 6))
    assert found.evidence["log_spectral_complexity_nats"] == graph.complexity(None).log_spectral_complexity_nats
    assert audit.anatomy.log10_margin_scale is not None
    reasons = {skipped.bound: skipped.reason for skipped in audit.skipped}
    assert "residual" in reasons["golowich"]
