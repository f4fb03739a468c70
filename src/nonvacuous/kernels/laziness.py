"""How far training left the lazy regime, where a network stays its linearisation at the start. All numbers are indicators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.alignment import alignment
from nonvacuous.measures.linearisation import pushed, trainable
from nonvacuous.measures.tangent import tangent_kernel
from nonvacuous.measures.tangent_outputs import OutputTrace
from nonvacuous.runtime.models import outputs
from nonvacuous.runtime.values import Inputs


@dataclass(frozen=True)
class LazyDistance:
    """All are 0 (the alignment 1) in the lazy limit.

    kernel_change: ‖Θ_T − Θ_0‖_F/‖Θ_0‖_F of the kernels' traces over the outputs. kernel_alignment: ⟨Θ_T, Θ_0⟩/(‖Θ_T‖‖Θ_0‖), which
    a change of scale does not move. weight_movement: ‖θ_T − θ_0‖/‖θ_0‖. linearisation_error: ‖f_T − f_lin‖/‖f_T − f_0‖ on the inputs,
    f_lin = f_0 + J_0(θ_T − θ_0): the share of what training did to the outputs that the first derivative does not explain; None where
    the outputs did not change.
    """

    kernel_change: float
    kernel_alignment: float
    weight_movement: float
    linearisation_error: float | None


def lazy_distance(
    initial: nn.Module,
    trained: nn.Module,
    inputs: Inputs,
    *,
    memory: int = 2**30,
    kernels: tuple[Tensor, Tensor] | None = None,
) -> LazyDistance:
    """Distance of a trained network from the lazy regime, on a sample of inputs ``[n, …]``.

    Args:
        initial: the network before training, of the same architecture. kernels: the traces of both tangent kernels ``[n, n]``, initial
            and trained, if they are known already.

    Raises:
        InvalidInput: parameters of other names or shapes, the same module twice, or what
            :func:`~nonvacuous.kernels.empirical.empirical_ntk` refuses.

    Source: Chizat, Oyallon and Bach 2019, "On lazy training in differentiable programming".
    """
    if initial is trained:
        raise InvalidInput("the initial network is the trained one: keep a copy from before training (copy.deepcopy)")
    before, after = trainable(initial), trainable(trained)
    if {k: v.shape for k, v in before.items()} != {k: v.shape for k, v in after.items()}:
        raise InvalidInput(
            "the initial network has other trainable parameters than the trained one: it must be the same architecture"
        )
    if kernels is None:
        first, last = (tangent_kernel(net, inputs, memory=memory, outputs=OutputTrace()) for net in (initial, trained))
    else:
        first, last = kernels
    start = first.double()
    change = float((last.double() - start).norm() / start.norm().clamp(min=1e-300))
    steps = {name: after[name].to(value.device) - value for name, value in before.items()}
    moved = _size(steps) / max(_size(before), 1e-300)
    with torch.no_grad():
        f0, f1 = (outputs(net, inputs).double() for net in (initial, trained))
    f0, f1 = f0.reshape(len(f0), -1), f1.reshape(len(f1), -1).to(f0.device)
    size = float((f1 - f0).norm())
    error = None
    if size > 0:
        error = float((f1 - f0 - pushed(initial, inputs, steps).double().reshape(f0.shape)).norm()) / size
    return LazyDistance(change, alignment(first, last), moved, error)


def _size(values: dict[str, Tensor]) -> float:
    return float(torch.stack([value.double().norm().cpu() for value in values.values()]).norm())
