"""The three ways to see a model's graph."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode, resolve_name

from nonvacuous.operators.graph import Graph, Node, Parent, is_leaf, operation_of, parents_in, shape_of
from nonvacuous.operators.operations import READERS, UNKNOWN, name_of, word_of_call

Leaves = tuple[type[nn.Module], ...]


class _Input(fx.Proxy):
    """An input whose sizes but the batch's are those of the example, so that a forward may check them; its numbers stay unknown."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, sizes: tuple[int, ...]) -> None:
        super().__init__(node, tracer)
        self.sizes = sizes

    @property
    def shape(self) -> tuple[Any, ...]:
        batch = self.tracer.create_proxy("call_method", "size", (self, 0), {})
        return (batch, *self.sizes[1:])


class _Tracer(fx.Tracer):
    """Leaves by class; a module whose forward cannot be traced is kept whole, and so becomes a node by itself."""

    def __init__(self, leaves: Leaves, shapes: dict[str, tuple[int, ...]] | None = None) -> None:
        super().__init__()
        self.leaves, self.shapes = leaves, shapes or {}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        if node.op == "placeholder" and self.shapes.get(str(node.target)):
            return _Input(node, self, self.shapes[str(node.target)])
        return super().proxy(node)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m, self.leaves)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stack, before = self.module_stack.copy(), set(self.graph.nodes)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.module_stack = stack
            for node in reversed([n for n in self.graph.nodes if n not in before]):
                self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def _refuse_mutation(traced: fx.Graph) -> None:
    """Raise where a result is written into its argument and read there: a graph of values would miss it."""
    for n in traced.nodes:
        name = name_of(n.target) if n.op in ("call_function", "call_method") else ""
        if not n.users and name.endswith("_") and not name.endswith("__"):
            raise ValueError(f"{n.name} changes its argument in place")


