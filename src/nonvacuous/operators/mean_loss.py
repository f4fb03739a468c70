"""The mean loss of a model over batches of examples, ready to be differentiated twice, with its refusals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule

Loss = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of some examples, where the parameters are; ``share`` is their number over that of all examples."""

    inputs: Any
    targets: Tensor
    share: float


class MeanLoss:
    """L(w) = (1/N) Σ over batches of (examples in the batch) · loss(model(x), y), with ``loss`` a mean over the batch.

    Whatever the batch sizes, every example weighs 1/N. Where the loss is a mean over examples and the model treats them one by one,
    L does not depend on the batches. In training mode batch normalisation does not: then each batch's statistics are a part of the
    function of that batch, L is the mean over examples of what the batches give, and the running statistics stay as they are.

    Attributes: ``parameters`` those that take part (trainable, tied ones once), ``names`` theirs, ``offsets`` where each begins in the
    flat vector, ``size`` P = length of that vector, ``examples`` N (over all ranks of ``group``), ``dtype``, ``device``.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, batches: Iterable[Any], parameters: Iterable[str] | None = None, group: Any = None
    ) -> None:
        self.model, self.loss, self.batches, self.group = checked_model(model), loss, batches, group
        self.last: float | None = None  # loss of the batch evaluated last
        if not callable(loss):
            raise InvalidInput(
                f"loss is a function of (outputs, targets), as torch's cross_entropy; got {type(loss).__name__}"
            )
        if iter(batches) is batches:
            raise InvalidInput(
                "batches is a one-pass iterator, and every product reads all of them again: pass a list of (x, y) or a DataLoader"
            )
        chosen = _chosen(model, parameters)
        self.names, self.parameters = tuple(chosen), tuple(chosen.values())
        self.sizes = tuple(p.numel() for p in self.parameters)
        self.offsets = tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))
        self.size = sum(self.sizes)
        self.dtype, self.device = self.parameters[0].dtype, self.parameters[0].device
        counts = [_count(targets) for _, targets in self._pairs()]
        if not counts:
            raise InvalidInput("batches is empty: the mean loss needs at least one example")
        self.own_examples, self.own_batches = sum(counts), len(counts)
        self.examples = int(self.summed(torch.tensor(float(self.own_examples), dtype=torch.float64, device=self.device)))

    def __iter__(self) -> Iterator[Batch]:
        count = 0
        for inputs, targets in self._pairs():
            count += _count(targets)
            yield Batch(_moved(inputs, self.device), targets.to(self.device), _count(targets) / self.examples)
        if count != self.own_examples:
            raise InvalidInput(
                f"batches gave {self.own_examples} examples at first and {count} now: every product needs the same ones. Pass a list, "
                "or a loader that neither drops nor adds examples"
            )

    def _pairs(self) -> Iterator[tuple[Any, Tensor]]:
        for number, batch in enumerate(self.batches):
            if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
                raise InvalidInput(f"batch {number} is a {type(batch).__name__}; each batch is (x, y) with y a tensor [b, …]")
            if not _count(batch[1]):
                raise InvalidInput(f"batch {number} has no examples: drop it")
            yield batch[0], batch[1]

    def outputs(self, batch: Batch) -> Tensor:
        """The model's outputs with their graph; the model's buffers stay as they are."""
        with twice_differentiable(self.model):
            return _outputs(self.model, batch.inputs)

    def value(self, outputs: Tensor, batch: Batch) -> Tensor:
        """loss(outputs, targets) of one batch, a number; raises InvalidInput unless it is one, finite."""
        value = self.loss(outputs, batch.targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInput(f"the loss of a batch is one number, the mean over its examples; got {shape}")
        if not bool(torch.isfinite(value)):
            raise InvalidInput(
                f"the loss of a batch is {value.item()}: curvature needs a finite loss. Check the weights and the data for NaN, "
                "infinity, and a scale that overflows"
            )
        self.last = value.item()
        return value.reshape(())

    def summed(self, total: Tensor) -> Tensor:
        """The sum over the ranks of ``group``; the number itself without one."""
        if self.group is not None:
            torch.distributed.all_reduce(total, group=self.group)
        return total

    def flat(self, parts: Iterable[Tensor | None]) -> Tensor:
        """One vector [P] from a tensor a parameter, None being zero."""
        pairs = zip(parts, self.parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if part is None else part).reshape(-1) for part, p in pairs])

    def split(self, vector: Tensor) -> list[Tensor]:
        """The vector [P] as tensors of the parameters' shapes (views)."""
        parts = vector.split(self.sizes)
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]


def checked_model(model: Any) -> nn.Module:
    """The model; raises InvalidInput unless it is a module without dropout at work."""
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"curvature needs an nn.Module; got {type(model).__name__}")
    random = [
        name or type(part).__name__
        for name, part in model.named_modules()
        if part.training
        and (
            (isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0)
            or (isinstance(part, nn.RNNBase) and part.dropout > 0)
            or (isinstance(part, nn.MultiheadAttention) and part.dropout > 0)
        )
    ]
    if random:
        raise InvalidInput(
            f"dropout is at work in {', '.join(random[:5])}, so that the loss is random and has no curvature: call model.eval(), or "
            "put only these layers in evaluation mode"
        )
    return model


