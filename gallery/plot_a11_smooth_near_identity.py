"""
A smooth map, layer by layer
============================

A smooth invertible map is h_m∘…∘h_1 with ‖h_i − Id‖_L = O(log m / m): layer i goes from g(a_{i−1}x)/a_{i−1} to g(a_i x)/a_i on a
geometric schedule (Bartlett, Evans and Long 2018, Theorem 1; Bartlett's deck). With equal steps a_i = i/m the same layers are
O(1/m), as in the paper's last version.
"""

# %%
import math

import matplotlib.pyplot as plt
import torch

from nonvacuous.approximation.near_identity_maps import spread


def h(x):
    """A twist: turned further the farther out, then sheared along a sine."""
    radius = x.square().sum(1)
    c, s = (1.2 - 0.9 * radius).cos(), (1.2 - 0.9 * radius).sin()
    u, v = c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]
    return torch.stack([u + 0.3 * (2 * v).sin(), v], 1)


depths = [8, 16, 32, 64, 128, 256]
seminorms = {}
for schedule in ("geometric", "uniform"):
    for m in depths:
        built = spread(h, m, [0.0, 0.0], schedule=schedule, points=48)  # the inverse is found by Newton's method
        assert built.error.upper < 1e-10
        seminorms[schedule, m] = built.module.seminorms(300).max().item()

# %%
# log m / m for the deck's schedule, 1/m for equal steps.
geometric = [seminorms["geometric", m] * m / math.log(m) for m in depths]
uniform = [seminorms["uniform", m] * m for m in depths]
assert uniform[-1] <= 1.02 * uniform[-2]  # levels off
assert max(geometric) <= uniform[-1]  # a geometric step is at most ln(m/ln m)/m, ln m equal ones at most

# %%
figure = plt.figure(figsize=(13, 5.4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1.6, 1])
axes = left.subplots(2, 4)
net = spread(h, 64, [0.0, 0.0], schedule="uniform").module
r, a = torch.meshgrid(torch.linspace(0, 1, 15), torch.linspace(0, 2 * torch.pi, 181), indexing="ij")
x = torch.stack([r * a.cos(), r * a.sin()], -1).reshape(-1, 2).double()
shown = [0, 8, 16, 24, 32, 42, 53, 64]
for step in range(65):
    if step:
        with torch.no_grad():
            x = net.layers[step - 1](x)
    if step in shown:
        ax, grid = axes.flat[shown.index(step)], x.reshape(15, 181, 2)
        for ring in range(1, 15):
            ax.plot(*grid[ring].T, color=plt.cm.viridis(ring / 15), lw=0.9)
        for ray in range(0, 180, 15):
            ax.plot(*grid[:, ray].T, color="0.55", lw=0.7)
        ax.set(aspect="equal", title=f"after {step} layers", xlim=(-1.6, 1.6), ylim=(-1.6, 1.6))
        ax.set_axis_off()
ax = right.subplots()
for schedule, law, colour in (("geometric", "log m / m", "tab:orange"), ("uniform", "1 / m", "tab:blue")):
    worst = [seminorms[schedule, m] for m in depths]
    ax.loglog(depths, worst, "o", color=colour, label=f"{schedule} scales")
    rate = [math.log(m) / m if schedule == "geometric" else 1 / m for m in depths]
    ax.loglog(depths, [worst[-1] * value / rate[-1] for value in rate], ":", color=colour, label=law)
ax.set(xlabel="layers m", ylabel="max ‖h_i − Id‖_L", title="distance from the identity")
ax.legend(frameon=False)
plt.show()
