"""
Linear regions: depth folds, chance does not
============================================

A ReLU network is affine on each of its regions, and some deep networks have exponentially many: ∏ ⌊n_l/n₀⌋^{n₀} · Σ_j C(n_L, j)
(Montúfar, Pascanu, Cho and Bengio 2014, Theorem 4). The number is met by folding the square onto itself, while random weights
stay near the (units)²/2 of a shallow network (Hanin and Rolnick 2019).
"""

# %%
# The same three hidden layers of 8 units, once folding, once with random weights; every region is counted and drawn.
from math import exp

import matplotlib.pyplot as plt
import torch
from matplotlib.collections import PolyCollection
from torch import nn

from nonvacuous.approximation.regions import folding_network, log_montufar_lower, log_serra_upper, slice_regions

torch.manual_seed(1)
widths = [8, 8, 8]
layers = [nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)]
networks = {"folding": folding_network(2, widths), "random weights": nn.Sequential(*layers)}
found = {}
figure, axes = plt.subplots(1, 2, figsize=(9, 4.6))
for axis, (name, network) in zip(axes, networks.items(), strict=True):
    square = [(0, 0), (1, 0), (1, 1), (0, 1)] if name == "folding" else [(-3, -3), (3, -3), (3, 3), (-3, 3)]
    regions = found[name] = slice_regions(network, torch.zeros(2), *torch.eye(2), square)
    polygons = [c[:n] for c, n in zip(regions.corners, regions.count, strict=True)]
    middle = torch.tensor([p.mean(0).tolist() for p in polygons])
    colours = network(middle.to(next(network.parameters()).dtype)).detach()[:, 0].numpy()
    axis.add_collection(PolyCollection(polygons, array=colours, cmap="viridis", edgecolors="white", linewidths=0.25))
    axis.autoscale_view()
    axis.set(title=f"{name}: {regions.patterns:,} regions", aspect="equal", xticks=[], yticks=[])
figure.suptitle("Three hidden layers of 8 ReLUs on the plane, coloured by the network's value")
plt.show()

# %%
# The folding network has exactly the promised number; nobody exceeds the upper bound; chance stays far below.
assert found["folding"].patterns == round(exp(log_montufar_lower(2, widths)))
assert found["folding"].patterns <= exp(log_serra_upper(2, widths))
assert found["random weights"].patterns < found["folding"].patterns / 5
