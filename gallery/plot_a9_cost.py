"""
What a network costs, attention included
========================================

A convolution with C·K·K terms an output takes C·K·K multiply-accumulates, and 2·C·K·K − 1 operations, not 2(C·K·K − 1) (Zhang's
deck, "Computational Complexity"). Counted below autograd, fused attention and fast paths cost what the same mathematics costs
when it is written out.
"""

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nonvacuous.operators.cost import cost

convolution = nn.Conv2d(16, 32, 3, padding=1)
measured = cost(convolution, torch.zeros(1, 16, 28, 28))
terms, outputs = 16 * 3 * 3, 32 * 28 * 28

# %%
# The slide's three lines: MACs, flops; and its operations, one too few an output.
assert measured.macs == terms * outputs
assert measured.flops == 2 * terms * outputs
assert measured.operations == (2 * terms - 1) * outputs == 2 * (terms - 1) * outputs + outputs

# %%
# A small vision transformer, by tracing. Its encoder runs in torch's fast path, as one kernel.


class Transformer(nn.Module):
    def __init__(self, width=64, depth=3):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True), depth, enable_nested_tensor=False
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.encoder(self.patches(x).flatten(2).mT).mean(1))


model = Transformer().eval()


def by_hand(side, width=64, depth=3):
    n = (side // 4) ** 2
    block = {"projections": 4 * n * width**2, "attention": 2 * n * n * width, "feed-forward": 4 * n * width**2}
    return {"patches": n * width * 48, **{k: depth * v for k, v in block.items()}, "head": 10 * width}


def torch_counts(x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() / 2


sides = [16, 32, 48, 64, 80, 96]
ours = [cost(model, torch.zeros(1, 3, side, side)).macs for side in sides]
theirs = [torch_counts(torch.zeros(1, 3, side, side)) for side in sides]
for side, macs in zip(sides, ours, strict=True):
    assert macs == sum(by_hand(side).values())

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
parts = [by_hand(side) for side in sides]
axes[0].stackplot(sides, [[p[k] / 1e6 for p in parts] for k in parts[0]], labels=list(parts[0]), alpha=0.8)
axes[0].plot(sides, [macs / 1e6 for macs in ours], "ko", label="traced")
axes[0].plot(sides, [macs / 1e6 for macs in theirs], "x", color="tab:red", ms=8, label="torch's FlopCounterMode")
axes[0].set(xlabel="image side", ylabel="million MACs", title="by hand (areas) and by tracing (dots)")
axes[0].legend(frameon=False, fontsize=8)
layers = [layer for layer in cost(model, torch.zeros(1, 3, 64, 64)).per_layer.values() if layer.macs]
axes[1].barh([layer.name for layer in layers], [layer.macs / 1e6 for layer in layers], color="tab:green")
axes[1].invert_yaxis()
axes[1].set(xscale="log", xlabel="million MACs", title="layer by layer, side 64")
plt.show()
