"""Gradient norms by layer against plain autograd, and the decay of a network whose factor is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators.gradient_norms import gradient_norms


def data(n=12):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


def test_norms_are_those_of_plain_gradients_whatever_the_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    x, y = data()
    found = gradient_norms(model, cross_entropy, [(x[:7], y[:7]), (x[7:], y[7:])])
    middle = model[2](model[1](model[0](x)))
    middle.retain_grad()
    cross_entropy(model[4](model[3](middle)), y).backward()
    assert [layer.name for layer in found.layers] == ["0", "2", "4"]
    assert found.layers[1].weight == pytest.approx(model[2].weight.grad.norm().item())
    assert found.layers[1].relative == pytest.approx(found.layers[1].weight / model[2].weight.norm().item())
    assert found.layers[1].signal == pytest.approx((len(x) * middle.grad).norm(dim=1).mean().item())


def test_decay_is_the_factor_of_orthogonal_layers():
    layers = []
    for i in range(10):
        layer = nn.Linear(6, 6, bias=False, dtype=torch.float64)
        Q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(i), dtype=torch.float64))[0]
        layer.weight.data = 0.7 * Q
        layers.append(layer)
    x, _ = data()
    decay = gradient_norms(nn.Sequential(*layers), mse_loss, [(x, torch.ones(12, 6, dtype=torch.float64))]).decay()
    assert decay.lower == pytest.approx(0.7) and decay.upper == pytest.approx(0.7)


@pytest.mark.parametrize("training", [False, True])
def test_parametrised_weights_are_the_matrices_that_multiply(training):
    """Equal to the norms of a plain network with the same matrices; looking moves no vector of the power iteration."""
    torch.manual_seed(0)
    parts = [weight_norm(nn.Linear(6, 5)), nn.Tanh(), spectral_norm(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, 3)]
    model = nn.Sequential(*parts).double()
    x, y = data()
    model.eval()
    plain = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    for own, other in zip(model, plain, strict=True):
        if isinstance(own, nn.Linear):
            other.load_state_dict({"weight": own.weight.detach(), "bias": own.bias.detach()})
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = gradient_norms(model, cross_entropy, [(x[:7], y[:7]), (x[7:], y[7:])])
    expected = gradient_norms(plain, cross_entropy, [(x, y)])
    rough = 0.2 if training else 1e-9  # a step of the power iteration on the way
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert one.name == other.name and one.weight > 0
        assert one.weight == pytest.approx(other.weight, rel=rough) and one.relative == pytest.approx(
            other.relative, rel=rough
        )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_refusals():
    x, y = data()
    with pytest.raises(InvalidInput, match="at least 3"):
        gradient_norms(nn.Linear(6, 3).double(), cross_entropy, [(x, y)]).decay()
    dead = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    dead[2].bias.data.fill_(-1e3)
    with pytest.raises(InvalidInput, match="no gradient arrives at"):
        gradient_norms(dead, cross_entropy, [(x, y)]).decay()

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x):
            return x[:, :3] * self.factor

    with pytest.raises(InvalidInput, match="no layer"):
        gradient_norms(Scale(), cross_entropy, [(x, y)])


def test_a_complex_signal_counts_with_its_imaginary_part():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 6, 2, dtype=torch.float64))

        def forward(self, x):
            return x.to(torch.cdouble) @ torch.view_as_complex(self.weight).T

    class Modulus(nn.Module):
        def forward(self, z):
            return z.abs()

    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(Complex(), Modulus()), data()
    found = gradient_norms(model, cross_entropy, [(x, y)])
    z = model[0](x).detach().requires_grad_(True)
    cross_entropy(model[1](z), y, reduction="sum").backward()
    assert found.layers[0].signal == pytest.approx(torch.view_as_real(z.grad).flatten(1).norm(dim=1).mean().item())
