"""Two networks brought into one order of their hidden units: permuting them changes no function, but the line between the two.

Weight matching: layer by layer, the permutation of one network's units that brings its weights closest to the other's, the neighbouring
layers' permutations being fixed, until none changes (Ainsworth, Hayase and Srinivasa 2023, Git Re-Basin, the method of matching weights).
Every step is a linear assignment and lowers the distance, so it ends; at a local optimum, which need not be the best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
UNIT_BY_UNIT = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Identity, nn.Flatten),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)


@dataclass(frozen=True)
class _Hidden:
    """A hidden layer: names of the tensors whose first axis counts its units, and of the next layer's weight, whose second does."""

    weight: str
    others: tuple[str, ...]
    following: str
    units: int


def aligned(model: nn.Module, state: Mapping[str, Tensor], *, rounds: int = 50, seed: int = 0) -> dict[str, Tensor]:
    """``state`` with its hidden units permuted to match the weights that ``model`` holds; the network it describes is the same function.

    :raises UnsupportedModule: anything but a Sequential of linear and convolution layers, batch-norm, unit-wise activations and pooling.
    :raises InvalidInput: a state of other shapes.
    """
    layers = list(_hidden_layers(model))
    own = {name: x.detach().double() for name, x in model.state_dict().items()}
    for name, x in own.items():
        if name not in state or state[name].shape != x.shape:
            raise InvalidInput(f"the other weights do not fit: {name}. Align two checkpoints of one architecture")
    other = {name: state[name].detach().clone() for name in own}
    generator = torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        changed = False
        for i in torch.randperm(len(layers), generator=generator).tolist():
            order = _best_order(layers[i], own, other)
            if not torch.equal(order, torch.arange(len(order))):
                _permute(layers[i], other, order)
                changed = True
        if not changed:
            break
    return other


def _best_order(layer: _Hidden, own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """order[i] = the other network's unit that belongs at place i."""
    units = layer.units
    gain = torch.zeros(units, units, dtype=torch.float64)
    for name in (layer.weight, *layer.others):
        a, b = own[name].reshape(units, -1), other[name].double().reshape(units, -1)
        gain += (a @ b.T).cpu()
    a, b = (_by_input(x[layer.following].double(), units) for x in (own, other))
    gain += (a @ b.T).cpu()
    rows, columns = linear_sum_assignment(gain.numpy(), maximize=True)
    best = torch.from_numpy(columns)[torch.from_numpy(rows).argsort()]
    stays = torch.arange(units)
    better = (
        gain[stays, best].sum() > gain.diagonal().sum() + 1e-9 * gain.abs().sum()
    )  # else rounding could go round in circles
    return best if better else stays


def _by_input(weight: Tensor, units: int) -> Tensor:
    """The next layer's weight as ``[units, rest]``; behind a flattening each unit has several columns in a row."""
    return weight.reshape(len(weight), units, -1).transpose(0, 1).reshape(units, -1)


def _permute(layer: _Hidden, state: dict[str, Tensor], order: Tensor) -> None:
    for name in (layer.weight, *layer.others):
        state[name] = state[name][order.to(state[name].device)]
    weight = state[layer.following]
    grouped = weight.reshape(len(weight), layer.units, -1)[:, order.to(weight.device)]
    state[layer.following] = grouped.reshape(weight.shape)


def _hidden_layers(model: nn.Module) -> Iterator[_Hidden]:
    parts = list(_chain(model, ""))
    weighted = [i for i, (_, m) in enumerate(parts) if isinstance(m, WEIGHTED)]
    if not weighted:
        raise UnsupportedModule(f"{type(model).__name__} has no linear or convolution layer: there are no units to align")
    for i, following in pairwise(weighted):
        name, module = parts[i]
        others = [f"{name}.bias"] if module.bias is not None else []
        for norm, m in parts[i + 1 : following]:
            if isinstance(m, NORMS):
                others += [f"{norm}.{key}" for key, x in m.state_dict().items() if x.ndim == 1]
        units = model.get_parameter(f"{name}.weight").shape[0]
        yield _Hidden(f"{name}.weight", tuple(others), f"{parts[following][0]}.weight", units)


def _chain(model: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules in the order of the computation."""
    if not isinstance(model, nn.Sequential):
        known = isinstance(model, (*WEIGHTED, *NORMS, *UNIT_BY_UNIT))
        grouped = isinstance(model, WEIGHTED[1:]) and model.groups != 1
        if not known or grouped:
            what = f"{prefix or 'the model'} ({type(model).__name__}{', grouped' if grouped else ''})"
            raise UnsupportedModule(
                f"{what}: units can be aligned in a Sequential of linear, convolution, batch-norm and unit-wise layers"
            )
        yield prefix, model
        return
    for name, part in model.named_children():
        yield from _chain(part, f"{prefix}.{name}" if prefix else name)
