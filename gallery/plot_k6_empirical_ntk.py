# slow
"""
The tangent kernel turns towards the labels
===========================================

To first order gradient descent moves a network's outputs by its tangent kernel Θ(x, x') = Σ_p ∂f(x)/∂θ_p·∂f(x')/∂θ_p (Jacot, Gabriel
and Hongler 2018), each eigendirection at the speed of its eigenvalue. In a network of finite width the kernel changes: training
aligns it with the labels (Baratin et al. 2021), here on handwritten digits, and few directions come to hold them.
"""

# %%
import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from nonvacuous.kernels.alignment import label_alignment, label_energy, targets_of
from nonvacuous.kernels.empirical import OutputTrace, empirical_ntk
from nonvacuous.kernels.laziness import lazy_distance
from nonvacuous.kernels.spectrum import eigenpairs
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.training import train

digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
)  # fmt: skip
start = copy.deepcopy(net).eval()
train(net, as_sample((x[:1400], y[:1400])), epochs=30, learning_rate=0.1, optimizer="sgd", batch_size=64, progress=False)
net.eval()

# %%
# The kernels of 200 examples that training never saw, summed over the ten outputs, before and after.
seen, labels = x[1400:1600], y[1400:1600]
kernels = {
    name: empirical_ntk(model, seen, outputs=OutputTrace(), dtype=torch.float64)
    for name, model in (("before training", start), ("after training", net))
}
aligned = {name: label_alignment(K, labels) for name, K in kernels.items()}
targets = targets_of(labels, 10) - 0.1
pairs = {name: eigenpairs(K) for name, K in kernels.items()}
energy = {name: label_energy(p, targets).cumsum(0) for name, p in pairs.items()}
distance = lazy_distance(start, net, seen, kernels=tuple(kernels.values()))
assert aligned["after training"] > aligned["before training"] + 0.1
assert energy["after training"][15] > energy["before training"][15] + 0.1

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for name, p in pairs.items():
    axes[0].loglog(range(1, 201), p.values / p.values[0], label=name)
    axes[1].semilogx(range(1, 201), energy[name], label=f"{name}, alignment {aligned[name]:.2f}")
axes[0].set(title="eigenvalues, relative to the largest", xlabel="rank")
axes[1].set(title="share of the labels in the leading directions", xlabel="directions", ylim=(0, 1.02))
for axis in axes[:2]:
    axis.legend(frameon=False)
order = labels.argsort()
axes[2].imshow(kernels["after training"][order][:, order], cmap="viridis")
axes[2].set(
    title=f"after training, examples by class\nalignment with that before: {distance.kernel_alignment:.2f}",
    xticks=[],
    yticks=[],
)
plt.show()
