"""Image kernels against the stored values of neural-tangents (see neural_tangents_images.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from nonvacuous.kernels.convolution import image_kernel
from nonvacuous.kernels.layers import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Layer, LayerNorm, Nonlinearity, Residual

STORED = json.loads(Path(__file__).with_name("neural_tangents_images.json").read_text())
RELU, ERF = Nonlinearity("relu"), Nonlinearity("erf")
SAME = Conv((3, 3), padding=(1, 1), bias_std=0.1)
STRIDED = Conv((3, 3), (2, 2), (1, 1), bias_std=0.1)
READOUT = Dense(1.5, 0.2)
NETWORKS: dict[str, Sequence[Layer]] = {
    "flatten": (SAME, RELU, SAME, RELU, Flatten(), READOUT),
    "global pooling": (SAME, RELU, Conv((3, 3), padding=(1, 1)), RELU, GlobalAvgPool(), READOUT),
    "valid": (Conv((3, 2), bias_std=0.1), RELU, Conv((2, 3), bias_std=0.1), RELU, GlobalAvgPool(), READOUT),
    "strides": (STRIDED, RELU, Conv((3, 3), (1, 2), bias_std=0.1), RELU, GlobalAvgPool(), READOUT),
    "average pooling": (
        *(SAME, RELU, AvgPool((2, 2), (2, 2)), SAME, RELU, AvgPool((2, 3), (1, 1))),
        *(Flatten(), READOUT, RELU, READOUT),
    ),
    "residual": (
        SAME,
        Residual((RELU, SAME, RELU, SAME)),
        Residual((RELU, STRIDED, RELU, SAME), (Conv((1, 1), (2, 2), weight_std=1.0),)),
        *(RELU, GlobalAvgPool(), READOUT),
    ),
    "residual, flatten": (SAME, Residual((RELU, SAME)), RELU, Flatten(), READOUT),
    "layer norm": (SAME, LayerNorm(1e-3), RELU, SAME, RELU, GlobalAvgPool(), READOUT, LayerNorm(), RELU, READOUT),
    "erf": (SAME, ERF, SAME, ERF, GlobalAvgPool(), READOUT),
}


@pytest.mark.parametrize("name", STORED["kernels"])
def test_equals_neural_tangents(name: str) -> None:
    x1, x2 = (torch.tensor(STORED[side], dtype=torch.float64) for side in ("x1", "x2"))
    found = image_kernel(NETWORKS[name], x1, x2)
    for mine, theirs in zip(found, ("nngp", "ntk"), strict=True):
        torch.testing.assert_close(mine, torch.tensor(STORED["kernels"][name][theirs], dtype=torch.float64), rtol=1e-8, atol=0)
