"""
Narrow and deep is universal too
================================

A residual network with one neuron a hidden layer approximates any integrable function in the mean (Lin and Jegelka 2018, Theorem
3.1; Than's deck); plain nets of width d + 2 or 3 approximate any continuous one (Kidger and Lyons 2020; Zhang's deck), and so do
deep convolutional nets (Zhou 2020), since convolutions compose to any filter.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from nonvacuous.approximation.bumps import approximate
from nonvacuous.approximation.one_neuron import one_neuron_resnet

edges = [0.0, 0.8, 1.4, 2.5, 3.0, 4.0]
heights = [1.0, -0.5, 2.0, 0.3, 1.4]
built = one_neuron_resnet(edges, heights, eps=0.2)
x = torch.linspace(0, 4, 200_001, dtype=torch.float64)
steps = torch.tensor(heights, dtype=torch.float64)[torch.bucketize(x, torch.tensor(edges[1:-1]).double(), right=True)]
coarse = one_neuron_resnet(edges, heights, eps=8.0)  # wide ramps, to be seen in the pictures
with torch.no_grad():
    states = [x]
    for u, b, v in zip(coarse.module.inner, coarse.module.bias, coarse.module.outer, strict=True):
        states.append(states[-1] + v * (u * states[-1] + b).relu())
    off = torch.trapezoid((built.module(x) - steps).abs(), x).item()

# %%
assert off <= built.error.upper <= 0.2
assert (built.module(x) - steps).abs().max() > 0.5  # at the jumps: the theorem is about the mean

# %%
# Width 3: the same bumps as one hidden layer of N units, as N layers that hand on x, a hinge and the sum so far.
shallow = approximate(torch.cos, (0.0, 4.0), 0.25, lipschitz=1.0).module
narrow = shallow.narrow()
assert torch.allclose(shallow(x), narrow(x), rtol=0, atol=1e-9)

# %%
# Convolutions: a filter of length 9 is a composition of eight of length 2 (complex roots in pairs: length 3), Zhou's factorisation.
rng = np.random.default_rng(0)
long = rng.normal(size=9)
roots = np.roots(long)
factors = [np.array([1.0, -r.real]) for r in roots if abs(r.imag) < 1e-12]
factors += [np.array([1.0, -2 * r.real, abs(r) ** 2]) for r in roots if r.imag > 1e-12]
product = np.array([long[0]])
for factor in factors:
    product = np.convolve(product, factor)
assert np.allclose(product, long, rtol=1e-9) and max(map(len, factors)) <= 3

# %%
figure, axes = plt.subplots(2, 3, figsize=(13, 6), layout="constrained")
count = len(heights)
shown = {
    1: "placed",
    4: "one cell done",
    7: "two cells done",
    3 * count - 1: "all trapezoids",
    len(states) - 1: "levelled and moved",
}
for axis, (number, name) in zip(axes.flat, shown.items(), strict=False):
    last = number == len(states) - 1
    axis.plot(x, (states[number] + (coarse.module.shift.item() if last else 0)).clamp(max=9), color="tab:blue", lw=1.2)
    if last:
        axis.plot(x, built.module(x).detach(), color="tab:orange", lw=1, label="narrower ramps")
        axis.plot(x, steps, "k:", lw=2, label="target")
        axis.legend(frameon=False, fontsize=8)
    axis.set(title=f"after block {number}: {name}")
axes[1, 2].plot(x, shallow(x).detach(), color="0.7", lw=4, label=f"1 layer of {len(shallow.knots)}")
axes[1, 2].plot(x, narrow(x).detach(), "--", color="tab:red", label=f"{len(shallow.knots) + 1} layers of 3")
axes[1, 2].set(title="narrow and deep, same function")
axes[1, 2].legend(frameon=False, fontsize=8)
figure.suptitle(
    f"one neuron a layer, {len(states) - 1} residual blocks: ∫|error| = {off:.3f}, certified {built.error.upper:.3f}"
)
plt.show()
