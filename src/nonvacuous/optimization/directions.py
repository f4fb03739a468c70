"""Directions in the space of a network's weights: random, filter-normalised, between two networks, along given vectors.

A picture of a loss along a direction says something only against the size of the weights: a ReLU network whose layer is multiplied by α and
the next by 1/α is the same function, but a fixed step is α times as small in one and as large in the other.  Filter normalisation gives
every filter of a random direction the norm of the network's own filter, which leaves the picture as it was (Li, Xu, Taylor, Studer and
Goldstein 2018, Visualizing the Loss Landscape of Neural Nets, section on filter-wise normalization).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, eq=False)
class Direction:
    """A displacement of the weights: one tensor a name; names that it lacks stay where they are.

    ``name`` is how pictures call it; ``tensors`` have the shapes of the parameters (and floating buffers) of those names.
    """

    name: str
    tensors: Mapping[str, Tensor]

    @property
    def norm(self) -> float:
        """Euclidean length."""
        return (
            float(torch.stack([(x.double() ** 2).sum() for x in self.tensors.values()]).sum().sqrt()) if self.tensors else 0.0
        )

    def scaled(self, factor: float, name: str | None = None) -> Direction:
        """The direction times ``factor``.

        :raises InvalidInput: a factor that is 0 or not finite.
        """
        if not factor or not abs(factor) < float("inf"):
            raise InvalidInput(f"a direction times {factor!r} leads nowhere. Scale by a number that is finite and not 0")
        return Direction(name or self.name, {key: x * factor for key, x in self.tensors.items()})

    def dot(self, other: Direction) -> float:
        """Euclidean inner product; a name that one of the two lacks counts as 0."""
        shared = self.tensors.keys() & other.tensors.keys()
        return float(sum((self.tensors[key].double() * other.tensors[key].double()).sum() for key in sorted(shared)))


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that a direction moves, detached, by name: those that ask for a gradient, or all where none does.

    :raises InvalidInput: no floating-point parameter, or one that is NaN or infinite.
    """
    named = {name: p.detach() for name, p in model.named_parameters() if p.is_floating_point()}
    asking = {name: named[name] for name, p in model.named_parameters() if p.requires_grad and name in named}
    found = asking or named
    if not found:
        raise InvalidInput(f"{type(model).__name__} has no parameters: its loss is one number, not a landscape")
    for name, x in found.items():
        if not bool(torch.isfinite(x).all()):
            raise InvalidInput(f"the weights hold NaN or infinite numbers ({name}). Use weights from before training diverged")
    return found


def parameter_count(model: nn.Module) -> int:
    """Numbers in `trainable`, the length of a flat vector over them."""
    return sum(x.numel() for x in trainable(model).values())


def random_direction(model: nn.Module, generator: torch.Generator | int, name: str = "random") -> Direction:
    """Independent standard normal entries for every parameter, drawn on the CPU in their order; not normalised."""
    source = torch.Generator().manual_seed(generator) if isinstance(generator, int) else generator
    drawn = {}
    for key, x in trainable(model).items():
        drawn[key] = torch.randn(x.shape, generator=source, dtype=torch.float32, device=source.device).to(x)
    return Direction(name, drawn)


def filter_normalized(model: nn.Module, direction: Direction, *, vectors: bool = False) -> Direction:
    """Every filter of the direction scaled to the norm of the network's own filter: d_ij ← ‖θ_ij‖ d_ij / ‖d_ij‖.

    A filter is what makes one output: a row of a linear layer, an output channel of a convolution, a row of an embedding.  Parameters
    with fewer than two axes (biases, the scales and shifts of normalizers) are left where they are, as in the authors' pictures;
    ``vectors=True`` moves each such parameter too, as one filter.

    :raises InvalidInput: a direction that does not fit the model, or nothing left of it (all filters 0).

    >>> model = nn.Linear(3, 2)
    >>> moved = filter_normalized(model, random_direction(model, 0)).tensors["weight"]
    >>> torch.allclose(moved.norm(dim=1), model.weight.norm(dim=1))
    True
    """
    check_fit(model, direction)
    weights, scaled = trainable(model), {}
    for key, d in direction.tensors.items():
        if d.ndim < 2 and not vectors:
            continue
        own, rows = _filters(model, key, weights[key]), _filters(model, key, d)
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        factor = torch.where(lengths > 0, torch.linalg.vector_norm(own, dim=1, keepdim=True) / lengths, 0.0)
        scaled[key] = _unfiltered(model, key, rows * factor, d)
    return _somewhere(Direction(f"{direction.name}, filter-normalised", scaled))


def layer_normalized(model: nn.Module, direction: Direction, *, vectors: bool = False) -> Direction:
    """Every parameter of the direction scaled to the norm of the network's own; one-dimensional ones as in `filter_normalized`."""
    check_fit(model, direction)
    weights, scaled = trainable(model), {}
    for key, d in direction.tensors.items():
        if d.ndim >= 2 or vectors:
            length = torch.linalg.vector_norm(d)
            scaled[key] = d * torch.where(length > 0, torch.linalg.vector_norm(weights[key]) / length, 0.0)
    return _somewhere(Direction(f"{direction.name}, layer-normalised", scaled))


