"""Copies of models in float64 for measuring, the weights of reparametrised layers computed anew."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from nonvacuous.core.errors import InvalidInput


def float64_copy(module: nn.Module) -> nn.Module:
    """A float64 copy in eval mode; the module is not touched.

    The weights that ``torch.nn.utils.weight_norm`` and ``spectral_norm`` compute in a hook before each run are computed once, from
    the parameters as they are, and become plain parameters of the copy.

    Raises InvalidInput for a module that cannot be copied.

    >>> layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    >>> float64_copy(layer).weight.dtype
    torch.float64
    """
    derived = [
        value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor) and not value.is_leaf
    ]
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in derived}  # deepcopy refuses what has a history
    try:
        copied = copy.deepcopy(module, memo)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{type(module).__name__} cannot be copied, and is measured on a copy: {error}. Keep tensors with a gradient history, "
            "locks and open files out of the model's attributes"
        ) from error
    copied = copied.double().eval()
    with torch.no_grad():
        for part in copied.modules():
            for hook in list(part._forward_pre_hooks.values()):
                if isinstance(hook, WeightNorm):
                    remove_weight_norm(part, hook.name)
                elif isinstance(hook, SpectralNorm):
                    remove_spectral_norm(part, hook.name)
    return copied
