"""Curvature of the mean loss as matrix-free linear operators: Hessian, generalised Gauss–Newton, Fisher, empirical Fisher.

One product costs a double backward pass over all examples. Batches whose graphs of first derivatives fit in ``memory`` keep them, so
that later products do not run the model again; the rest are run anew for every product, batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.operators.kept_graphs import KeptGraphs
from nonvacuous.operators.lanczos import top_eigenpairs
from nonvacuous.operators.mean_loss import Batch, Loss, MeanLoss, refuse_once_differentiable

__all__ = ["Curvature", "Gradient", "eigenvalues", "empirical_fisher", "fisher", "ggn", "gradient", "hessian"]

MEMORY = 2**30
"""Bytes of graphs that an operator keeps by default."""

Parts = Sequence[Tensor | None]


class Product(Protocol):
    """One batch's matrix applied to tensors of the parameters' shapes, None standing for zero; and Jᵀu for u of the outputs' shape."""

    outputs: Tensor

    def __call__(self, vector: list[Tensor]) -> Parts: ...

    def adjoint(self, dual: Tensor) -> Parts: ...


class Curvature:
    """A symmetric [P, P] matrix that is only ever multiplied: ``operator @ v`` for v [P] or [P, k], of the operator's dtype.

    Attributes: ``shape`` (P, P); ``dtype``; ``device``; ``names``, ``offsets``, ``sizes`` of the parameters in the flat vector;
    ``examples`` N; ``products`` done so far (columns).

    The weights must not change while the operator is in use: graphs are kept. Make a new one after a step.
    """

    def __init__(self, mean: MeanLoss, linearised: Callable[[MeanLoss, Batch], Product], memory: int = MEMORY) -> None:
        self._mean = mean
        self.shape, self.dtype, self.device = (mean.size, mean.size), mean.dtype, mean.device
        self.names, self.offsets, self.sizes, self.examples = mean.names, mean.offsets, mean.sizes, mean.examples
        self.products = 0
        self._graphs = KeptGraphs(mean, linearised, memory)

    def __matmul__(self, right: Tensor) -> Tensor:
        columns = self._checked(right)
        total = torch.zeros_like(columns)
        for batch, product in self._graphs:
            with self._graphs.refusing(batch):
                for column, image in zip(columns, total, strict=True):
                    self._add(batch.share, product, column, image)
        self.products += len(columns)
        total = self._mean.summed(total)
        return total[0] if right.ndim == 1 else total.mT.contiguous()

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """A flat vector [P] by parameter, in their shapes (views)."""
        return dict(zip(self.names, self._mean.split(vector), strict=True))

    def dense(self, most: int = 20_000) -> Tensor:
        """The matrix itself [P, P], by P products; refused above ``most``."""
        if self.shape[0] > most:
            raise InvalidInput(f"the matrix would have {self.shape[0]} rows, above {most}: use products, or raise most")
        return self @ torch.eye(self.shape[0], dtype=self.dtype, device=self.device)

    def start(self, generator: torch.Generator) -> Tensor:
        """A vector [P] in which the largest eigenvectors weigh much, for a search to start from: Jᵀ(∇²_f ℓ)z, z affine in the outputs.

        The outliers of a network's spectrum lie near the span of the classes' mean output gradients (Papyan 2020, JMLR 21); z is a
        random combination of them that needs no labels. Costs a backward pass, a fraction of a product.
        """
        total, drawn = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device), None
        for batch, product in self._graphs:
            with self._graphs.refusing(batch):
                outputs = (
                    product.outputs.detach().flatten(1) if product.outputs.ndim > 1 else product.outputs.detach()[:, None]
                )
                if drawn is None:
                    width, rank = outputs.shape[1], min(outputs.shape[1], 32)
                    sizes = ((width,), (width, rank), (rank, width))
                    drawn = [torch.randn(size, generator=generator).to(outputs) for size in sizes]
                mixed = outputs / outputs.square().mean().sqrt().clamp_min(1e-30) @ drawn[1] @ drawn[2]
                z = (drawn[0] + mixed / (outputs.shape[1] * len(drawn[2])) ** 0.5).reshape(product.outputs.shape)
                bent = _output_hessian(self._mean, product.outputs, batch)(z)
                for place, part in zip(self._mean.split(total), product.adjoint(z if bent is None else bent), strict=True):
                    if part is not None:
                        place.add_(part, alpha=batch.share)
        return self._mean.summed(total)

    def free(self) -> None:
        """Drop the graphs that are kept; later products make them again."""
        self._graphs.free()

    def _checked(self, right: Tensor) -> Tensor:
        if not isinstance(right, Tensor) or right.ndim not in (1, 2) or len(right) != self.shape[0]:
            shape = tuple(right.shape) if isinstance(right, Tensor) else type(right).__name__
            raise InvalidInput(f"this operator multiplies [{self.shape[0]}] or [{self.shape[0]}, k]; got {shape}")
        if right.dtype != self.dtype:
            raise InvalidInput(f"the operator is {self.dtype}, the vector {right.dtype}: convert one of them")
        return (right[None] if right.ndim == 1 else right.mT).detach().to(self.device).contiguous()

    def _add(self, share: float, product: Product, column: Tensor, image: Tensor) -> None:
        mean = self._mean
        for place, part in zip(mean.split(image), product(mean.split(column)), strict=True):
            if part is not None:
                place.add_(part, alpha=share)


