"""
2n + d numbers memorise anything
================================

A two-layer ReLU network with 2n + d weights takes any values on any n points in d dimensions (Zhang et al. 2017, Theorem 1; Wu's
deck). So training error 0 on random labels needs no generalization at all; in float64 it does need a careful solve.
"""

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from nonvacuous.approximation.memorize import memorize

x = torch.tensor(load_digits().data) / 16
generator = torch.Generator().manual_seed(0)
distinct = len(x.unique(dim=0))
labels = torch.randint(0, 10, (len(x),), generator=generator).double()
built = memorize(x[:1000], labels[:1000])
count = sum(p.numel() for p in built.module.parameters())

# %%
with torch.no_grad():
    train = built.module(x[:1000])
    test = built.module(x[1000:])
assert count == 2 * 1000 + 64
assert (train - labels[:1000]).abs().max() <= 1e-6 * 9
assert (train.round() == labels[:1000]).all()
assert (test.round() == labels[1000:]).double().mean() < 0.3  # chance: nothing was learnt

# %%
# The solve as in the paper's proof (any direction, biases anywhere between) against the one used here, as n grows.


def naive(n):
    direction = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z, order = (x[:n] @ direction).sort()
    matrix = (z[:, None] - torch.cat([z[:1] - 1, (z[1:] + z[:-1]) / 2])).relu()
    y = labels[:n][order][:, None]
    return ((matrix @ torch.linalg.solve_triangular(matrix, y, upper=False) - y).abs().max() / 9).item()


sizes = [10, 30, 100, 300, 1000, 1797]
plain = [naive(n) for n in sizes]
careful = [max(memorize(x[:n], labels[:n]).error.upper / 9, 1e-17) for n in sizes]
assert careful[-1] < 1e-9 and careful[-1] < plain[-1] / 100

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained", width_ratios=[1.6, 1, 1])
direction, hinges = built.module.direction.detach(), built.module.hinges
z, order = (x[:1000] @ direction).sort()
middle = slice(480, 510)
line = torch.linspace(z[480], z[509], 4000, dtype=torch.float64)
with torch.no_grad():
    axes[0].plot(line, hinges(line), lw=0.8, color="tab:blue", label="network, along its direction")
axes[0].plot(z[middle], labels[:1000][order][middle], "o", ms=4, color="tab:red", label="random labels")
axes[0].set(title=f"{count:,} numbers through 1,000 points (30 shown)", xlabel="⟨a, x⟩")
axes[0].legend(frameon=False, fontsize=8, loc="upper right")
axes[1].loglog(sizes, plain, "o-", color="tab:red", label="proof, taken literally")
axes[1].loglog(sizes, careful, "s-", color="tab:green", label="memorize")
axes[1].set(title="relative error in float64", xlabel="n")
axes[1].legend(frameon=False, fontsize=8)
axes[2].hist([(train - labels[:1000]).abs().clamp(0, 12), (test - labels[1000:]).abs().clamp(0, 12)], bins=25, density=True,
             label=["memorised", "new points"], color=["tab:green", "tab:red"])  # fmt: skip
axes[2].set(title="|output − label|", yscale="log")
axes[2].legend(frameon=False, fontsize=8)
plt.show()
