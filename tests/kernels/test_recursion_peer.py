"""Dense, residual and normalised networks against stored values of neural-tangents (neural_tangents_dense.py makes them)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nonvacuous.kernels.architecture import dense, erf, gelu, layer_norm, relu, residual, serial
from nonvacuous.kernels.recursion import nngp_ntk

STORED = json.loads(Path(__file__).with_name("neural_tangents_dense.json").read_text(encoding="utf-8"))
COMPOSED = {
    "residual": serial(dense(bias_std=0.2), residual(erf(), dense(bias_std=0.2)), relu(), dense()),
    "layer norm": serial(dense(1.1, 0.4), layer_norm(), relu(), dense(1.3), layer_norm(), gelu(), dense()),
}


@pytest.mark.parametrize("case", STORED["cases"], ids=lambda c: c.get("composed") or f"{c['activation']}-{c['depth']}")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_to_neural_tangents(case: dict[str, Any], dtype: torch.dtype) -> None:
    x, y = (torch.tensor(STORED[name], dtype=dtype) for name in ("x", "y"))
    if "composed" in case:
        kernel = COMPOSED[case["composed"]].kernel(x, y)
    else:
        kernel = nngp_ntk(x, y, **{name: case[name] for name in ("depth", "activation", "weight_std", "bias_std")})
    most = 1e-7 if dtype == torch.float64 else 2e-5  # y[1] = −x[2]: arccos near −1 costs half of the digits, there and here
    for got, want in zip(kernel, (case["nngp"], case["ntk"]), strict=True):
        truth = torch.tensor(want, dtype=torch.float64)
        assert (got.double() - truth).abs().max() <= most * truth.abs().max()
