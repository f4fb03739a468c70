"""Trained wide networks beside the tangent-kernel predictor."""

from __future__ import annotations

import math

import pytest
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.architecture import dense, relu, serial
from nonvacuous.kernels.recursion import nngp_ntk
from nonvacuous.runtime.sources import load
from nonvacuous.studies.wide_networks import (
    Problem,
    answers,
    empirical,
    infinite,
    main,
    problem,
    rates,
    read,
    study,
    trained,
    weights,
)


def small(n=6, m=4, d=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n + m, d, generator=g, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    return Problem(x[:n], torch.sign(torch.randn(n, generator=g, dtype=torch.float64)), x[n:])


def test_the_network_is_the_decks_formula():
    task = small()
    W1, W2, W3 = (w[0] for w in weights(5, 7, 2, [3], torch.float64))
    z = math.sqrt(2 / 7) * torch.relu(math.sqrt(2 / 7) * torch.relu(task.inputs @ W1) @ W2) @ W3
    torch.testing.assert_close(answers(weights(5, 7, 2, [3], torch.float64), task.inputs)[0], z[:, 0])


def test_the_network_and_its_descent_are_those_of_the_described_architecture():
    """The finite module of `kernels.architecture` with these weights: its answers, and its answers after steps of torch's own SGD."""
    task = small()
    parts = [dense(weight_std=math.sqrt(5)), relu(), dense(), relu(), dense()]
    module = serial(*parts).module((5,), width=9).double()
    parameters = [w.requires_grad_() for w in weights(5, 9, 2, [4], torch.float64)]
    with torch.no_grad():
        for there, here in zip([p for p in module.parameters() if p.numel() > 1 and p.ndim >= 2], parameters, strict=True):
            there.copy_(here[0].T.reshape(there.shape))
    torch.testing.assert_close(module(task.inputs)[:, 0], answers(parameters, task.inputs)[0])
    stepper = torch.optim.SGD(module.parameters(), lr=0.01)
    for _ in range(5):
        stepper.zero_grad()
        (0.5 * (module(task.inputs)[:, 0] - task.targets).square().sum()).backward()
        stepper.step()
        loss = 0.5 * (answers(parameters, task.inputs) - task.targets).square().sum()
        with torch.no_grad():
            for w, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                w.sub_(0.01 * slope)
    torch.testing.assert_close(module(task.new)[:, 0], answers(parameters, task.new)[0])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_empirical_kernel_is_that_of_automatic_differentiation(depth):
    task = small()
    parameters = [w.requires_grad_() for w in weights(5, 8, depth, [0, 1], torch.float64)]
    got = empirical(parameters, task.inputs).detach()
    for s in range(2):
        rows = []
        for value in answers(parameters, task.inputs)[s]:
            rows.append(torch.cat([g[s].flatten() for g in torch.autograd.grad(value, parameters, retain_graph=True)]))
        J = torch.stack(rows)
        torch.testing.assert_close(got[s], J @ J.T)


def test_the_infinite_kernel_is_the_mean_of_wide_ones():
    task = small()
    K, cross = infinite(task, 2)
    everything = torch.cat([task.inputs, task.new])
    mean = empirical(weights(5, 400, 2, range(12), torch.float64), everything).mean(0)
    torch.testing.assert_close(mean[:6, :6], K, rtol=0.1, atol=0.06)
    torch.testing.assert_close(mean[6:, :6], cross, rtol=0.1, atol=0.06)
    plain = nngp_ntk(task.inputs, depth=2, activation="relu", weight_std=math.sqrt(2), input_weight_std=math.sqrt(5)).ntk
    torch.testing.assert_close(K, plain)


def test_the_gap_falls_with_width():
    task = small(n=5, m=6)
    found = rates(study(task, [32, 128, 512, 2048], range(20), depth=1))
    assert -0.5 in found.gap.slope and found.gap.slope.upper < -0.35 and found.own_gap.slope.upper < -0.55
    assert found.gap.means[2] < 0.5 * found.gap.means[0]


def test_a_wide_network_is_the_predictor_to_a_percent():
    task = small(n=3, m=6)
    run = trained(task, 12_000, [0], depth=1, tolerance=1e-3)[0]
    assert run.residual <= 1e-3 and run.gap < 0.02 * run.size < 0.02 and run.own_gap < run.gap
    assert run.gap <= run.largest


def test_a_network_trains_as_it_would_alone():
    task = small()
    together = trained(task, 24, [0, 1, 2], depth=2)
    for run, alone in zip(together, (trained(task, 24, [s], depth=2)[0] for s in (0, 1, 2)), strict=True):
        assert run.steps == alone.steps and run.gap == pytest.approx(alone.gap, rel=1e-8)
    assert len({run.steps for run in together}) > 1


def test_dropping_the_scaling_breaks_the_law():
    """The predictor of a kernel of another depth stays away at any width: the gap is not small for every kernel."""
    task = small(n=5, m=6)
    K, cross = (k for k in infinite(task, 4))
    other = cross @ torch.linalg.solve(K, task.targets)
    right, near = infinite(task, 1)
    assert float((near @ torch.linalg.solve(right, task.targets) - other).square().mean().sqrt()) > 0.02


def test_coordinates_of_the_span_change_nothing():
    task = problem("digits", 8, 5, (0, 1), torch.float64)
    assert task.inputs.shape == (8, 13) and set(task.targets.tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(task.inputs.norm(dim=1), torch.ones(8).double())
    K, _ = infinite(task, 2)
    batch = next(load("digits", "train").batches(2000))
    x = batch.inputs[batch.targets <= 1][:8].flatten(1).double()
    x = x / x.norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        K, nngp_ntk(x, depth=2, weight_std=math.sqrt(2), input_weight_std=8.0).ntk, rtol=1e-5, atol=1e-6
    )


def test_the_command_writes_what_read_reads(tmp_path, capsys):
    out = tmp_path / "new" / "wide.csv"
    words = [
        "--data",
        "digits",
        "--classes",
        "0,1",
        "--train",
        "4",
        "--test",
        "3",
        "--depth",
        "1",
        "--widths",
        "16,64",
        "--seeds",
        "2",
    ]
    main([*words, "--out", str(out)])
    runs = read(out)
    assert [(r.width, r.seed) for r in runs] == [(16, 0), (16, 1), (64, 0), (64, 1)]
    assert "width^" in capsys.readouterr().out and out.read_text().startswith("# python -m nonvacuous.studies.wide_networks")
    lines = out.read_text().splitlines()
    out.write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")  # one run is missing: the same command makes it again
    main([*words, "--out", str(out)])
    assert sorted(out.read_text().splitlines()) == sorted(lines)
    with pytest.raises(InvalidInput, match="another command"):
        main([*words[:-1], "3", "--out", str(out)])
    out.write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInput):
        read(out)


@pytest.mark.parametrize("bad", [{"width": 0}, {"depth": 0}, {"seeds": []}, {"tolerance": 0.0}, {"tolerance": 1.5}])
def test_bad_settings_are_refused(bad):
    settings = {"width": 4, "seeds": [0], "depth": 1} | bad
    width, seeds = settings.pop("width"), settings.pop("seeds")
    with pytest.raises(InvalidInput):
        trained(small(), width, seeds, **settings)


def test_too_few_steps_and_too_few_images_say_so():
    with pytest.raises(InvalidInput, match="residual"):
        trained(small(), 32, [0], depth=1, most=3)
    with pytest.raises(InvalidInput, match="asked for"):
        problem("digits", 10**6, 1, (0, 1))