def _chosen(model: nn.Module, wanted: Iterable[str] | None) -> dict[str, Tensor]:
    trainable: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if wanted is not None:
        names = list(wanted)
        unknown = [name for name in names if name not in trainable]
        if unknown:
            raise InvalidInput(f"no trainable parameter {unknown[0]!r}; there are {', '.join(list(trainable)[:20])}")
        trainable = {name: p for name, p in trainable.items() if name in names}
    if not trainable:
        raise InvalidInput("no parameter to differentiate by: all are frozen (requires_grad is False), or there are none")
    kinds = {(p.dtype, p.device) for p in trainable.values()}
    if len(kinds) > 1:
        raise InvalidInput(
            f"parameters of several dtypes or devices ({', '.join(f'{d} on {p}' for d, p in kinds)}): convert the model"
        )
    if next(iter(kinds))[0] not in (torch.float32, torch.float64):
        raise InvalidInput(f"parameters are {next(iter(kinds))[0]}: curvature needs float32 or float64; call model.float()")
    broken = [name for name, p in trainable.items() if not bool(torch.isfinite(p).all())]
    if broken:
        raise InvalidInput(f"the parameter {broken[0]} holds NaN or infinity")
    return trainable


def _count(targets: Tensor) -> int:
    return len(targets) if targets.ndim else 0


def _moved(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _moved(value, device) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_moved(value, device) for value in inputs)
    return inputs.to(device) if isinstance(inputs, Tensor) else inputs


def _outputs(model: nn.Module, inputs: Any) -> Tensor:
    """A dict goes in as keyword arguments, a tuple as several; ``.logits`` is read where present."""
    keywords = dict(inputs) if isinstance(inputs, Mapping) else {}
    arguments = () if keywords else inputs if isinstance(inputs, tuple) else (inputs,)
    state: dict[str, Tensor] = {}
    if any(part.training for part in model.modules()):  # what training mode would write goes into copies
        state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    given = [value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)]
    versions = [value._version for value in given]
    result: Any = torch.func.functional_call(model, state, arguments, keywords) if state else model(*arguments, **keywords)
    if [value._version for value in given] != versions:
        raise InvalidInput(
            "the model changes its input in place, so that the data differ at the next pass: let its first operation make a new tensor "
            "(inplace=False)"
        )
    result = result["logits"] if isinstance(result, Mapping) and "logits" in result else getattr(result, "logits", result)
    if isinstance(result, tuple) and len(result) == 1:
        result = result[0]
    if not isinstance(result, Tensor):
        raise InvalidInput(
            f"the model gave a {type(result).__name__}; expected a tensor of outputs (or an object with .logits)"
        )
    if not result.requires_grad:
        raise InvalidInput(
            "the model's outputs do not depend differentiably on its parameters (argmax, detach, no_grad or integer outputs): return the "
            "raw scores"
        )
    return result


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Kernels that torch can differentiate twice: attention by its plain formula, recurrent layers without cuDNN and oneDNN."""
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        if any(isinstance(part, nn.RNNBase) for part in model.modules()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # oneDNN's switch speaks of GPUs that are not there
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


def once_only(model: nn.Module, batch: Batch) -> list[str]:
    """Names of the leaf modules that cannot be differentiated twice by themselves, tried one by one on what ``batch`` brings them."""
    seen: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {}
    hooks = [
        part.register_forward_pre_hook(lambda m, given, name=name: seen.setdefault(name, (m, given)) and None)
        for name, part in model.named_modules()
        if next(part.children(), None) is None or type(part).__module__.startswith("torch.nn.modules.activation")
    ]
    try:
        with torch.no_grad():
            _run_quietly(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return [f"{name} ({type(part).__name__})" for name, (part, given) in seen.items() if not _twice(part, given)]


def _run_quietly(model: nn.Module, batch: Batch) -> None:
    try:
        _outputs(model, batch.inputs)
    except InvalidInput:  # under no_grad nothing depends on the parameters; the inputs have been seen
        return


def _twice(part: nn.Module, given: tuple[Any, ...]) -> bool:
    fresh = tuple(
        value.detach().clone().requires_grad_(value.is_floating_point()) if isinstance(value, Tensor) else value
        for value in given
    )
    wanted = [v for v in (*fresh, *part.parameters()) if isinstance(v, Tensor) and v.requires_grad]
    try:
        with twice_differentiable(part), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = part(*(value * 1.0 if isinstance(value, Tensor) and value.requires_grad else value for value in fresh))
            result = result[0] if isinstance(result, tuple) else result
            first = torch.autograd.grad((result * result).sum(), wanted, create_graph=True, allow_unused=True)
            total = sum((g * g).sum() for g in first if g is not None)
            refuse_once_differentiable([g for g in first if g is not None])
            torch.autograd.grad(total, wanted, allow_unused=True)  # type: ignore[arg-type]
    except (RuntimeError, NotImplementedError):
        return False
    return True


def refuse_once_differentiable(derivatives: Sequence[Tensor]) -> None:
    """Raise RuntimeError where the graph of first derivatives holds a function marked ``once_differentiable``.

    Autograd itself would not: it leaves out that branch, as it does not lead to the parameters, and the result would be wrong.
    """
    todo: list[Any] = [d.grad_fn for d in derivatives]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "Error" in node.name():
            raise RuntimeError("a function is marked once_differentiable")
        todo.extend(following for following, _ in node.next_functions)


def refusal(model: nn.Module, batch: Batch, error: Exception) -> UnsupportedModule:
    """What to say where autograd could not differentiate twice."""
    named = ", ".join(once_only(model, batch)[:5]) or "an operation of the model or the loss"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UnsupportedModule(
        f"{named}: cannot be differentiated twice ({reason}). Replace it by plain torch operations, or leave its parameters out "
        "(requires_grad_(False))"
    )
