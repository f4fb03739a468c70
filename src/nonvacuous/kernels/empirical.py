"""The tangent kernel of a network of finite width, at the weights it has: any ``nn.Module``, within a budget of memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nonvacuous.measures.tangent import tangent_kernel
from nonvacuous.measures.tangent_outputs import ChosenOutputs, EveryOutput, MeanDirection, Outputs, OutputTrace
from nonvacuous.runtime.tasks import progress_bar
from nonvacuous.runtime.values import Inputs

__all__ = ["ChosenOutputs", "EveryOutput", "MeanDirection", "OutputTrace", "Outputs", "empirical_ntk"]

EVERY = EveryOutput()


def empirical_ntk(
    model: nn.Module,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    memory: int = 2**30,
    outputs: Outputs = EVERY,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Θ(x, x') = Σ_p ∂f(x)/∂θ_p · ∂f(x')/∂θ_p over the trainable parameters θ, at their present values.

    Dense layers, convolutions, embeddings and normalizers contribute by products of what they received and what comes back to their
    outputs, in the cheapest of three factored forms; parameters of anything else, and parameters that several layers share, by
    differentiating the whole model. On the first examples each rule is compared with autograd, and given up where it differs. Only half
    of a symmetric kernel is computed. Everything that does not fit in ``memory`` at once is recomputed in passes.

    Args:
        model: its forward pass gives ``[n, …]`` (or an object with ``.logits``); all axes but the first count as outputs. Used in the
            mode it is in; buffers are put back. Frozen parameters (``requires_grad=False``) do not count.
        x1, x2: inputs ``[n, …]``, or a dict of such, passed as keyword arguments; x2 is x1 where absent.
        memory: bytes that may be held at once beside the model and the inputs, the result included.
        outputs: :class:`EveryOutput` ``[n1, n2, k, k]``; :class:`OutputTrace` ``[n1, n2]``; :class:`ChosenOutputs` ``[n1, n2, m, m]``;
            :class:`MeanDirection` ``[n1, n2]``, the pseudo-kernel of Σf/√k.
        dtype: of the products, by default the parameters' (at least float32). Small eigenvalues want float64.
        out: a zeroed or reusable tensor of the result's shape to write to, which then does not count against the budget.
        progress: show a bar on stderr.

    Returns:
        The kernel, on the model's device.

    Raises:
        InvalidInput: no trainable parameter; batch norm or dropout in training mode, or outputs that otherwise depend on chance or on
            the rest of the batch; outputs or inputs that are not finite; a budget that does not hold the result or one example.

    Source: Jacot, Gabriel and Hongler 2018, "Neural tangent kernel: convergence and generalization in neural networks"; factored forms
    after Novak, Sohl-Dickstein and Schoenholz 2022, "Fast finite width neural tangent kernel".

    >>> line = nn.Linear(2, 3).double()
    >>> x = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
    >>> empirical_ntk(line, x)[:, :, 0, 0]  # x·x' + 1
    tensor([[ 6., -1.],
            [-1.,  2.]], dtype=torch.float64)
    >>> empirical_ntk(line, x, outputs=OutputTrace())
    tensor([[18., -3.],
            [-3.,  6.]], dtype=torch.float64)
    """
    with progress_bar(progress) as bar:
        return tangent_kernel(model, x1, x2, memory=memory, outputs=outputs, dtype=dtype, out=out, progress=bar)
