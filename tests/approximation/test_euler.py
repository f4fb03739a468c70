"""Residual networks and the differential equation they step through."""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from nonvacuous.approximation.euler import ResidualFlow, ResidualNetwork, loglog_slope, refinement, total_variation
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.runtime.bundled import digits
from nonvacuous.runtime.training import initialise, train


def linear(matrix: Tensor) -> nn.Linear:
    layer = nn.Linear(len(matrix), len(matrix), bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(matrix)
    return layer


@pytest.fixture(scope="module")
def trained() -> ResidualNetwork:
    net = initialise(lambda: ResidualNetwork(64, 24, 6, 10), 0)
    record = train(net, digits("train"), epochs=6, learning_rate=5e-3, progress=False)
    assert record.accuracies[-1] > 0.9
    return net.double().eval()


@pytest.fixture(scope="module")
def states(trained: ResidualNetwork) -> Tensor:
    with torch.no_grad():
        return trained.stem(torch.as_tensor(digits("test").inputs)[:100].double())


def test_euler_with_one_step_a_layer_is_the_network(trained: ResidualNetwork, states: Tensor) -> None:
    flow = trained.flow()
    x, found = states, flow.states(states)
    with torch.no_grad():
        for k, branch in enumerate(trained.branches):
            assert torch.equal(found[k], x)
            x = x + branch(x) / 6
        torch.testing.assert_close(found[-1], x, rtol=1e-14, atol=1e-14)
        images = torch.as_tensor(digits("test").inputs)[:100].double()
        torch.testing.assert_close(trained.head(flow.euler(states, 6)), trained(images), rtol=1e-12, atol=1e-12)


def test_refining_a_trained_network_converges_with_order_one(trained: ResidualNetwork, states: Tensor) -> None:
    pytest.importorskip("torchdiffeq")
    found = refinement(trained.flow(), states, (1, 2, 4, 8, 16))
    assert found.steps == (6, 12, 24, 48, 96)
    assert all(a > b for a, b in pairwise(found.errors))
    assert found.order == pytest.approx(1.0, abs=0.1) and found.stderr < 0.05
    assert found.solver < 1e-3 * found.errors[-1]
    fine = refinement(trained.flow(), states[:20], (16, 32, 64))
    assert fine.order == pytest.approx(1.0, abs=0.02)


def test_the_solution_is_known_for_linear_layers() -> None:
    pytest.importorskip("torchdiffeq")
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    flow = ResidualFlow([linear(turn)] * 5, scale=0.2)
    x = torch.eye(2, dtype=torch.float64)
    solved = flow.solve(x)
    for k in range(6):
        assert float((solved[k] - torch.linalg.matrix_exp(turn * k / 5).T).abs().max()) < 1e-8
    assert float((flow.euler(x, 2000).detach() - solved[-1]).abs().max()) < 1e-3
    assert total_variation(flow) == 0


def test_weights_are_interpolated_in_depth() -> None:
    pytest.importorskip("torchdiffeq")
    flow = ResidualFlow([linear(torch.tensor([[float(k)]])) for k in range(3)], scale=1 / 3)
    x = torch.ones(1, 1, dtype=torch.float64)
    for t, rate in ((0.0, 0.0), (1 / 6, 0.5), (1 / 3, 1.0), (0.5, 1.5), (0.9, 2.0), (1.0, 2.0), (7.0, 2.0), (-1.0, 0.0)):
        assert flow(t, x).item() == pytest.approx(rate, abs=1e-12)
        assert flow(torch.tensor(t), 2 * x).item() == pytest.approx(2 * rate, abs=1e-6)
    assert float(flow.solve(x)[-1]) == pytest.approx(math.exp((0.5 + 1.5 + 2.0) / 3), rel=1e-7)
    assert total_variation(flow) == 1.0


def test_the_flow_is_a_copy_in_float64_that_can_be_trained() -> None:
    branch = nn.Linear(2, 2)
    flow = ResidualFlow([branch, nn.Linear(2, 2)])
    before = flow.euler(torch.ones(1, 2), 4)
    with torch.no_grad():
        branch.weight.zero_()
    assert torch.equal(flow.euler(torch.ones(1, 2), 4), before) and before.dtype == torch.float64
    assert sum(p.numel() for p in flow.parameters()) == 12
    before.sum().backward()
    assert all(p.grad is not None for p in flow.parameters())


def test_slopes_and_their_standard_errors() -> None:
    slope, stderr = loglog_slope([1, 2, 4, 8], [3.0, 3 / 4, 3 / 16, 3 / 64])
    assert slope == pytest.approx(-2) and stderr < 1e-12
    slope, stderr = loglog_slope([1, math.e, math.e**2], [1.0, math.e, 1.0])
    assert slope == pytest.approx(0) and stderr == pytest.approx(math.sqrt(2 / 3 / 1 / 2))
    assert loglog_slope([1, 2], [1.0, 2.0]) == (pytest.approx(1.0), 0.0)


@pytest.mark.parametrize(
    ("branches", "scale", "error", "says"),
    [
        ([], 1.0, InvalidInput, "at least one"),
        ([nn.Linear(2, 2), nn.Linear(2, 2, bias=False)], 1.0, InvalidInput, "branch 1 differs"),
        ([nn.Linear(2, 2), nn.Linear(3, 3)], 1.0, InvalidInput, "branch 1 differs"),
        ([nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.Tanh())], 1.0, InvalidInput, "differs"),
        ([nn.BatchNorm1d(2)], 1.0, UnsupportedModule, "buffers"),
        ([nn.Linear(2, 2)], float("nan"), InvalidInput, "scale"),
    ],
)
def test_what_cannot_be_interpolated_is_refused(branches: list[nn.Module], scale: float, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        ResidualFlow(branches, scale)


def test_bad_steps_states_and_multiples(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = ResidualFlow([nn.Linear(2, 2)])
    for steps in (0, -1, 1.5, True):
        with pytest.raises(InvalidInput, match="steps is an integer"):
            flow.states(torch.ones(1, 2), steps)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="finite"):
        flow.euler(torch.tensor([[float("nan"), 0.0]]), 2)
    with pytest.raises(InvalidInput, match="multiples"):
        refinement(flow, torch.ones(1, 2), (1,))
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(InvalidInput, match=r"pip install 'nonvacuous\[ode\]'"):
        flow.solve(torch.ones(1, 2))
