"""Losses of a network at many displacements of its weights, each way of computing them timed and the fastest taken.

Three ways, equal up to rounding.  IN_TURN writes the weights of one point after the other into the model.  SHARED_FIRST_LAYER does too, but
computes the first layer's outputs only once a batch: they are linear in the layer's weights, so at θ + Σ c_k d_k they are the sum of those
at θ and of c_k times those of d_k.  TOGETHER evaluates many points at once (``torch.func.vmap``).
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.directions import Direction, check_fit, named_state
from nonvacuous.optimization.slices_objective import Objective, Statistics, cross_entropy, squared_error
from nonvacuous.optimization.slices_restored import batch_norms, restored
from nonvacuous.runtime.models import outputs
from nonvacuous.runtime.values import Batch

LINEAR_IN_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
MOST_SHARED = 512 * 2**20
"""Bytes that the outputs of a shared first layer may take."""
MOST_TOGETHER = 1 << 24
"""Numbers that the weights of the points evaluated together may hold."""

WORTH = 0.2
"""Share of a slow pass that the first layer must take for sharing it to be tried."""
PROBES = 4
"""Points that a way is timed on."""
MOST_PROBES, BRIEF = 32, 0.02
"""Points that evaluating many at once is timed on: at most, and seconds that they may take one after the other."""
SHORT, LONG = 0.003, 0.02
"""Seconds a point and batch below which calls, not products, take the time, so that many points at once may pay; above which one try
tells enough."""


class Way(Enum):
    """How the points are evaluated."""

    IN_TURN = "one point after the other"
    SHARED_FIRST_LAYER = "one after the other, first layer shared"
    TOGETHER = "many points at once"


class Losses(NamedTuple):
    """At each point, ``losses`` [p, n] of the examples in float64 and whether they are ``wrong`` [p, n] (None without classes)."""

    losses: Tensor
    wrong: Tensor | None


class Evaluation:
    """``evaluation.at(points)`` → `Losses` at θ + Σ_k points[:, k] · directions[k]; use it as a context, which restores the model.

    ``way`` forces a way; otherwise each possible one is timed on real work, and ``seconds_per_point`` holds what the fastest took.
    """

    def __init__(self, objective: Objective, directions: Sequence[Direction], way: Way | None = None) -> None:
        for direction in directions:
            check_fit(objective.model, direction)
        self.objective, self.directions, self.way = objective, tuple(directions), way
        self.seconds_per_point = math.nan
        self._stack = ExitStack()

    def __enter__(self) -> Evaluation:
        model = self.objective.model
        with ExitStack() as stack:
            stack.enter_context(restored(model))
            stack.enter_context(torch.no_grad())
            named = dict(model.named_parameters()) | dict(model.named_buffers())
            keys = sorted({key for direction in self.directions for key in direction.tensors})
            self._named = {key: named[key] for key in keys}
            self._origin = {key: x.clone() for key, x in named_state(model).items() if key in self._named}
            self._shared: _SharedLayer | None = None
            self._choose()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._shared = None
        self._stack.close()

    def at(self, points: Tensor) -> Losses:
        """Losses at ``points`` [p, number of directions], coordinates along the directions."""
        if points.ndim != 2 or points.shape[1] != len(self.directions):
            raise InvalidInput(f"points have shape {tuple(points.shape)}; expected [p, {len(self.directions)}]")
        assert self.way is not None
        return self._at(points.double().cpu(), self.way, self.objective.batches)

    def at_state(self, state: dict[str, Tensor]) -> Losses:
        """Losses [1, n] at weights of their own: a state dict, complete or of what differs from the model's."""
        model = self.objective.model
        with restored(model):
            named = dict(model.named_parameters()) | dict(model.named_buffers())
            for key, x in state.items():
                if key in named:
                    named[key].copy_(x)
            return self._in_turn_here(self.objective.batches)

    # How to compute.

    def _at(self, points: Tensor, way: Way, batches: Sequence[Batch]) -> Losses:
        if way is Way.TOGETHER:
            return self._together(points, batches)
        shared = self._shared if way is Way.SHARED_FIRST_LAYER else None
        found = []
        for point in points.tolist():
            self._place(point)  # the shared layer's too: the model may read them elsewhere
            with shared.standing_in(point) if shared else ExitStack():
                found.append(self._in_turn_here(batches, shared))
        wrong = None if found[0].wrong is None else torch.cat([f.wrong for f in found if f.wrong is not None])
        return Losses(torch.cat([f.losses for f in found]), wrong)

    def _place(self, point: Sequence[float]) -> None:
        keys = list(self._named)
        torch._foreach_copy_([self._named[key] for key in keys], [self._origin[key] for key in keys])
        for c, direction in zip(point, self.directions, strict=True):
            moved = [key for key in keys if key in direction.tensors]
            if c and moved:
                torch._foreach_add_([self._named[key] for key in moved], [direction.tensors[key] for key in moved], alpha=c)

    def _in_turn_here(self, batches: Sequence[Batch], shared: _SharedLayer | None = None) -> Losses:
        objective = self.objective
        with normalising(objective):
            parts = []
            for i, batch in enumerate(batches):
                if shared:
                    shared.batch = i
                parts.append(_judged(objective, outputs(objective.model, batch.inputs), batch.targets))
        losses = torch.cat([part[0] for part in parts]).double().cpu()
        wrong = torch.cat([part[1] for part in parts if part[1] is not None]).cpu()[None] if objective.classify else None
        return Losses(losses[None], wrong)

    def _together(self, points: Tensor, batches: Sequence[Batch]) -> Losses:
        model, losses, wrong = self.objective.model, [], []
        size = sum(x.numel() for x in self._origin.values())
        step = max(1, min(64, MOST_TOGETHER // max(1, size)))
        for start in range(0, len(points), step):
            some = points[start : start + step]
            stacked = {key: self._stacked(key, some) for key in self._named}

            def one(weights: dict[str, Tensor], inputs: Any) -> Tensor:
                def call(*given: Any, **named: Any) -> Any:
                    return functional_call(model, weights, given, named)

                return outputs(call, inputs)  # type: ignore[arg-type]

            row, row_wrong = [], []
            for batch in batches:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that a rule is missing and torch loops: the timing says so
                    answers = vmap(one, in_dims=(0, None))(stacked, batch.inputs)
                judged = _judged_together(self.objective, answers, batch.targets)
                row.append(judged.losses)
                row_wrong += [] if judged.wrong is None else [judged.wrong]
            losses.append(torch.cat(row, 1).double().cpu())
            wrong += [torch.cat(row_wrong, 1).cpu()] if row_wrong else []
        return Losses(torch.cat(losses), torch.cat(wrong) if wrong else None)

    def _stacked(self, key: str, points: Tensor) -> Tensor:
        origin = self._origin[key]
        total = origin.expand(len(points), *origin.shape).clone()
        for k, direction in enumerate(self.directions):
            if key in direction.tensors:
                c = points[:, k].to(origin).reshape(-1, *[1] * origin.ndim)
                total += c * direction.tensors[key]
        return total

    # Which way is fastest.

    def _choose(self) -> None:
        """Time every way that gives the same losses, on the first batch; set ``way`` and ``seconds_per_point``."""
        few = self.objective.batches[:1]
        probe = torch.tensor([[0.1 * (i + 1)] * len(self.directions) for i in range(PROBES)], dtype=torch.float64)
        taken: dict[Way, float] = {}
        if self.way is not Way.SHARED_FIRST_LAYER:
            taken[self.way or Way.IN_TURN] = self._probed(probe, self.way or Way.IN_TURN, few)
        if self.way in (None, Way.SHARED_FIRST_LAYER):
            self._place([0.0] * len(self.directions))  # back from the probes
            begun = time.perf_counter()
            self._shared = _shared_layer(self)
            layer = (time.perf_counter() - begun) / (1 + len(self.directions)) / len(self.objective.batches)
            if self._shared is None and self.way is not None:
                raise InvalidInput(
                    "no first layer can be shared: it must be linear in its weights, read the input alone, and not be frozen"
                )
            if (
                self._shared is not None
                and self.way is None
                and layer * PROBES < WORTH * taken[Way.IN_TURN] > WORTH * PROBES * LONG
            ):
                self._shared = None  # little to gain, and a try costs much
            if self._shared is not None:
                taken[Way.SHARED_FIRST_LAYER] = self._probed(probe, Way.SHARED_FIRST_LAYER, few)
                if Way.IN_TURN in taken:  # which came first, and warmed up
                    taken[Way.IN_TURN] = min(taken[Way.IN_TURN], self._probed(probe, Way.IN_TURN, few))
        plain = self.objective.statistics is Statistics.FROZEN or not batch_norms(self.objective.model)
        if self.way is None and plain and (quickest := min(taken.values())) < PROBES * SHORT:
            count = min(MOST_PROBES, max(PROBES, int(BRIEF * PROBES / max(quickest, 1e-9))))
            many = torch.linspace(0.1, 0.4, count, dtype=torch.float64)[:, None].expand(count, len(self.directions))
            try:
                best = min(self._timed(many, Way.TOGETHER, few) for _ in range(2))
                taken[Way.TOGETHER] = 1.1 * best * PROBES / count
            except (RuntimeError, InvalidInput):  # vmap has no rule for it, or the model looks at values
                taken.pop(Way.TOGETHER, None)
        self.way = min(taken, key=lambda way: taken[way])
        share = sum(len(batch.targets) for batch in few) / self.objective.n
        self.seconds_per_point = taken[self.way] / len(probe) / share

    def _probed(self, probe: Tensor, way: Way, batches: Sequence[Batch]) -> float:
        """Seconds for the points of ``probe``; from one of them where that takes long, the better of two tries where it is short."""
        one = self._timed(probe[:1], way, batches)
        if one >= LONG:
            return one * len(probe)
        return min(self._timed(probe, way, batches) for _ in range(2))

    def _timed(self, probe: Tensor, way: Way, batches: Sequence[Batch]) -> float:
        alone = torch.get_num_threads() == 1 and all(x.device.type == "cpu" for x in self._origin.values())
        clock = time.process_time if alone else time.perf_counter  # on one thread, others' work does not count
        begun = clock()
        self._at(probe, way, batches)
        return clock() - begun


def _judged(objective: Objective, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    losses = objective.losses(answers, targets)
    return losses, _wrong(answers, targets) if objective.classify else None


def _judged_together(objective: Objective, answers: Tensor, targets: Tensor) -> Losses:
    """Losses and errors [p, b] of answers [p, b, …]; a loss of the user's own sees the points one by one."""
    if objective.loss not in (cross_entropy, squared_error) or answers.ndim != 3:
        judged = [_judged(objective, a, targets) for a in answers]
        wrong = torch.stack([j[1] for j in judged if j[1] is not None]) if objective.classify else None
        return Losses(torch.stack([j[0] for j in judged]), wrong)
    flat = _judged(objective, answers.flatten(0, 1), targets.repeat(len(answers), *[1] * (targets.ndim - 1)))
    shape = answers.shape[:2]
    return Losses(flat[0].reshape(shape), None if flat[1] is None else flat[1].reshape(shape))


def _wrong(answers: Tensor, targets: Tensor) -> Tensor:
    return answers.argmax(1) != targets if answers.ndim == 2 else (answers.argmax(1) != targets).flatten(1).double().mean(1)


@contextmanager
def normalising(objective: Objective) -> Iterator[None]:
    """Batch-norm set as the objective says, at the weights that the model has now."""
    norms = batch_norms(objective.model)
    if not norms or objective.statistics is Statistics.FROZEN:
        yield
        return
    if objective.statistics is Statistics.BATCH:
        for norm in norms:
            norm.training, norm.momentum = True, 0.0
        yield
        for norm in norms:
            norm.training = False
        return
    kept = [norm.track_running_stats for norm in norms]
    if not all(kept):
        raise InvalidInput(
            "batch-norm keeps no running statistics here: there is nothing to recalibrate. Use Statistics.BATCH"
        )
    for norm in norms:
        norm.reset_running_stats()
        norm.training, norm.momentum = True, None  # None: the plain mean over batches
    with torch.no_grad():
        for batch in _calibration(objective):
            outputs(objective.model, batch.inputs)
    for norm in norms:
        norm.training = False
    yield


def _calibration(objective: Objective) -> Iterator[Batch]:
    seen = 0
    for batch in objective.batches:
        if seen >= objective.calibration:
            return
        if seen and 2 * len(batch.targets) < len(objective.batches[0].targets):
            return  # a short last batch would count as much as a full one
        seen += len(batch.targets)
        yield batch


class _SharedLayer:
    """The first layer's outputs for every batch: at the origin, and of each direction."""

    def __init__(self, module: nn.Module, terms: list[list[Tensor]]) -> None:
        self.module, self.terms, self.batch = module, terms, 0

    @contextmanager
    def standing_in(self, point: Sequence[float]) -> Iterator[None]:
        def forward(_: Tensor) -> Tensor:
            origin, *rest = self.terms[self.batch]
            total = origin
            for c, term in zip(point, rest, strict=True):
                total = total + c * term if total is origin else total.add_(term, alpha=c)
            return total.clone() if total is origin else total  # what comes after may work in place

        self.module.forward = forward
        try:
            yield
        finally:
            del self.module.forward


def _shared_layer(evaluation: Evaluation) -> _SharedLayer | None:
    """The first layer, if it is plain, reads what no weight has touched, and its outputs fit into memory."""
    model, objective = evaluation.objective.model, evaluation.objective
    module = _first_layer(model, objective.batches[0])
    if module is None:
        return None
    weight, bias = module.weight, module.bias
    own = {name: key for key, p in evaluation._named.items() for name, q in (("weight", weight), ("bias", bias)) if p is q}
    terms: list[list[Tensor]] = []
    total = 0
    for batch in objective.batches:
        inputs = _input_of(model, module, batch)
        row = [module(inputs)]
        for direction in evaluation.directions:
            w = direction.tensors.get(own.get("weight", ""), torch.zeros_like(weight))
            b = None if bias is None else direction.tensors.get(own.get("bias", ""), torch.zeros_like(bias))
            row.append(functional_call(module, {"weight": w} | ({} if b is None else {"bias": b}), (inputs,)))
        total += sum(x.numel() * x.element_size() for x in row)
        if total * len(objective.batches) / (len(terms) + 1) > MOST_SHARED:
            return None
        terms.append(row)
    return _SharedLayer(module, terms)


def _first_layer(model: nn.Module, batch: Batch) -> Any:
    """The first layer called, if it is linear in its weights, called once, and its input depends on no weight and no batch-norm."""
    calls: list[nn.Module] = []
    free: list[bool] = []

    def look(module: nn.Module, given: Any) -> None:
        if any(True for _ in module.parameters(recurse=False)) or module in batch_norms(model):
            calls.append(module)
            free.append(len(given) == 1 and isinstance(given[0], Tensor) and not given[0].requires_grad)

    hooks = [m.register_forward_pre_hook(look) for m in model.modules() if not list(m.children())]
    asked = [(p, p.requires_grad) for p in model.parameters() if p.is_floating_point()]
    try:
        with torch.enable_grad():
            for p, _ in asked:
                p.requires_grad_(True)
            few = {k: v[:2] for k, v in batch.inputs.items()} if isinstance(batch.inputs, dict) else batch.inputs[:2]
            outputs(model, few)
    finally:
        for hook in hooks:
            hook.remove()
        for p, ask in asked:
            p.requires_grad_(ask)
    if not calls or not free[0] or calls.count(calls[0]) > 1:
        return None
    first = calls[0]
    hooked = first._forward_hooks or first._forward_pre_hooks or "forward" in vars(first)
    return first if type(first) in LINEAR_IN_WEIGHTS and not hooked and not hasattr(first, "parametrizations") else None


class _Seen(Exception):
    """The layer has been reached; nothing after it need run."""


def _input_of(model: nn.Module, module: nn.Module, batch: Batch) -> Tensor:
    found: list[Tensor] = []

    def stop(_: nn.Module, given: Any) -> None:
        found.append(given[0])
        raise _Seen

    hook = module.register_forward_pre_hook(stop)
    try:
        model(**batch.inputs) if isinstance(batch.inputs, dict) else model(batch.inputs)
    except _Seen:
        pass
    finally:
        hook.remove()
    return found[0]
