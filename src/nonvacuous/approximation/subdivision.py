"""A piecewise linear network cuts a set into cells on which it is affine: layer by layer, in bounded memory.

On each cell every tensor of the network is an affine function of d coordinates, held as d + 1 tensors (its coefficients, the constant
last) stacked in the batch dimension. Affine operations act on the stack; a ReLU first cuts the cells by its units' zero lines. Only
a unit that cuts a cell can cut its parts, so each cell is cut by its own few units, and work grows with the output. A max-pool is
computed as max(a, b) = b + relu(a − b), one candidate after another.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nonvacuous.approximation import regions_pooling
from nonvacuous.approximation.cells import Cells
from nonvacuous.core.errors import UnsupportedModule

_WITH_OFFSET = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip
_HOMOGENEOUS = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Flatten,
    nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ZeroPad1d, nn.ZeroPad2d,
    nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.PixelShuffle, nn.PixelUnshuffle,
)  # fmt: skip
_OFFSET_FUNCTIONS = (F.linear, F.conv1d, F.conv2d, F.conv3d)
_HOMOGENEOUS_FUNCTIONS = (
    F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool2d, F.dropout, regions_pooling.windows, torch.flatten, torch.reshape, torch.cat,
    torch.mean, torch.sum, torch.permute, torch.squeeze, torch.unsqueeze, torch.neg, operator.neg, operator.getitem,
)  # fmt: skip
_HOMOGENEOUS_METHODS = {
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "mean", "sum", "neg", "chunk",
}  # fmt: skip
_SUMS = {
    operator.add: 1,
    operator.iadd: 1,
    torch.add: 1,
    operator.sub: -1,
    operator.isub: -1,
    torch.sub: -1,
    "add": 1,
    "sub": -1,
    "add_": 1,
}
_MATRIX_PRODUCTS = {operator.matmul, torch.matmul, "matmul", torch.mm, "mm"}
_PRODUCTS = {operator.mul, torch.mul, "mul", operator.truediv, torch.div, "div"}


@dataclass(frozen=True)
class Bends:
    """A function of one variable: breaks b₁ < … < b_p and, on the p + 1 intervals, slope (of each channel, if a tensor) and intercept."""

    breaks: tuple[float, ...]
    slopes: tuple[float | Tensor, ...]
    intercepts: tuple[float, ...]


RELU = Bends((0.0,), (0.0, 1.0), (0.0, 0.0))


def _clamp(low: float, high: float) -> Bends:
    return Bends((low, high), (0.0, 1.0, 0.0), (low, 0.0, high))


def _limits(arguments: tuple[Any, ...], named: dict[str, Any], names: Sequence[str], default: Sequence[float]) -> list[float]:
    given = dict(zip(names, arguments, strict=False)) | named
    return [float(given.get(name, value)) for name, value in zip(names, default, strict=True)]


def _between(low: Any, high: Any) -> Bends | None:
    """A clamp by numbers, or by one number only."""
    if not all(limit is None or isinstance(limit, int | float) for limit in (low, high)) or low is high is None:
        return None
    if low is None:
        return Bends((float(high),), (1.0, 0.0), (0.0, float(high)))
    if high is None:
        return Bends((float(low),), (0.0, 1.0), (float(low), 0.0))
    return _clamp(float(low), float(high)) if low < high else None


def bends(function: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None) -> Bends | None:
    """The bends of an activation, given as a module, a function or a method's name; None if it is no piecewise linear one."""
    named = named or {}
    match function:
        case nn.ReLU() | F.relu | torch.relu | F.relu_ | "relu" | "relu_":
            return RELU
        case nn.LeakyReLU():
            return Bends((0.0,), (function.negative_slope, 1.0), (0.0, 0.0))
        case F.leaky_relu:
            slope = arguments[0] if arguments else named.get("negative_slope", 0.01)
            return Bends((0.0,), (float(slope), 1.0), (0.0, 0.0))
        case nn.ReLU6() | F.relu6:
            return _clamp(0.0, 6.0)
        case nn.Hardtanh():
            return _clamp(float(function.min_val), float(function.max_val))
        case F.hardtanh:
            return _clamp(*_limits(arguments, named, ("min_val", "max_val"), (-1.0, 1.0)))
        case nn.PReLU():
            return Bends((0.0,), (function.weight.detach(), 1.0), (0.0, 0.0))
        case torch.clamp | torch.clip | "clamp" | "clip" | torch.clamp_min | "clamp_min" | torch.clamp_max | "clamp_max":
            names = {"clamp_min": ("min",), "clamp_max": ("max",)}.get(getattr(function, "__name__", function), ("min", "max"))
            limits = dict(zip(names, arguments, strict=False)) | named
            return _between(limits.get("min"), limits.get("max"))
        case torch.abs | "abs" | operator.abs:
            return Bends((0.0,), (-1.0, 1.0), (0.0, 0.0))
    return None


