"""
The curse from below, and a built escape
========================================

No n coefficients approximate all functions with s derivatives in d variables better than n^(−s/d) (exact n-widths, Kolmogorov 1936;
DeVore, Howard and Micchelli 1989 for networks), and no learner does better from n examples. A composition of functions of two
variables is within ε of a network of about (d − 1)(c/ε)² bumps, proved and built (Poggio et al. 2017; Than's deck).
"""

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from nonvacuous.approximation.compositional_limits import best_learning_rate, width_rate
from nonvacuous.approximation.compositional_targets import approximate_composition, binary_tree, log_general_bumps

dimensions = (1, 2, 3, 4, 6)
widths = {(s, d): width_rate(s, d, [300, 3000, 30_000]) for s in (1, 2) for d in dimensions}
learners = {d: best_learning_rate(0.5, d, (64, 128, 256, 512), seeds=4, tests=300) for d in dimensions}

tree = binary_tree(lambda x: torch.sin(x[:, 0] + x[:, 1]) / 2, 3)
eps = [0.4, 0.2, 0.1, 0.05, 0.025]
built = [approximate_composition(tree, [(0.0, 1.0)] * 8, e) for e in eps]
x = torch.rand(20_000, 8, dtype=torch.float64)
with torch.no_grad():
    seen = [float((b.module(x) - tree(x)).abs().max()) for b in built]
bumps = [sum(p.numel() for p in b.module.parameters()) for b in built]
general = [math.exp(log_general_bumps(8, 1.0, 1.0, e)) for e in eps]

# %%
# Slopes are −s/d: within 6% for widths, 20% for learners; the tree's networks keep their promise, with slope −2 and not −8.
assert all(abs(limit.slope.midpoint / limit.expected - 1) < 0.06 for limit in widths.values())
assert all(abs(limit.slope.midpoint / limit.expected - 1) < 0.2 for limit in learners.values())
assert all(e <= b.error.upper <= wanted for e, b, wanted in zip(seen, built, eps, strict=True))
slope = np.polyfit(np.log(eps), np.log(bumps), 1)[0]
assert -2.2 < slope < -1.4 and general[-1] > 1e8 * bumps[-1]

# %%
print(f"{'':<26}{'s':>4}{'d':>3}{'−s/d':>9}  slope seen")
for name, limits in (("n coefficients, best", widths.values()), ("n examples, best learner", learners.values())):
    for limit in limits:
        slopes = f"[{limit.slope.lower:.3f}, {limit.slope.upper:.3f}]"
        print(f"{name:<26}{limit.smoothness:>4g}{limit.dimension:>3}{limit.expected:>9.3f}  {slopes}")

figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.3), layout="constrained")
colours = dict(zip(dimensions, plt.cm.viridis(np.linspace(0, 0.9, len(dimensions))), strict=True))
for d in dimensions:
    for s, style in ((1, "-"), (2, "--")):
        limit = widths[s, d]
        axes[0].loglog(limit.sizes, np.array(limit.errors) / limit.errors[0], style, color=colours[d], marker=".")
    axes[0].plot([], [], color=colours[d], label=f"d = {d}")
    limit = learners[d]
    axes[1].loglog(limit.sizes, limit.errors, "o-", ms=4, color=colours[d], label=f"d = {d}: {limit.slope.midpoint:.2f}")
    axes[1].loglog(
        limit.sizes, limit.errors[0] * (np.array(limit.sizes) / 64.0) ** limit.expected, color=colours[d], ls=":", lw=1
    )
axes[0].set(xlabel="coefficients n", ylabel="least worst error, relative", title="n-widths: s = 1 solid, s = 2 dashed")
axes[0].legend(frameon=False, fontsize=8)
axes[1].set(xlabel="examples n", ylabel="least mean square error", title="best learner, s = ½, slope; dotted −s/d")
axes[1].legend(frameon=False, fontsize=8)
axes[2].loglog(eps, general, "s--", color="tab:red", label="any Lipschitz target: (L√d/2ε)^d")
axes[2].loglog(eps, bumps, "o-", color="tab:green", label=f"composed two by two: slope {slope:.1f}")
axes[2].set(xlabel="error ε, proved", ylabel="bumps", title="8 variables")
axes[2].invert_xaxis()
axes[2].legend(frameon=False, fontsize=8)
plt.show()
