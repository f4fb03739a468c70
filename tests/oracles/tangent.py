"""The tangent kernel by definition: one backward pass for every output of every example, no vectorisation, no rule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def jacobian(model: nn.Module, x: Any) -> Tensor:
    """``[n, k, parameters]``."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    n = len(next(iter(x.values()))) if isinstance(x, dict) else len(x)
    rows = []
    for i in range(n):
        values = model(**{k: v[i : i + 1] for k, v in x.items()}) if isinstance(x, dict) else model(x[i : i + 1])
        for value in values.flatten():
            slopes = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            rows.append(
                torch.cat(
                    [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, slopes, strict=True)]
                )
            )
    return torch.stack(rows).reshape(n, -1, rows[0].numel())


def dense_kernel(model: nn.Module, x1: Any, x2: Any = None) -> Tensor:
    """``[n1, n2, k, k]``."""
    left = jacobian(model, x1)
    right = left if x2 is None else jacobian(model, x2)
    return torch.einsum("iap,jbp->ijab", left, right)
