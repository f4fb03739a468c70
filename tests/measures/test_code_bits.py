"""`code_bits` is the length of a code: a decoder reads the very numbers back, and knows where the message ends."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from tests.oracles import decoder
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.code import code_bits


def mixed() -> nn.Module:
    """Every type a network may hold, odd strides, empty and single numbers, values that are easy to lose."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv1d(3, 4, 5), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2).double()
    )
    module.register_buffer("flags", torch.tensor([True, False]))
    module.register_buffer("counts", torch.arange(5))
    module.register_buffer("none", torch.zeros(0, 3))
    module.register_buffer("wave", torch.tensor([1 + 2j]))
    module.register_buffer("odd", torch.tensor([-0.0, float("inf"), float("nan"), 1e-45]))
    module.register_buffer("strided", torch.arange(6.0)[::2][:1])
    module.odd_view = nn.Parameter(torch.randn(4, 3).T[1:])
    return module


MODULES = {
    "mixed": mixed,
    "constant, packed": lambda: nn.Linear(300, 10).requires_grad_(False).apply(lambda m: nn.init.constant_(m.weight, 0.5)),
    "noise, plain": lambda: nn.Linear(50, 50),
    "one number": lambda: nn.Linear(1, 1, bias=False),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("with_initial", [False, True])
def test_what_is_counted_can_be_decoded(name: str, with_initial: bool) -> None:
    module = MODULES[name]()
    initial = None
    if with_initial:
        initial = copy.deepcopy(module)
        first = next(iter(module.parameters()))
        with torch.no_grad():
            first += 0.25
    stream = decoder.encoded(module, initial)
    assert code_bits(module, initial).upper == len(stream)
    architecture = [torch.empty_like(t) for t in decoder.numbers(module)]
    found, rest = decoder.decoded(stream + "0110", architecture, initial)
    assert rest == "0110", "prefix-free: the reader knows where it ends"
    assert found == [decoder.raw(t) for t in decoder.numbers(module)]


def test_a_code_word_is_never_the_start_of_another() -> None:
    torch.manual_seed(1)
    words = []
    for scale in (0.0, 0.5, 1.0):
        for _ in range(20):
            module = nn.Linear(6, 3)
            with torch.no_grad():
                module.weight.mul_(torch.randint(0, 2, (3, 6)) * scale)
            words.append(decoder.encoded(module))
    words = sorted(set(words))
    assert all(not b.startswith(a) for a, b in itertools.pairwise(words))


def test_signs_of_zero_and_types_are_not_lost() -> None:
    """Equal numbers are not equal bits: −0 must be coded though it equals the initial 0."""
    module, initial = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[-0.0, 1.0]]))
        initial.weight.copy_(torch.tensor([[0.0, 1.0]]))
    assert code_bits(module, initial).upper > 60
    assert code_bits(module, copy.deepcopy(module)).upper == 2
    assert code_bits(module, copy.deepcopy(module).double()).upper > 60


def test_what_costs_and_what_does_not() -> None:
    plain = nn.Linear(20, 20)
    assert code_bits(plain).upper <= 1 + 32 * 420
    with_statistics = nn.Sequential(plain, nn.BatchNorm1d(20, affine=False))
    with_statistics[1].running_mean.normal_()
    assert code_bits(with_statistics).upper > code_bits(plain).upper + 300, "running statistics are read off the data"
    tied = nn.Sequential(plain, nn.Linear(20, 20))
    tied[1].weight, tied[1].bias = plain.weight, plain.bias
    assert code_bits(tied).upper == code_bits(plain).upper, "tied weights are written once"
    renamed = nn.ModuleDict({"other": copy.deepcopy(plain)})
    assert code_bits(plain, renamed).upper >= code_bits(plain).upper, "initial weights of another model help nothing"


def test_nothing_to_code() -> None:
    with pytest.raises(InvalidInput, match="nothing to code"):
        code_bits(nn.ReLU())
