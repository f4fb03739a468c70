"""Quantities and hypotheses that bounds on feed-forward networks share.

Conventions, for whoever measures them. A network is a chain ``x ↦ A_L σ_{L−1}(A_{L−1} … σ_1(A_1 x))`` of linear maps, the score of
class j being its j-th output. *Biases* are an appended coordinate: x̃ = (x, 1), hidden Ã = [[A, b], [0, 1]], last Ã = [A, b], and
every norm is of Ã. *Convolutions* are the linear map of whole feature maps (its dense matrix is never needed, its norms are);
batch-norm in evaluation is folded into its neighbour. *Two classes*: the last matrix is the one row a_1 − a_0, in every quantity
of the chain. Round every number upward, margins downward.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from nonvacuous.core.bound import Down, Hypothesis, Up
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.quantities import Quantity, Reads, quantity

MOST = 2.0**40
"""Largest depth, width or number of classes."""

for _entry in (
    Quantity(
        "margin_risk",
        "r̂_γ",
        "loss",
        0,
        1,
        Reads.TRAINING,
        "Fraction of training examples whose margin f(x)_y − max_{j≠y} f(x)_j is at most the margin γ given beside it.",
    ),
    Quantity(
        "margin",
        "γ",
        "score",
        0,
        inf,
        Reads.TRAINING,
        "Margin γ > 0 at which margin_risk was counted; may be chosen after training, the bound pays for the choice.",
    ),
    Quantity(
        "input_rms",
        "‖X‖/√n",
        "input",
        0,
        inf,
        Reads.TRAINING,
        "√(1/n Σ‖x̃ᵢ‖²) over the training inputs, the appended 1 included if the network has biases.",
    ),
    Quantity(
        "input_bound",
        "B",
        "input",
        0,
        inf,
        Reads.NOTHING,
        "Largest ‖x̃‖₂ any input can have, known beforehand (pixel range, normalisation), the appended 1 included.",
    ),
    Quantity("depth", "L", "layers", 1, MOST, Reads.NOTHING, "Linear layers of the chain, the last included.", whole=True),
    Quantity("classes", "K", "classes", 2, MOST, Reads.NOTHING, "Number of classes.", whole=True),
    Quantity(
        "widest",
        "W",
        "units",
        1,
        MOST,
        Reads.NOTHING,
        "Largest dimension of any layer's input or output, input and appended 1 included.",
        whole=True,
    ),
    Quantity(
        "log_frobenius_product_nats",
        "ln Π‖Ãᵢ‖_F",
        "nats",
        -inf,
        inf,
        Reads.NOTHING,
        "Sum over the layers of ln of the Frobenius norm, biases included.",
    ),
    Quantity(
        "log_spectral_product_nats",
        "ln Πρᵢ‖Ãᵢ‖₂",
        "nats",
        -inf,
        inf,
        Reads.NOTHING,
        "Sum over the layers of ln of the spectral norm (an upper bound of it) and of the activation's Lipschitz constant.",
    ),
):
    quantity(_entry)

RELU_CHAIN = Hypothesis(
    "relu_chain",
    "The network is a chain of affine layers with activations that act on each coordinate, are 1-Lipschitz and satisfy "
    "σ(ct) = cσ(t) for c ≥ 0 (ReLU, leaky ReLU, absolute value); nothing is read off the batch.",
    checkable=True,
)
HOMOGENEOUS_CHAIN = Hypothesis(
    "homogeneous_chain",
    "The network is a chain of affine layers with activations that are Lipschitz in the Euclidean norm with the constants counted "
    "and satisfy σ(cv) = cσ(v) for c ≥ 0 (ReLU, leaky ReLU, max-pooling); nothing is read off the batch.",
    checkable=True,
)
BOUNDED_INPUTS = Hypothesis(
    "bounded_inputs",
    "Every input that can occur in use, not only those seen, has Euclidean norm at most input_bound.",
)


class FrobeniusEvidence(NamedTuple):
    """Evidence of the bounds from a product of Frobenius norms."""

    margin_risk: Up
    margin: Down
    log_frobenius_product_nats: Up
    input_rms: Up
    depth: Up
    classes: Up
    n: Down


def check_margin(margin: float) -> None:
    """Raise :class:`InvalidEvidence` unless the margin is positive and finite."""
    if not 0 < margin < inf:
        raise InvalidEvidence(f"margin (γ) is positive and finite; got {margin}")
