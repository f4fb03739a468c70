"""
Rademacher complexity in closed form
====================================

Networks whose Frobenius norms multiply to M have empirical Rademacher complexity at most M x (√(2 ln 2 (L − 1)) + 1)/√n (Golowich,
Rakhlin and Shamir 2018, Theorem 1), so depth costs a square root and not 2^L. "O(μ^L)" with μ a spectral norm, as Zhang's deck can be
read, is false: a layer of spectral norm 1 follows any n signs.
"""

# %%
from math import exp

import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.bounds.rademacher import depth_factor, log_power_of_depth
from nonvacuous.numerics.interval import upper

rng = np.random.default_rng(0)
angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
directions = np.stack([np.cos(angles), np.sin(angles)], 1)
sizes = [4, 8, 16, 32, 64, 128, 256, 512]
one, two, closed = [], [], {1: [], 2: []}
for n in sizes:
    x = rng.normal(size=(2, n))
    x /= np.linalg.norm(x, axis=0)
    signs = rng.choice([-1, 1], size=(n, 4000))
    one.append(np.linalg.norm(x @ signs, axis=0).mean() / n)  # sup over ‖w‖ ≤ 1, exactly
    two.append(np.abs(np.maximum(directions @ x, 0) @ signs).max(0).mean() / n)  # one active unit attains the supremum
    for depth in (1, 2):
        closed[depth].append(exp(log_power_of_depth(1.0, depth, n)))

# %%
# The closed forms lie above; fitting signs by sampling could only have come from below.
assert all(a <= b for a, b in zip(one, closed[1], strict=True)) and all(a <= b for a, b in zip(two, closed[2], strict=True))

# %%
# Columns of a Hadamard matrix, switched on or off: spectral norm ≤ 1, and every labelling of n inputs with outputs 0 and ½.
H = np.ones((1, 1))
while len(H) < 256:
    H = np.block([[H, H], [H, -H]])
labels = rng.integers(0, 2, 255)
layer = H[:, 1:] / 16 * labels
outputs = np.full(256, 1 / 16) @ np.maximum(layer, 0)
assert np.linalg.norm(layer, 2) < 1 + 1e-9 and np.allclose(outputs, labels / 2)

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
for depth, values, colour in ((1, one, "tab:blue"), (2, two, "tab:orange")):
    axes[0].loglog(sizes, closed[depth], color=colour, label=f"closed form, L = {depth}")
    axes[0].loglog(sizes, values, "o", color=colour, ms=4, label=f"supremum, L = {depth}")
axes[0].set(xlabel="n", ylabel="Rademacher complexity", title="unit norms, inputs on the circle")
axes[0].legend(frameon=False, fontsize=8)
depths = np.arange(1, 31)
axes[1].semilogy(depths, 2.0 ** (depths - 1), "--", color="tab:red", label="Neyshabur et al. 2015")
axes[1].semilogy(depths, np.sqrt(2 * np.log(2) * depths) + 1, color="tab:gray", label="Golowich et al. 2018")
axes[1].semilogy(depths, [upper(depth_factor(int(L))) for L in depths], color="tab:green", label="here")
axes[1].set(xlabel="depth L", title="factor beside M x/√n", ylim=(0.8, 1e4))
axes[1].legend(frameon=False, fontsize=8)
image = axes[2].imshow(layer[:64, :64], cmap="RdBu", vmin=-1 / 16, vmax=1 / 16, interpolation="nearest")
axes[2].set(
    title="signs in columns: spectral norm 1,\nall labels stored",
    xticks=[],
    yticks=[],
    xlabel="input (white: label 0)",
    ylabel="unit",
)
plt.show()
