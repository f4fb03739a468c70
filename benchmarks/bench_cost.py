"""Costs of a model beside torch's FlopCounterMode: what each counts, and in what time, in one run.

``python benchmarks/bench_cost.py`` prints a line a model: MACs by closed form or by hand, ours, torch's flops / 2, and the time
of ours over the time of a plain forward pass and of torch's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nonvacuous.operators.cost import cost


class Attend(nn.Module):
    def forward(self, q: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, q, q)


def torch_macs(module: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return int(counter.get_total_flops()) // 2


def timed(call: Callable[[], Any], repeats: int = 5) -> float:
    """Best of several, seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True).eval()
    layers = [part for c in (16, 32, 64) for part in (nn.Conv2d(c // 2 if c > 16 else 3, c, 3, padding=1), nn.ReLU())]
    convnet = nn.Sequential(*layers).eval()
    attention = 4 * 128 * 256**2 + 2 * 128 * 128 * 256
    cases: list[tuple[str, nn.Module, torch.Tensor, int]] = [
        ("convnet", convnet, torch.randn(8, 3, 32, 32), 8 * 1024 * 9 * (3 * 16 + 16 * 32 + 32 * 64)),
        ("attention (fused)", Attend(), torch.randn(8, 8, 128, 32), 2 * 8 * 8 * 128 * 128 * 32),
        ("encoder layer (fast path)", layer, torch.randn(8, 128, 256), 8 * (attention + 2 * 128 * 256 * 1024)),
        ("LSTM", nn.LSTM(64, 128, batch_first=True).eval(), torch.randn(8, 50, 64), 8 * 50 * 4 * 128 * (64 + 128)),
    ]
    print(f"{'model':<26} {'by hand':>14} {'ours':>14} {'torch':>14} {'ours/forward':>13} {'ours/torch':>11}")
    for name, module, x, expected in cases:
        ours, theirs = cost(module, x).macs, torch_macs(module, x)
        assert ours == expected, name
        with torch.no_grad():
            plain = timed(lambda m=module, x=x: m(x))  # type: ignore[misc]
        own, other = timed(lambda m=module, x=x: cost(m, x)), timed(lambda m=module, x=x: torch_macs(m, x))  # type: ignore[misc]
        print(f"{name:<26} {expected:>14,} {ours:>14,} {theirs:>14,} {own / plain:>13.2f} {own / other:>11.2f}")


if __name__ == "__main__":
    main()
