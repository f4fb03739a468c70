"""Evidence of the norm-based bounds, measured on a subject as the proofs demand: the layers, read once for all of them.

What the theorems call the network is a chain of affine layers and fixed activations; for spectral-margin it may branch. Nothing that
could hide a table passes: the graph must be symbolic (true for every input), of torch's own layers without hooks, and
:func:`~nonvacuous.measures.state.check_registered` must find nothing outside parameters and buffers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from nonvacuous.bounds.margin import RowProduct, row_product
from nonvacuous.bounds.spectral_complexity import SpectralComplexity
from nonvacuous.core.bound import Sample
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.lipschitz import RULES, exact_copy
from nonvacuous.measures.margins import risk_at
from nonvacuous.measures.norm_quantities import Chain, weight_graph
from nonvacuous.measures.state import check_registered
from nonvacuous.measures.subject import Number, Subject, measure
from nonvacuous.measures.weight_graph import WeightGraph
from nonvacuous.operators.graph import LEAVES, Graph
from nonvacuous.operators.rules import RULES as LAYER_RULES
from nonvacuous.operators.tracers import by_fx

TRAINING = Sample.TRAINING
DECLARE = (
    "no range of the inputs is declared, and one read off the sample says nothing of the next input: pass input_range=(low, high) "
    "(--input-range LOW:HIGH), the least and the largest number an input can hold"
)


@dataclass(frozen=True)
class NormEvidence:
    """The layers of a network, and those of its initial weights (None: distances are from zero); what costs time is computed once."""

    network: WeightGraph
    reference: WeightGraph | None

    @property
    def chain(self) -> Chain:
        """The network as a chain; raises :class:`UnsupportedModule` for one with branches."""
        return self.network.chain

    @cached_property
    def rows(self) -> RowProduct:
        """Largest Σ|w| + |b| of each layer, hidden ones at their grid points."""
        if not self.chain.elementwise or max(self.chain.constants, default=1.0) > 1:
            raise UnsupportedModule(
                "an activation reads several coordinates (max pooling) or has a slope above 1: small-weights speaks of 1-Lipschitz "
                "functions of one coordinate; spectral-margin covers this network"
            )
        return row_product([layer.largest_row_sum for layer in self.chain.layers])

    @cached_property
    def complexity(self) -> SpectralComplexity:
        """The (2,1) spectral complexity and its price."""
        return self.network.complexity(self.reference)


# -- from a subject to its chain


def norm_evidence(subject: Subject) -> NormEvidence:
    """The evidence of a subject, read once; raises :class:`UnsupportedModule` naming what is no such chain."""
    return subject.once(("norms", subject.initial), lambda: _read(subject))


def _read(subject: Subject) -> NormEvidence:
    symbolic_graph(subject)
    shape = tuple(subject.capacity_example.shape[1:])
    return NormEvidence(
        weight_graph(subject.module, shape), None if subject.initial is None else weight_graph(subject.initial, shape)
    )


def symbolic_graph(subject: Subject) -> Graph:
    """The graph of a network that is, for every input, what its layers say.

    Raises :class:`UnsupportedModule` for hooks, layers of other classes than torch's own (unless one has a registered rule), control flow
    that symbolic tracing cannot follow, and knowledge outside parameters and buffers.
    """
    return subject.once("graph", lambda: _symbolic(subject))


def _symbolic(subject: Subject) -> Graph:
    module, example = subject.module, subject.capacity_example
    if isinstance(example, dict) or not example.is_floating_point():
        raise UnsupportedModule("the inputs are named, or token ids: norms speak of networks of one array of numbers")
    check_registered(module)
    for name, part in module.named_modules():
        if part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part):
            raise UnsupportedModule(
                f"{name or type(module).__name__} has a forward hook or a forward method of its own: its output may be anything"
            )
    ruled = tuple(kind for kind in (*RULES, *LAYER_RULES) if not kind.__module__.startswith("torch.nn"))
    exact = exact_copy(module)
    try:
        with torch.no_grad():
            graph = by_fx(exact, (torch.zeros_like(example[:1], dtype=torch.float64),), {}, (*LEAVES, *ruled))
    except Exception as error:  # symbolic tracing fails in as many ways as there are models
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnsupportedModule(
            f"{type(module).__name__} cannot be traced symbolically ({why}): write its forward without control flow that depends on the "
            "data, or register a rule for the part that needs it with @lipschitz.register(…)"
        ) from error
    for node in graph:
        kind = type(node.module)
        if node.module is not None and not kind.__module__.startswith("torch.nn.") and not issubclass(kind, ruled):
            raise UnsupportedModule(
                f"{node.module_name} ({kind.__name__}) is a layer of your own: no rule says what it does. Register one "
                f"(module, input_shape) → Measured with @lipschitz.register({kind.__name__})"
            )
    return graph


# -- one function a quantity


@measure("margin", TRAINING)
def margin(subject: Subject, _: float) -> Number:
    """γ, as it was chosen for the bound at hand."""
    if subject.margin is None:
        raise InvalidInput("no margin was chosen")
    return subject.margin


@measure("margin_risk", TRAINING)
def margin_risk(subject: Subject, _: float) -> Number:
    """Fraction of the training examples with a margin of at most γ."""
    return risk_at(subject.margins, float(margin(subject, 0.0)))  # type: ignore[arg-type]


@measure("input_rms", TRAINING)
def input_rms(subject: Subject, _: float) -> Number:
    """√(1/n Σ‖x̃ᵢ‖²)."""
    return subject.sizes.rms(norm_evidence(subject).network.biased)


@measure("largest_coordinate_rms", TRAINING)
def largest_coordinate_rms(subject: Subject, _: float) -> Number:
    """Largest root mean square of an input coordinate, at least 1."""
    return subject.sizes.largest_coordinate_rms


@measure("input_bound", TRAINING)
def input_bound(subject: Subject, _: float) -> Number:
    """√(D max(low², high²)), and 1 more under the root with biases, for the declared range of inputs."""
    evidence, (low, high) = norm_evidence(subject), declared_range(subject)
    return math.sqrt(evidence.network.inputs * max(low * low, high * high) + evidence.network.biased) * (1 + 1e-12)


def declared_range(subject: Subject) -> tuple[float, float]:
    """Least and largest number an input can hold, as declared; :class:`InvalidInput` where it is not, or the samples contradict it."""
    given = subject.input_range if subject.input_range is not None else subject.train_sample.input_range
    if given is None:
        raise InvalidInput(DECLARE)
    for seen in (subject.train, subject.test):
        if seen is not None and seen.inputs is not None and not seen.inputs.within(*given):
            raise InvalidInput(
                f"inputs between {seen.inputs.low:g} and {seen.inputs.high:g} occur, outside the declared range [{given[0]:g}, "
                f"{given[1]:g}]: declare the range that all inputs keep to"
            )
    return given


def _of_chain(name: str) -> None:
    """Register what the chain itself knows under the same name."""
    measure(name, TRAINING)(lambda subject, _: getattr(norm_evidence(subject).chain, name))


def _of_network(name: str) -> None:
    """Likewise what any network of layers knows."""
    measure(name, TRAINING)(lambda subject, _: getattr(norm_evidence(subject).network, name))


for _name in ("depth", "parameters"):
    _of_chain(_name)
for _name in ("log_frobenius_product_nats", "log_spectral_product_nats", "stable_rank_sum"):
    _of_chain(_name)
for _name in ("inputs", "classes", "widest"):
    _of_network(_name)
measure("log_row_product_nats", TRAINING)(lambda subject, _: norm_evidence(subject).rows.log_row_product_nats)
measure("row_grid_nats", TRAINING)(lambda subject, _: norm_evidence(subject).rows.row_grid_nats)
measure("norm_grid_nats", TRAINING)(lambda subject, _: norm_evidence(subject).complexity.norm_grid_nats)


@measure("log_spectral_complexity_nats", TRAINING)
def log_spectral_complexity_nats(subject: Subject, _: float) -> Number:
    """ln R̄_A, distances from the initial weights where there are any, else from zero."""
    return norm_evidence(subject).complexity.log_spectral_complexity_nats


@measure("weight_norm", TRAINING)
def weight_norm(subject: Subject, _: float) -> Number:
    """‖[W, b]‖_F of a linear model, of the row w̃₁ − w̃₀ for two classes."""
    chain = norm_evidence(subject).chain
    if chain.depth != 1:
        raise UnsupportedModule(
            f"it speaks of linear models on fixed features; this network has {chain.depth} layers. Audit its last layer on features of "
            "another network that never saw this data, or read the bounds for chains"
        )
    return chain.layers[0].frobenius
