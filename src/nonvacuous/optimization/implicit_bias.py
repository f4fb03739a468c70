"""Implicit bias along a training run: the normalised margin, and how far from the lazy regime the network has gone."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures import tangent
from nonvacuous.runtime.models import outputs

MOST_EXAMPLES = 64
MOST_ENTRIES = 30_000_000


@dataclass(frozen=True)
class BiasRecord:
    """The network at one moment of training.

    epoch: 0 before the first. margin: min over the sample of the true class's output less the best other's. norm: ‖θ‖. normalised:
    margin/‖θ‖^L, L the number of weight layers (for homogeneous networks, what gradient descent maximises in the end). weights:
    ‖θ − θ₀‖/‖θ₀‖. kernel: ‖K − K₀‖_F/‖K₀‖_F of the empirical tangent kernel: near zero in the lazy regime. All are indicators.
    """

    epoch: int
    margin: float
    norm: float
    normalised: float
    weights: float
    kernel: float


@dataclass
class BiasTracker:
    """Watches a run: ``train(…, after_epoch=tracker)``, or call ``tracker(epoch)`` in a loop of your own.

    Args:
        model: the network under training; its initial weights are those at construction. inputs ``[n, …]``, labels ``[n]``: the
            examples whose margins count; the kernel is taken on the first ``kernel_examples`` of them, at most 64,
            and fewer where their gradients would not fit in memory.
        degree: the exponent L of homogeneity; by default the number of weight tensors with two or more dimensions.

    Raises:
        InvalidInput: no parameter, or as many labels as inputs are not given.

    Sources: Lyu and Li 2020, "Gradient descent maximizes the margin of homogeneous neural networks"; Chizat, Oyallon and Bach 2019,
    "On lazy training in differentiable programming".
    """

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    degree: int | None = None
    kernel_examples: int = 16
    records: list[BiasRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels) or not len(self.inputs):
            raise InvalidInput(
                f"{len(self.inputs)} inputs and {len(self.labels)} labels: as many labels as inputs are needed, at least one"
            )
        if not any(p.requires_grad for p in self.model.parameters()):
            raise InvalidInput("the model has no trainable parameter: there is nothing to track")
        if self.degree is None:
            self.degree = sum(p.dim() >= 2 for p in self.model.parameters())
        size = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        with torch.no_grad():
            device = next(self.model.parameters()).device
            size *= outputs(self.model, self.inputs[:2].to(device))[0].numel()
        self.kernel_examples = max(1, min(self.kernel_examples, MOST_EXAMPLES, len(self.inputs), MOST_ENTRIES // size))
        self._start = _flat(self.model)
        self._kernel = tangent_kernel(self.model, self.inputs[: self.kernel_examples])
        self(0)

    def __call__(self, epoch: int, loss: float | None = None) -> BiasRecord:
        """Measure now; the record is appended to ``records`` and returned."""
        mode = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        with torch.no_grad():
            logits = outputs(self.model, self.inputs.to(device))
            labels = self.labels.to(device)
            if logits.shape[-1] == 1 or logits.dim() == 1:
                sign = torch.where(labels > 0, 1.0, -1.0)
                margin = float((logits.reshape(-1) * sign).min())
            else:
                own = logits.gather(1, labels[:, None]).squeeze(1)
                margin = float((own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)).min())
        now, kernel = _flat(self.model), tangent_kernel(self.model, self.inputs[: self.kernel_examples])
        self.model.train(mode)
        norm = float(now.norm())
        record = BiasRecord(
            epoch,
            margin,
            norm,
            margin / max(norm, 1e-300) ** (self.degree or 1),
            float((now - self._start).norm() / self._start.norm().clamp(min=1e-300)),
            float((kernel - self._kernel).norm() / self._kernel.norm().clamp(min=1e-300)),
        )
        self.records.append(record)
        return record


def tangent_kernel(model: nn.Module, inputs: Tensor) -> Tensor:
    """Empirical tangent kernel JJᵀ ``[n·k, n·k]`` of the outputs by the trainable parameters, in eval mode, float64 products on the CPU.

    For other outputs, budgets and types see :func:`nonvacuous.kernels.empirical.empirical_ntk`.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        kernel = tangent.tangent_kernel(model, inputs, dtype=torch.float64)
    finally:
        for module, training in modes.items():
            module.training = training
    n, _, k, _ = kernel.shape
    return kernel.permute(0, 2, 1, 3).reshape(n * k, n * k).cpu()


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double().cpu() for p in model.parameters() if p.requires_grad])
