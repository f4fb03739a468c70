"""
Smooth functions by deep networks
=================================

Functions with n bounded derivatives on [0, 1]^d are within ε of a ReLU network of depth c(ln 1/ε + 1) and c ε^(−d/n)(ln 1/ε + 1)
weights (Yarotsky 2017, Theorem 1; Wu's deck). Squares come from sawtooths, products from squares, Taylor polynomials from products.
"""

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from nonvacuous.approximation.sobolev import approximate, cells_and_fineness, derivatives_of, network_size
from nonvacuous.approximation.yarotsky import Squaring


def f(x):
    return torch.sin(2 * x[:, 0]) / 8 + torch.cos(x[:, 0]) / 4  # all derivatives up to the third are at most 1.25 in size


points = torch.linspace(0, 1, 5001, dtype=torch.float64)[:, None]
built = {n: {e: approximate(derivatives_of(f), n, 1, e, norm=1.25) for e in (1e-1, 1e-2, 1e-3, 1e-4)} for n in (1, 2, 3)}

# %%
# Certified errors hold, the sizes have the stated slopes, and f_m misses x² by exactly 2^(−2m−2).
for nets in built.values():
    for eps, net in nets.items():
        assert (net.module(points) - f(points)).abs().max() <= net.error.upper <= eps
unit = torch.arange(2**12 + 1, dtype=torch.float64) / 2**12
for m in range(1, 8):
    assert (Squaring(m)(unit) - unit**2).max() == 2.0 ** (-2 * m - 2)
eps = np.array([2.0**-j for j in range(14, 43, 4)])
sizes = {n: [network_size(n, 2, *cells_and_fineness(n, 2, e, 1.0)) for e in eps] for n in (1, 2, 3)}
slopes = {
    n: np.polyfit(np.log(1 / eps), np.log([float(s.weights) for s in sizes[n]] / (np.log(1 / eps) + 1)), 1)[0] for n in sizes
}
assert all(abs(slopes[n] - 2 / n) < 0.25 / n for n in slopes), slopes

# %%
figure, axes = plt.subplots(1, 4, figsize=(15, 3.7), layout="constrained")
for m in range(1, 5):
    axes[0].semilogy(unit, (Squaring(m)(unit) - unit**2).clamp_min(1e-9), lw=1, color=plt.cm.viridis(m / 5), label=f"m = {m}")
    axes[0].axhline(2.0 ** (-2 * m - 2), color=plt.cm.viridis(m / 5), lw=0.5, ls=":")
axes[0].set(title="f_m(x) − x², at most 2^(−2m−2)", xlabel="x", ylim=(1e-6, 0.2))
axes[0].legend(frameon=False, fontsize=8, ncols=2)
with torch.no_grad():
    for n, nets in built.items():
        net = nets[1e-3]
        off = (net.module(points) - f(points)).abs().clamp_min(1e-9)
        axes[1].semilogy(
            points[:-1].reshape(100, -1)[:, 25],
            off[:-1].reshape(100, -1).amax(1),
            lw=1.2,
            label=f"n = {n}: {net.size.weights:,} weights",
        )
axes[1].axhline(1e-3, color="k", lw=1)
axes[1].set(title="error of three networks, ε = 10⁻³", xlabel="x", ylim=(1e-7, 2e-2))
axes[1].legend(frameon=False, fontsize=8)
for n in sizes:
    axes[2].loglog(
        1 / eps, [float(s.weights) for s in sizes[n]], "o-", ms=4, label=f"n = {n}: slope {slopes[n]:.2f}, theory {2 / n:.2f}"
    )
    axes[3].semilogx(1 / eps, [s.depth for s in sizes[n]], "o-", ms=4, label=f"n = {n}")
axes[2].set(title="weights, d = 2", xlabel="1/ε")
axes[3].set(title="depth, d = 2", xlabel="1/ε")
for axis in axes[2:]:
    axis.legend(frameon=False, fontsize=8)
assert math.isclose(slopes[3], 2 / 3, rel_tol=0.12)
plt.show()
