"""Preconditioners P of optimizers as symmetric positive definite matrices, known by their square roots.

A step of a preconditioned method is w − η P g. In the coordinates u = P^{−1/2} w it is plain descent, and the curvature there is
P^{1/2} G P^{1/2}: its spectrum says how well the method's steps suit the curvature G. Here P is read from the states that optimizers keep:

* SGD (with momentum or not): I.
* AdaGrad: 1/(√Σg² + ε); RMSProp: 1/(√v + ε); Adam, AdamW, NAdam: 1/(√v̂ + ε); AdaDelta: √(Δ + ε)/√(v + ε); each a diagonal.
* Shampoo (``pytorch_optimizer.Shampoo``): a Kronecker product of L_i^{−1/2k} over the k axes of each parameter.

K-FAC keeps no state in torch; :mod:`preconditioners_kfac` makes it from the network.

Source: Duchi, Hazan and Singer 2011 (AdaGrad); Hinton 2012, lecture 6 (RMSProp); Zeiler 2012 (AdaDelta); Kingma and Ba 2015 (Adam); Gupta,
Koren and Singer 2018 (Shampoo).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import NAdam, Optimizer
from torch.optim.adadelta import Adadelta
from torch.optim.adagrad import Adagrad
from torch.optim.adam import Adam
from torch.optim.adamw import AdamW
from torch.optim.rmsprop import RMSprop
from torch.optim.sgd import SGD

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.operators.mean_loss import Loss, MeanLoss

__all__ = ["Block", "Preconditioner", "gather", "identity", "preconditioner_of"]

State = dict[str, Any]
Factors = Callable[[State, dict[str, Any], Tensor], "Tensor | tuple[Tensor, ...]"]


@dataclass(frozen=True)
class Block:
    """A part of P^{1/2}: the entries at ``places`` [d_1, …, d_k] of the flat vector, as a tensor, times one matrix an axis.

    ``factors``: k symmetric matrices [d_i, d_i]; or one tensor of the shape of ``places`` for a diagonal.
    """

    places: Tensor
    factors: tuple[Tensor, ...]
    diagonal: bool = False

    def times(self, rows: Tensor) -> Tensor:
        """The block applied to tensors [c, d_1, …, d_k]."""
        if self.diagonal:
            return rows * self.factors[0]
        for axis, factor in enumerate(self.factors, start=1):
            rows = torch.movedim(torch.tensordot(rows, factor, dims=([axis], [0])), -1, axis)
        return rows


@dataclass(frozen=True)
class Preconditioner:
    """P, by the blocks of P^{1/2}; entries in no block are left as they are (identity).

    Attributes: ``name``; ``blocks``; ``size`` of the flat vector.
    """

    name: str
    blocks: tuple[Block, ...]
    size: int

    def root(self, vectors: Tensor) -> Tensor:
        """P^{1/2} times vectors [P] or [P, c], of their dtype."""
        if not isinstance(vectors, Tensor) or vectors.ndim not in (1, 2) or len(vectors) != self.size:
            shape = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise InvalidInput(f"{self.name} preconditions [{self.size}] or [{self.size}, c]; got {shape}")
        rows = vectors[None] if vectors.ndim == 1 else vectors.mT
        result = rows.clone()
        for block in self.blocks:
            factors = tuple(factor.to(rows) for factor in block.factors)
            places = block.places.to(rows.device)
            result[:, places.reshape(-1)] = Block(places, factors, block.diagonal).times(rows[:, places]).flatten(1)
        return result[0] if vectors.ndim == 1 else result.mT.contiguous()

    def dense(self, most: int = 5_000) -> Tensor:
        """P itself [P, P] in float64; refused above ``most``."""
        if self.size > most:
            raise InvalidInput(f"the preconditioner would have {self.size} rows, above {most}: use root, or raise most")
        return self.root(self.root(torch.eye(self.size, dtype=torch.float64)))


class Preconditioned:
    """P^{1/2} A P^{1/2} for a symmetric operator A [P, P]; itself such an operator (``shape``, ``dtype``, ``device``, ``@``)."""

    def __init__(self, operator: Any, preconditioner: Preconditioner) -> None:
        if tuple(operator.shape) != (preconditioner.size, preconditioner.size):
            raise InvalidInput(
                f"{preconditioner.name} is for {preconditioner.size} parameters, the operator {tuple(operator.shape)}: "
                "make both from the same model and the same trainable parameters"
            )
        self.operator, self.preconditioner = operator, preconditioner
        self.shape, self.dtype, self.device = tuple(operator.shape), operator.dtype, operator.device

    def __matmul__(self, right: Tensor) -> Tensor:
        return self.preconditioner.root(self.operator @ self.preconditioner.root(right))


def identity(size: int, name: str = "SGD") -> Preconditioner:
    """P = I on ``size`` entries."""
    if size < 1:
        raise InvalidInput(f"a preconditioner of {size} parameters: give at least 1")
    return Preconditioner(name, (), size)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters by name, tied ones once: those of :func:`~nonvacuous.operators.curvature.ggn`, in its order."""
    found: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise InvalidInput("no trainable parameter: there is nothing to precondition")
    return found


