"""
Deep linear networks have no bad local minima
=============================================

Kawaguchi 2016, Theorem 2.3 (Wu's deck): every critical point of ½‖W_{H+1}⋯W_1 X − Y‖² is a global minimum or a saddle, and a saddle
at which rank(W_H⋯W_2) is the smallest hidden width has negative curvature. Here critical points are written down from the spectrum of
the data and found by search, and each is shown to be what it is: by an enclosed negative eigenvalue, or by a curve that leads down.
"""

# %%
import matplotlib.pyplot as plt
import torch

from nonvacuous.optimization.descent import Problem, change
from nonvacuous.optimization.minima import Sort, Verdict, analyse_deep_linear

generator = torch.Generator().manual_seed(0)
X = torch.randn(5, 30, dtype=torch.float64, generator=generator)
Y = torch.randn(4, 5, dtype=torch.float64, generator=generator) @ X
Y = Y + 0.5 * torch.randn(4, 30, dtype=torch.float64, generator=generator)
land = analyse_deep_linear(X, Y, [3, 2, 4], starts=24)
print(land)
assert all(claim.verdict is Verdict.HELD for claim in land.claims)

# %%
# The rank condition is needed: with all inner blocks zero, the Hessian is positive semidefinite, and the way down is of higher order.
saddle = next(point for point in land.points if point.sort is Sort.FLAT)
steep = next(point for point in land.points if point.sort is Sort.STRICT and point.chosen == saddle.chosen)
assert saddle.curvature.lower > -1e-6 and saddle.inner_rank < land.rank and saddle.drop.upper < 0

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
colours = {Sort.GLOBAL: "tab:green", Sort.STRICT: "tab:blue", Sort.FLAT: "tab:red"}
for value in land.values:
    axes[0].axhline(value, color="0.85", lw=1, zorder=0)
for sort, colour in colours.items():
    for origin, marker in ((True, "o"), (False, "x")):
        chosen = [p for p in land.points if p.sort is sort and (p.chosen is not None) == origin]
        name = f"{sort.value.split(':')[0]}, {'built' if origin else 'found'}"
        x = [p.curvature.upper if p.curvature else 0.0 for p in chosen]
        axes[0].plot(x, [p.loss for p in chosen], marker, color=colour, label=name if chosen else None, ms=6, mfc="none")
axes[0].set_xscale("symlog", linthresh=1)
axes[0].set(
    xlabel="upper end of the enclosed Hessian eigenvalue", ylabel="loss", title="grey: ½(‖Y‖² − Σ λ_i) of every index set"
)
axes[0].legend(frameon=False, fontsize=8)
problem = Problem.of(X, Y)
t = torch.logspace(-2.5, 0, 40).tolist()
for point, colour in ((steep, "tab:blue"), (saddle, "tab:red")):
    size = sum(float((V**2).sum()) for V in point.descent) ** 0.5
    unit = [V / size for V in point.descent]
    drops = [-change(point.weights, unit, step, problem).upper for step in t]
    axes[1].loglog(t, drops, color=colour, label=f"falls as t^{point.order}")
axes[1].set(xlabel="distance t along the curve", ylabel="drop of the loss", title="from two saddles of the same loss")
axes[1].legend(frameon=False)
plt.show()
