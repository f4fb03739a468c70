"""Noise stability against its definitions on dense Jacobians, against closed forms, and as trained networks show it."""

from __future__ import annotations

import copy
import math
from itertools import pairwise, product

import pytest
import torch
from sklearn.datasets import load_digits
from tests.oracles.noise_stability import Definitions
from torch import Tensor, nn

from nonvacuous.bounds.compression import Cushions, log_cushion_complexity
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.noise_stability import _smoothness, noise_stability
from nonvacuous.measures.weight_chain import WeightChain


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def networks() -> list[tuple[str, nn.Sequential, Tensor]]:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    bent = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 4, bias=False), nn.GELU(), nn.Linear(4, 2))
    images = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    return [("dense", dense, drawn(9, 5)), ("bent", bent, drawn(9, 5)), ("images", images, drawn(4, 2, 6, 6))]


@pytest.mark.parametrize(("model", "inputs"), [pytest.param(m, x, id=name) for name, m, x in networks()])
def test_the_quantities_are_those_of_the_definitions(model: nn.Sequential, inputs: Tensor) -> None:
    found, truth = noise_stability(model, inputs, batch_size=4, draws=1), Definitions(model)
    depth = len(found.layers)
    for i, layer in enumerate(found.layers):
        assert layer.exact and layer.width == truth.output(inputs[0], i).numel()
        for n, x in enumerate(inputs):
            assert float(layer.cushions[n]) == pytest.approx(truth.layer_cushion(x, i), rel=1e-9)
            if i + 1 < depth:
                assert float(layer.contractions[n]) == pytest.approx(truth.contraction(x, i), rel=1e-9)
            for j in range(i + 1, depth):
                assert float(layer.interlayer[j - i - 1, n]) == pytest.approx(truth.interlayer_cushion(x, i, j), rel=1e-9)
                if truth.output(x, i).ndim > 1:
                    assert float(layer.concentrations[j - i - 1, n]) == pytest.approx(truth.concentration(x, i, j), rel=1e-9)
        own = [1 / math.sqrt(layer.width)]
        pairs = [truth.interlayer_cushion(x, i, j) for x, j in product(inputs, range(i + 1, depth))]
        assert layer.interlayer_cushion == pytest.approx(min(own + pairs), rel=1e-9)
    assert found.largest_output == pytest.approx(max(float(truth.output(x, depth - 1).norm()) for x in inputs), rel=1e-9)


def test_a_linear_layer_on_tokens_has_no_positions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2))
    found, truth = noise_stability(model, drawn(3, 5, 3), draws=1), Definitions(model)
    assert found.layers[0].well_distributed == 1.0 and not found.convolutional
    assert float(found.layers[0].interlayer[0, 0]) == pytest.approx(
        truth.interlayer_cushion(drawn(3, 5, 3)[0], 0, 1), rel=1e-9
    )


def test_probes_estimate_the_same_cushions() -> None:
    _, model, inputs = networks()[2]
    exact, estimate = noise_stability(model, inputs, draws=0), noise_stability(model, inputs, draws=0, probes=12, seed=3)
    assert not estimate.layers[0].exact and estimate.layers[1].exact  # the last layer has 3 outputs
    assert torch.equal(exact.layers[1].interlayer, estimate.layers[1].interlayer)
    ratio = estimate.layers[0].interlayer / exact.layers[0].interlayer
    assert bool((ratio != 1).any()) and float(ratio.log().abs().max()) < math.log(2)


def test_the_estimate_is_unbiased() -> None:
    _, model, inputs = networks()[0]
    exact = noise_stability(model, inputs[:1].repeat(4000, 1), draws=0, batch_size=4000)
    estimate = noise_stability(model, inputs[:1].repeat(4000, 1), draws=0, probes=1, batch_size=4000)
    squares = (exact.layers[0].interlayer[0] / estimate.layers[0].interlayer[0]) ** 2  # ‖J‖² estimated, by ‖J‖²
    assert abs(float(squares.mean()) - 1) < 5 * float(squares.std()) / math.sqrt(4000)