def orthogonalized(direction: Direction, against: Direction) -> Direction:
    """The part of ``direction`` at right angles to ``against``, at its former length.

    Two random directions are nearly orthogonal by themselves: their cosine is about 1/√(number of weights).

    :raises InvalidInput: parallel directions.
    """
    length, square = direction.norm, against.dot(against)
    share = direction.dot(against) / square if square else 0.0
    keys = direction.tensors.keys() | against.tensors.keys()
    parts = {}
    for key in sorted(keys):
        d, a = direction.tensors.get(key), against.tensors.get(key)
        parts[key] = (
            d - share * a if d is not None and a is not None else d if d is not None else -share * against.tensors[key]
        )
    left = Direction(direction.name, parts)
    if not left.norm > 1e-6 * length:
        raise InvalidInput("the two directions are parallel: they span a line, not a plane. Choose another second direction")
    return left.scaled(length / left.norm)


def between(model: nn.Module, state: Mapping[str, Tensor], name: str = "towards the other weights") -> Direction:
    """From the model's own weights to those of ``state`` (a state dict): coordinate 0 is here, 1 is there.

    Moves the floating buffers too (batch-norm's running statistics), as averaging two checkpoints does.

    :raises InvalidInput: other names or shapes, NaN, or the same weights.
    """
    own = named_state(model)
    _check_state(own, state)
    moved = {key: state[key].to(x) - x for key, x in own.items() if key in state}
    return _somewhere(Direction(name, moved), "the two sets of weights are equal")


def from_vector(model: nn.Module, vector: Tensor, name: str = "given vector") -> Direction:
    """A flat vector ``[p]`` (an eigenvector of the Hessian, say) over the parameters in their order.

    :raises InvalidInput: a vector of another length, not finite, or 0.
    """
    weights = trainable(model)
    total = sum(x.numel() for x in weights.values())
    if tuple(vector.shape) != (total,):
        raise InvalidInput(
            f"the vector has shape {tuple(vector.shape)}; the model's {total} trainable numbers need ({total},)"
        )
    parts = torch.split(vector.detach(), [x.numel() for x in weights.values()])
    tensors = {key: part.reshape(x.shape).to(x) for part, (key, x) in zip(parts, weights.items(), strict=True)}
    return _somewhere(Direction(name, tensors))


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating buffers by name, detached, each tied one once."""
    named = {name: p.detach() for name, p in model.named_parameters() if p.is_floating_point()}
    return named | {name: b.detach() for name, b in model.named_buffers() if b.is_floating_point()}


def check_fit(model: nn.Module, direction: Direction) -> None:
    """:raises InvalidInput: a name or shape that the model lacks, NaN, or a direction of length 0."""
    own = named_state(model)
    for key, d in direction.tensors.items():
        if key not in own or own[key].shape != d.shape:
            has = tuple(own[key].shape) if key in own else "no such tensor"
            raise InvalidInput(
                f"direction {direction.name!r} moves {key} {tuple(d.shape)}; the model has {has}. Make the direction for this model"
            )
    _somewhere(direction)


def _check_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing = [key for key in own if key not in state]
    shapes = [
        f"{key} {tuple(state[key].shape)} there, {tuple(x.shape)} here"
        for key, x in own.items()
        if key in state and state[key].shape != x.shape
    ]
    if shapes or len(missing) == len(own):
        raise InvalidInput(
            f"the other weights are of another network: {'; '.join(shapes[:4]) or 'no name in common'}. Compare two checkpoints of one "
            "architecture"
        )
    if missing:
        raise InvalidInput(f"the other weights lack {', '.join(missing[:4])}. Save the whole state dict")


def _somewhere(direction: Direction, why: str = "every entry is 0") -> Direction:
    """The direction itself, if it leads anywhere."""
    for key, x in direction.tensors.items():
        if not bool(torch.isfinite(x).all()):
            raise InvalidInput(f"direction {direction.name!r} holds NaN or infinite numbers ({key})")
    if not direction.norm > 0:
        raise InvalidInput(f"direction {direction.name!r} has length 0: {why}. Choose one that moves the weights")
    return direction


def _filters(model: nn.Module, key: str, x: Tensor) -> Tensor:
    """``x`` as ``[filters, entries of one]``."""
    module = _owner(model, key)
    if isinstance(module, TRANSPOSED) and x.ndim > 2:  # weight [in, out / groups, …]
        grouped = x.reshape(module.groups, x.shape[0] // module.groups, x.shape[1], -1)
        return grouped.permute(0, 2, 1, 3).reshape(module.groups * x.shape[1], -1)
    return x.reshape(1, -1) if x.ndim < 2 else x.reshape(x.shape[0], -1)


def _unfiltered(model: nn.Module, key: str, rows: Tensor, like: Tensor) -> Tensor:
    module = _owner(model, key)
    if isinstance(module, TRANSPOSED) and like.ndim > 2:
        grouped = rows.reshape(module.groups, like.shape[1], like.shape[0] // module.groups, -1)
        return grouped.permute(0, 2, 1, 3).reshape(like.shape)
    return rows.reshape(like.shape)


def _owner(model: nn.Module, key: str) -> nn.Module:
    return model.get_submodule(key.rpartition(".")[0])
