# slow
"""
Gaussian processes by increasing depth
======================================

Zhang's deck sums the layers of a narrow, ever deeper network and claims a Gaussian process whose kernel has λ_min(K) = Θ(d) (Zhang, Wang
and Fan 2021). At a fixed depth λ_min does grow with d. As depth grows it collapses: layers that contract, as the theorem asks, forget
which input they came from, so the kernel tends to one constant on every pair.
"""

# %%
# The claim as it can be measured: λ_min against d, on inputs with ‖x‖² ≈ d, and the slope's fate with depth (wide limit, ReLU, first
# layer not divided by d).

import math

import matplotlib.pyplot as plt
import torch

from nonvacuous.kernels.depth import (
    ShortcutNetwork,
    averaged_over_signs,
    forgetting,
    simulated,
    smallest_eigenvalue,
    smallest_eigenvalue_slope,
    tightness,
    wide_limit,
)
from nonvacuous.kernels.gaussian_process import posterior
from nonvacuous.kernels.recursion import nngp_ntk
from nonvacuous.kernels.regression import fitted, one_hot_targets
from nonvacuous.runtime.sources import load

dimensions, slopes = [100, 200, 400, 800], {}
for terms in (1, 20, 500):
    network = ShortcutNetwork(width=1, terms=terms, activation="relu", weight_std=math.sqrt(2), unscaled_input=True)
    slopes[terms] = smallest_eigenvalue_slope(
        lambda x, n=network: wide_limit(n, x), dimensions, 12, generator=torch.Generator().manual_seed(0)
    )
    print(f"{terms} layers summed: λ_min = {slopes[terms].slope:.3f} d, as d^{slopes[terms].exponent:.2f}")

# %%
# The kernel by simulation, width 10, layers that contract on average: λ_min falls with depth while the kernel's own size does not.

g = torch.Generator().manual_seed(1)
x = torch.randn(5, 6, generator=g, dtype=torch.float64)
depths = [1, 3, 10, 30, 100, 300]
simulations = [
    simulated(ShortcutNetwork(10, t, weight_std=0.45, bias_std=0.5, random_signs=False), x, 1500, generator=g).kernel
    for t in depths
]
least = [smallest_eigenvalue(k) for k in simulations]
bounds = [forgetting(ShortcutNetwork(10, t), 0.9, 1.0) for t in depths]

# Tightness: E|f(x) − f(x')|⁴/‖x − x'‖⁴ on pairs in the plane, its largest with three standard errors, does not grow with depth.
first = torch.randn(6, 2, generator=g, dtype=torch.float64)
second = first + torch.randn(6, 2, generator=g, dtype=torch.float64) * torch.logspace(-3, 0.5, 6, dtype=torch.float64)[:, None]
tight = [
    tightness(ShortcutNetwork(10, t, weight_std=0.8), first, second, 3000, order=4, generator=g).worst for t in depths[:5]
]
print("tightness constants by depth:", ", ".join(str(t) for t in tight))

# %%
# The deck's figure 1 on Fashion-MNIST: accuracy by the number of training images, kernel by depth (10 wide, 20 layers summed,
# 100 networks), the same from layer 40 on, and by width.

train, test = (next(load("fashion-mnist", part).batches(1000)) for part in ("train", "test"))
images = torch.cat([b.inputs.flatten(1) for b in (train, test)])
images = (28 * images / images.norm(dim=1, keepdim=True)).double()
deep = averaged_over_signs(ShortcutNetwork(10, 20, weight_std=1.3, bias_std=0.2), images.float(), 100, generator=g).double()
far = averaged_over_signs(
    ShortcutNetwork(10, 20, first=40, weight_std=0.9, bias_std=0.2), images.float(), 100, generator=g
).double()
wide = nngp_ntk(images, depth=3, activation="erf", weight_std=1.3, bias_std=0.2).nngp
counts, accuracies = [50, 100, 200, 500, 1000], {}
for name, K in (("by depth", deep), ("by depth, from layer 40 on", far), ("by width", wide)):

    def kernel(a, b, K=K):
        """The precomputed matrix, addressed by number."""
        return K[a[:, 0].long()][:, b[:, 0].long()]

    number = torch.arange(2000, dtype=torch.float64)[:, None]
    accuracies[name] = [
        float(
            (
                fitted(kernel, number[:n], one_hot_targets(train.targets[:n], 10), ridge=1e-3 * float(K.diagonal().mean()))
                .predicted(number[1000:])
                .argmax(1)
                == test.targets
            )
            .double()
            .mean()
        )
        for n in counts
    ]
    print(f"{name}: " + ", ".join(f"{a:.1%} of {n}" for n, a in zip(counts, accuracies[name], strict=True)))