@dataclass(frozen=True)
class Found:
    """Some of the final cells, and the output's coefficients on them ``[N, d + 1, outputs]``."""

    cells: Cells
    outputs: np.ndarray


@dataclass(frozen=True)
class _Varying:
    """A tensor that depends on the input: coefficients stacked as ``[N (d + 1), …]``."""

    stack: Tensor


class Subdivision:
    """A copy of a network, in float64 and evaluation mode, ready to cut cells.

    ``memory`` bounds, in bytes, the coefficients held at once behind one layer. Raises :class:`UnsupportedModule` for a network that
    cannot be traced by ``torch.fx``, and, while running, for one that is not piecewise linear.
    """

    def __init__(self, module: nn.Module, memory: int = 2**27) -> None:
        self.memory = memory
        name = type(module).__name__
        try:
            self.whole = copy.deepcopy(module).cpu().double().eval()
            self.graph = _AsReLUs(fx.symbolic_trace(self.whole)).transform()
        except UnsupportedModule:
            raise
        except Exception as error:  # whatever the user's forward raises when it is traced
            raise UnsupportedModule(
                f"{name} cannot be traced ({error}): regions need a forward without data-dependent branches"
            ) from error
        self.nodes = list(self.graph.graph.nodes)
        if sum(node.op == "placeholder" for node in self.nodes) != 1:
            raise UnsupportedModule(f"{name} takes several inputs: regions are counted for networks with one input tensor")
        self.last_use = {argument: i for i, node in enumerate(self.nodes) for argument in node.all_input_nodes}

    def run(self, cells: Cells, inputs: Tensor) -> Iterator[Found]:
        """All final cells, in parts. ``inputs``: coefficients ``[d + 1, *shape]`` of the network's input in the cells' coordinates."""
        stack = inputs.double().expand(len(cells), *inputs.shape).reshape(-1, *inputs.shape[1:])
        with torch.no_grad():
            for found in self._continued(0, cells, {node: _Varying(stack) for node in self.nodes if node.op == "placeholder"}):
                self._compare(found, inputs.double())
                yield found

    def _compare(self, found: Found, inputs: Tensor, most: int = 4) -> None:
        """Refuse a model whose graph computes something else than the model itself, inside some of the cells found."""
        point = found.cells.taken(np.arange(min(most, len(found.cells)))).inner()
        point = np.concatenate([point, np.ones((len(point), 1))], 1)
        truth = self.whole(torch.tensordot(torch.from_numpy(point), inputs, 1)).reshape(len(point), -1).numpy()
        seen = np.einsum("nk,nku->nu", point, found.outputs[: len(point)])
        allowed = 1e-6 * (np.abs(truth) + np.abs(found.outputs[: len(point)]).sum(1)).max(initial=0.0) + 1e-280
        if truth.shape != seen.shape or not np.abs(truth - seen).max(initial=0.0) <= allowed:
            raise UnsupportedModule(
                f"{type(self.whole).__name__}: its traced steps do not compute what it computes. It may mix the examples of a "
                "batch, draw random numbers, or branch on data"
            )

    def _continued(self, start: int, cells: Cells, env: dict[Any, Any]) -> Iterator[Found]:
        k = cells.dimension + 1
        for i, node in enumerate(self.nodes[start:], start):
            if node.op == "placeholder":
                continue
            if node.op == "output":
                out = _value(node.args[0], env)
                if not isinstance(out, _Varying):
                    raise UnsupportedModule("the network's output must be one tensor that depends on its input")
                yield Found(cells, out.stack.reshape(len(cells), k, -1).numpy())
                return
            found = self._bends(node, env)
            if found is not None:
                yield from self._cut(i, node, *found, cells, env)
                return
            env[node] = self._affine(node, env, k)
            for value in _leaves(env[node]):
                if isinstance(value, _Varying) and value.stack.shape[:1] != (len(cells) * k,):
                    raise UnsupportedModule(
                        f"{node.name} mixes the examples of a batch: every step must keep the batch dimension first"
                    )
            env = {name: value for name, value in env.items() if self.last_use.get(name, -1) > i}

    # -- cutting -----------------------------------------------------------------------------------------------------------

    def _cut(self, i: int, node: fx.Node, x: _Varying, bent: Bends, cells: Cells, env: dict[Any, Any]) -> Iterator[Found]:
        """Cut all cells where units meet their breaks, then go on behind the node in parts that fit into memory."""
        k, shape = cells.dimension + 1, x.stack.shape[1:]
        before = x.stack.reshape(len(cells), k, -1).numpy()
        tests = np.concatenate([_shifted(before, b) for b in bent.breaks], axis=2)
        parts, parent = self._pieces(cells, tests)
        live = {name: value for name, value in env.items() if self.last_use.get(name, -1) > i}
        held = before.shape[2] * (2 + len(bent.breaks)) + sum(
            v.stack[0].numel() for v in live.values() if isinstance(v, _Varying)
        )
        step = max(1, self.memory // (8 * k * held))
        slopes = np.stack([_by_unit(slope, shape) for slope in bent.slopes])
        intercepts, units = np.array(bent.intercepts), np.arange(before.shape[2])
        for begin in range(0, len(parts), step):
            some = parts.taken(np.arange(begin, min(begin + step, len(parts))))
            above = parent[begin : begin + step]
            point = np.concatenate([some.inner(), np.ones((len(some), 1))], 1)
            piece = (np.einsum("nk,nku->nu", point, tests[above]) > 0).reshape(len(some), len(bent.breaks), -1).sum(1)
            after = before[above] * slopes[piece, units][:, None]
            after[:, -1] += intercepts[piece]
            rows = torch.from_numpy((above[:, None] * k + np.arange(k)).reshape(-1))
            inner = {name: _Varying(v.stack[rows]) if isinstance(v, _Varying) else v for name, v in live.items()}
            inner[node] = _Varying(torch.from_numpy(after).reshape(-1, *shape))
            yield from self._continued(i + 1, some, inner)

    def _pieces(self, cells: Cells, tests: np.ndarray) -> tuple[Cells, np.ndarray]:
        """All parts of all cells, and the cell each came from."""
        step = max(1, self.memory // (128 * tests.shape[2]))
        starts = range(0, len(cells), step)
        cuts = np.concatenate([cells.taken(np.arange(s, min(s + step, len(cells)))).cut(tests[s : s + step]) for s in starts])
        order, number = np.argsort(~cuts, axis=1, kind="stable"), cuts.sum(1)
        parent = np.arange(len(cells))
        finished: list[tuple[Cells, np.ndarray]] = []
        turn = 0
        while len(cells):
            over = number[parent] <= turn
            if over.any():
                finished.append((cells.taken(np.flatnonzero(over)), parent[over]))
                cells, parent = cells.taken(np.flatnonzero(~over)), parent[~over]
            if len(cells):
                function = tests[parent, :, order[parent, turn]]
                cut = cells.cut(function[:, :, None])[:, 0]
                low, high = cells.taken(np.flatnonzero(cut)).halves(function[cut])
                cells = cells.taken(np.flatnonzero(~cut)).joined(low).joined(high)
                parent = np.concatenate([parent[~cut], parent[cut], parent[cut]])
            turn += 1
        done, origin = finished[0]
        for more, where in finished[1:]:
            done, origin = done.joined(more), np.concatenate([origin, where])
        return done, origin

    # -- evaluating --------------------------------------------------------------------------------------------------------

    def _bends(self, node: fx.Node, env: dict[Any, Any]) -> tuple[_Varying, Bends] | None:
        """The input and the bends of a node that is an activation of something varying, else None."""
        if node.op not in ("call_module", "call_function", "call_method") or not node.args:
            return None
        x = _value(node.args[0], env)
        if not isinstance(x, _Varying):
            return None
        what: Any = self.graph.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        bent = bends(what, tuple(node.args[1:]), dict(node.kwargs))
        return None if bent is None else (x, bent)

    def _affine(self, node: fx.Node, env: dict[Any, Any], k: int) -> Any:
        """The value of a node that is affine in what varies."""
        args, kwargs = _value(node.args, env), _value(node.kwargs, env)
        if node.op == "get_attr":
            return _attribute(self.graph, str(node.target))
        target: Any = node.target
        function: Callable[..., Any] = target
        if node.op == "call_module":
            layer = function = self.graph.get_submodule(target)
            homogeneous, offset = isinstance(layer, _HOMOGENEOUS), isinstance(layer, _WITH_OFFSET)
            label = f"{target} ({type(layer).__name__})"
        else:
            if node.op == "call_method":
                function = getattr(Tensor, target)
            homogeneous = target in _HOMOGENEOUS_METHODS or any(target is f for f in _HOMOGENEOUS_FUNCTIONS)
            offset = any(target is f for f in _OFFSET_FUNCTIONS)
            label = f"{node.name} ({getattr(target, '__name__', target)})"
        varying = [value for value in _leaves((args, kwargs)) if isinstance(value, _Varying)]
        if not varying or target in ("size", "dim") or function is getattr:
            return function(*_bare(args), **_bare(kwargs))
        if homogeneous:
            return _wrapped(function(*_bare(args), **_bare(kwargs)))
        if offset and isinstance(args[0], _Varying) and len(varying) == 1:
            return _Varying(_without_offset(function, args[0].stack, _bare(args[1:]), _bare(kwargs), k))
        if target in _MATRIX_PRODUCTS and len(varying) == 1 and isinstance(args[0], _Varying) and args[0].stack.dim() > 1:
            return _Varying(function(*_bare(args), **_bare(kwargs)))
        if target in _SUMS and len(args) == 2 and not kwargs:
            return _sum(args[0], args[1], _SUMS[target], k)
        if (
            target in _PRODUCTS
            and len(varying) == 1
            and (isinstance(args[0], _Varying) or function in (operator.mul, torch.mul))
        ):
            return _Varying(function(*_bare(args), **_bare(kwargs)))
        raise UnsupportedModule(
            f"{label}: no rule, or it is not piecewise linear; regions are those of ReLU networks and their like"
        )


class _AsReLUs(fx.Transformer):
    """Rewrites max-pools, maxima and minima of two as ReLUs of differences."""

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        pooled = regions_pooling.of_module(self.submodules[str(target)], args[0])
        return super().call_module(target, args, kwargs) if pooled is None else pooled

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        pooled = regions_pooling.of_function(target, args, kwargs)
        if pooled is not None:
            return pooled
        if len(args) == 2 and not kwargs and all(isinstance(value, fx.Proxy) for value in args):
            if target in (torch.maximum, torch.max):
                return F.relu(args[0] - args[1]) + args[1]
            if target in (torch.minimum, torch.min):
                return args[1] - F.relu(args[1] - args[0])
        return super().call_function(target, args, kwargs)


def _by_unit(slope: float | Tensor, shape: torch.Size) -> np.ndarray:
    """A slope for each unit of tensors of this shape (without the batch); a tensor holds one for each channel, or one for all."""
    if isinstance(slope, Tensor):
        slope = slope.reshape(-1, *[1] * (len(shape) - 1))
    return torch.as_tensor(slope, dtype=torch.float64).expand(shape).reshape(-1).numpy()


def _shifted(coefficients: np.ndarray, by: float) -> np.ndarray:
    """The functions minus a constant."""
    if by == 0:
        return coefficients
    shifted = coefficients.copy()
    shifted[:, -1] -= by
    return shifted


def _without_offset(function: Callable[..., Any], stack: Tensor, args: Any, kwargs: Any, k: int) -> Tensor:
    """An affine function of a stack: its offset belongs to the constants only."""
    out: Tensor = function(stack, *args, **kwargs)
    offset = function(torch.zeros_like(stack[:1]), *args, **kwargs)
    split = out.reshape(-1, k, *out.shape[1:])
    split[:, :-1] -= offset
    return out


def _sum(a: Any, b: Any, sign: int, k: int) -> _Varying:
    """a ± b, where at least one varies; a constant is added to the constants only."""
    if isinstance(a, _Varying) and isinstance(b, _Varying):
        return _Varying(a.stack + sign * b.stack)
    stack, constant = (a.stack.clone(), sign * b) if isinstance(a, _Varying) else (sign * b.stack, a)
    split = stack.reshape(-1, k, *stack.shape[1:])
    split[:, -1] += constant
    return _Varying(split.reshape(stack.shape))


def _attribute(root: nn.Module, path: str) -> Any:
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _value(argument: Any, env: dict[Any, Any]) -> Any:
    return fx.node.map_arg(argument, lambda node: env[node])


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, tuple | list):
        for part in tree:
            yield from _leaves(part)
    else:
        yield tree


def _bare(tree: Any) -> Any:
    """The stacks themselves in place of what wraps them."""
    if isinstance(tree, dict):
        return {name: _bare(value) for name, value in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(_bare(part) for part in tree)
    return tree.stack if isinstance(tree, _Varying) else tree


def _wrapped(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_wrapped(part) for part in value)
    return _Varying(value) if isinstance(value, Tensor) else value
