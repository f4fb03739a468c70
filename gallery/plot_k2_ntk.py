"""
The tangent kernel of a wide network
====================================

The inner product of two outputs' gradients is random at every finite width; as the width grows it tends to a number that a second
recursion gives (Jacot, Gabriel and Hongler 2018; Wu's deck, with c_σ = 1/E[σ(z)²]), and gradient descent hardly moves it.
"""

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from nonvacuous.kernels.architecture import Architecture, dense, relu, serial
from nonvacuous.kernels.recursion import nngp_ntk, unit_deviations

angles = torch.linspace(0, math.pi, 13)
circle = torch.stack([angles.cos(), angles.sin()], 1)
scaling = unit_deviations("relu", 2)  # c_σ = 2 for rectifiers: inputs of norm 1 keep variance 1 in every layer
limit = nngp_ntk(circle, depth=2, activation="relu", **scaling._asdict()).ntk[0]
net: Architecture = serial(
    dense(scaling.input_weight_std), relu(), dense(scaling.weight_std), relu(), dense(scaling.weight_std)
)


def tangent(module):
    parameters = list(module.parameters())
    rows = [
        torch.cat([g.ravel() for g in torch.autograd.grad(y, parameters, retain_graph=True)]) for y in module(circle).ravel()
    ]
    return torch.stack(rows) @ rows[0]


# %%
# Random networks at the start, and after 60 steps of gradient descent on four points of the circle.
generator = torch.Generator().manual_seed(0)
widths = (8, 32, 128, 512)
places, targets = circle[::4], torch.tensor([1.0, -1.0, 1.0, -1.0])
start, moved, curves = {}, {}, {}
for width in widths:
    before, after = [], []
    for trial in range(12):
        module = net.module((2,), width=width, generator=generator)
        before.append(tangent(module))
        if trial >= 4:
            continue  # four are trained
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(60):
            optimizer.zero_grad()
            (module(places).ravel() - targets).square().sum().div(2).backward()
            optimizer.step()
        after.append(tangent(module))
    before, after = torch.stack(before), torch.stack(after)
    curves[width] = before[:8]
    start[width] = float((before - limit).square().mean().sqrt() / limit.max())
    moved[width] = float((after - before[:4]).square().mean().sqrt() / limit.max())

# %%
figure, axes = plt.subplots(1, 3, figsize=(14, 3.9), layout="constrained")
for width, color in ((8, "tab:orange"), (512, "tab:blue")):
    axes[0].plot(angles, curves[width].T, color=color, lw=0.8)
    axes[0].plot([], [], color=color, label=f"networks of width {width}")
axes[0].plot(angles, limit, "k", lw=2, label="the limit")
axes[0].set(title="Θ(x, x'), two hidden layers", xlabel="angle between x and x'")
axes[1].loglog(widths, list(start.values()), "o-", label="from the limit, at the start")
axes[1].loglog(widths, list(moved.values()), "s-", label="moved by training")
axes[1].loglog(widths, [2 / math.sqrt(w) for w in widths], "k:", label="∝ 1/√width")
axes[1].set(title="relative distance of one network's kernel", xlabel="width")
for depth in (1, 2, 4, 8, 16):
    kernel = nngp_ntk(circle.double(), depth=depth, **scaling._asdict()).ntk[0]
    axes[2].plot(angles, kernel / kernel[0], color=plt.cm.viridis(math.log2(depth) / 4.5), label=f"depth {depth}")
    assert abs(float(kernel[0]) - (depth + 1)) < 1e-9  # every layer has its share 1 at x = x'
axes[2].set(title="Θ(x, x')/Θ(x, x) of the limit", xlabel="angle between x and x'", ylim=(-0.2, 1.02))
for axis in axes:
    axis.legend(frameon=False, fontsize=8)

assert start[512] < start[8] / 3 and moved[512] < moved[8] / 3
slope = np.polyfit(np.log(widths), np.log(list(start.values())), 1)[0]
assert abs(slope + 0.5) < 0.2, slope
plt.show()