# %%
# The deck's figure 2: a sine on [0, π] from twelve noisy values.

grid = torch.linspace(0, math.pi, 200, dtype=torch.float64)[:, None]
points = torch.linspace(0.1, math.pi - 0.1, 12, dtype=torch.float64)[:, None]
seen = points.sin() + 0.05 * torch.randn(12, 1, generator=g, dtype=torch.float64)
network = ShortcutNetwork(10, 20, weight_std=1.5, bias_std=0.7)
whole = averaged_over_signs(network, torch.cat([points, grid]), 400, generator=g)


def by_depth(a, b):
    """The simulated kernel at the inputs it was simulated at."""
    places = torch.cat([points, grid]).flatten()
    rows, columns = ((places[None] - t).abs().argmin(1) for t in (a, b))
    return whole[rows][:, columns]


fits = {
    "by depth": posterior(by_depth, points, seen),
    "by width": posterior(
        lambda a, b: nngp_ntk(a, b, depth=3, activation="erf", weight_std=1.5, bias_std=0.7).nngp, points, seen
    ),
}
predictions = {name: process.predicted(grid) for name, process in fits.items()}
errors = {name: float((p.mean - grid.sin()).square().mean().sqrt()) for name, p in predictions.items()}
print(f"root mean squared errors {errors}")

# %%
figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
for terms, found in slopes.items():
    axes[0, 0].loglog(dimensions, found.eigenvalues, "o-", label=f"{terms} layers: {found.slope:.3f} d")
axes[0, 0].set(title="claimed: λ_min = Θ(d); the factor collapses with depth", xlabel="d", ylabel="λ_min")
axes[0, 1].loglog(depths, least, "o-", label="λ_min, simulated, width 10")
axes[0, 1].loglog(depths, [float(k.diagonal().mean()) for k in simulations], "s-", label="mean variance")
axes[0, 1].loglog(depths, bounds, "k--", lw=1, label="forgetting bound on |f(x) − f(x')|, ρ = .9")
axes[0, 1].loglog(depths[:5], [t.upper for t in tight], "^-", label="tightness constant, order 4")
axes[0, 1].set(title="contracting layers forget", xlabel="layers summed")
for name, a in accuracies.items():
    axes[1, 0].semilogx(counts, a, "o-", label=name)
axes[1, 0].set(title="figure 1: Fashion-MNIST, 1000 test images", xlabel="training images", ylabel="accuracy")
for (name, p), colour in zip(predictions.items(), ("tab:blue", "tab:orange"), strict=True):
    mean, half = p.mean.flatten(), 2 * p.variance.sqrt()
    axes[1, 1].plot(grid.flatten(), mean, color=colour, label=f"{name}: error {errors[name]:.3f}")
    axes[1, 1].fill_between(grid.flatten(), mean - half, mean + half, color=colour, alpha=0.15)
axes[1, 1].plot(grid.flatten(), grid.sin().flatten(), "k:", lw=1)
axes[1, 1].plot(points.flatten(), seen.flatten(), "k.", label="seen")
axes[1, 1].set(title="figure 2: a sine on [0, π]")
for axis in axes.flat:
    axis.legend(frameon=False, fontsize=8)
plt.show()

# %%
assert all(0.9 < s.exponent < 1.5 for s in slopes.values())
assert slopes[1].slope > 3 * slopes[20].slope > 15 * slopes[500].slope > 0
assert least[0] > 50 * least[-1] and float(simulations[-1].diagonal().mean()) > 0.02
assert all(t.lower < 1.2 * tight[0].upper for t in tight)
assert accuracies["by depth"][-1] > 0.7 and accuracies["by width"][-1] > 0.75
assert accuracies["by depth, from layer 40 on"][-1] < accuracies["by depth"][-1] - 0.1
assert max(errors.values()) < 0.1