def by_fx(module: nn.Module, arguments: Sequence[Any], keywords: dict[str, Any], leaves: Leaves) -> Graph:
    """Symbolic trace, true for every input of the example's shape but for the batch; run once on the example for the shapes."""
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*arguments, **keywords).arguments
    except TypeError:
        bound = {}
    tracer = _Tracer(leaves, {name: shape_of(value) for name, value in bound.items()})
    traced = tracer.trace(module)
    _refuse_mutation(traced)
    shapes: dict[str, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            shapes[n.name] = shape_of(result)
            return result

    compiled = fx.GraphModule(tracer.root, traced)
    names = [node.target for node in traced.nodes if node.op == "placeholder"]
    given = dict(zip(names, arguments, strict=False)) | keywords
    defaults = {node.target: node.args[0] for node in traced.nodes if node.op == "placeholder" and node.args}
    Recorder(compiled).run(*[given.get(name, defaults.get(name)) for name in names])
    modules = dict(module.named_modules())

    nodes = []
    for n in traced.nodes:
        args, kwargs = _replaced(n.args), _replaced(n.kwargs)
        parents = parents_in(args, kwargs)
        called = modules[n.target] if n.op == "call_module" else None
        owner = n.target if called is not None else _owner(n)
        word = {"placeholder": "input", "output": "output", "get_attr": "parameter"}.get(n.op)
        if word is None:
            word = operation_of(called, n.target, leaves)
            word = word if called is not None else word_of_call(word, name_of(n.target), args, kwargs, _is_plain)
        nodes.append(
            Node(
                n.name,
                word,
                owner,
                called,
                type(called).__name__ if called is not None else name_of(n.target),
                parents,
                tuple(shapes[p] for p in parents),
                shapes[n.name],
                args if n.op != "get_attr" else (n.target,),
                kwargs,
            )
        )
    return Graph(tuple(nodes), "torch.fx")


def _is_plain(value: Any) -> bool:
    """Neither a tensor nor something that holds one."""
    return not isinstance(value, Tensor | Parent | tuple | list | dict)


def _replaced(value: Any) -> Any:
    """Nested arguments with nodes as :class:`Parent`."""
    if isinstance(value, fx.Node):
        return Parent(value.name)
    if isinstance(value, tuple | list):
        return tuple(map(_replaced, value)) if isinstance(value, tuple) else [_replaced(part) for part in value]
    if isinstance(value, dict):
        return {key: _replaced(part) for key, part in value.items()}
    return slice(_replaced(value.start), _replaced(value.stop), _replaced(value.step)) if isinstance(value, slice) else value


def _owner(node: fx.Node) -> str:
    """The module whose forward made a functional call."""
    stack = node.meta.get("nn_module_stack") or {}
    last = next(reversed(list(stack.values())), None)
    path = last[0] if isinstance(last, tuple) else ""
    return str(path).removeprefix("L['self'].").removeprefix("L['self']")


@contextmanager
def _quiet() -> Iterator[None]:
    """No logs: a failed export is an answer, not an event."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def by_export(module: nn.Module, arguments: Sequence[Any], keywords: dict[str, Any], leaves: Leaves) -> Graph:
    """``torch.export``: aten operators, each filed under the module it comes from."""
    with _quiet():
        program = torch.export.export(module, tuple(arguments), keywords)
    modules = dict(module.named_modules())
    _refuse_mutation(program.graph)
    signature = program.graph_signature.input_specs
    constants = {spec.arg.name for spec in signature if spec.target is not None}
    nodes = []
    for n in program.graph.nodes:
        args, kwargs = _replaced(n.args), _replaced(n.kwargs)
        parents = parents_in(args, kwargs)
        word = {"placeholder": "input", "output": "output"}.get(n.op)
        word = word or word_of_call(operation_of(None, n.target), name_of(n.target), args, kwargs, _is_plain)
        word = "parameter" if n.name in constants else word
        shapes = {p.name: shape_of(p.meta.get("val")) for p in n.all_input_nodes}
        owner = _owner(n)
        # a layer of torch's own that does just this; what a subclass computes besides stays functional
        layer = modules.get(owner)
        if layer is None or not type(layer).__module__.startswith("torch.nn") or operation_of(layer, None) != word:
            layer = None
        nodes.append(
            Node(
                n.name,
                word,
                owner,
                layer,
                name_of(n.target),
                parents,
                tuple(shapes[p] for p in parents),
                shape_of(n.meta.get("val")),
                args,
                kwargs,
            )
        )
    return Graph(tuple(nodes), "torch.export")


class _Recorder(TorchFunctionMode):
    """Writes down one run: leaf modules from hooks, everything between them from the function mode."""

    def __init__(self, module: nn.Module, leaves: Leaves) -> None:
        super().__init__()
        self.names = {part: name for name, part in module.named_modules()}
        self.leaves, self.inside, self.stack = leaves, 0, [""]
        self.nodes: list[Node] = []
        self.made: dict[int, str] = {}
        self.fed: set[str] = set()  # names of the nodes that depend on an input
        self.alive: list[Any] = []  # so that no id is used twice

    def named(self, value: Any) -> Any:
        """Arguments with tensors replaced by the nodes that made them."""
        if isinstance(value, Tensor):
            if id(value) in self.made:
                return Parent(self.made[id(value)])
            kind = "parameter" if isinstance(value, nn.Parameter) else "constant"
            return Parent(self.add("parameter", None, kind, (), {}, value))
        if isinstance(value, tuple | list):
            return type(value)(self.named(part) for part in value) if type(value) in (tuple, list) else value
        return {key: self.named(part) for key, part in value.items()} if isinstance(value, dict) else value

    def add(self, word: str, module: nn.Module | None, kind: str, args: Any, kwargs: Any, result: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        parents = parents_in(args, kwargs)
        shapes = {node.name: node.shape_out for node in self.nodes}
        owner = self.names.get(module, self.stack[-1]) if module is not None else self.stack[-1]
        shapes_in = tuple(shapes[p] for p in parents)
        self.nodes.append(Node(name, word, owner, module, kind, parents, shapes_in, shape_of(result), args, kwargs))
        if word == "input" or any(parent in self.fed for parent in parents):
            self.fed.add(name)
        for tensor in _tensors(result):
            self.made[id(tensor)] = name
            self.alive.append(tensor)
        return name

    def enter(self, part: nn.Module, args: Any, kwargs: Any) -> None:
        self.stack.append(self.names.get(part, self.stack[-1]))
        self.inside += self.inside > 0 or is_leaf(part, self.leaves)

    def leave(self, part: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        self.stack.pop()
        if self.inside == 1:
            self.inside = 0
            self.add(
                operation_of(part, None, self.leaves), part, type(part).__name__, self.named(args), self.named(kwargs), result
            )
        elif self.inside:
            self.inside -= 1
        else:
            unseen = [t for t in _tensors(result) if id(t) not in self.made]
            if unseen:  # the module did something no mode saw
                self.add(UNKNOWN, part, type(part).__name__, self.named(args), self.named(kwargs), result)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.inside and (given := _tensors([args, kwargs])):
            name, word = name_of(func), operation_of(None, func)
            followed = any(self.made.get(id(tensor)) in self.fed for tensor in given)
            if name == "__get__":  # an attribute; of a constant it is one more constant
                word = UNKNOWN if followed else "shape"
            if (_tensors(result) and word != "shape") or (followed and name in READERS):
                arguments, keywords = self.named(args), self.named(kwargs)
                word = word_of_call(word, name, arguments, keywords, _is_plain)
                self.add(word, None, name or str(resolve_name(func)), arguments, keywords, result)
        return result


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, tuple | list) else []


def by_recording(module: nn.Module, arguments: Sequence[Any], keywords: dict[str, Any], leaves: Leaves) -> Graph:
    """One run on the example, written down."""
    recorder = _Recorder(module, leaves)
    for tensor in _tensors([list(arguments), keywords]):
        recorder.add("input", None, "input", (), {}, tensor)
    with ExitStack() as stack:
        stack.callback(torch_module.register_module_forward_pre_hook(_without_keywords(recorder.enter)).remove)
        stack.callback(torch_module.register_module_forward_hook(_result_hook(recorder.leave), always_call=True).remove)
        stack.enter_context(recorder)
        result = module(*arguments, **keywords)
    recorder.stack = [""]
    args = recorder.named([result])
    recorder.add("output", None, "output", tuple(args), {}, None)
    return Graph(tuple(recorder.nodes), "recording")


def _without_keywords(enter: Callable[..., None]) -> Callable[..., None]:
    def hook(part: nn.Module, args: Any) -> None:
        enter(part, args, {})

    return hook


def _result_hook(leave: Callable[..., None]) -> Callable[..., None]:
    def hook(part: nn.Module, args: Any, result: Any) -> None:
        leave(part, args, {}, result)

    return hook
