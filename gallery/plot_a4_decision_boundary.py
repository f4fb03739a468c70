"""
The same units in two layers draw a finer boundary
==================================================

With 20 hidden units, two layers of 10 fit a wavy boundary between two classes with fewer errors than one layer of 20 (the experiment
of figure 1 in Montúfar, Pascanu, Cho and Bengio 2014). Twelve networks of each shape are trained: one lucky run proves nothing.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection
from torch import nn

from nonvacuous.approximation.regions import slice_regions

RUNS = 12
generator = torch.Generator().manual_seed(0)
points = 2 * torch.rand(800, 2, generator=generator) - 1
labels = (points[:, 1] > 0.5 * torch.sin(3 * torch.pi * points[:, 0])).float()


def trained(hidden: list[int]) -> tuple[list[nn.Sequential], np.ndarray]:
    """RUNS networks, trained at once with their weights stacked; their errors, best first."""
    torch.manual_seed(0)
    sizes = list(zip([2, *hidden], [*hidden, 1], strict=True))
    weights = [(torch.randn(RUNS, a, b) * (2 / a) ** 0.5).requires_grad_() for a, b in sizes]
    biases = [(torch.randn(RUNS, 1, b) / 2).requires_grad_() for _, b in sizes]

    def scores() -> torch.Tensor:
        h = points.expand(RUNS, -1, -1)
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            h = torch.baddbmm(b, h, w).relu()
        return torch.baddbmm(biases[-1], h, weights[-1])[..., 0]

    optimizer = torch.optim.Adam([*weights, *biases], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        loss = RUNS * nn.functional.binary_cross_entropy_with_logits(scores(), labels.expand(RUNS, -1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    errors = ((scores() > 0) != (labels > 0.5)).float().mean(1)
    order = errors.argsort()
    networks = []
    for run in order.tolist():
        layers: list[nn.Module] = []
        for w, b in zip(weights, biases, strict=True):
            layers += [nn.Linear(*w.shape[1:]), nn.ReLU()]
            layers[-2].weight.data, layers[-2].bias.data = w[run].T.detach(), b[run, 0].detach()
        networks.append(nn.Sequential(*layers[:-1]))
    return networks, errors[order].numpy()


def boundary(network: nn.Module) -> list[np.ndarray]:
    """The straight pieces of {f = 0} in the square: one a region that it crosses."""
    regions = slice_regions(network, torch.zeros(2), *torch.eye(2))
    pieces = []
    for corners, count, (a, b, c) in zip(regions.corners, regions.count, regions.outputs[:, :, 0], strict=True):
        p = corners[:count]
        v = p @ [a, b] + c
        q, w = np.roll(p, -1, axis=0), np.roll(v, -1)
        ends = [p[i] + v[i] / (v[i] - w[i]) * (q[i] - p[i]) for i in np.flatnonzero(v * w < 0)]
        if len(ends) == 2:
            pieces.append(np.array(ends))
    return pieces


# %%
# The best of twelve, with its boundary drawn piece by piece, and the errors of all.
runs = {name: trained(hidden) for name, hidden in (("one layer of 20", [20]), ("two layers of 10", [10, 10]))}
figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), width_ratios=(1, 1, 0.7))
for axis, (name, (networks, errors)) in zip(axes, runs.items(), strict=False):
    pieces = boundary(networks[0])
    wrong = ((networks[0](points)[:, 0] > 0) != (labels > 0.5)).numpy()
    axis.scatter(*points.T, c=labels, cmap="coolwarm", s=6, alpha=0.35)
    axis.scatter(*points[wrong].T, marker="x", c="black", s=24)
    axis.add_collection(LineCollection(pieces, colors=["black", "tab:green"], linewidths=2))
    axis.set(title=f"{name}, best: {int(wrong.sum())} of 800 wrong,\n{len(pieces)} straight pieces", aspect="equal")
    axes[2].plot(errors * 100, np.arange(1, RUNS + 1) / RUNS, drawstyle="steps-post", label=name)
axes[2].set(xlabel="training error, %", ylabel="share of the runs", title=f"all {RUNS} runs")
axes[2].legend()
figure.tight_layout()
plt.show()

assert np.median(runs["two layers of 10"][1]) < np.median(runs["one layer of 20"][1])