def test_a_rotation_keeps_signal_and_noise_alike() -> None:
    """Orthogonal layers without activations: μ = 1/√h, noise of equal norm stays as large as the signal, and nothing is bent."""
    matrix = torch.linalg.qr(drawn(32, 32).double())[0].float()
    layers = [nn.Linear(32, 32, bias=False) for _ in range(3)]
    for layer in layers:
        layer.weight.data.copy_(matrix)
    found = noise_stability(nn.Sequential(*layers), drawn(50, 32))
    for layer in found.layers:
        assert layer.cushion == pytest.approx(1 / math.sqrt(32), rel=1e-5)
        assert layer.interlayer_cushion == pytest.approx(1 / math.sqrt(32), rel=1e-5)
        assert torch.allclose(layer.attenuation, torch.ones(1, dtype=torch.float64), atol=1e-5)
        # 10 % of the output's norm: ‖ΔAφ‖² = h‖A‖²_F‖φ‖²/k = 0.01 ‖φ‖² with ‖A‖²_F = h
        assert layer.projections == pytest.approx(32 * 32 / 0.01, rel=1e-5)
    assert found.contraction == pytest.approx(1.0) and found.interlayer_smoothness > 1e6


def test_aligned_weights_swallow_noise() -> None:
    """A rank-one layer whose row is the input: μ = 1, and Gaussian noise of the same norm shrinks like 1/√dimensions."""
    x = drawn(1, 400)
    layer = nn.Linear(400, 1, bias=False)
    layer.weight.data.copy_(x)
    found = noise_stability(layer, x.repeat(300, 1), draws=0).layers[0]
    assert found.cushion == pytest.approx(1.0)
    assert float(found.attenuation[0]) == pytest.approx(math.sqrt(2 / math.pi / 400), rel=0.15)  # E|N(0, 1)|/√400


def test_the_noise_is_as_large_as_asked() -> None:
    """The normal limit with variance ‖A‖²_F/k an entry moves each layer's own output by the share that k was chosen for."""
    _, model, inputs = networks()[0]
    found = noise_stability(model, inputs, draws=0, relative_noise=0.05)
    truth, generator = Definitions(model), torch.Generator().manual_seed(0)
    for i, layer in enumerate(found.layers):
        weight = truth.parts[truth.places[i]].weight
        reads = torch.stack([truth.read(x, i) for x in inputs])
        noise = (
            torch.randn(4000, *weight.shape, generator=generator, dtype=torch.float64) * weight.norm() / layer.projections**0.5
        )
        moved = (reads @ noise.mT).square().sum((1, 2)).mean()
        assert float(moved / (reads @ weight.T).square().sum()) == pytest.approx(0.05**2, rel=0.05)


@pytest.mark.parametrize(("model", "inputs"), [pytest.param(m, x, id=name) for name, m, x in networks()])
def test_smoothness_is_that_of_the_definition(model: nn.Sequential, inputs: Tensor) -> None:
    chain, truth = WeightChain(model, inputs), Definitions(model)
    for size in (0.03, 0.3):
        moves = [size * torch.randn(layer.weight.shape, dtype=torch.float64) for layer in chain.layers]
        found = [min(1e9, _smoothness(chain, x[None].double(), moves)) for x in inputs]  # 1e9: nothing bends but the rounding
        assert found == pytest.approx([min(1e9, truth.smoothness(x, moves)) for x in inputs], rel=1e-6)
        assert min(found) < 1e3
        assert _smoothness(chain, inputs.double(), moves) == pytest.approx(min(found), rel=1e-9)


def test_smoothness_is_infinite_for_linear_chains_and_finite_for_bent_ones() -> None:
    linear = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    assert noise_stability(linear, drawn(5, 4)).interlayer_smoothness > 1e9
    _, model, inputs = networks()[0]
    small = noise_stability(model, inputs, relative_noise=1e-6, draws=3)
    large = noise_stability(model, inputs, relative_noise=1.0, draws=3)
    assert len(small.smoothness) == 3 and large.interlayer_smoothness < small.interlayer_smoothness
    assert large.interlayer_smoothness == min(large.smoothness) and not large.smooth_enough


