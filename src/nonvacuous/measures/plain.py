"""Torch's transformer encoder written out in layers, so that tracers see through its control flow and fused paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class EncoderLayer(nn.Module):
    """What nn.TransformerEncoderLayer computes in eval mode without masks, from the same parts under the same names."""

    def __init__(self, layer: nn.TransformerEncoderLayer) -> None:
        super().__init__()
        self.self_attn, self.norm_first = layer.self_attn, layer.norm_first
        self.linear1, self.linear2, self.norm1, self.norm2 = layer.linear1, layer.linear2, layer.norm1, layer.norm2
        self.activation: Callable[[Tensor], Tensor] = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self._attended(self.norm1(x))
            return x + self._fed(self.norm2(x))
        x = self.norm1(x + self._attended(x))
        out: Tensor = self.norm2(x + self._fed(x))
        return out

    def _attended(self, x: Tensor) -> Tensor:
        out: Tensor = self.self_attn(x, x, x, need_weights=False)[0]
        return out

    def _fed(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(self.activation(self.linear1(x)))
        return out


def written_out(model: nn.Module) -> nn.Module:
    """The model with torch's own encoder layers and encoders replaced; a model of one's own is changed in place."""
    plain = _plain(model)
    if plain is not model:
        return plain
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            new = _plain(child)
            if new is not child:
                setattr(part, name, new)
    return model


def _plain(part: Any) -> nn.Module:
    if type(part) is nn.TransformerEncoderLayer and part.self_attn.batch_first:
        return EncoderLayer(part).eval()
    if type(part) is nn.TransformerEncoder and all(type(layer) is nn.TransformerEncoderLayer for layer in part.layers):
        return nn.Sequential(*(_plain(layer) for layer in part.layers), *([part.norm] if part.norm is not None else [])).eval()
    module: nn.Module = part
    return module
