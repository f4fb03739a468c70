"""Which parameters the layers' rules speak for, and whether the rules give what autograd gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.layer_gradients import Irregular, Pass, forward, size_of
from nonvacuous.measures.layer_rules import Task, Use, factors, has_rule
from nonvacuous.measures.tangent_plan import said
from nonvacuous.runtime.models import outputs
from nonvacuous.runtime.values import Inputs

RULED_NAMES = ("weight", "bias")
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 5e-2}


@dataclass
class Split:
    """The trainable parameters: those of layers with a rule (by layer, its parameters' names), and the rest (by name in the model).

    A parameter that several layers own, or a layer of no known class, belongs to the rest.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    ruled: dict[nn.Module, tuple[str, ...]] = field(default_factory=dict)
    rest: tuple[str, ...] = ()

    @staticmethod
    def of(model: nn.Module) -> Split:
        """:raises InvalidInput: no trainable parameter, or complex ones."""
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not parameters:
            raise InvalidInput(
                "the model has no trainable parameter, so that its tangent kernel is 0. Set requires_grad on those that training moves"
            )
        if any(p.is_complex() for p in parameters.values()):
            raise InvalidInput(
                "the model has complex parameters; the tangent kernel here is of real ones. Keep real and imaginary parts as parameters"
            )
        owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            for name, p in module._parameters.items():
                if p is not None and p.requires_grad:
                    owners.setdefault(p, []).append((module, name))
        split = Split(model, parameters)
        for p, owned in owners.items():
            module, name = owned[0]
            if len(owned) == 1 and name in RULED_NAMES and has_rule(module) and p.is_floating_point():
                split.ruled[module] = tuple(n for n in RULED_NAMES if n == name or n in split.ruled.get(module, ()))
        split._rest()
        return split

    def _rest(self) -> None:
        taken = {module._parameters[name] for module, names in self.ruled.items() for name in names}
        self.rest = tuple(name for name, p in self.parameters.items() if p not in taken)

    def demote(self, module: nn.Module) -> None:
        """Leave a layer's parameters to the general path."""
        self.ruled.pop(module, None)
        self._rest()

    @property
    def dtype(self) -> torch.dtype:
        """The widest of the parameters' types, at least float32."""
        result = torch.float32
        for p in self.parameters.values():
            result = torch.promote_types(result, p.dtype)
        return result

    def tolerance(self) -> float:
        """Relative difference that rounding explains, from the narrowest of the parameters' types."""
        return max(_TOLERANCES.get(p.dtype, 1e-3) for p in self.parameters.values())


def check_mode(model: nn.Module) -> None:
    """:raises InvalidInput: outputs of one example depend on the batch or on chance, by the state a module is in."""
    for name, module in model.named_modules():
        called = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            why = "is in training mode" if module.running_mean is not None else "keeps no running statistics"
            cure = "Call model.eval() first" if module.running_mean is not None else "Give it track_running_stats=True"
            raise InvalidInput(
                f"{called} {why}: it normalizes with the batch's statistics, so that an example's outputs depend on the others and no"
                f" kernel of two examples exists. {cure}"
            )
        rate = getattr(module, "p", 0) if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0)
        if module.training and isinstance(rate, float) and rate > 0:
            raise InvalidInput(
                f"{called} is in training mode and drops units at random: the outputs are no function of the input. Call model.eval() first"
            )


def probe(split: Split, inputs: Inputs, task: Task, memory: int) -> Pass:
    """Run one or two examples; layers whose rule does not reproduce autograd's gradients are demoted. Returns the pass, counted.

    :raises InvalidInput: outputs that change from run to run, or with the other examples of the batch.
    """
    while True:
        try:
            seen = forward(split.model, list(split.ruled), inputs, count=True)
        except Irregular as odd:
            split.demote(odd.module)
            continue
        break
    values, tolerance = seen.values.detach(), split.tolerance()
    with torch.no_grad():
        again = outputs(split.model, inputs).reshape(values.shape)
        one = {k: v[:1] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[:1]
        alone = outputs(split.model, one).reshape(1, -1)
    scale = float(values.abs().max()) + 1e-30
    if float((again - values).abs().max()) > tolerance * scale:
        raise InvalidInput(
            "two runs of the model on the same inputs differ: it draws at random in its forward pass. Call model.eval(), or switch that off"
        )
    if alone.shape[1] != values.shape[1] or float((alone[0] - values[0]).abs().max()) > tolerance * scale:
        raise InvalidInput(
            "the model's outputs on an example depend on the other examples in its batch: no kernel of two examples exists. Call"
            " model.eval(), or replace what mixes examples"
        )
    generator = torch.Generator().manual_seed(0)
    n = size_of(inputs)
    for s in range(n):
        cotangent = torch.zeros(n, values.shape[1], dtype=torch.float64)
        cotangent[s] = torch.randn(values.shape[1], generator=generator, dtype=torch.float64)
        for group in _groups(split, memory):
            wanted = [(module, name) for module in group for name in split.ruled[module]]
            parameters = [module._parameters[name] for module, name in wanted]
            uses, true = seen.uses_of(cotangent.to(values), parameters)  # type: ignore[arg-type]
            slopes = {(module, name): slope for (module, name), slope in zip(wanted, true, strict=True)}
            for module in group:
                own = {name: slopes.pop((module, name)) for name in split.ruled[module]}
                if not _agrees(module, uses.pop(module, None), own, s, task, tolerance):
                    split.demote(module)
    return seen


def _groups(split: Split, memory: int) -> list[list[nn.Module]]:
    """Layers whose gradients are compared together, so that they and their copies keep within the budget."""
    groups: list[list[nn.Module]] = [[]]
    filled = 0
    for module in split.ruled:
        size = sum(p.nbytes for name in split.ruled[module] if (p := module._parameters[name]) is not None)
        if 4 * size > memory:
            raise InvalidInput(
                f"the gradient of a {type(module).__name__} takes {said(size)}, and four such do not fit in {said(memory)}. Raise memory"
            )
        if groups[-1] and 4 * (filled + size) > memory:
            groups.append([])
            filled = 0
        groups[-1].append(module)
        filled += size
    return groups


def _agrees(
    module: nn.Module, uses: list[Use] | None, slopes: dict[str, Tensor], example: int, task: Task, tolerance: float
) -> bool:
    if uses is None:  # never called as a layer; its parameters may be used all the same
        return not any(bool(slope.any()) for slope in slopes.values())
    if any(bool(use.cotangents[i].any()) for use in uses for i in range(len(use.cotangents)) if i != example):
        return False
    own = [Use(use.inputs[example : example + 1], use.cotangents[example : example + 1]) for use in uses]
    found: dict[str, Tensor] = {}
    for factor in factors(module, own, tuple(slopes), task):
        for name, part in parts_of(module, tuple(slopes), factor.rows()[0, 0]).items():
            found[name] = part.reshape(slopes[name].shape)
    scale = max(float(slope.norm()) for slope in slopes.values())
    return all(float((found[name] - slope).norm()) <= tolerance * scale for name, slope in slopes.items())


def parts_of(module: nn.Module, names: tuple[str, ...], row: Tensor) -> dict[str, Tensor]:
    """An example's gradient by a layer's parameters, taken apart."""
    if len(names) == 1:
        return {names[0]: row}
    weight = module._parameters["weight"]
    assert weight is not None
    columns = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and getattr(module, "groups", 1) == 1
    if columns:
        table = row.view(len(weight), -1)
        return {"weight": table[:, :-1].flatten(), "bias": table[:, -1]}
    return {"weight": row[: weight.numel()], "bias": row[weight.numel() :]}
