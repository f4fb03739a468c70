"""
Wide networks are Gaussian processes
====================================

As the width grows, the outputs of a random network at any inputs become jointly Gaussian, with a covariance that a recursion over the
layers gives exactly: the NNGP kernel (Lee et al. 2018; Matthews et al. 2018; Zhang's deck). Here the distance shrinks like 1/√width.
"""

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from nonvacuous.kernels.architecture import dense, gelu, layer_norm, relu, residual, serial
from nonvacuous.kernels.recursion import nngp_ntk

angles = torch.linspace(0, math.pi, 31, dtype=torch.float64)
circle = math.sqrt(2) * torch.stack([angles.cos(), angles.sin()], 1)
networks = {
    "dense, 3 hidden layers": serial(dense(), relu(), dense(), relu(), dense(), relu(), dense()),
    "residual": serial(dense(), residual(relu(), dense()), residual(relu(), dense()), relu(), dense()),
    "layer norm": serial(dense(1.0, 0.5), layer_norm(), gelu(), dense(2.0, 0.5), layer_norm(), gelu(), dense()),
}

# %%
# One description gives both: the kernel, and networks whose outputs' products average to it.
generator = torch.Generator().manual_seed(0)
widths, draws = (8, 32, 128, 512), 24
spread = {}
figure, axes = plt.subplots(1, 4, figsize=(16, 3.8), layout="constrained")
for axis, (name, net) in zip(axes, networks.items(), strict=False):
    limit = net.kernel(circle).nngp[0]
    for width, color in zip(widths, plt.cm.viridis(np.linspace(0, 0.85, 4)), strict=True):
        with torch.no_grad():
            found = []
            for _ in range(draws):
                out = net.module((2,), width=width, outputs=width, generator=generator)(circle.float()).double()
                found.append(out @ out[0] / width)
        found = torch.stack(found)
        spread[name, width] = float((found - limit).square().mean().sqrt() / limit.abs().max())
        if width in (8, 128):
            axis.plot(angles, found[:12].T, color=color, lw=0.6, alpha=0.7)
            axis.plot([], [], color=color, label=f"networks of width {width}")
    axis.plot(angles, limit, "k", lw=2, label="the limit")
    axis.set(title=name, xlabel="angle between the inputs", ylabel="mean product of outputs")
    axis.legend(frameon=False, fontsize=8)
for name in networks:
    axes[3].loglog(widths, [spread[name, w] for w in widths], "o-", ms=4, label=name)
axes[3].loglog(widths, [2 / math.sqrt(w) for w in widths], "k:", label="∝ 1/√width")
axes[3].set(title="one network's distance from the limit", xlabel="width", ylabel="relative root mean square")
axes[3].legend(frameon=False, fontsize=8)
slopes = {n: np.polyfit(np.log(widths[1:]), np.log([spread[n, w] for w in widths[1:]]), 1)[0] for n in networks}
assert all(abs(slope + 0.5) < 0.15 for slope in slopes.values()), slopes

# %%
# One hidden layer of rectifiers is the arc-cosine kernel of Cho and Saul.
closed = (angles.sin() + (math.pi - angles) * angles.cos()) / math.pi * 2
assert (nngp_ntk(circle, depth=1).nngp[0] - closed).abs().max() < 1e-7
plt.show()
