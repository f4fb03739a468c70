"""
The size of the weights
=======================

Two-layer sigmoid networks whose layers' row norms ‖w‖₁ multiply to B have fat-shattering dimension at most
2 (B/γ)² (2 ln 2 + ln(D + 2)) whatever their width, so a large margin certifies and the number of parameters does not enter (Bartlett 1998;
Bartlett's deck; constants in docs/proofs/margin.md).
"""

# %%
from itertools import pairwise
from math import log

import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.bounds.margin import SmallWeightsBound, fat_shattering_dimension, row_product

bound = SmallWeightsBound()
margins = np.geomspace(0.02, 2, 40)
fat = {B: [fat_shattering_dimension(log(B), g, 1.0, 784) for g in margins] for B in (1, 10, 100)}

# %%
# Random two-layer networks of growing width, rescaled to row norms of 1: the certificate depends on the margins only.
rng = np.random.default_rng(0)


def network(width):
    hidden, last = rng.normal(size=(width, 20)), rng.normal(size=width)
    return hidden / np.abs(hidden).sum(1, keepdims=True), last / np.abs(last).sum()


x = rng.choice([-1.0, 1.0], size=(20, 4000))
spread = {}
for width in (10, 100, 1000):
    hidden, last = network(width)
    spread[width] = last @ np.tanh(hidden @ x)
rows = row_product([1.0, 1.0])


def value(margin_risk, margin, n):
    return bound.solve(bound.Evidence(margin_risk, margin, *rows, 1.0, 784, 2, 2, n), 0.05)


sizes = np.geomspace(1e2, 1e9, 40).astype(int)
values = {g: [value(0.0, g, int(n)) for n in sizes] for g in (0.9, 0.3, 0.1)}

# %%
assert all(a >= b for line in fat.values() for a, b in pairwise(line))
assert all(v[0] == 1.0 and v[-1] < 0.01 for v in values.values())
assert value(0.0, 0.9, 10**6) < value(0.0, 0.1, 10**6)
assert max(abs(s).max() for s in spread.values()) <= 1.0

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
for (B, line), colour in zip(fat.items(), plt.cm.plasma([0.1, 0.45, 0.8]), strict=True):
    axes[0].loglog(margins, line, color=colour, label=f"B = {B}")
axes[0].set(xlabel="margin γ", ylabel="fat-shattering dimension ≤", title="784 inputs, any width")
axes[0].legend(frameon=False, fontsize=8)
for width, scores in spread.items():
    axes[1].hist(scores, bins=80, density=True, histtype="stepfilled", alpha=0.45, label=f"{width} units")
axes[1].set(xlabel="output", yticks=[], title="random nets with row norms 1:\nsmall weights keep outputs small")
axes[1].legend(frameon=False, fontsize=8)
for (g, line), colour in zip(values.items(), plt.cm.viridis([0.1, 0.5, 0.85]), strict=True):
    axes[2].semilogx(sizes, line, color=colour, label=f"γ = {g}")
axes[2].set(xlabel="examples n", ylabel="certified risk", title="all margins above γ, B = 1", ylim=(0, 1.05))
axes[2].legend(frameon=False, fontsize=8)
plt.show()
