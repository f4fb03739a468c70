"""Preconditioners against the optimizers' own steps, K-FAC against dense blocks, and the ratio of the preconditioned spectrum."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.operators.curvature import ggn
from nonvacuous.optimization.conditioning import compared, conditioning, spectrum_ratio
from nonvacuous.optimization.preconditioners import (
    Block,
    Preconditioner,
    damped_inverses,
    gather,
    identity,
    preconditioner_of,
    symmetric_power,
)
from nonvacuous.optimization.preconditioners_kfac import kfac, kronecker_factors


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()


def data(n=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


def flat_gradient(net, x, y):
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(cross_entropy(net(x), y), list(net.parameters()))])


def flat(net):
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
    "RMSprop, centred": lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.9)),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.0, 0.9), weight_decay=0.0),
    "Adam, amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.9), amsgrad=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_minus_the_rate_times_the_preconditioner_times_the_gradient(name):
    net, (x, y) = small(), data()
    optimizer = OPTIMIZERS[name](net.parameters())
    for _ in range(3):
        before, slope = flat(net), flat_gradient(net, x, y)
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    found = preconditioner_of(optimizer, net)
    assert torch.allclose(before - flat(net), 0.1 * found.dense() @ slope, rtol=1e-6, atol=1e-12)


def test_adadelta_divides_by_the_gradients_and_multiplies_by_the_steps_before():
    net, (x, y) = small(), data()
    optimizer = torch.optim.Adadelta(net.parameters())
    gather(optimizer, net, cross_entropy, [(x, y)], 3)
    states = [optimizer.state[p] for p in net.parameters()]
    expected = torch.cat([((s["acc_delta"] + 1e-6) / (s["square_avg"] + 1e-6)).sqrt().reshape(-1) for s in states])
    assert torch.allclose(preconditioner_of(optimizer, net).dense().diagonal(), expected)


@pytest.mark.parametrize("convolution", [False, True])
def test_a_step_of_shampoo(convolution):
    shampoo = pytest.importorskip("pytorch_optimizer").Shampoo
    torch.manual_seed(0)
    x, y = data()
    net = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 2, padding=1), nn.Flatten(), nn.Linear(18, 3)).double()
    net = net if convolution else small()
    optimizer = shampoo(net.parameters(), lr=0.1)
    for _ in range(3):
        before, slope = flat(net), flat_gradient(net, x, y)
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    found = preconditioner_of(optimizer, net)
    assert found.name == "Shampoo"
    assert torch.allclose(before - flat(net), 0.1 * found.dense() @ slope, rtol=1e-4, atol=1e-8)


def test_gathering_leaves_weights_rates_and_gradients_alone():
    net, (x, y) = small(), data()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.3, weight_decay=0.2)
    before = flat(net)
    gather(optimizer, net, cross_entropy, [(x[:5], y[:5]), (x[5:], y[5:])], 2)
    assert torch.equal(flat(net), before)
    assert optimizer.param_groups[0]["lr"] == 0.3 and optimizer.param_groups[0]["weight_decay"] == 0.2
    assert all(p.grad is None for p in net.parameters())
    assert float(optimizer.state[net[0].weight]["step"]) == 4


@pytest.mark.parametrize("loss", [cross_entropy, mse_loss])
def test_kronecker_factors_are_exact_for_one_example(loss):
    net, (x, y) = small(), data(1)
    y = y if loss is cross_entropy else torch.ones(1, 3, dtype=torch.float64)
    whole = ggn(net, loss, [(x, y)]).dense()
    for factors in kronecker_factors(net, loss, [(x, y)]):
        places = factors.places.reshape(-1)
        block = whole[places][:, places]
        assert torch.allclose(torch.kron(factors.outputs, factors.inputs), block, atol=1e-12)


def test_kronecker_factors_are_means_over_examples_whatever_the_batches():
    net, (x, y) = small(), data(12)
    together = kronecker_factors(net, cross_entropy, [(x, y)])
    apart = kronecker_factors(net, cross_entropy, [(x[:5], y[:5]), (x[5:], y[5:])])
    each = [kronecker_factors(net, cross_entropy, [(x[i : i + 1], y[i : i + 1])]) for i in range(12)]
    for place, (a, b) in enumerate(zip(together, apart, strict=True)):
        assert torch.allclose(a.inputs, b.inputs) and torch.allclose(a.outputs, b.outputs)
        assert torch.allclose(a.inputs, torch.stack([e[place].inputs for e in each]).mean(0))
        assert torch.allclose(a.outputs, torch.stack([e[place].outputs for e in each]).mean(0))


def test_factors_of_a_convolution_over_one_position_are_those_of_a_dense_layer():
    dense, (x, y) = small(), data()
    convolution = nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Tanh(), nn.Linear(3, 3)
    ).double()
    with torch.no_grad():
        convolution[1].weight.copy_(dense[0].weight.reshape(3, 1, 2, 2))
        convolution[1].bias.copy_(dense[0].bias)
        convolution[4].load_state_dict(dense[2].state_dict())
    pairs = zip(
        kronecker_factors(dense, cross_entropy, [(x, y)]), kronecker_factors(convolution, cross_entropy, [(x, y)]), strict=True
    )
    for a, b in pairs:
        assert torch.allclose(a.inputs, b.inputs) and torch.allclose(a.outputs, b.outputs) and torch.equal(a.places, b.places)


def test_k_fac_is_the_inverse_of_the_damped_product():
    net, (x, y) = small(), data()
    found = kfac(net, cross_entropy, [(x, y)], damping=0.01).dense()
    for f in kronecker_factors(net, cross_entropy, [(x, y)]):
        pi = float((f.inputs.diagonal().mean() / f.outputs.diagonal().mean()).sqrt())
        first = f.outputs + 0.1 / pi * torch.eye(len(f.outputs), dtype=torch.float64)
        second = f.inputs + 0.1 * pi * torch.eye(len(f.inputs), dtype=torch.float64)
        places = f.places.reshape(-1)
        assert torch.allclose(found[places][:, places], torch.linalg.inv(torch.kron(first, second)))


def test_k_fac_and_curvlinops_agree():
    curvlinops = pytest.importorskip("curvlinops")
    net, (x, y) = small(), data()
    peer = curvlinops.KFACLinearOperator(
        net, nn.CrossEntropyLoss(), list(net.parameters()), [(x, y)], fisher_type="type-2", separate_weight_and_bias=False
    )
    theirs = peer @ torch.eye(peer.shape[1], dtype=torch.float64)
    for f in kronecker_factors(net, cross_entropy, [(x, y)]):
        places = f.places.reshape(-1)
        assert torch.allclose(torch.kron(f.outputs, f.inputs), theirs[places][:, places], atol=1e-10)


def test_the_spectrum_is_that_of_the_product_of_matrices():
    net, (x, y) = small(), data()
    operator = ggn(net, cross_entropy, [(x, y)])
    chosen = kfac(net, cross_entropy, [(x, y)], damping=0.1)
    found = conditioning(operator, chosen)
    expected = torch.linalg.eigvals(chosen.dense() @ operator.dense()).real.sort().values
    assert torch.allclose(found.eigenvalues, expected, atol=1e-10)
    assert found.top.midpoint == pytest.approx(float(expected[-1]))


def test_a_perfect_preconditioner_has_ratio_one_and_a_common_factor_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + 0.1 * torch.eye(20, dtype=torch.float64)
    perfect = Preconditioner("perfect", (Block(torch.arange(20), (symmetric_power(matrix, -0.5),)),), 20)
    assert conditioning(matrix, perfect).ratio.midpoint == pytest.approx(1.0)
    scaled = Preconditioner("scaled", (Block(torch.arange(20), (torch.full((20,), 7.0).double(),), True),), 20)
    plain, other = compared(matrix, [identity(20), scaled])
    assert other.ratio.midpoint == pytest.approx(plain.ratio.midpoint)
    assert plain.ratio.midpoint > 5


def test_lanczos_quadrature_brackets_the_dense_ratio():
    generator = torch.Generator().manual_seed(0)
    values = torch.logspace(-2, 2, 300, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(300, 300, generator=generator, dtype=torch.float64)).Q
    matrix = (basis * values) @ basis.T
    dense, sketched = conditioning(matrix, share=0.9), conditioning(matrix, share=0.9, dense=10)
    assert sketched.eigenvalues is None and sketched.density is not None
    assert sketched.ratio.lower / 1.5 < dense.ratio.midpoint < sketched.ratio.upper * 1.5


def test_the_quantile_counts_zeros():
    assert spectrum_ratio(torch.tensor([0.0, 0.0, 0.0, 5.0, 10.0]), 0.5) == math.inf
    assert spectrum_ratio(torch.tensor([0.0, 0.0, -4.0, 5.0, 10.0]), 0.6) == 2.5
    assert spectrum_ratio(torch.tensor([1e-20, 1.0, 2.0]).double(), 0.3) == math.inf


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: spectrum_ratio(torch.zeros(3)),
        lambda: spectrum_ratio(torch.ones(2, 2)),
        lambda: spectrum_ratio(torch.tensor([math.nan, 1.0])),
        lambda: spectrum_ratio(torch.ones(3), 1.0),
        lambda: conditioning(torch.eye(3), identity(4)),
        lambda: conditioning(torch.eye(3), share=0.0),
        lambda: compared(torch.eye(3), []),
        lambda: identity(0),
        lambda: identity(3).root(torch.ones(4)),
        lambda: identity(3).root([1.0, 2.0, 3.0]),
        lambda: identity(6_000).dense(),
        lambda: preconditioner_of(torch.optim.Adam(small().parameters()), small(1)),
        lambda: symmetric_power(torch.diag(torch.tensor([1.0, -1.0])), 0.5),
        lambda: symmetric_power(torch.zeros(2, 2), -0.5),
        lambda: damped_inverses(torch.eye(2), torch.eye(2), 0.0),
        lambda: kfac(small(), cross_entropy, [data()], damping=-1.0),
        lambda: kfac(nn.Linear(4, 3), lambda out, y: out.abs().mean(), [(torch.ones(2, 4), torch.ones(2))]),
        lambda: gather(torch.optim.Adam(small().parameters()), small(), cross_entropy, [data()], passes=0),
    ],
)
def test_bad_input(wrong):
    with pytest.raises(InvalidInput):
        wrong()


def test_an_optimizer_that_has_not_stepped_is_refused():
    net = small()
    with pytest.raises(InvalidInput, match="not stepped"):
        preconditioner_of(torch.optim.Adam(net.parameters()), net)


def test_a_zero_gradient_without_epsilon_is_refused():
    net = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.Adagrad(net.parameters(), eps=0.0)
    optimizer.state[net.weight]["sum"] = torch.zeros(1, 2)
    with pytest.raises(InvalidInput, match="zero gradient"):
        preconditioner_of(optimizer, net)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
        nn.Sequential(shared := nn.Linear(4, 4), nn.Tanh(), shared, nn.Linear(4, 3)),
        nn.Sequential(nn.Unflatten(1, (2, 2, 1)), nn.Conv2d(2, 2, 1, groups=2), nn.Flatten(), nn.Linear(4, 3)),
    ],
)
def test_layers_that_k_fac_does_not_know_are_named(net):
    with pytest.raises(UnsupportedModule):
        kfac(net.double(), cross_entropy, [data()])


def test_unknown_optimizers_are_refused():
    net = small()
    with pytest.raises(UnsupportedModule, match="LBFGS"):
        preconditioner_of(torch.optim.LBFGS(net.parameters()), net)