def hessian(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    *,
    parameters: Iterable[str] | None = None,
    memory: int = MEMORY,
    group: Any = None,
) -> Curvature:
    """∇²L of the mean loss over all examples (:class:`~nonvacuous.operators.mean_loss.MeanLoss`), by double backward.

    Args:
        model: in the mode in which it is meant; frozen parameters are left out, tied ones count once.
        loss: (outputs, targets) ↦ mean over the batch, as ``torch.nn.functional.cross_entropy``.
        batches: (x, y) again and again: a list or a loader, not a one-pass iterator. x may be a tensor, a tuple of arguments or a
            dict of keyword arguments.
        parameters: names of those to differentiate by; all trainable ones by default.
        memory: bytes of graphs to keep between products; 0 runs the model anew for every product.
        group: a ``torch.distributed`` process group each of whose ranks passes its own batches; products are summed over them.

    Raises InvalidInput for empty or one-pass batches, a random model (dropout), a loss that is not finite or not one number,
    outputs without gradient; UnsupportedModule, naming the layer, where torch cannot differentiate twice.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".

    >>> model = nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> (hessian(model, nn.functional.mse_loss, [(x, torch.zeros(2, 1))]).dense() - x.T @ x).abs().max().item()  # 2/n · XᵀX, n = 2
    0.0
    """
    return Curvature(MeanLoss(model, loss, batches, parameters, group), _Hessian, memory)


def ggn(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    *,
    parameters: Iterable[str] | None = None,
    memory: int = MEMORY,
    group: Any = None,
) -> Curvature:
    """Generalised Gauss–Newton matrix (1/N) Σ Jᵀ(∇²_f ℓ)J, J the Jacobian of the outputs by the weights; arguments as `hessian`.

    Positive semidefinite where the loss is convex in the outputs. Source: Schraudolph 2002; Martens 2020 (JMLR 21), section 8.
    """
    return Curvature(MeanLoss(model, loss, batches, parameters, group), _GaussNewton, memory)


def fisher(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    *,
    parameters: Iterable[str] | None = None,
    memory: int = MEMORY,
    group: Any = None,
) -> Curvature:
    """Fisher information (1/N) Σ E_{y ~ p(·|x)}[∇ℓ ∇ℓᵀ] of the model's own predictive distribution; arguments as `hessian`.

    For losses −log p of an exponential family whose natural parameters are the outputs (cross entropy; squared error as a Gaussian of
    fixed variance) it equals the generalised Gauss–Newton matrix (Martens 2020, section 9.2), by which it is computed here. There the
    loss's Hessian by the outputs does not depend on the target, which is tested: a loss that fails raises InvalidInput.
    """
    mean = MeanLoss(model, loss, batches, parameters, group)
    _check_natural(mean)
    return Curvature(mean, _GaussNewton, memory)


