# slow
"""
Complex neurons
===============

One complex neuron with its magnitude read out is \\|z\\|; a real ReLU network of one hidden layer of N is at least sin²(π/4N) off, and a
polygon attains tan²(π/4N) (the kind of advantage that Zhang, Gao and Zhou 2021 state for radial functions; the plane's constants are
proved in ``networks.complex_advantage``). On real digits, seen through their Fourier transform, networks of equal size do not differ.
"""

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

from nonvacuous.measures.student import mean_interval
from nonvacuous.networks.complex_activations import Magnitude, ModReLU
from nonvacuous.networks.complex_advantage import modulus_error_floor, modulus_net, polygon_modulus
from nonvacuous.networks.complex_valued import ComplexLinear, FourierTransform2d, RealParts
from nonvacuous.runtime.bundled import digits
from nonvacuous.runtime.stacked_training import Member, trained_stack

radii, turns = torch.linspace(0, 1, 15), torch.arange(360) * 2 * math.pi / 360
disk = torch.stack((torch.outer(radii, turns.cos()), torch.outer(radii, turns.sin())), -1).reshape(-1, 2)
modulus = disk.norm(dim=1, keepdim=True)
three = [Member(seed, torch.arange(len(disk))) for seed in range(3)]


def trained_errors(network):
    """Largest errors on the disk, one a seed."""
    options = {"steps": 1200, "batch_size": 256, "learning_rate": 0.01, "loss": nn.functional.mse_loss}
    stack = trained_stack(network, disk, modulus, three, **options)
    return (stack.outputs(disk) - modulus).abs().amax((1, 2))


widths = (3, 5, 9, 17, 33)
floors = [modulus_error_floor(n) for n in widths]
attained = [(polygon_modulus(n)(disk) - modulus).abs().max().item() for n in widths]
real = [trained_errors(lambda n=n: nn.Sequential(nn.Linear(2, n), nn.ReLU(), nn.Linear(n, 1))) for n in widths]
neuron = trained_errors(lambda: modulus_net([complex(*torch.randn(2))]))
assert all(floor <= polygon for floor, polygon in zip(floors, attained, strict=True))
assert all(bool((errors >= floor).all()) for floor, errors in zip(floors, real, strict=True))
assert neuron.max() < 1e-4 < floors[-1]  # trained from random weights, one complex neuron finds |z|

# %%
# Digits, few and many; both networks read the Fourier transform.
train, test = digits("train"), digits("test")


def complex_net():
    """1,832 real numbers."""
    layers = (ComplexLinear(64, 12), ModReLU(12), ComplexLinear(12, 10), Magnitude())
    return nn.Sequential(FourierTransform2d(), nn.Flatten(), *layers)


def real_net():
    """1,817."""
    return nn.Sequential(FourierTransform2d(), RealParts(), nn.Flatten(), nn.Linear(128, 13), nn.ReLU(), nn.Linear(13, 10))


pool, spare = torch.arange(360, train.n), torch.arange(360)  # spare: to choose learning rates on, with other seeds


def errors(network, size, seeds, rate, held):
    """Fractions wrong on ``held``, one a seed; a seed's ``size`` examples and batches are the same for either network."""
    draws = [torch.randperm(len(pool), generator=torch.Generator().manual_seed(s))[:size] for s in seeds]
    members = [Member(s, pool[draw]) for s, draw in zip(seeds, draws, strict=True)]
    stack = trained_stack(network, train.inputs, train.targets, members, steps=400, batch_size=64, learning_rate=rate)
    return (stack.outputs(held[0]).argmax(-1) != held[1]).double().mean(1)


found, intervals = {}, {}
for size in (200, len(pool)):
    for name, network in (("complex", complex_net), ("real", real_net)):
        wrong = {
            rate: errors(network, size, (100, 101), rate, (train.inputs[spare], train.targets[spare])).mean()
            for rate in (3e-3, 1e-2, 3e-2)
        }
        chosen = min(wrong, key=wrong.get)
        found[size, name] = errors(network, size, range(10), chosen, (test.inputs, test.targets))
    intervals[size] = mean_interval(100 * (found[size, "complex"] - found[size, "real"]), 0.95)
    print(
        f"{size} examples: complex less real {intervals[size].lower:+.1f} … {intervals[size].upper:+.1f} points of test error"
    )
assert all(each.mean() < (0.15 if size == 200 else 0.05) for (size, _), each in found.items())
assert all(
    -2 < interval.lower < 0 < interval.upper < 2 for interval in intervals.values()
)  # no difference shown, and none large

# %%
figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.2), layout="constrained", gridspec_kw={"width_ratios": [1.1, 1.6, 1.4]})
grid = torch.stack(torch.meshgrid(*[torch.linspace(-1.1, 1.1, 221)] * 2, indexing="xy"), -1).reshape(-1, 2)
for net, colour, label in ((polygon_modulus(5), "tab:red", "5 real neurons"), (modulus_net(), "tab:blue", "1 complex neuron")):
    levels = net(grid).detach().reshape(221, 221)
    axes[0].contour(*grid.reshape(221, 221, 2).permute(2, 0, 1), levels, [0.6, 0.8, 1.0], colors=colour, linewidths=1.3)
    axes[0].plot([], [], color=colour, label=label)
axes[0].set(aspect="equal", title="level lines of the approximations of |z|", xlabel="Re z", ylabel="Im z")
axes[0].legend(frameon=False, fontsize=8, loc="center")
axes[1].fill_between(widths, 1e-9, floors, color="0.9")
axes[1].loglog(widths, attained, "o-", color="tab:red", label="regular polygon, tan²(π/4N)")
for n, each in zip(widths, real, strict=True):
    axes[1].plot([n] * 3, each, "x", color="tab:orange", label="trained, three seeds" if n == 3 else None)
axes[1].axhspan(neuron.min(), neuron.max(), color="tab:blue", label="one complex neuron, trained")
axes[1].text(5.6, 3e-5, "no real network of one hidden layer", color="0.4", fontsize=8)
axes[1].set(ylim=(1e-8, 2), xlabel="real neurons N", ylabel="largest error on the disk", xticks=widths, xticklabels=widths)
axes[1].minorticks_off()
axes[1].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.19))
for k, ((_, name), each) in enumerate(found.items()):
    place, colour = k // 2 + (0.15 if name == "real" else -0.15), "tab:red" if name == "real" else "tab:blue"
    axes[2].plot([place] * len(each), 100 * each, "o", color=colour, alpha=0.5, label=name if k < 2 else None)
    interval = mean_interval(100 * each, 0.95)
    axes[2].plot([place + 0.07] * 2, [interval.lower, interval.upper], color=colour, lw=3)
names = [f"{size:,} digits\ndifference {i.lower:+.1f} … {i.upper:+.1f}" for size, i in intervals.items()]
axes[2].set(xticks=range(2), xticklabels=names, xlim=(-0.5, 1.5), ylim=(0, None), ylabel="test error, %")
axes[2].set_title("equal numbers of weights, ten seeds")
axes[2].legend(frameon=False)
plt.show()
