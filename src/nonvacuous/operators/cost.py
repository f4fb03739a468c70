"""Costs of a model: parameters, multiply-accumulates, floating-point operations; per layer and in total, by tracing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators.cost_rules import NONE, RULES, Products, products_of


@dataclass(frozen=True)
class LayerCost:
    """Cost of what one module computes itself, its children excluded; ``calls`` is how often it ran."""

    name: str
    kind: str
    calls: int
    parameters: int
    macs: int
    flops: int
    operations: int


@dataclass(frozen=True)
class Cost:
    """Three conventions for the computation, and the size.

    Attributes:
        parameters: numbers in ``module.parameters()``, frozen ones included, tied ones once.
        macs: multiply-accumulates of matrix products and convolutions (no bias, softmax, norm, activation or interpolation).
        flops: 2 · macs.
        operations: products and sums exactly: an inner product of length N is N products and N − 1 sums, 2N − 1.
        per_layer: module name → its own cost, children excluded, so that the entries add up to the totals.  The model itself
            is ``""``.  What a module computes by functional calls, or through modules made on the fly, is its own.
    """

    parameters: int
    macs: int
    flops: int
    per_layer: Mapping[str, LayerCost] = field(repr=False)
    operations: int = 0

    def __str__(self) -> str:
        lines = [f"{'layer':<40} {'kind':<24} {'parameters':>12} {'MACs':>16}"]
        lines += [
            f"{layer.name or '(model)':<40} {layer.kind:<24} {layer.parameters:>12,} {layer.macs:>16,}"
            for layer in self.per_layer.values()
            if layer.parameters or layer.macs
        ]
        return "\n".join([*lines, f"{'total':<40} {'':<24} {self.parameters:>12,} {self.macs:>16,}"])


def cost(module: nn.Module, example_input: Any) -> Cost:
    """Cost of one forward pass of ``module`` in eval mode on ``example_input``, for the batch as given.

    Conventions (Zhang's deck, "Examples for Computational Complexity"): a convolution of C input channels (of its group) and
    kernel K × K with L × L × C' outputs takes ``C·K·K·L·L·C'`` MACs and twice as many flops; every output is an inner
    product of N = C·K·K terms, which is N products and N − 1 sums.  The slide's ``2(CKK − 1)`` operations an output is
    therefore off by one: it is ``2CKK − 1``, and that is ``operations`` here.  Products with zero padding count, as in the
    slide.  A transposed convolution takes ``C'·K·K`` MACs an *input* (C' of the group).  Attention takes ``2·L·S·E`` MACs a
    batch element (L queries, S keys, width E over all heads): QKᵀ and AV, whichever kernel computes it, masked or not.
    Recurrent layers take all gates' products at every step, nn.Bilinear the matrix products ``xᵀW`` and ``(xᵀW)y``.

    The model runs once, as it is, without gradients, in eval mode; each submodule's mode is restored.  Operators are seen
    below autograd, so that fused attention and the encoder layers' fast path count like the same mathematics written out.
    What leaves torch (numpy, a Triton kernel launched by hand) cannot be seen.

    Args:
        module: any model; its parameters, buffers and mode are as before afterwards, unless its own forward changes them.
        example_input: a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.

    Raises:
        InvalidInput: parameters that are not initialised yet, or an input the model does not take.
        UnsupportedModule: a kernel of unknown cost; the message says how to register a rule.

    >>> c = cost(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 4 * 4, 10)), torch.zeros(1, 3, 4, 4))
    >>> c.macs, c.flops, c.parameters  # 3·9·16·8 + 128·10
    (4736, 9472, 1514)
    """
    lazy = [name for name, tensor in module.named_parameters() if is_lazy(tensor)]
    if lazy:
        raise InvalidInput(f"{lazy[0]} is not initialised yet: run the model once before asking for its cost")
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    meter = _Meter(module)
    arguments, keywords = call_arguments(example_input)
    with in_eval(module), torch.no_grad(), _eager(), warnings.catch_warnings(), meter.counting():
        warnings.filterwarnings("ignore", message=r"Using `torch.compile\(module\)` when there are global hooks")
        warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
        try:
            module(*arguments, **keywords)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            if isinstance(error, NotImplementedError):
                raise
            raise InvalidInput(f"{type(module).__name__} cannot be run on this example input: {error}") from error
    return meter.total()


def call_arguments(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call: a mapping is keywords, a tuple or list positional, all else one argument."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, tuple | list):
        return tuple(example_input), {}
    return (example_input,), {}


@contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _eager() -> Any:
    """Compiled parts run uncompiled, where this torch can be told so: compiled kernels cannot be counted.

    Telling it loads the compiler, which takes seconds; where that is not loaded, nothing is compiled.
    """
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None or "torch._dynamo" not in sys.modules else stance("force_eager")


class _Meter(TorchDispatchMode):
    """Adds up products under the innermost running module that has a name."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would load its compiler, which takes seconds, to be told not to compile this; under :func:`_eager` nothing is."""
        return False

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.names = {part: name for name, part in module.named_modules()}
        self.stack: list[str] = []
        self.spent: dict[str, Products] = dict.fromkeys(self.names.values(), NONE)
        self.calls: dict[str, int] = dict.fromkeys(self.names.values(), 0)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Global hooks, not the modules' own: those would switch torch's fast paths off."""
        with ExitStack() as stack:
            stack.callback(torch_module.register_module_forward_pre_hook(self._enter).remove)
            stack.callback(torch_module.register_module_forward_hook(self._leave, always_call=True).remove)
            stack.enter_context(self)
            yield

    def _enter(self, part: nn.Module, _: Any) -> None:
        name = self.names.get(part)
        if name is not None:
            self.stack.append(name)
            self.calls[name] += 1

    def _leave(self, part: nn.Module, _: Any, __: Any) -> None:
        if part in self.names and self.stack:
            self.stack.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name not in RULES and func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with self:  # inference mode shows composite operators whole
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        named = [kwargs.get(a.name) for a in func._schema.arguments[len(args) :]] if kwargs else []
        products = products_of(func, [*args, *named], result)
        if products.macs:
            name = self.stack[-1] if self.stack else ""
            self.spent[name] = self.spent[name] + products
        return result

    def total(self) -> Cost:
        seen: set[int] = set()
        layers = {}
        for part, name in self.names.items():
            own = [p for p in part.parameters(recurse=False) if id(p) not in seen]
            seen.update(map(id, own))
            macs, outputs = self.spent[name]
            size = sum(p.numel() for p in {id(p): p for p in own}.values())
            kind = type(part).__name__
            layers[name] = LayerCost(name, kind, self.calls[name], size, macs, 2 * macs, 2 * macs - outputs)
        parts = layers.values()
        return Cost(
            parameters=sum(layer.parameters for layer in parts),
            macs=sum(layer.macs for layer in parts),
            flops=sum(layer.flops for layer in parts),
            per_layer=layers,
            operations=sum(layer.operations for layer in parts),
        )
