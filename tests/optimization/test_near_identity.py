"""Near-identity compositions: the inequality along a training run, its exact case, and what fails without its hypotheses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.hypotheses import Standing
from nonvacuous.optimization.near_identity import sides


def linear(*matrices: Tensor) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for A in matrices:
        layer = nn.Linear(*A.shape[::-1], bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(A)
        layers.append(layer)
    return layers


def branches(kind: str, m: int, d: int, size: float) -> nn.ModuleList:
    torch.manual_seed(0)
    made = []
    for _ in range(m):
        layer: nn.Module = nn.Linear(d, d, bias=False)
        if kind == "nonlinear":
            layer = nn.Sequential(nn.Linear(d, 6, bias=False), nn.Tanh(), nn.Linear(6, d, bias=False))
        with torch.no_grad():
            for p in layer.parameters():
                p *= size
        made.append(layer.double())
    return nn.ModuleList(made)


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_the_inequality_holds_along_a_training_run(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 3, dtype=torch.float64, generator=generator)
    y = x + 0.3 * torch.randn(12, 3, dtype=torch.float64, generator=generator)
    layers = branches(kind, 4, 3, 0.3)
    stepper = torch.optim.SGD(layers.parameters(), lr=0.05)
    seen = []
    for _ in range(25):
        both = sides(list(layers), x, y)
        assert both.applies and both.holds()
        assert all(sharp >= 2 * both.right * (1 - 1e-9) for sharp in both.sharp)
        seen.append(both.excess)
        stepper.zero_grad()
        out = x
        for layer in layers:
            out = out + layer(out)
        (0.5 * ((out - y) ** 2).sum(1).mean()).backward()
        stepper.step()
    assert seen[-1] < seen[0]


def test_the_left_side_is_the_dual_norm() -> None:
    """No direction Δ with ‖Δ(z)‖ ≤ ‖z‖ changes Q faster, and the aligned one changes it exactly as fast."""
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    layers = branches("nonlinear", 3, 3, 0.4)
    both = sides(list(layers), x, y)
    z1 = (x + layers[0](x)).detach()

    def risk(moved: Tensor, t: float) -> float:
        out = z1 + layers[1](z1) + t * moved
        out = out + layers[2](out)
        return float((0.5 * ((out - y) ** 2).sum(1).mean()).detach())

    out = (z1 + layers[1](z1)).detach().requires_grad_()
    end = out + layers[2](out)
    (slope,) = torch.autograd.grad((end * (end - y).detach()).sum(), out)
    aligned = slope / slope.norm(dim=1, keepdim=True) * z1.norm(dim=1, keepdim=True)
    t = 1e-6
    assert (risk(aligned, t) - risk(aligned, -t)) / (2 * t) == pytest.approx(both.left[1], rel=1e-6)
    for _ in range(20):
        other = torch.randn(5, 3, dtype=torch.float64, generator=generator)
        other = other / other.norm(dim=1, keepdim=True) * z1.norm(dim=1, keepdim=True)
        assert (risk(other, t) - risk(other, -t)) / (2 * t) <= both.left[1] * (1 + 1e-6)


def test_one_layer_and_one_example_give_equality_and_twice_the_slide() -> None:
    both = sides(linear(torch.tensor([[0.5]])), torch.tensor([[2.0]]).double(), torch.tensor([[7.0]]).double())
    assert both.left[0] == pytest.approx(both.sharp[0]) and both.left[0] == pytest.approx(2 * both.right)


def test_at_epsilon_one_a_stationary_point_need_not_be_optimal() -> None:
    """h_1 = 0 (‖h_1 − Id‖ = 1) kills the derivative by h_2, and h_2 = 0 that by h_1, whatever the error."""
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    both = sides(linear(-torch.eye(1), -torch.eye(1)), x, 3 * x)
    assert both.left == (0.0, 0.0) and both.excess > 0
    assert not both.applies and both.right == 0.0


def test_a_shift_breaks_the_inequality() -> None:
    """h_1(x) = x − 1 is a shift with ‖h_1 − Id‖_L = 0, but h_1(0) ≠ 0: at x = 1 it hands 0 to h_2, whose derivative vanishes."""
    shift = nn.Linear(1, 1).double()
    with torch.no_grad():
        shift.weight.zero_()
        shift.bias.fill_(-1.0)  # type: ignore[union-attr]
    x = torch.ones(1, 1, dtype=torch.float64)
    both = sides([shift, *linear(torch.zeros(1, 1))], x, 5 * x)
    assert both.left[1] == 0.0 < both.right and not both.holds()
    assert [c.standing for c in both.conditions] == [Standing.MET, Standing.FAILED]


def test_equal_inputs_share_the_mean_target() -> None:
    x = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    both = sides(linear(torch.zeros(1, 1)), x, torch.tensor([[0.0], [2.0]], dtype=torch.float64))
    assert both.excess == 0.0 and both.left == (0.0,) and both.holds()


def test_what_does_not_fit_is_refused() -> None:
    x = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(InvalidInput, match=r"\[n, d\]"):
        sides(linear(torch.zeros(2, 2)), x, x[:, :1])
    with pytest.raises(InvalidInput, match="branch"):
        sides([], x, x)
    with pytest.raises(InvalidInput, match="epsilons"):
        sides(linear(torch.zeros(2, 2)), x, x, epsilons=[0.1, 0.2])
