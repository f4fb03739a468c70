"""
Depth 2 against depth 3
=======================

Some functions take polynomially many units at depth 3 and exponentially many at depth 2: g(⟨x, x'⟩) on spheres (Daniely 2017; Wu's
deck), radial waves in R^d (Eldan and Shamir 2016; Zhang's deck). Both lower bounds are evaluated with all their constants.
"""

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

from nonvacuous.approximation import inner_products, radial

dimensions = [4, 6, 8, 10, 12]
two, three, left = [], [], []
for d in dimensions:

    def sine(t, d=d):
        return torch.sin(math.pi * d**3 * t)

    built = inner_products.inner_product_network(sine, d, 0.25, lipschitz=math.pi * d**3)
    three.append(d * len(built.module.square.knots) + len(built.module.profile.knots))
    two.append(inner_products.depth_two_width(sine, d, 0.5, 1.0, degree=150, nodes=10 * d**3))
assert two[-1] > 100 * three[-1]

# %%
# Radial waves: what depth 2 leaves of ‖g‖ in L²(μ), whatever its activation and weights, against its width.
widths = [10**j for j in range(9)]
left = {}
for d in (4, 8, 12):
    shell = (1.5 * math.sqrt(d), 2.5 * math.sqrt(d))
    bounds = [radial.depth_two_distance(radial.wave(d, 4.0), d, shell, width, points=300) for width in widths]
    left[d] = [bound.lower / bound.upper for bound in bounds]
network = radial.radial_network(radial.wave(12, 4.0), 12, shell, 0.05, lipschitz=radial.wave_lipschitz(12, 4.0))
units = 12 * len(network.module.square.knots) + len(network.module.profile.knots)
assert left[12][4] > 0.9 and units < 15_000 and network.error.upper <= 0.05

# %%
# And trained, at equal numbers of parameters, steps and data: sin(3π/2 ⟨x, x'⟩) on S² × S².


def draw(count, generator):
    x = inner_products.spheres(count, 3, generator)
    return x.float(), torch.sin(1.5 * math.pi * (x[:, :3] * x[:, 3:]).sum(1)).float()


curves = {}
for name, sizes in {"depth 2": [6, 164, 1], "depth 3": [6, 32, 32, 1]}.items():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(*[m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())][:-1])  # noqa: B905, RUF007
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    curves[name] = []
    for _ in range(800):
        x, y = draw(256, generator)
        loss = (net(x)[:, 0] - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        curves[name].append(loss.item() ** 0.5)
assert sum(curves["depth 3"][-50:]) < 0.6 * sum(curves["depth 2"][-50:])

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
axes[0].semilogy(dimensions, two, "o-", color="tab:red", label="depth 2, error ½: at least")
axes[0].semilogy(dimensions, three, "s-", color="tab:green", label="depth 3, error ¼: constructed")
axes[0].set(title="sin(πd³⟨x, x'⟩), neurons of norm 1", xlabel="d", ylabel="units")
for d, share in left.items():
    axes[1].semilogx(widths, share, "o-", ms=4, label=f"d = {d}")
axes[1].axvline(units, color="tab:green", ls=":", label="depth 3, d = 12")
axes[1].set(title="radial wave: depth 2 leaves at least", xlabel="width of depth 2", ylabel="share of ‖g‖", ylim=(0, 1.05))
for (name, curve), colour in zip(curves.items(), ("tab:red", "tab:green"), strict=True):
    axes[2].semilogy(torch.tensor(curve).unfold(0, 20, 5).mean(1), color=colour, label=name)
axes[2].set(title="trained, 1,313 parameters each", xlabel="step / 5", ylabel="root mean square error")
for axis in axes:
    axis.legend(frameon=False, fontsize=8)
plt.show()
