"""How far a kernel agrees with the labels: as a whole, and along each of its eigendirections. All numbers are indicators."""

from __future__ import annotations

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.spectrum import Eigenpairs


def _square(kernel: Tensor, name: str) -> Tensor:
    K = kernel.detach().double().cpu()
    if K.dim() != 2 or K.shape[0] != K.shape[1] or not len(K) or not bool(torch.isfinite(K).all()):
        raise InvalidInput(f"{name} is {tuple(kernel.shape)}; a finite kernel [n, n] is needed (for [n, n, k, k], its trace)")
    return K


def alignment(one: Tensor, other: Tensor) -> float:
    """⟨K, L⟩_F/(‖K‖_F‖L‖_F) of two kernels ``[n, n]``: 1 where they are proportional.

    :raises InvalidInput: other shapes, or a kernel that is 0.

    Source: Cristianini, Shawe-Taylor, Elisseeff and Kandola 2001, "On kernel-target alignment".
    """
    K, L = _square(one, "the first kernel"), _square(other, "the second kernel")
    if K.shape != L.shape:
        raise InvalidInput(f"kernels of {len(K)} and {len(L)} examples cannot be compared: take the same sample")
    size = float(K.norm() * L.norm())
    if not size > 0:
        raise InvalidInput("a kernel is 0 (after centring, constant): its direction is undefined")
    return float((K * L).sum()) / size


def centred(kernel: Tensor) -> Tensor:
    """HKH with H = I − 11ᵀ/n: the kernel of features with their mean taken off."""
    K = _square(kernel, "the kernel")
    rows = K.mean(1, keepdim=True)
    return K - rows - K.mean(0, keepdim=True) + rows.mean()


def centred_alignment(one: Tensor, other: Tensor) -> float:
    """Alignment of the centred kernels.

    Sources: Cortes, Mohri and Rostamizadeh 2012, "Algorithms for learning kernels based on centered alignment"; as CKA: Kornblith,
    Norouzi, Lee and Hinton 2019.
    """
    return alignment(centred(one), centred(other))


def targets_of(labels: Tensor, outputs: int | None = None) -> Tensor:
    """Targets ``[n, c]``, float64: classes (whole numbers ``[n]``) as unit vectors; real values ``[n]`` or ``[n, c]`` as they are.

    Args:
        outputs: the number of classes, by default as many as the largest label asks for.
    """
    if labels.dim() == 1 and not labels.is_floating_point() and labels.dtype != torch.bool:
        if not len(labels) or int(labels.min()) < 0:
            raise InvalidInput("class labels are whole numbers from 0 on, at least one")
        classes = int(labels.max()) + 1 if outputs is None else outputs
        if int(labels.max()) >= classes:
            raise InvalidInput(f"label {int(labels.max())} with {classes} classes: labels go from 0 to {classes - 1}")
        return torch.nn.functional.one_hot(labels.cpu().long(), classes).double()
    Y = labels.detach().double().cpu()
    if Y.dim() not in (1, 2) or not len(Y) or not bool(torch.isfinite(Y).all()):
        raise InvalidInput(f"labels {tuple(labels.shape)}: give finite targets [n] or [n, c]")
    return Y if Y.dim() == 2 else Y[:, None]


def label_alignment(kernel: Tensor, labels: Tensor) -> float:
    """Centred alignment of a kernel ``[n, n]`` with YYᵀ, the kernel of the targets (see :func:`targets_of`).

    >>> y = torch.tensor([0, 0, 1])
    >>> same = (y[:, None] == y).double()
    >>> round(label_alignment(same, y), 12)
    1.0
    """
    Y = targets_of(labels)
    if len(Y) != len(kernel):
        raise InvalidInput(f"{len(Y)} labels for a kernel of {len(kernel)} examples: give one label an example")
    return centred_alignment(kernel, Y @ Y.mT)


def label_energy(pairs: Eigenpairs, targets: Tensor) -> Tensor:
    """Share of ‖Y‖² along each eigenvector ``[m]``; sums to 1 where all eigenvectors are there.

    Args:
        targets: ``[n, c]``, or ``[n]``, for eigenvectors of a kernel ``[n, n]``; ``[n, k]`` also for those of ``[n, n, k, k]``
            unrolled, whose vectors have a component for every output of every example.

    Raises:
        InvalidInput: another number of entries than the vectors have, or targets that are all 0.
    """
    Y = targets.detach().double().cpu()
    Y = Y.reshape(-1, 1) if Y.numel() == len(pairs.vectors) else Y
    if Y.dim() != 2 or len(Y) != len(pairs.vectors):
        raise InvalidInput(f"targets {tuple(targets.shape)} for eigenvectors of {len(pairs.vectors)} entries: give as many")
    whole = float(Y.square().sum())
    if not whole > 0:
        raise InvalidInput("the targets are all 0: they have no direction")
    return (pairs.vectors.mT @ Y).square().sum(1) / whole