def test_the_complexity_is_assembled_from_the_quantities() -> None:
    _, model, inputs = networks()[0]
    found = noise_stability(model, inputs, draws=0)
    cushions = [Cushions(layer.cushion, layer.interlayer_cushion) for layer in found.layers]
    assert found.log_complexity(0.5) == log_cushion_complexity(cushions, found.contraction, found.largest_output, 0.5)
    assert "μ→" in str(found) and "3d = 12" in str(found)
    _, images, pictures = networks()[2]
    found = noise_stability(images, pictures, draws=0)
    spreads = []
    for layer, module in zip(found.layers, [m for m in images.modules() if hasattr(m, "weight")], strict=False):
        windows = (
            math.prod(-(-k // s) for k, s in zip(module.kernel_size, module.stride, strict=True)) if layer.windows > 1 else 1
        )
        assert layer.windows == windows
        spreads.append((layer.well_distributed, windows, layer.cushion, layer.interlayer_cushion))
    assert any(windows > 1 for _, windows, *_ in spreads)
    total = sum(beta**2 * windows / (mu * inter) ** 2 for beta, windows, mu, inter in spreads)
    size = found.contraction * len(spreads) * found.largest_output / 0.5
    assert found.log_complexity(0.5) == pytest.approx(math.log(size**2 * total), rel=1e-12)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        return self.last(hidden + self.second(hidden))  # type: ignore[no-any-return]


class Functional(nn.Module):
    """The forward method may have any form, as long as the layers are a chain."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(6, 2), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))  # type: ignore[no-any-return]


def test_layers_are_taken_in_the_order_of_the_calls() -> None:
    torch.manual_seed(0)
    model = Functional()
    found = noise_stability(model, drawn(6, 4))
    assert [layer.name for layer in found.layers] == ["first", "last"]
    again = noise_stability(nn.Sequential(model.first, nn.ReLU(), model.last), drawn(6, 4))
    assert torch.equal(found.layers[0].interlayer, again.layers[0].interlayer)


def test_what_is_no_chain_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModule, match="last reads first, second: a branch"):
        noise_stability(Residual(), drawn(3, 4))
    shared = nn.Linear(4, 4)
    with pytest.raises(UnsupportedModule, match="used twice"):
        noise_stability(nn.Sequential(shared, nn.ReLU(), shared), drawn(3, 4))
    with pytest.raises(UnsupportedModule, match=r"1 \(LayerNorm\)"):
        noise_stability(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), drawn(3, 4))
    with pytest.raises(UnsupportedModule, match=r"MultiheadAttention\) has parameters"):
        noise_stability(nn.MultiheadAttention(4, 1), drawn(3, 4))
    idle = Functional()
    idle.spare = nn.Linear(3, 3)
    with pytest.raises(UnsupportedModule, match="spare is never called"):
        noise_stability(idle, drawn(3, 4))
    with pytest.raises(InvalidInput, match="positive"):
        noise_stability(nn.Linear(4, 4), drawn(3, 4), relative_noise=0.0)
    with pytest.raises(InvalidInput, match="no linear layer"):
        noise_stability(nn.ReLU(), drawn(3, 4))
    with pytest.raises(InvalidInput, match="floats"):
        noise_stability(nn.Linear(4, 4), torch.ones(3, 4, dtype=torch.long))
    with pytest.raises(InvalidInput, match="NaN"):
        broken = nn.Linear(4, 4)
        broken.weight.data[0, 0] = math.nan
        noise_stability(broken, drawn(3, 4))


def test_reparametrized_weights_count_as_they_are_used() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    truth = noise_stability(plain, drawn(5, 4), draws=0)
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(norm(copy.deepcopy(plain[0])), nn.ReLU(), norm(copy.deepcopy(plain[2])))
    found = noise_stability(model, drawn(5, 4), draws=0)
    for one, two in zip(found.layers, truth.layers, strict=True):
        assert torch.allclose(one.cushions, two.cushions, rtol=1e-6) and one.weights == two.weights
        assert torch.allclose(one.interlayer, two.interlayer, rtol=1e-6)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    noise_stability(model, drawn(8, 4))
    assert model.training and not model[0]._forward_hooks
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_same_seed_gives_the_same_noise_and_progress_is_told() -> None:
    _, model, inputs = networks()[0]
    done: list[int] = []
    one = noise_stability(model, inputs, seed=5, batch_size=4, advance=done.append)
    two, other = noise_stability(model, inputs, seed=5, batch_size=4), noise_stability(model, inputs, seed=6, batch_size=4)
    assert done == [4, 4, 1]
    assert one.smoothness == two.smoothness != other.smoothness
    assert torch.equal(one.layers[0].attenuation, two.layers[0].attenuation)


def test_dead_units_and_zero_outputs_are_no_division_by_zero() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    model[0].bias.data.fill_(-100.0)  # no unit fires
    found = noise_stability(model, drawn(5, 3))
    assert found.contraction == math.inf and found.log_complexity(1.0) == math.inf
    assert found.layers[1].cushion == 1.0 and found.layers[0].attenuation[1] == 0  # ‖A0‖ ≥ μ‖A‖_F‖0‖ for every μ
    orthogonal = nn.Linear(2, 1, bias=False)
    orthogonal.weight.data.copy_(torch.tensor([[0.0, 1.0]]))
    blind = noise_stability(orthogonal, torch.tensor([[1.0, 0.0]]))
    assert blind.layers[0].cushion == 0.0 and blind.log_complexity(1.0) == math.inf
    nothing = noise_stability(model, torch.zeros(2, 3))
    for stability in (found, blind, nothing):
        numbers = [value for layer in stability.layers for value in (layer.cushion, layer.interlayer_cushion)]
        assert not any(map(math.isnan, numbers))


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.data / 16).float(), torch.tensor(data.target)


def perceptron(bias: bool) -> nn.Sequential:
    pairs = pairwise((64, 128, 128, 128, 128, 10))
    return nn.Sequential(*[part for a, b in pairs for part in (nn.Linear(a, b, bias=bias), nn.ReLU())][:-1])


def test_a_trained_network_attenuates_noise_more_than_at_its_initialization(digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = perceptron(bias=False)
        start = noise_stability(model, x[:200], draws=0).layers
        adam = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(60):
            adam.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            adam.step()
        end = noise_stability(model, x[:200], draws=0).layers
        for before, after in zip(start, end, strict=True):
            assert float(after.attenuation[0]) < float(before.attenuation[0])  # at the layer the noise enters
            assert float(after.cushions.median()) > float(before.cushions.median())
            assert bool((after.interlayer.median(1).values > 1.5 * before.interlayer.median(1).values).all())
        for before, after in zip(start[1:], end[1:], strict=True):  # noise among hidden units, seen at the output
            assert float(after.attenuation[-1]) < 0.6 * float(before.attenuation[-1])


def test_biases_make_an_untrained_network_look_stable(digits: tuple[Tensor, Tensor]) -> None:
    """torch's initial biases outweigh what is left of the input after five layers: no signal, hence no noise to speak of."""
    left = {}
    for bias in (True, False):
        torch.manual_seed(0)
        left[bias] = float(noise_stability(perceptron(bias), digits[0][:200], draws=0).layers[0].attenuation[-1])
    assert left[True] < 0.3 < 0.8 < left[False]


def test_activations_in_place_change_nothing() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)]
    plain = nn.Sequential(*layers).eval()
    in_place = nn.Sequential(*[nn.ReLU(inplace=True) if isinstance(layer, nn.ReLU) else layer for layer in layers]).eval()
    x = torch.randn(6, 5)
    first, second = noise_stability(plain, x), noise_stability(in_place, x)
    assert [layer.cushion for layer in first.layers] == [layer.cushion for layer in second.layers]
    assert [layer.interlayer_cushion for layer in first.layers] == [layer.interlayer_cushion for layer in second.layers]
