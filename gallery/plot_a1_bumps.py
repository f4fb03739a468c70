"""
Universal approximation by bumps
================================

A ReLU network with one hidden layer comes within any ε of any Lipschitz function on an interval: sum bumps ``rect(x, a, b, h)``
(Ollion and Grisel's deck, after Cybenko 1989 and Sonoda and Murata 2015). The error is certified between the samples too, and on
squares pyramids take the place of bumps.
"""

# %%
import matplotlib.pyplot as plt
import torch

from nonvacuous.approximation.bumps import approximate, rect


def target(x):
    return torch.sin(3 * x) * torch.exp(-(x**2) / 4) + x / 4


x = torch.linspace(-3, 3, 4001, dtype=torch.float64)
nets = {eps: approximate(target, (-3.0, 3.0), eps) for eps in (0.4, 0.1, 0.02)}  # the Lipschitz constant is proved

# %%
# The certificate holds at every point. The slide's ramp of 1e-7 is below what float32 resolves near 1: its bump is noise.
for eps, built in nets.items():
    off = (built.module(x) - target(x)).abs().max().item()
    print(f"ε = {eps}: {len(built.module.knots)} ReLUs, error in {built.error}, largest seen here {off:.4f}")
    assert off <= built.error.upper <= eps
line = torch.linspace(-0.5, 3.5, 1601)
single, double, dyadic = (
    rect(line, 0.9, 2.0, 1.3),
    rect(line.double(), 0.9, 2.0, 1.3),
    rect(line, 0.875, 2.0, 1.3, ramp=2.0**-10),
)
assert (single[line > 1] - 1.3 * (line[line > 1] < 2)).abs().max() > 0.1
assert (double[line > 1] - 1.3 * (line[line > 1] <= 2)).abs().max() < 1e-7


def ripple(p):
    return torch.sin(4 * p[:, 0]) * torch.cos(3 * p[:, 1])


plane = approximate(ripple, [(0.0, 2.0), (0.0, 2.0)], 0.4)
grid = torch.cartesian_prod(x[::20] / 3 + 1, x[::20] / 3 + 1)
assert (plane.module(grid) - ripple(grid)).abs().max() <= plane.error.upper <= 0.4

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained", width_ratios=[1.3, 1, 1])
with torch.no_grad():
    axes[0].fill_between(x, target(x) - 0.4, target(x) + 0.4, color="tab:blue", alpha=0.12, lw=0, label="within ε = 0.4")
    axes[0].plot(x, target(x), "k", lw=2.5, label="target")
    axes[0].plot(x, nets[0.4].module(x), color="tab:blue", lw=1.5, label=f"{len(nets[0.4].module.knots)} ReLUs")
    axes[0].plot(x, nets[0.02].module(x), color="tab:orange", lw=1, label=f"{len(nets[0.02].module.knots)} ReLUs")
    axes[0].legend(frameon=False, fontsize=8)
    axes[0].set(title="one hidden layer", xlabel="x")
    side = int(len(grid) ** 0.5)
    picture = axes[1].imshow(plane.module(grid).reshape(side, side).T, origin="lower", extent=(0, 2, 0, 2), cmap="RdBu_r")
    axes[1].set(title=f"{plane.module.heights.numel():,} pyramids, certified error {plane.error.upper:.2f}")
    figure.colorbar(picture, ax=axes[1], shrink=0.8)
axes[2].plot(line, single, lw=0.8, color="tab:red", label="float32, ramp 1e-7")
axes[2].plot(line, double, lw=2, color="k", label="float64, ramp 1e-7")
axes[2].plot(line, dyadic, lw=1, color="tab:green", label="float32, ramp 2⁻¹⁰")
axes[2].set(title="one bump in floating point", xlabel="x", ylim=(-1.5, 4))
axes[2].legend(frameon=False, fontsize=8)
plt.show()
