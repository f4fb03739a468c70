"""
How many iterations a Lipschitz constant buys
=============================================

Than's deck counts iterations by ‖F‖_Lip. Convex: LR/√T, exact to one evaluation in both directions. Nonconvex: the slide's
O((‖F‖²_Lip/T)^{1/3}) bounds no error, but the norm of a combination of gradients within δ (Zhang et al. 2020, Davis et al. 2022); and
its Ω(‖F‖_Lip/α) for α-stationary points is far too weak: on Lipschitz functions no number suffices, as an oracle that always answers
"0, and slope L" shows.
"""

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.optimization.iterations import convex_lower, convex_upper, goldstein_upper, resisting, stationary_lower


def subgradient_gap(n, radius=1.0):
    """What the subgradient method has found after n evaluations of the resisting convex function, above its least value."""
    cap = radius * (1 + 1 / math.sqrt(n + 1))
    x, best = np.zeros(n + 1), math.inf
    for _ in range(n):
        top, far = x.max(), np.linalg.norm(x) - cap
        best = min(best, max(top, far))
        x = x - radius / math.sqrt(n) * (np.eye(n + 1)[x.argmax()] if top >= far else x / np.linalg.norm(x))
    return best + radius / math.sqrt(n + 1)


counts = [1, 3, 10, 30, 100, 300, 1000]
gaps = [subgradient_gap(n) for n in counts]
for n, gap in zip(counts, gaps, strict=True):
    assert (
        convex_lower(1.0, 1.0, gap * (1 - 1e-9)).evaluations.lower - 1
        <= n
        <= convex_upper(1.0, 1.0, gap).evaluations.upper + 1
    )
    assert 1 / math.sqrt(n + 1) <= gap * (1 + 1e-9) and gap <= (1 + 1e-9) / math.sqrt(n)

# %%
queries = np.random.default_rng(0).uniform(-1, 1, 12).tolist()
zigzag = resisting(queries, 1.0, 0.08)
grid = np.linspace(-1.2, 1.2, 4001)
values = np.array([zigzag(t) for t in grid])
assert all(abs(zigzag(q)) < 1e-12 and zigzag.slope(q) == 1.0 for q in queries) and values.min() >= -0.08 - 1e-9
assert stationary_lower(1.0, 0.1).evaluations.upper == math.inf

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
axes[0].loglog(counts, gaps, "o", label="subgradient method, worst function")
axes[0].loglog(counts, [1 / math.sqrt(n) for n in counts], label="LR/√T: enough")
axes[0].loglog(counts, [1 / math.sqrt(n + 1) for n in counts], "--", label="LR/√(T + 1): needed")
axes[0].set(title="convex", xlabel="evaluations T", ylabel="accuracy")
axes[1].plot(grid, values, lw=0.8)
axes[1].plot(queries, [0] * len(queries), "o", color="tab:red", label="what the method asked: 0, slope 1")
axes[1].set(title="nonconvex: nobody asks at a kink")
slopes = np.logspace(-2, -0.1, 30)
axes[2].loglog(
    slopes, [goldstein_upper(1.0, 1.0, 0.1, s).evaluations.upper for s in slopes], label="Goldstein, δ = 0.1: enough"
)
axes[2].loglog(slopes, [stationary_lower(1.0, s).evaluations.lower for s in slopes], "--", label="the slide's Ω(L/α)")
axes[2].set(title="nonconvex: expected evaluations", xlabel="ε")
for axis in axes:
    axis.legend(frameon=False, fontsize=8)
plt.show()
