"""Curvature operators against dense matrices from torch.func and the definitions."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.oracles import curvature as oracle
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.operators import curvature
from nonvacuous.operators.lanczos import top_eigenpairs


class Tied(nn.Module):
    """Two layers share one matrix."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(4, 2, 3, dropout=0.0, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.layer(torch.stack([x[:, :4], x[:, 2:]], 1)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.layer(x.reshape(len(x), 2, 3))[0][:, -1])


def frozen():
    model = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3))
    model[0].bias.requires_grad_(False)
    return model


def convolutional():
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)
    )


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)),
    "tied": Tied,
    "frozen": frozen,
    "attention": Attention,
    "recurrent": Recurrent,
    "conv, batch norm in evaluation mode": lambda: convolutional().eval(),
    "conv, batch norm in training mode": lambda: convolutional().train(),
}


def case(name, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    model = MODELS[name]().to(dtype)
    x, y = torch.randn(9, 6, dtype=dtype), torch.randint(0, 3, (9,))
    return model, [(x[:5], y[:5]), (x[5:7], y[5:7]), (x[7:], y[7:])]


@pytest.mark.parametrize(
    ("name", "memory"),
    [*((name, 2**30) for name in MODELS), ("mlp", 0), ("mlp", 30_000), ("conv, batch norm in training mode", 0)],
)
def test_hessian_is_the_dense_one_on_uneven_batches(name, memory):
    model, batches = case(name)
    before = copy.deepcopy(model.state_dict())
    operator = curvature.hessian(model, cross_entropy, batches, memory=memory)
    expected = oracle.hessian(model, cross_entropy, batches)
    assert operator.shape == expected.shape
    torch.testing.assert_close(operator.dense(), expected, rtol=1e-9, atol=1e-11)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["mlp", "tied", "frozen", "conv, batch norm in evaluation mode"])
def test_ggn_and_fishers_are_the_dense_ones(name):
    model, batches = case(name)
    torch.testing.assert_close(
        curvature.ggn(model, cross_entropy, batches).dense(), oracle.ggn(model, cross_entropy, batches), rtol=1e-9, atol=1e-12
    )
    if name != "tied":
        torch.testing.assert_close(
            curvature.fisher(model, cross_entropy, batches).dense(), oracle.fisher(model, batches), rtol=1e-9, atol=1e-12
        )
    torch.testing.assert_close(
        curvature.empirical_fisher(model, cross_entropy, batches).dense(),
        oracle.empirical_fisher(model, cross_entropy, batches),
        rtol=1e-9,
        atol=1e-12,
    )


def test_squared_error_and_a_loss_of_ones_own():
    model, batches = case("mlp")
    batches = [(x, torch.randn(len(x), 3, dtype=x.dtype)) for x, _ in batches]

    def quartic(outputs, targets):
        return (outputs - targets).pow(4).mean()

    for loss in (mse_loss, quartic):
        torch.testing.assert_close(
            curvature.hessian(model, loss, batches).dense(), oracle.hessian(model, loss, batches), rtol=1e-9, atol=1e-12
        )
        torch.testing.assert_close(
            curvature.ggn(model, loss, batches).dense(), oracle.ggn(model, loss, batches), rtol=1e-9, atol=1e-12
        )
    fisher = curvature.fisher(model, mse_loss, batches).dense()
    torch.testing.assert_close(fisher, oracle.ggn(model, mse_loss, batches), rtol=1e-9, atol=1e-12)
    with pytest.raises(InvalidInput, match="depends on the targets"):
        curvature.fisher(model, quartic, batches)


def test_vectors_matrices_and_places_of_parameters():
    model, batches = case("mlp", dtype=torch.float32)
    operator = curvature.hessian(model, cross_entropy, batches)
    dense, v = operator.dense(), torch.randn(operator.shape[0], 4)
    torch.testing.assert_close(operator @ v, dense @ v, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(operator @ v[:, 0], dense @ v[:, 0], rtol=1e-4, atol=1e-6)
    assert operator.dtype == torch.float32 and operator.products == dense.shape[0] + 5
    assert operator.names == tuple(name for name, _ in model.named_parameters())
    parts = operator.split(v[:, 0])
    assert parts["2.weight"].shape == model[2].weight.shape
    place = operator.offsets[operator.names.index("2.weight")]
    assert torch.equal(parts["2.weight"].flatten(), v[place : place + 12, 0])
    wide = curvature.hessian(copy.deepcopy(model).double(), cross_entropy, [(x.double(), y) for x, y in batches]).dense()
    torch.testing.assert_close(dense.double(), wide, rtol=1e-3, atol=1e-6)
    block = curvature.hessian(model, cross_entropy, batches, parameters=["2.weight"]).dense()
    torch.testing.assert_close(block, dense[place : place + 12, place : place + 12], rtol=1e-4, atol=1e-6)


def test_gradient_is_the_mean_over_examples():
    model, batches = case("mlp")
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    found = curvature.gradient(model, cross_entropy, batches)
    value = cross_entropy(model(x), y)
    value.backward()
    assert found.loss == pytest.approx(value.item())
    torch.testing.assert_close(found.vector, torch.cat([p.grad.flatten() for p in model.parameters()]))


def test_piecewise_linear_loss_has_no_gauss_newton_part():
    model, batches = case("mlp")
    batches = [(x, torch.zeros(len(x), 3, dtype=x.dtype)) for x, _ in batches]
    assert not curvature.ggn(model, nn.functional.l1_loss, batches).dense().any()
    flat = nn.Linear(6, 3).double()
    assert not curvature.hessian(flat, lambda outputs, targets: outputs.mean(), batches).dense().any()


def test_largest_eigenvalues_with_brackets():
    model, batches = case("mlp")
    true = torch.linalg.eigvalsh(oracle.hessian(model, cross_entropy, batches)).flip(0)
    found = curvature.eigenvalues(curvature.hessian(model, cross_entropy, batches), 5)
    for bracket, value in zip(found, true.tolist(), strict=False):
        assert value in bracket
        assert bracket.width <= 2e-3 * value


class Twins(nn.Module):
    """Two networks side by side; with equal weights every eigenvalue of the loss's Hessian is double."""

    def __init__(self, one, other):
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x):
        return torch.stack([self.one(x), self.other(x)], 2)


