"""Reading a graph's nodes: parameters by name, functional calls as the layers they stand for, and how to say that a rule is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.measures.ranges import option_of
from nonvacuous.operators import affine
from nonvacuous.operators.graph import Graph, Node, Parent
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import Rearrangement

NORMALIZERS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}


class Reading:
    """A model and its graph."""

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.model, self.graph = model, graph

    def unsupported(self, node: Node, why: str = "no Lipschitz rule") -> UnsupportedModule:
        """The error that names the node and says how to register a rule for it."""
        kind = type(node.module).__name__ if node.module is not None else node.type_name
        register = f"nn.{kind}" if node.module is not None and type(node.module).__module__.startswith("torch.nn") else kind
        where = node.module_name or node.name
        if node.module is None and node.operation != "input":  # a function has no class of its own: its module has
            owner = self.model.get_submodule(node.module_name) if node.module_name else self.model
            register = type(owner).__name__
            where = f"{where}, function" if node.module_name else f"{node.name}, function"
        return UnsupportedModule(
            f"{where} ({kind}): {why}. Register a rule (module, input_shape) → Measured with @lipschitz.register({register}), "
            "or audit with indicators only."
        )

    def with_parameters(self, node: Node) -> Callable[[str, int, Any], Any]:
        """Reads options of a functional call, parameters as tensors."""
        read = option_of(node)

        def option(name: str, place: int, default: Any) -> Any:
            value = read(name, place, default)
            return self.tensor(value) if isinstance(value, Parent) else value

        return option

    def tensor(self, value: Any) -> Tensor | None:
        """The parameter or buffer an argument stands for, None where the tracer does not say."""
        node = self.graph[value.name]
        if node.operation != "parameter" or not node.arguments or not isinstance(node.arguments[0], str):
            return None
        owner, _, name = node.arguments[0].rpartition(".")
        found = getattr(self.model.get_submodule(owner), name, None)
        return found.detach().double() if isinstance(found, Tensor) else None


# -- functional calls as modules


def pool_of(reading: Reading, node: Node) -> nn.Module:
    """The module a functional pooling stands for."""
    dimensions = len(node.shapes_in[0]) - 2
    names = {
        "max_pool": ("MaxPool", ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
        "average_pool": (
            "AvgPool",
            ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
        ),
        "adaptive_average_pool": ("AdaptiveAvgPool", ("output_size",)),
        "adaptive_max_pool": ("AdaptiveMaxPool", ("output_size",)),
    }
    name, order = names[node.operation]
    given: dict[str, Any] = dict(zip(order, node.arguments[1:], strict=False)) | node.keywords
    if given.get("stride") == [] or given.pop("return_indices", False) is not False:
        given["stride"] = None
    try:
        module: nn.Module = getattr(nn, f"{name}{dimensions}d")(**given)
    except (TypeError, AttributeError) as error:
        raise reading.unsupported(node) from error
    return module


def normalizer_of(reading: Reading, node: Node) -> nn.Module:
    """The module a functional normalizer stands for, in float64.

    Raises UnsupportedModule where it normalizes by its batch, or its weights are computed from the input.
    """
    exported = reading.graph.traced_by == "torch.export"
    read = reading.with_parameters(node)
    # torch.export shows the operators underneath, which take the running statistics after the weights
    places = {"weight": 2, "bias": 3, "eps": 4, "running_mean": 1, "running_var": 2}
    if node.operation in ("batch_norm", "instance_norm"):
        order = (
            ("weight", "bias", "running_mean", "running_var")
            if exported
            else ("running_mean", "running_var", "weight", "bias")
        )
        places = {name: place for place, name in enumerate(order, 1)} | {"eps": 7}
    elif node.operation == "rms_norm":
        places["eps"] = 3
    known = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}
    if node.type_name not in known or any(_is_computed(reading, p) for p in node.parents[1:]):
        raise reading.unsupported(node, "normalizes in a way the tracer does not show; use the module")
    weight, bias = (read(name, places[name], None) for name in ("weight", "bias"))
    mean, variance = (
        read(name, places[name], None) if "running_mean" in places else None for name in ("running_mean", "running_var")
    )
    eps = read("eps", places["eps"], None if node.operation == "rms_norm" else 1e-5)
    shape = node.shapes_in[0][1:]
    module: Any
    if node.operation in ("layer_norm", "rms_norm"):
        size = tuple(read("normalized_shape", 1, ()))
        module = nn.LayerNorm(size, eps, weight is not None) if node.operation == "layer_norm" else nn.RMSNorm(size, eps)
    elif node.operation == "group_norm":
        module = nn.GroupNorm(read("num_groups", 1, 1), shape[0], eps, weight is not None)
    else:
        by_batch = read(
            "use_input_stats" if node.operation == "instance_norm" else "training", 5, node.operation == "instance_norm"
        )
        if node.operation == "batch_norm" and (by_batch or mean is None or variance is None):
            raise reading.unsupported(node, "normalizes by its batch: no function of one example")
        kind = "BatchNorm" if node.operation == "batch_norm" else "InstanceNorm"
        fixed = not by_batch and variance is not None
        module = getattr(nn, f"{kind}{max(1, len(shape) - 1)}d")(shape[0], eps, affine=False, track_running_stats=fixed)
        if fixed:
            module.running_mean, module.running_var = mean, variance
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None and not hasattr(module, name):
            continue
        setattr(module, name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))
    return cast(nn.Module, module.double().eval())


def _is_computed(reading: Reading, name: str) -> bool:
    return reading.graph[name].operation != "parameter" or reading.tensor(Parent(name)) is None


@dataclass(frozen=True)
class _OneStep:
    """What :data:`affine.READERS` asks of a reader, for one node."""

    reading: Reading
    node: Node
    argument: LinearMap

    @property
    def root(self) -> nn.Module:
        return self.reading.model

    def source(self, value: Any) -> LinearMap:
        return self.argument

    def tensor(self, value: Any) -> Tensor:
        found = self.reading.tensor(value)
        if found is None:
            raise UnsupportedModule("a weight the tracer does not name")
        return found


def functional_map(reading: Reading, node: Node, shape: tuple[int, ...]) -> tuple[LinearMap, Callable[[Tensor], Tensor]]:
    """Linear part and function of a functional linear map, convolution or padding of inputs of a shape."""
    source = Rearrangement(shape, shape)
    reader = _OneStep(reading, node, source)
    try:
        part = affine.READERS[node.operation](cast(Any, reader), node)
    except (UnsupportedModule, KeyError, TypeError, AttributeError) as error:
        raise reading.unsupported(node) from error
    bias = reading.with_parameters(node)("bias", 2, None) if node.operation != "pad" else None
    shaped: Tensor | float = 0.0
    if isinstance(bias, Tensor):
        shaped = bias.reshape(-1, *[1] * (len(node.shape_out) - 2)) if node.operation == "convolution" else bias
    return part, lambda x: part.apply(x) + shaped
