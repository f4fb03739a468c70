"""A network as a chain of weight layers, run with its layers' outputs watched, moved or replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.lipschitz import exact_copy
from nonvacuous.operators.rules import weight_of

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
FIXED_MAPS = (nn.modules.batchnorm._BatchNorm,)
Change = Callable[[Tensor], Tensor]


class Trace(NamedTuple):
    """Inputs φ(x^(i−1)) and outputs x^i of the weight layers, first layer first, each (batch, *shape)."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class WeightChain:
    """A float64 copy in eval mode of a network whose weight layers x^i = Aᵢφ(x^(i−1)) + bᵢ each read the one before and nothing else.

    What lies between two of them (activations, pooling, batch norm as it evaluates) is the map φ.  The order is that of the calls, so the
    forward method may be of any form.  Not thread-safe: a run leaves its records in the copy's hooks.

    Raises:
        UnsupportedModule: a branch, a layer used twice or never, parameters of other layers (each named).
        InvalidInput: NaN in the weights, inputs of another kind than (n, *shape) floats, no weight layer.
    """

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 2 or not len(inputs):
            raise InvalidInput("inputs must be a tensor of floats of shape (n, *shape) with n ≥ 1")
        self.model = exact_copy(model)
        _check_parameters(self.model)
        self.names: list[str] = []
        self.layers: list[Any] = []
        self._inputs: dict[nn.Module, Tensor] = {}
        self._outputs: dict[nn.Module, Tensor] = {}
        self._before: dict[nn.Module, Change] = {}
        self._after: dict[nn.Module, Change] = {}
        found = {part: name for name, part in self.model.named_modules() if isinstance(part, WEIGHT_LAYERS)}
        for part, name in found.items():
            self._watch(part, name)
        self._run(inputs[:1].double())
        self.layers = list(self._outputs)
        self.names = [found[part] for part in self.layers]
        unused = [name for part, name in found.items() if part not in self._outputs]
        if unused:
            raise UnsupportedModule(
                f"{unused[0]} is never called as a layer: these quantities speak of chains of weight layers"
            )
        if not self.layers:
            raise InvalidInput(f"{type(model).__name__} has no linear layer and no convolution")
        self._check_chain(inputs[:1].double())

    def __len__(self) -> int:
        return len(self.layers)

    def run(
        self, inputs: Tensor, *, moved: Mapping[int, Change] | None = None, replaced: Mapping[int, Change] | None = None
    ) -> Trace:
        """All inputs and outputs; ``moved[i]`` changes what layer i reads, ``replaced[i]`` what it gives to the rest."""
        self._before = {self.layers[i]: change for i, change in (moved or {}).items()}
        self._after = {self.layers[i]: change for i, change in (replaced or {}).items()}
        try:
            self._run(inputs)
        finally:
            self._before, self._after = {}, {}
        trace = Trace(
            tuple(self._inputs[layer] for layer in self.layers), tuple(self._outputs[layer] for layer in self.layers)
        )
        self._inputs, self._outputs = {}, {}
        return trace

    def tail(self, inputs: Tensor, i: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """M^{i,·}: from layer i's output to those of all later layers."""
        return lambda x: self.run(inputs, replaced={i: lambda _: x}).outputs[i + 1 :]

    def linear_part(self, i: int, output: Tensor) -> Tensor:
        """Aᵢφ of Aᵢφ + bᵢ."""
        bias = self.layers[i].bias
        if bias is None:
            return output
        return output - (bias if isinstance(self.layers[i], nn.Linear) else bias.reshape(-1, *[1] * (output.ndim - 2)))

    def weight(self, i: int) -> Tensor:
        """Aᵢ: the matrix, or a convolution's filters."""
        return weight_of(self.layers[i]).double()

    def convolves(self, i: int) -> bool:
        """Whether layer i is a convolution, whose output has channels and positions."""
        return not isinstance(self.layers[i], nn.Linear)

    def _run(self, inputs: Tensor) -> None:
        self._inputs, self._outputs = {}, {}
        self.model(inputs)

    def _watch(self, part: nn.Module, name: str) -> None:
        def before(module: nn.Module, arguments: tuple[Any, ...]) -> Any:
            if module in self._inputs:
                raise UnsupportedModule(f"{name} is used twice: these quantities speak of chains of different layers")
            (x,) = arguments
            self._inputs[module] = self._before[module](x) if module in self._before else x
            return (self._inputs[module],)

        def after(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            self._outputs[module] = self._after[module](output) if module in self._after else output
            return self._outputs[module].clone()  # what comes next may work in place

        part.register_forward_pre_hook(before)
        part.register_forward_hook(after)

    def _check_chain(self, example: Tensor) -> None:
        """Cut behind every layer, what a layer reads must hang on the end before it alone."""
        with torch.enable_grad():
            trace = self.run(example, replaced=dict.fromkeys(range(len(self)), lambda x: x.detach().requires_grad_()))
            for i in range(1, len(self)):
                if not trace.inputs[i].requires_grad:
                    raise UnsupportedModule(f"{self.names[i]} does not read the output of {self.names[i - 1]}: no chain")
                grads = torch.autograd.grad(trace.inputs[i].sum(), trace.outputs, allow_unused=True, retain_graph=True)
                read = [self.names[k] for k, grad in enumerate(grads) if grad is not None]
                if read != [self.names[i - 1]]:
                    raise UnsupportedModule(
                        f"{self.names[i]} reads {', '.join(read)}: a branch. These quantities speak of chains; measure the stretches "
                        "between branches as models of their own"
                    )


def _check_parameters(model: nn.Module) -> None:
    for name, part in model.named_modules():
        known = (*WEIGHT_LAYERS, *FIXED_MAPS, nn.utils.parametrize.ParametrizationList)
        if part._parameters and not isinstance(part, known):
            raise UnsupportedModule(
                f"{name or 'the model'} ({type(part).__name__}) has parameters and is neither linear, a convolution nor batch norm: the "
                "layers of a chain are not defined"
            )