def learned(width, steps, seed):
    """A network of two hidden layers after a few steps on three clusters, and the clusters."""
    torch.manual_seed(seed)
    y = torch.randint(0, 3, (200,))
    x = torch.randn(3, 20)[y] + torch.randn(200, 20)
    net = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    return net, [(x[:150], y[:150]), (x[150:], y[150:])]


@pytest.mark.parametrize("seed", range(3))
def test_double_eigenvalues_are_found_from_the_start_that_the_operator_proposes(seed):
    net, batches = learned((16, 40, 80)[seed], (10, 40, 120)[seed], seed)
    single = curvature.hessian(net, cross_entropy, batches)
    once = top_eigenpairs(single, 3, tolerance=1e-4, checks=10).values

    def both(outputs, targets):
        return cross_entropy(outputs[..., 0], targets) + cross_entropy(outputs[..., 1], targets)

    found = top_eigenpairs(curvature.hessian(Twins(net, copy.deepcopy(net)), both, batches), 5, seed=seed)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.values, once.repeat_interleave(2)[:5], rtol=3e-3, atol=0)


@pytest.mark.parametrize("make", [curvature.hessian, curvature.ggn, curvature.fisher, curvature.empirical_fisher])
def test_the_proposed_start_lies_mostly_among_the_largest_eigenvectors(make):
    net, batches = learned(40, 40, 0)
    operator = make(net, cross_entropy, batches)
    again = make(net, cross_entropy, batches, memory=0)
    start = operator.start(torch.Generator().manual_seed(1))
    torch.testing.assert_close(start, again.start(torch.Generator().manual_seed(1)))
    V = top_eigenpairs(operator, 3, tolerance=1e-4).vectors
    assert float((V.mT @ start).norm() / start.norm()) > 0.5  # a random vector: about (3 / 2,563)^½ = 0.03
    assert not torch.equal(start, operator.start(torch.Generator().manual_seed(2)))


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


class Special(nn.Module):
    def forward(self, x):
        return OnceOnly.apply(x)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x.mul_(0.5))


def test_refusals():
    model, batches = case("mlp")

    def refused(match, model=model, loss=cross_entropy, batches=batches, error=InvalidInput):
        with pytest.raises(error, match=match):
            operator = curvature.hessian(model, loss, batches)
            operator @ torch.ones(operator.shape[0], dtype=operator.dtype)

    refused("one-pass", batches=iter(batches))
    refused("empty", batches=[])
    refused("no examples", batches=[*batches, (batches[0][0][:0], batches[0][1][:0])])
    refused("each batch is", batches=[batches[0][0]])
    refused("nn.Module", model=lambda x: x)
    refused("function", loss="cross_entropy")
    refused("one number", loss=lambda outputs, targets: (outputs**2).mean(1))
    refused("finite", batches=[(x * float("nan"), y) for x, y in batches])
    refused("dropout is at work in 1", model=nn.Sequential(nn.Linear(6, 3), nn.Dropout()).double())
    refused("random", model=_Noisy().double())
    refused("in place", model=InPlace().double())
    refused("differentiably", model=_Argmax().double())
    refused("frozen", model=nn.Linear(6, 3).double().requires_grad_(False))
    refused(r"1 \(Special\)", model=nn.Sequential(nn.Linear(6, 3), Special()).double(), error=UnsupportedModule)
    refused("half|float32", model=copy.deepcopy(model).half())
    operator = curvature.hessian(model, cross_entropy, batches)
    for wrong, match in ((torch.ones(3).double(), "multiplies"), (torch.ones(operator.shape[0]), "dtype|float32")):
        with pytest.raises(InvalidInput, match=match):
            operator @ wrong
    with torch.no_grad():
        model[0].weight.add_(1.0)
    with pytest.raises(InvalidInput, match="changed"):
        operator @ torch.ones(operator.shape[0]).double()
    with pytest.raises(InvalidInput, match="mixes"):
        curvature.empirical_fisher(case("conv, batch norm in training mode")[0], cross_entropy, batches)


class _Noisy(nn.Linear):
    def __init__(self):
        super().__init__(6, 3)

    def forward(self, x):
        return super().forward(nn.functional.dropout(x))


class _Argmax(nn.Linear):
    def __init__(self):
        super().__init__(6, 3)

    def forward(self, x):
        return super().forward(x).argmax(1).double()


def test_a_loader_that_changes_its_length_is_refused():
    model, batches = case("mlp")

    class Shrinking:
        calls = 0

        def __iter__(self):
            self.calls += 1
            return iter(batches if self.calls <= 3 else batches[:1])

    operator = curvature.hessian(model, cross_entropy, Shrinking(), memory=0)
    with pytest.raises(InvalidInput, match="9 examples at first and 5 now"):
        operator @ torch.ones(operator.shape[0], dtype=torch.float64)


def test_no_grad_around_it_does_not_matter():
    model, batches = case("mlp")
    with torch.no_grad():
        dense = curvature.hessian(model, cross_entropy, batches).dense()
    torch.testing.assert_close(dense, oracle.hessian(model, cross_entropy, batches), rtol=1e-9, atol=1e-12)