def empirical_fisher(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    *,
    parameters: Iterable[str] | None = None,
    memory: int = MEMORY,
    group: Any = None,
) -> Curvature:
    """(1/N) Σ g gᵀ over the examples' own loss gradients g, with the labels of the data; arguments as `hessian`.

    The uncentred covariance of the gradient noise. It is not the Fisher information (Kunstner, Hennig and Balles 2019). The loss
    must be a mean of one term an example (the outputs' first dimension), and the model must treat examples one by one.
    """
    mean = MeanLoss(model, loss, batches, parameters, group)
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training for part in model.modules()):
        raise InvalidInput(
            "in training mode batch normalisation mixes the examples, so that none has a gradient of its own: model.eval()"
        )
    return Curvature(mean, _Empirical, memory)


@dataclass(frozen=True)
class Gradient:
    """The mean loss over all examples and its gradient as a flat vector [P]."""

    loss: float
    vector: Tensor


def gradient(
    model: nn.Module, loss: Loss, batches: Iterable[Any], *, parameters: Iterable[str] | None = None, group: Any = None
) -> Gradient:
    """L and ∇L; arguments as `hessian`."""
    mean = MeanLoss(model, loss, batches, parameters, group)
    value = torch.zeros((), dtype=torch.float64, device=mean.device)
    total = torch.zeros(mean.size, dtype=mean.dtype, device=mean.device)
    for batch in mean:
        with torch.enable_grad():
            own = mean.value(mean.outputs(batch), batch)
            parts = torch.autograd.grad(own, mean.parameters, allow_unused=True)
        value += batch.share * own.detach().double()
        total += batch.share * mean.flat(parts)
    return Gradient(float(mean.summed(value)), mean.summed(total))


def eigenvalues(operator: Any, k: int = 5, *, tolerance: float = 1e-3, seed: int | torch.Generator = 0) -> list[Measured]:
    """The k algebraically largest eigenvalues of a symmetric operator, descending, as brackets; indicators.

    Each is [θ, θ + r] with θ a Ritz value (never above the true one, by Cauchy's interlacing) and r its residual, both widened by the
    measured rounding. An indicator, since no Krylov method can exclude an eigenvalue that it missed. A value that did not converge
    has a wide bracket; :func:`nonvacuous.operators.lanczos.top_eigenpairs` gives the flags, the vectors and more options.

    >>> [round(value.midpoint, 6) for value in eigenvalues(torch.diag(torch.tensor([1.0, 4.0, 3.0, 4.0, -9.0]).double()), 3)]
    [4.0, 4.0, 3.0]
    """
    return top_eigenpairs(operator, k, tolerance=tolerance, seed=seed).measured()


class _Hessian:
    """∇² of one batch's loss by a double backward pass over a kept graph."""

    def __init__(self, mean: MeanLoss, batch: Batch) -> None:
        self.outputs, self.parameters = mean.outputs(batch), mean.parameters
        value = mean.value(self.outputs, batch)
        first = torch.autograd.grad(value, self.parameters, create_graph=True, allow_unused=True)
        self.curved = [(i, g) for i, g in enumerate(first) if g is not None and g.requires_grad]
        refuse_once_differentiable([g for _, g in self.curved])

    def __call__(self, vector: list[Tensor]) -> Parts:
        if not self.curved:
            return [None] * len(vector)
        moving, along = [g for _, g in self.curved], [vector[i] for i, _ in self.curved]
        return torch.autograd.grad(moving, self.parameters, along, retain_graph=True, allow_unused=True)

    def adjoint(self, dual: Tensor) -> Parts:
        return torch.autograd.grad(self.outputs, self.parameters, dual, retain_graph=True, allow_unused=True)