def preconditioner_of(optimizer: Optimizer, model: nn.Module) -> Preconditioner:
    """What ``optimizer`` multiplies the gradients of ``model``'s trainable parameters by, from its state as it is now.

    Learning rates, momentum and weight decay are no part of it; neither is a common factor, which no ratio of eigenvalues sees.

    Raises InvalidInput for an optimizer that has not stepped yet, leaves a trainable parameter out, or has a state that is not finite;
    UnsupportedModule for another class of optimizer.

    >>> net = nn.Linear(2, 1, bias=False)
    >>> adagrad = Adagrad(net.parameters(), eps=0.0)
    >>> gather(adagrad, net, lambda out, y: (out - y).mean(), [(torch.tensor([[4.0, 1.0]]), torch.zeros(1, 1))])
    >>> preconditioner_of(adagrad, net).dense().diagonal().tolist()
    [0.25, 1.0]
    """
    name, read = _reader(optimizer)
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    blocks, offset = [], 0
    for parameter_name, parameter in trainable(model).items():
        size = parameter.numel()
        if parameter not in groups:
            raise InvalidInput(f"{name} does not train {parameter_name}: give it all trainable parameters, or freeze that one")
        if read is not None:
            state = optimizer.state.get(parameter, {})
            places = torch.arange(offset, offset + size).reshape(parameter.shape if parameter.ndim else (1,))
            blocks.append(_block(name, parameter_name, places, read, state, groups[parameter], parameter))
        offset += size
    return Preconditioner(name, tuple(blocks), offset)


def _block(name: str, parameter: str, places: Tensor, read: Factors, state: State, group: dict[str, Any], p: Tensor) -> Block:
    if not state:
        raise InvalidInput(f"{name} has no state for {parameter}: it has not stepped yet, or that parameter had no gradient")
    found = read(state, group, p)
    diagonal = isinstance(found, Tensor)
    matrices = (found,) if isinstance(found, Tensor) else found
    if not all(bool(torch.isfinite(m).all()) for m in matrices):
        raise InvalidInput(
            f"{name}'s state for {parameter} gives NaN or infinity: the run diverged, or ε = 0 met a zero gradient"
        )
    if diagonal:
        return Block(places, (matrices[0].detach().double().sqrt().reshape(places.shape),), True)
    return Block(places, tuple(symmetric_power(m.detach(), 0.5) for m in matrices))


def symmetric_power(matrix: Tensor, power: float, damping: float = 0.0) -> Tensor:
    """(A + damping · I)^power of a positive semidefinite matrix [d, d], in float64; rounding below 0 counts as 0.

    Raises InvalidInput for a negative power of a singular matrix.
    """
    values, vectors = torch.linalg.eigh((matrix.double() + matrix.double().mT) / 2)
    top = float(values.abs().max())
    if float(values.min()) < -1e-4 * top:
        raise InvalidInput(f"a factor has the eigenvalue {float(values.min()):.3g}: preconditioners are positive semidefinite")
    values = values.clamp_min(0.0) + damping
    if power < 0 and not float(values.min()) > 0:
        raise InvalidInput("a factor is singular and has no inverse: give a positive damping")
    return (vectors * values.pow(power)) @ vectors.mT


