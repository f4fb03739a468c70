"""
Normalizers flatten the loss, where deviations are large
=========================================================

The slides: the gradient by W_i is at most ‖∂h/∂y_i‖ · ‖h_{i−1}‖, so that a product of ‖γ/σ‖ below 1 flattens the training loss
exponentially in depth. With the true constants of the normalizers the bound holds in a ball about the weights, and what is measured lies
below it; where σ < γ the same normalizers make the loss steeper.
"""

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nonvacuous.measures.flattening import gradient_bounds, steepest_seen

generator = torch.Generator().manual_seed(0)
x, y = torch.randn(32, 10, generator=generator).double(), torch.arange(32) % 4
radius, depths = 1e-4, [1, 2, 4, 6, 8]


def chain(depth, normalizer, gain):
    torch.manual_seed(depth)
    layers = []
    for place in range(depth):
        dense = nn.Linear(16 if place else 10, 16, bias=False)
        nn.init.normal_(dense.weight, std=gain * (2 / dense.in_features) ** 0.5)
        layers += [dense, *([normalizer(16)] if normalizer else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, 4, bias=False)).double()


# %%
# Lipschitz constants of the loss in all weights within 10⁻⁴ of them: bound, and steepest gradient found by ascent. Layer norm lowers both.
# Batch norm flattens the loss as much, but no bound by ‖γ/σ‖ shows it here: a channel that hardly varies has a large γ/σ of its own.
kinds = {"no normalizer": None, "layer norm": nn.LayerNorm, "batch norm": nn.BatchNorm1d}
figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained", sharey=True)
for axis, gain in zip(axes, (6.0, 0.1), strict=True):
    for number, (name, normalizer) in enumerate(kinds.items()):
        nets = [chain(depth, normalizer, gain) for depth in depths]
        found = [gradient_bounds(net, x, radius=radius) for net in nets]
        bounds, factors = [each.lipschitz.upper for each in found], [each.normalizers for each in found]
        seen = [steepest_seen(net, cross_entropy, x, y, radius, starts=1, steps=2).lower for net in nets]
        assert all(low <= high for low, high in zip(seen, bounds, strict=True))
        axis.semilogy(depths, bounds, "--", color=f"C{number}", label=f"{name}: bound")
        axis.semilogy(depths, seen, "o-", color=f"C{number}", ms=4, label="measured")
        ends = f"bound {bounds[-1]:.2g}, measured {seen[-1]:.2g}"
        print(f"{gain:g} × He's, {name:<14} {ends}, ∏ of the normalizers' constants {factors[-1]:.2g}")
        if normalizer is None:
            plain = seen[-1], bounds[-1]
        elif gain > 1:
            assert seen[-1] < 1e-2 * plain[0]  # flatter
            assert normalizer is nn.BatchNorm1d or bounds[-1] < 0.1 * plain[1]
        else:
            assert seen[-1] > 1e2 * plain[0]  # steeper
    axis.set(xlabel="hidden layers", title=f"weights {gain:g} × He's: σ {'> γ' if gain > 1 else '< γ'}")
axes[0].set_ylabel("Lipschitz constant of the loss near the weights")
axes[0].legend(frameon=False, fontsize=8)
plt.show()
