"""
Capacity: what VC dimension buys
================================

With probability 1 − δ every member of a class of VC dimension d has (risk − r̂)² ≤ 4 risk (ln Σ_{i≤d} C(2n, i) + ln(4/δ))/n (Vapnik
and Chervonenkis 1974; the deck on generalization, whose own line r̂ + √(2d ln(2em/d)/m + ln(2/δ)/m) is true, and looser where it matters).
The capacity of a ReLU network grows with its parameters (Bartlett et al. 2019), so for networks as they are used it promises nothing.
"""

# %%
from itertools import product
from math import comb, e, log, sqrt

import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.bounds.capacity import Stage, VCBound, linear_vc_dimension, relu_vc_dimension

delta, vc = 0.05, VCBound()


def slide(risk, d, n):
    return risk + sqrt(2 * d * log(2 * e * n / d) / n + log(2 / delta) / n)


# %%
# Shattering by brute force: a half-plane cuts three points in all 8 ways, four points never in all 16 (Cover counts 14).
def cuts(points):
    angles = np.linspace(0, np.pi, 1800, endpoint=False)
    found = set()
    for direction in np.stack([np.cos(angles), np.sin(angles)], 1):
        heights = points @ direction
        for level in [-np.inf, *np.sort(heights)]:
            found |= {tuple(heights > level), tuple(heights <= level)}
    return found


triangle = np.array([[0.0, 0.0], [1.0, 0.1], [0.4, 0.9]])
square = np.array([[0.0, 0.0], [1.0, 0.15], [0.2, 1.0], [1.1, 0.9]])
assert len(cuts(triangle)) == 2 ** linear_vc_dimension(2) == 8
assert len(cuts(square)) == 14 == 2 * sum(comb(3, i) for i in range(3))

# %%
# The bound for half-spaces, and the sample a network of L layers and 128 units a layer on 100 inputs would need.
sizes = np.geomspace(100, 1e6, 40).astype(int)
ours = {r: [vc.solve(vc.Evidence(r, linear_vc_dimension(20), int(n)), delta) for n in sizes] for r in (0.0, 0.1)}
theirs = {r: [min(1.0, slide(r, linear_vc_dimension(20), n)) for n in sizes] for r in (0.0, 0.1)}
for r in ours:
    assert all(a <= b for a, b in zip(ours[r], theirs[r], strict=True) if b < 0.45)


def network(layers, width=128, inputs=100):
    parameters, stages = 0, []
    for depth, (fan_in, units) in enumerate([(inputs, width)] + [(width, width)] * (layers - 1) + [(width, 1)], 1):
        parameters += (fan_in + 1) * units
        stages.append(Stage(units, depth, parameters))
    return parameters, relu_vc_dimension(stages)


depths = range(1, 9)
counted = [network(layers) for layers in depths]
assert all(vc.solve(vc.Evidence(0.0, d, 60_000), delta) == 1.0 for _, d in counted)  # 60,000 examples prove nothing at all

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained", width_ratios=[1, 1.1, 1.1])
axes[0].scatter(*triangle.T, s=70, color="C0", zorder=3, label="shattered: 8 of 8")
axes[0].scatter(*(square + np.array([1.8, 0])).T, s=70, color="C3", marker="s", zorder=3, label="not: 14 of 16")
for a, b in product((0, 1), repeat=2):
    corner = square[[(0, 3), (1, 2)][a][b]] + np.array([1.8, 0])
    axes[0].annotate("+" if a else "−", corner, (7, 7), textcoords="offset points", fontsize=15)
axes[0].set(xlim=(-0.4, 3.4), ylim=(-0.4, 1.8), xticks=[], yticks=[], title="Half-planes: dimension 3")
axes[0].text(2.35, -0.27, "no line separates + from −", ha="center")
axes[0].legend(frameon=False, loc="upper center", ncols=2, columnspacing=0.8, handletextpad=0.1)

for (r, values), color in zip(ours.items(), ("C0", "C2"), strict=True):
    axes[1].plot(sizes, values, color=color, label=f"r̂ = {r:g}, relative deviation")
    axes[1].plot(sizes, theirs[r], color=color, ls=":", label=f"r̂ = {r:g}, the slide's line")
axes[1].set(
    xscale="log", yscale="log", xlabel="training examples n", ylabel="certified risk", title="Half-spaces in R²⁰, δ = 0.05"
)
axes[1].legend(frameon=False, fontsize=8.5)

axes[2].plot(depths, [w for w, _ in counted], "C0o-", label="parameters")
axes[2].plot(depths, [d for _, d in counted], "C3s-", label="VC dimension at most")
axes[2].axhline(60_000, color="k", lw=0.8, ls="--")
axes[2].annotate("Fashion-MNIST: 60,000 examples", (8, 60_000), (0, -4), textcoords="offset points", ha="right", va="top")
axes[2].set(yscale="log", xlabel="hidden layers of 128 ReLUs", title="Networks: certified risk 1")
axes[2].legend(frameon=False)
plt.show()
