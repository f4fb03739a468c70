"""Spirals, the table by width, planted minima at a common loss, and basins whose answer is known."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators.curvature import hessian
from nonvacuous.runtime.models import initialise, mlp
from nonvacuous.runtime.values import Batch
from nonvacuous.studies.good_and_bad_minima import by_width, planted, returned, spirals


def test_spirals_without_noise_lie_on_their_arms():
    found = spirals(50, 0, noise=0.0, turns=1.5)
    radius = found.inputs.norm(dim=1)
    angle = 3 * math.pi * radius + math.pi * found.targets
    assert torch.allclose(found.inputs, radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1), atol=1e-5)
    assert found.targets.sum() == 25 and float(radius.max()) <= 1
    assert torch.equal(spirals(9, 4).inputs, spirals(9, 4).inputs) and not torch.equal(
        spirals(9, 4).inputs, spirals(9, 5).inputs
    )


def test_the_table_has_both_accuracies_of_every_seed():
    rows = by_width(spirals(30, 0), spirals(100, 1), (2, 32), seeds=2, steps=250)
    assert [row.width for row in rows] == [2, 32]
    assert all(len(row.train) == len(row.test) == 2 and min(row.train + row.test) >= 0 for row in rows)
    assert min(rows[1].train) > max(rows[0].train)


def test_planted_minima_fit_err_more_and_are_sharper_at_the_same_loss():
    train, test = spirals(40, 0, turns=0.6), spirals(500, 1, turns=0.6)
    good, bad = (planted(train, test, p, width=24, seeds=2, steps=300, settle=600, target=0.01) for p in (0.0, 2.0))
    for m, net in zip(good.minima + bad.minima, good.networks + bad.networks, strict=True):
        assert m.train == 1.0 and m.loss <= 0.01
        assert m.loss == pytest.approx(float(cross_entropy(net(train.inputs), train.targets)))
        whole = hessian(net.double(), cross_entropy, [(train.inputs.double(), train.targets)]).dense()
        assert m.top == pytest.approx(float(torch.linalg.eigvalsh(whole)[-1]), rel=0.01)
    assert min(m.test for m in good.minima) > max(m.test for m in bad.minima)
    assert max(m.top for m in good.minima) < min(m.top for m in bad.minima)


def test_a_move_of_length_zero_comes_back_and_one_that_is_not_trained_does_not():
    train, test = spirals(10, 0), spirals(50, 1)
    net = planted(train, test, 0.0, width=24, seeds=1, settle=800, target=0.05).networks[0]
    assert returned(net, train, test, 0.0, moves=2, settle=0) == 1.0
    assert returned(net, train, test, 30.0, moves=4, settle=0) < 1.0
    untrained = initialise(lambda: mlp(2, 8, 8, 2), 0)
    assert returned(untrained, train, test, 0.0, moves=2, settle=0) == 0.0  # it does not fit


def one():
    return initialise(lambda: mlp(2, 4, 4, 2), 0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: spirals(1, 0),
        lambda: spirals(10, 0, turns=0.0),
        lambda: spirals(10, 0, noise=-1.0),
        lambda: by_width(spirals(10, 0), spirals(10, 1), ()),
        lambda: by_width(spirals(10, 0), spirals(10, 1), (0,)),
        lambda: by_width(Batch(torch.zeros(3, 5), torch.zeros(3).long()), spirals(10, 1), (4,)),
        lambda: planted(spirals(10, 0), spirals(10, 1), -1.0),
        lambda: planted(spirals(10, 0), spirals(10, 1), 1.0, target=0.0),
        lambda: returned(one(), spirals(10, 0), spirals(10, 1), -0.1),
        lambda: returned(one(), spirals(10, 0), spirals(10, 1), 0.1, moves=0),
        lambda: returned(one(), Batch(torch.full((2, 2), math.nan), torch.arange(2)), spirals(10, 1), 0.1),
    ],
)
def test_bad_input(wrong):
    with pytest.raises(InvalidInput):
        wrong()