def gather(optimizer: Optimizer, model: nn.Module, loss: Loss, batches: Iterable[Any], passes: int = 1) -> None:
    """Let ``optimizer`` see the gradients of every batch ``passes`` times while the weights stay where they are.

    Its state afterwards belongs to these weights, so that preconditioners are compared on one and the same curvature. Learning rates are
    left alone; buffers and the mode of the model stay as they are. Make curvature operators afterwards: they refuse to go on once
    weights have been written to, even if to the same values.
    """
    if passes < 1:
        raise InvalidInput(f"{passes} passes: give at least 1")
    mean = MeanLoss(model, loss, batches)
    weights = [p.detach().clone() for p in mean.parameters]
    decays = [group.get("weight_decay") for group in optimizer.param_groups]
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        if decay is not None:
            group["weight_decay"] = 0.0
    try:
        for _ in range(passes):
            for batch in mean:
                optimizer.zero_grad(set_to_none=True)
                with torch.enable_grad():
                    mean.value(mean.outputs(batch), batch).backward()
                optimizer.step()
                with torch.no_grad():
                    for place, value in zip(mean.parameters, weights, strict=True):
                        place.copy_(value)
    finally:
        optimizer.zero_grad(set_to_none=True)
        for group, decay in zip(optimizer.param_groups, decays, strict=True):
            if decay is not None:
                group["weight_decay"] = decay


def _adagrad(state: State, group: dict[str, Any], _: Tensor) -> Tensor:
    return 1 / (state["sum"].double().sqrt() + group["eps"])


def _rmsprop(state: State, group: dict[str, Any], _: Tensor) -> Tensor:
    centre = state["grad_avg"].double().square() if group["centered"] else 0.0
    return 1 / ((state["square_avg"].double() - centre).clamp_min(0.0).sqrt() + group["eps"])


def _adadelta(state: State, group: dict[str, Any], _: Tensor) -> Tensor:
    return ((state["acc_delta"].double() + group["eps"]) / (state["square_avg"].double() + group["eps"])).sqrt()


def _adam(state: State, group: dict[str, Any], _: Tensor) -> Tensor:
    second = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"].double()
    return 1 / ((second / (1 - float(group["betas"][1]) ** float(state["step"]))).sqrt() + group["eps"])


def _shampoo(state: State, _: dict[str, Any], parameter: Tensor) -> tuple[Tensor, ...]:
    keys = [f"inv_pre_cond_{axis}" for axis in range(parameter.ndim)]
    if not all(key in state for key in keys):
        raise InvalidInput("Shampoo's state lacks inv_pre_cond_0, …: it must be pytorch_optimizer's Shampoo, after a step")
    return tuple(state[key] for key in keys)


READERS: dict[type[Optimizer], Factors | None] = {
    SGD: None,
    Adagrad: _adagrad,
    RMSprop: _rmsprop,
    Adadelta: _adadelta,
    Adam: _adam,
    AdamW: _adam,
    NAdam: _adam,
}


def register(kind: type[Optimizer], factors: Factors | None) -> None:
    """Teach ``preconditioner_of`` another class: (state, group, parameter) ↦ P's diagonal, or P's factor for each axis; None for I."""
    READERS[kind] = factors


def _reader(optimizer: Any) -> tuple[str, Factors | None]:
    for kind in type(optimizer).__mro__:
        if kind in READERS:
            return kind.__name__, READERS[kind]
        if kind.__name__ == "Shampoo" and kind.__module__.startswith("pytorch_optimizer"):
            return "Shampoo", _shampoo
    known = ", ".join(kind.__name__ for kind in READERS)
    raise UnsupportedModule(
        f"{type(optimizer).__name__} is not known here: known are {known} and pytorch_optimizer's Shampoo; "
        "add a class with preconditioners.register"
    )


def damped_inverses(first: Tensor, second: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """(A + √λ/π)^{−1/2} and (B + π√λ)^{−1/2} for the Kronecker product A ⊗ B damped by λ, π² = mean diagonal of B over that of A.

    Source: Martens and Grosse 2015, section 6.3.
    """
    if not 0 < damping < math.inf:
        raise InvalidInput(f"damping {damping!r}: a positive number")
    sizes = [float(m.diagonal().double().mean()) for m in (first, second)]
    if not min(sizes) > 0:
        whole = damping**0.5
        return symmetric_power(first, -0.5, whole), symmetric_power(second, -0.5, whole)
    ratio = (sizes[1] / sizes[0]) ** 0.5
    return symmetric_power(first, -0.5, damping**0.5 / ratio), symmetric_power(second, -0.5, damping**0.5 * ratio)
