# slow
"""
A trained wide network is its tangent kernel's regression
=========================================================

Arora et al. 2019, Theorem 3.2 (Wu's deck): trained to the end by gradient descent on the squared error, a network of width m ≥ poly(…)
satisfies ``|f_nn(x) − f_ntk(x)|`` ≤ ε at a new input, f_ntk = k(x, X)K⁻¹y. The polynomial is not stated, so no width is ever called enough;
what can be seen is the gap fall, and the part of it that is not the scatter of the kernel at the start: the gap of each network to the
predictor of its own kernel.
"""

# %%
# Images of coats and pullovers, two hidden ReLU layers, ten networks a width, all trained until 1 % of the target is left.

import matplotlib.pyplot as plt
import torch

from nonvacuous.studies.wide_networks import infinite, problem, rates, study

task = problem("fashion-mnist", 16, 24, (2, 4))
widths = [16, 32, 64, 128, 256, 512]
runs = study(task, widths, range(10), depth=2)
found = rates(runs)
print(
    f"gap ∝ m^{found.gap.slope}, to the own kernel's predictor ∝ m^{found.own_gap.slope}; f_ntk is of size {runs[0].size:.2f}"
)

# %%
# Beside it, two kernels that are not the network's, which it does not approach: that of one hidden layer, and that of five.

K, cross = infinite(task, 2)
y = task.targets.double()
right = cross @ torch.linalg.solve(K, y)
others = {}
for depth in (1, 5):
    wrong, far = infinite(task, depth)
    others[depth] = float((far @ torch.linalg.solve(wrong, y) - right).square().mean().sqrt())

figure, axes = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained")
for rate, name, colour in (
    (found.gap, "|f_nn − f_ntk|", "tab:blue"),
    (found.own_gap, "to the predictor of the own kernel at the start", "tab:orange"),
):
    slope = rate.slope
    axes[0].errorbar(widths, rate.means, [2 * e for e in rate.errors], fmt="o", color=colour, capsize=3)
    axes[0].plot(widths, [rate.at(w) for w in widths], color=colour, label=f"{name}: m^[{slope.lower:.2f}, {slope.upper:.2f}]")
for depth, gap in others.items():
    axes[0].axhline(gap, color="0.5", ls=":", label=f"f_ntk of depth {depth} − f_ntk")
axes[0].set_xscale("log", base=2)
axes[0].set(yscale="log", ylim=(0.06, 1.5), xlabel="width m", title="root mean square over 24 new images")
axes[0].legend(frameon=False, fontsize=8, loc="upper right")
for width in (16, 512):
    spread = [r.largest for r in runs if r.width == width]
    axes[1].hist(spread, bins=8, alpha=0.6, label=f"width {width}")
axes[1].set(title="largest gap of each network", xlabel="max |f_nn − f_ntk|")
axes[1].legend(frameon=False, fontsize=8)
plt.show()

# %%
assert found.gap.slope.upper < -0.25 and found.own_gap.slope.upper < -0.25
assert found.gap.means[-1] < 0.45 * found.gap.means[0]
assert all(r.residual <= 0.01 for r in runs)
