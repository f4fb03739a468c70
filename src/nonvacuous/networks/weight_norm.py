"""Weight normalization with data-based initialization, on torch's own parametrization (Salimans and Kingma 2016, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrizations import weight_norm

from nonvacuous.core.errors import InvalidInput
from nonvacuous.networks.normalizers import plain_weight

__all__ = ["weight_normalized"]


def weight_normalized(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The model itself, each linear layer and convolution weight-normalized, and initialized on a batch ``[n, …]``.

    Layer by layer, in the order of one forward pass, g = 1/σ[t] and b = −μ[t]/σ[t], where t = v·x/‖v‖ is the pre-activation on the
    batch, its mean and standard deviation taken over examples and positions: every pre-activation of the batch has mean 0 and
    variance 1.  A layer that the pass reaches twice is initialized by the first.

    Raises:
        InvalidInput: fewer than two examples, NaN, a layer without bias or parametrized already, layers that the pass does not reach,
            a model that the inputs do not fit, or a pre-activation that is the same throughout the batch (σ = 0).

    >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> out = weight_normalized(net, torch.randn(50, 3))(torch.zeros(1, 3))
    """
    if not inputs.is_floating_point() or inputs.dim() < 2 or len(inputs) < 2:
        raise InvalidInput(
            f"inputs of shape {tuple(inputs.shape)} and {inputs.dtype}: a spread takes a batch of 2 or more floating-point examples"
        )
    if not bool(torch.isfinite(inputs).all()):
        raise InvalidInput("the inputs hold NaN or infinity: no scale can be taken from them")
    layers = {part: name for name, part in model.named_modules() if isinstance(part, nn.Linear | _ConvNd)}
    if not layers:
        raise InvalidInput(f"{type(model).__name__} has no linear layer or convolution to normalize")
    for part, name in layers.items():
        plain_weight(part)
        if part.bias is None:
            raise InvalidInput(f"{name or type(part).__name__} has no bias, which is to take the mean away: give it bias=True")
    for part in layers:
        weight_norm(part)
    pending = dict(layers)

    def initialise(part: nn.Module, _: Any, out: Tensor) -> Tensor | None:
        if part not in pending:
            return None
        return _initialised(part, out, pending.pop(part))

    hooks = [part.register_forward_hook(initialise) for part in layers]
    try:
        with torch.no_grad():
            model(inputs)
    except (RuntimeError, TypeError, IndexError) as error:
        raise InvalidInput(f"{type(model).__name__} cannot be run on inputs {tuple(inputs.shape)}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if pending:
        raise InvalidInput(f"{', '.join(pending.values())}: not reached by a forward pass on these inputs")
    return model


def _initialised(part: Any, out: Tensor, name: str) -> Tensor:
    """g and b set; the layer's output with them."""
    channel = 1 if isinstance(part, _ConvNd) else out.dim() - 1
    by_channel = out.movedim(channel, 0).flatten(1)
    gains = part.parametrizations.weight.original0
    current = gains.flatten()
    raw = (by_channel - part.bias[:, None]) / current[:, None]
    spread, mean = raw.std(1, correction=0), raw.mean(1)
    dead = ~(spread > 1e-6 * raw.abs().amax(1).clamp_min(1e-30))
    if bool(dead.any()):
        raise InvalidInput(
            f"{name}: pre-activation {int(dead.nonzero()[0])} does not vary over the batch, so it has no scale. Give other inputs, or "
            "initialise the layers before it anew"
        )
    gains.copy_((1 / spread).reshape(gains.shape))
    part.bias.copy_(-mean / spread)
    return ((raw - mean[:, None]) / spread[:, None]).reshape(out.movedim(channel, 0).shape).movedim(0, channel)
