"""The matrix of an affine layer, by applying the module itself to unit vectors in float64: slow, and beyond doubt."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn


def dense_matrix(module: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """(outputs, inputs) matrix of the linear part of ``module`` in eval mode on inputs of ``input_shape`` without the batch."""
    exact = copy.deepcopy(module).double().eval()
    count = prod(input_shape)
    with torch.no_grad():
        units = torch.eye(count, dtype=torch.float64).reshape(count, *input_shape)
        images = exact(units) - exact(torch.zeros(1, *input_shape, dtype=torch.float64))
    return images.reshape(count, -1).T


def dense_spectral_norm(module: nn.Module, input_shape: Sequence[int]) -> float:
    """Largest singular value by a full SVD."""
    return float(torch.linalg.matrix_norm(dense_matrix(module, input_shape), 2))
