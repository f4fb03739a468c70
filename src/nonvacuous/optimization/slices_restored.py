"""A model that is moved about and comes back to the very bits it had, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

NORMS_OVER_BATCHES = (nn.modules.batchnorm._BatchNorm,)


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; parameters, buffers, what asks for gradients and every module's mode as they were after.

    So after an exception and after Ctrl-C, too.  The tensors stay the same objects.
    """
    tensors = [*model.parameters(), *model.buffers()]
    kept = [x.detach().clone() for x in tensors]
    asked = [x.requires_grad for x in tensors]
    modes = {m: m.training for m in model.modules()}
    momenta = {m: m.momentum for m in batch_norms(model)}
    model.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            for x, before, ask in zip(tensors, kept, asked, strict=True):
                if x.is_leaf:
                    x.requires_grad_(ask)
                x.copy_(before)
        for m, mode in modes.items():
            m.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The layers that normalise over a batch, in their order."""
    return [m for m in model.modules() if isinstance(m, NORMS_OVER_BATCHES)]