class Jacobian:
    """J = ∂outputs/∂w of one batch: J v by differentiating the linear map u ↦ Jᵀu, and Jᵀu."""

    def __init__(self, mean: MeanLoss, outputs: Tensor) -> None:
        self.outputs, self.parameters = outputs, mean.parameters
        self.dual = torch.zeros_like(outputs).requires_grad_()
        pulled = torch.autograd.grad(outputs, self.parameters, self.dual, create_graph=True, allow_unused=True)
        self.pulled = [(i, g) for i, g in enumerate(pulled) if g is not None and g.requires_grad]
        refuse_once_differentiable([g for _, g in self.pulled])

    def times(self, vector: list[Tensor]) -> Tensor:
        moving = [g for _, g in self.pulled]
        return torch.autograd.grad(moving, self.dual, [vector[i] for i, _ in self.pulled], retain_graph=True)[0]

    def adjoint(self, dual: Tensor) -> Parts:
        return torch.autograd.grad(self.outputs, self.parameters, dual, retain_graph=True, allow_unused=True)


class _GaussNewton(Jacobian):
    """Jᵀ(∇²_f ℓ)J of one batch."""

    def __init__(self, mean: MeanLoss, batch: Batch) -> None:
        super().__init__(mean, mean.outputs(batch))
        self.curvature = _output_hessian(mean, self.outputs, batch)

    def __call__(self, vector: list[Tensor]) -> Parts:
        bent = self.curvature(self.times(vector))
        return [None] * len(vector) if bent is None else self.adjoint(bent)


def _output_hessian(mean: MeanLoss, outputs: Tensor, batch: Batch) -> Callable[[Tensor], Tensor | None]:
    """v ↦ ∇²_f loss · v for v of the outputs' shape; None where the loss is piecewise linear."""
    leaf = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(mean.value(leaf, batch), leaf, create_graph=True)

    def times(v: Tensor) -> Tensor | None:
        return torch.autograd.grad(slope, leaf, v, retain_graph=True, allow_unused=True)[0] if slope.requires_grad else None

    return times


class _Empirical(Jacobian):
    """The mean of gᵢgᵢᵀ over one batch."""

    def __init__(self, mean: MeanLoss, batch: Batch) -> None:
        outputs = mean.outputs(batch)
        leaf = outputs.detach().requires_grad_()
        (self.slope,) = torch.autograd.grad(mean.value(leaf, batch), leaf)
        if len(self.slope) != len(batch.targets):
            raise InvalidInput(
                f"{len(self.slope)} outputs for {len(batch.targets)} targets: the empirical Fisher needs one row an example"
            )
        super().__init__(mean, outputs)

    def __call__(self, vector: list[Tensor]) -> Parts:
        along = (len(self.slope) * self.slope * self.times(vector)).flatten(1).sum(1)  # gᵢᵀJᵢv
        return self.adjoint(self.slope * along.reshape(-1, *[1] * (self.slope.ndim - 1)))


def _check_natural(mean: MeanLoss) -> None:
    batch = next(iter(mean))
    with torch.no_grad(), torch.enable_grad():
        outputs = mean.outputs(batch).detach()
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
        images = [
            _output_hessian(mean, outputs, Batch(batch.inputs, targets, batch.share))(probe)
            for targets in (batch.targets, batch.targets.roll(1, 0))
        ]
    first, second = (torch.zeros_like(probe) if image is None else image for image in images)
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-5 * float(first.abs().max())):
        raise InvalidInput(
            "the loss's Hessian by the outputs depends on the targets, so that this loss is not −log of an exponential family "
            "in its natural parameters (class weights, a robust loss, probabilities instead of scores): its Fisher information "
            "is not determined by the loss alone. Use ggn or empirical_fisher"
        )
