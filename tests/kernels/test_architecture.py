"""One description, two networks: the finite one at large width has the kernels of the infinite one; errors name the theory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.architecture import (
    Architecture,
    avg_pool,
    conv,
    dense,
    erf,
    flatten,
    gelu,
    global_avg_pool,
    layer_norm,
    nonlinearity,
    relu,
    residual,
    serial,
)
from nonvacuous.kernels.convolution import image_kernel
from nonvacuous.kernels.layers import Flatten
from nonvacuous.kernels.recursion import nngp_ntk

BLOCK = (conv(3, padding=1), relu(), conv(3, padding=1, weight_std=1.0))
ARCHITECTURES = {
    "dense": (serial(dense(), relu(), dense(1.2, 0.3), gelu(), dense()), (4,), 512),
    "residual": (serial(dense(bias_std=0.2), residual(erf(), dense(bias_std=0.2)), relu(), dense()), (4,), 512),
    "layer norm": (serial(dense(1.1, 0.4), layer_norm(), relu(), dense(1.3), layer_norm(), gelu(), dense()), (4,), 512),
    "images": (serial(conv(3, padding=1), relu(), avg_pool(2), conv(2), gelu(), flatten(), dense()), (2, 4, 4), 128),
    "residual images": (serial(conv(3), residual(*BLOCK), relu(), global_avg_pool(), dense(bias_std=0.1)), (2, 5, 5), 128),
}


def inputs(shape: tuple[int, ...], n: int = 3) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_wide_modules_have_the_kernels_of_the_limit(name: str) -> None:
    """Means over 24 networks within five standard errors, and what a finite width may shift."""
    net, shape, width = ARCHITECTURES[name]
    x, generator = inputs(shape), torch.Generator().manual_seed(1)
    products, tangents = [], []
    for _ in range(24):
        module = net.module(shape, width=width, outputs=16, generator=generator)
        out = module(x)
        assert out.shape == (3, 16)
        parameters = list(module.parameters())
        grads = [torch.autograd.grad(out[i, 0], parameters, retain_graph=True, allow_unused=True) for i in range(3)]
        rows = torch.stack([torch.cat([g.ravel() for g in each if g is not None]) for each in grads])
        products.append(out.detach() @ out.detach().T / 16)
        tangents.append(rows @ rows.T)
    kernel = net.kernel(x)
    for draws, limit in ((torch.stack(products), kernel.nngp), (torch.stack(tangents), kernel.ntk)):
        error = draws.std(0) / math.sqrt(len(draws))
        assert ((draws.mean(0) - limit).abs() <= 5 * error + 0.015 * limit.abs().max()).all(), (draws.mean(0), limit, error)
        assert error.max() < 0.15 * limit.abs().max()


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_dense_chains_take_the_fast_recursion_and_agree_with_the_general_one(bias: float) -> None:
    x, y = inputs((6,), 8).double(), inputs((6,), 5).double()
    net = serial(dense(1.1, bias), relu(), dense(1.4, bias), relu(), dense(1.4, bias))
    fast = net.kernel(x, y)
    direct = nngp_ntk(x, y, depth=2, weight_std=1.4, bias_std=bias, input_weight_std=1.1)
    general = image_kernel((Flatten(), *net.layers), x[:, :, None, None], y[:, :, None, None])
    for one, two, three in zip(fast, direct, general, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, three)
    images = serial(flatten(), *net.layers).kernel(x.reshape(8, 1, 2, 3), y.reshape(5, 1, 2, 3))
    torch.testing.assert_close(images.ntk, fast.ntk)


def test_a_module_trains() -> None:
    x, target = inputs((4,), 16), inputs((1,), 16)
    module = serial(dense(), relu(), dense()).module((4,), width=256, generator=torch.Generator().manual_seed(0))
    before = float((module(x) - target).square().mean().detach())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (module(x) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 * before


def test_a_seed_fixes_the_module() -> None:
    net = serial(conv(2), relu(), flatten(), dense())
    one, two = (net.module((1, 3, 3), width=4, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore::nonvacuous.kernels.activations.NoClosedForm")
def test_a_function_of_your_own() -> None:
    x = inputs((4,), 6).double()
    mine = serial(dense(), nonlinearity(lambda z: torch.erf(z)), dense()).kernel(x)
    torch.testing.assert_close(mine.ntk, serial(dense(), erf(), dense()).kernel(x).ntk)


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (serial(dense(), relu(), relu(), dense()), (4,), "Gaussian"),
        (serial(relu(), dense()), (4,), "Gaussian"),
        (serial(dense(), residual(dense(), relu(), shortcut=(relu(),)), dense()), (4,), "correlated"),
        (serial(residual(dense()), dense()), (4,), "shortcut"),
        (serial(conv(3), relu(), dense()), (1, 4, 4), "vectors"),
        (serial(conv(5), flatten(), dense()), (1, 4, 4), "does not fit"),
        (serial(conv(3), relu()), (1, 4, 4), "ends in an image"),
    ],
)
def test_errors_name_the_broken_theory_in_both_networks(net: Architecture, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        net.kernel(torch.ones(2, *shape))
    with pytest.raises(InvalidInput, match=message):
        net.module(shape, width=8)


def test_bad_input_is_named() -> None:
    net = serial(dense(), relu(), dense())
    for x in (torch.ones(3), torch.ones(2, 3, 4), [1.0]):
        with pytest.raises(InvalidInput, match="vectors"):
            net.kernel(x)  # type: ignore[arg-type]
    for arguments in ({"width": 0}, {"width": 4, "outputs": 0}):
        with pytest.raises(InvalidInput, match="1 or more"):
            net.module((4,), **arguments)
    with pytest.raises(InvalidInput, match="ends in dense"):
        serial(dense(), relu()).module((4,), width=3)
    with pytest.raises(InvalidInput, match="chain of layers"):
        serial()
    with pytest.raises(InvalidInput, match="chain of layers"):
        serial(nn.ReLU())  # type: ignore[arg-type]
