"""
How steep a network is, from below and from above
=================================================

The Lipschitz constant measures capacity (Oberman's and Than's decks); Than's Lemma 4 bounds it by the product of the layers' norms, and
his Theorem 1 asks for local constants on small cells. A certified local bound (LipSDP, Fazlyab et al. 2019, layer by layer as in
Xu and Sivaranjani 2024) falls to the gradient's norm as the ball shrinks, and stays below the product.
"""

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits, make_moons
from torch import nn

from nonvacuous.measures.lipschitz import Ball, Box, global_table, local_upper, sampled_lower
from nonvacuous.measures.slopes import jacobian_norms


def trained(x, y, *widths):
    """ReLU net of these widths, full batch, 80 steps of Adam."""
    torch.manual_seed(0)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*layers[:-1])
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(80):
        adam.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        adam.step()
    return net


points, labels = make_moons(300, noise=0.15, random_state=0)
moons = trained(torch.tensor(points).float(), torch.tensor(labels), 2, 24, 24, 2)
digits = load_digits()
images, names = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
net = trained(images, names, 64, 64, 64, 10)

# %%
# A bound on each cell of a grid, beside the gradient's norm.
side, cells = np.linspace(-2, 3, 6), 5
upper = np.zeros((cells, cells))
for i in range(cells):
    for j in range(cells):
        low, high = torch.tensor([side[j], side[i]]), torch.tensor([side[j + 1], side[i + 1]])
        upper[i, j] = local_upper(moons, Box(low, high)).upper
fine = torch.cartesian_prod(*[torch.linspace(-2, 3, 5 * 8 + 1)[:-1] + 5 / 5 / 16] * 2).flip(1)

slope = jacobian_norms(moons, fine).reshape(5 * 8, 5 * 8).numpy()
steepest = slope.reshape(cells, 8, cells, 8).max((1, 3))
assert (steepest <= upper * (1 + 1e-9)).all()

# %%
radii = np.logspace(-4, 1.3, 6)
bounds = [local_upper(net, Ball(images[0], r)).upper for r in radii]
direction = torch.randn(100, 64)
direction /= direction.norm(dim=1, keepdim=True)
seen = [sampled_lower(net, images[0] + r * direction).lower for r in radii]
table = global_table(net, (64,))
product, everywhere = np.exp(table.steps[-1].log_upper), table.measured.upper
assert all(a <= b for a, b in zip(seen, bounds, strict=True))
assert bounds[0] < bounds[-1] and max(bounds) <= product * (1 + 1e-6), (bounds, seen, product, everywhere)

# %%
figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained", width_ratios=[1, 1.12, 1.2])
options = {"origin": "lower", "extent": (-2, 3, -2, 3), "vmin": 0, "vmax": upper.max(), "cmap": "magma"}
axes[0].imshow(slope, **options)
axes[0].set(title="gradient's norm")
shown = axes[1].imshow(upper, **options)
axes[1].set(title="certified bound on every cell")
figure.colorbar(shown, ax=axes[1], shrink=0.85)
for axis in axes[:2]:
    axis.scatter(*points.T, c=labels, s=5, cmap="bwr", alpha=0.5, lw=0)
    axis.set(xticks=[], yticks=[])
axes[2].fill_between(radii, seen, bounds, color="tab:blue", alpha=0.2, lw=0)
axes[2].loglog(radii, bounds, "o-", ms=4, color="tab:blue", label="certified, ball of this radius")
axes[2].loglog(radii, seen, "o-", ms=4, color="tab:orange", label="steepest of 100 points seen")
for value, text in ((product, "product of the norms (Lemma 4)"), (everywhere, "ellipsoids, all inputs")):
    axes[2].axhline(value, color="0.4", ls=":")
    axes[2].text(radii[0], value * 1.01, f"{text}: {value:.0f}", fontsize=8)
axes[2].set(
    xlabel="ℓ2 radius around a digit",
    ylabel="Lipschitz constant",
    title="64–64–64–10 net on digits",
    ylim=(min(seen) * 0.8, product * 1.2),
)
axes[2].legend(frameon=False, fontsize=8, loc="lower left")
plt.show()
