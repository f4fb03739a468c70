"""Capacity of the class a network belongs to: the decisions it takes layer by layer, as the VC bounds count them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from nonvacuous.bounds.capacity import Stage, piecewise_polynomial_log_growth, relu_vc_dimension
from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures.predictor import Predictor, evaluating
from nonvacuous.measures.state import check_registered
from nonvacuous.runtime.values import Inputs

_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_RELUS = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh)
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MEANS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_FREE = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Unflatten, *_MEANS)
_KNOWN = (*_AFFINE, *_NORMS, *_RELUS, *_MAX_POOLS, *_FREE)


@dataclass
class _Step:
    module: nn.Module
    name: str
    inputs: Tensor
    version: int
    outputs: Tensor
    after: int


def stages(predictor: Predictor, example: Inputs) -> tuple[Stage, ...]:
    """The decisions of a feed-forward chain of affine layers, ReLUs, max-pools and batch-norms, and of its arg-max.

    For K ≥ 2 scores the last stage asks the signs of all K(K − 1)/2 differences, so the count is that of the class of 0–1 losses.
    Batch-norm in evaluation is an affine layer with two free numbers a channel (its running statistics are read off the data).

    Layers of other types count as unknown, sub-classes of the known ones included: their forward pass may be anything.

    Args: ``example`` one batch of inputs. Raises :class:`UnsupportedModule` for anything that is not such a chain.
    """
    module = predictor.module
    if module is None:
        raise UnsupportedModule("the VC bounds need an nn.Module, whose layers can be counted")
    if isinstance(example, dict):
        raise UnsupportedModule("the VC bounds count plain feed-forward chains; this model takes named inputs")
    check_registered(module)
    steps = _steps(predictor, module, example)
    found: list[Stage] = []
    degree = parameters = 0
    seen: set[int] = set()
    for step in steps:
        layer, units = step.module, prod(step.outputs.shape[1:])
        if type(layer) not in _KNOWN or (isinstance(layer, _NORMS) and not layer.track_running_stats):
            raise UnsupportedModule(
                f"{step.name} ({type(layer).__name__}): no rule to count its decisions. The VC bounds know affine layers, ReLU, "
                "max-pool, average-pool and batch-norm in a chain; the other bounds do not need this"
            )
        if isinstance(layer, _AFFINE):
            fresh = [p for p in layer.parameters() if id(p) not in seen]
            seen.update(map(id, fresh))
            parameters += sum(p.numel() for p in fresh)
            degree += 1
        elif isinstance(layer, _NORMS):
            parameters += 2 * layer.num_features
            degree += 1
        elif isinstance(layer, _RELUS):
            breaks = 2 if isinstance(layer, nn.Hardtanh | nn.ReLU6) else 1
            found.append(Stage(breaks * units, max(degree, 1), parameters))
        elif isinstance(layer, _MAX_POOLS):
            window = layer.kernel_size
            size = window ** (step.outputs.ndim - 2) if isinstance(window, int) else prod(window)
            found.append(Stage(max(1, units * size * (size - 1) // 2), max(degree, 1), parameters))
    scores = prod(steps[-1].outputs.shape[1:])
    if parameters == 0:
        raise UnsupportedModule("the model has no parameters that a VC bound could count")
    found.append(Stage(max(1, scores * (scores - 1) // 2), degree, parameters))
    return tuple(found)


def _steps(predictor: Predictor, module: nn.Module, example: Tensor) -> list[_Step]:
    """The leaves in the order in which they ran; raises unless each took exactly what the one before gave."""
    names = {m: name or type(module).__name__ for name, m in module.named_modules()}
    steps: list[_Step] = []
    hooks = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not isinstance(outputs, Tensor):
            raise UnsupportedModule(f"{names[layer]} takes or gives more than one tensor: not a feed-forward chain")
        steps.append(_Step(layer, names[layer], inputs[0], inputs[0]._version, outputs, outputs._version))

    leaves = [m for m in module.modules() if isinstance(m, _KNOWN) or not any(True for _ in m.children())]
    for leaf in leaves:
        if leaf._forward_hooks or "forward" in vars(leaf):
            raise UnsupportedModule(
                f"{names[leaf]} has a forward hook or a forward method of its own: its output may be anything"
            )
    entered: list[tuple[Tensor, int]] = []

    def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered.extend((x, x._version) for x in inputs)

    try:
        hooks = [leaf.register_forward_hook(record) for leaf in leaves]
        hooks.append(module.register_forward_pre_hook(enter))
        with evaluating(predictor):
            outputs = predictor(example)
    finally:
        for hook in hooks:
            hook.remove()
    if not steps:
        raise UnsupportedModule("the model has no layers a VC bound could count")
    for before, after in pairwise(steps):
        if not _is(after.inputs, before.outputs) or after.version - before.after != int(_inplace(after.module)):
            raise UnsupportedModule(
                f"between {before.name} and {after.name} the model computes something that is not a layer of its own (a skip connection, "
                "or a function such as F.relu): the VC bounds count plain chains of layers"
            )
    last = steps[-1].outputs
    if not _is(outputs, last) or last._version != steps[-1].after:
        raise UnsupportedModule(f"the model computes something after {steps[-1].name} that is not a layer of its own")
    first = steps[0]
    if (
        len(entered) != 1
        or not _is(first.inputs, entered[0][0])
        or first.version - entered[0][1] != int(_inplace(first.module))
    ):
        raise UnsupportedModule(f"the model computes something before {steps[0].name} that is not a layer of its own")
    return steps


def _inplace(layer: nn.Module) -> bool:
    return isinstance(layer, _RELUS) and bool(layer.inplace)


def _is(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers in memory, perhaps in another shape."""
    return one.data_ptr() == other.data_ptr() and one.numel() == other.numel()


def log_growth_nats(predictor: Predictor, example: Inputs, n: int) -> Measured:
    """ln Π(2n) of the class of 0–1 losses of this architecture, an upper bound."""
    return Measured(0.0, piecewise_polynomial_log_growth(stages(predictor, example), 2 * n), Kind.EXACT)


def vc_dimension(predictor: Predictor, example: Inputs) -> Measured:
    """VC dimension of the class of 0–1 losses of this architecture, an upper bound."""
    return Measured(1.0, max(1.0, relu_vc_dimension(stages(predictor, example))), Kind.EXACT)


def parameter_count(module: nn.Module) -> int:
    """Numbers training may set: parameters, tied ones once."""
    return sum(p.numel() for p in {id(p): p for p in module.parameters()}.values())
