"""
Without batch norm, the signal kept
===================================

Brock, De and Smith (2021) replace batch norm by three constants and standardized weights, and foretell the variance of every block:
1 + iα² within a stage. Shown on real pictures beside a residual network that has none of it, whose signal nearly doubles in every block.
"""

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

from nonvacuous.networks.normalizer_free import NormalizerFreeNet, signal_by_block
from nonvacuous.networks.spectral import spectrally_normalized
from nonvacuous.operators.norms import spectral_norm
from nonvacuous.runtime.bundled import digits

train, test = digits("train"), digits("test")
pictures = train.inputs[:16] - train.inputs.mean()
stages = [(96, 5), (96, 5, 2)]
seeds = [
    signal_by_block(NormalizerFreeNet(1, 10, stages, alpha=0.4, padding_mode="circular", seed=seed), pictures)
    for seed in range(3)
]
measured = torch.tensor([[s.measured / signals[0].measured for s in signals] for signals in seeds])
predicted = torch.tensor([s.predicted / seeds[0][0].predicted for s in seeds[0]])
assert ((measured.mean(0) / predicted - 1).abs() < 0.1).all()

# %%
# The same depth of plain blocks h + f(h), weights as He et al. have them.
torch.manual_seed(0)
h, plain = seeds[0][0].measured ** 0.5 * torch.randn(16, 96, 8, 8), []
for _ in range(len(predicted)):
    plain.append(h.square().mean().item())
    first, second = (torch.randn(96, 96, 3, 3) * math.sqrt(2 / (9 * 96)) for _ in range(2))
    h = h + nn.functional.conv2d(nn.functional.conv2d(h.relu(), first, padding=1).relu(), second, padding=1)
plain = torch.tensor(plain) / plain[0]
assert plain[-1] > 30 * measured.max()

# %%
# Spectral normalization: torch's divides by σ of the reshaped kernel, which is no bound; ours by the operator norm, and proves it.
image, theirs, ours = (16, 8, 8), [], []
for step in range(12):
    torch.manual_seed(step)
    hump = torch.tensor([0.5, 1.0, 0.5]) ** (step / 6)  # from flat kernels to peaked ones
    layer, other = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    kernel = torch.randn(16, 16, 1, 1) * hump[:, None] * hump
    layer.weight.data, other.weight.data = kernel.clone(), kernel.clone()
    theirs.append(spectral_norm(nn.utils.parametrizations.spectral_norm(layer, n_power_iterations=30).eval(), image))
    ours.append(spectral_norm(spectrally_normalized(other, image), image, tolerance=1e-3))
assert min(norm.lower for norm in theirs) > 1.5
assert all(0.85 < norm.lower <= norm.upper <= 1 for norm in ours)

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
places = range(len(predicted))
axes[0].plot(places, plain, "s--", color="tab:red", label="plain residual blocks")
axes[0].plot(places, predicted, "k-", lw=1, label="foretold: 1 + iα²")
axes[0].plot(places, measured.mean(0), "o", color="tab:green", label="normalizer-free, three seeds")
axes[0].fill_between(places, measured.amin(0), measured.amax(0), color="tab:green", alpha=0.3, lw=0)
axes[0].set(yscale="log", ylim=(0.5, 3e3), xlabel="block", ylabel="mean square of the signal / that of the stem")
axes[0].set(title="digits, before training; a stage starts at blocks 1 and 6")
axes[0].legend(frameon=False)
sharpness = torch.arange(12) / 6
axes[1].plot(sharpness, [n.upper for n in theirs], "s--", color="tab:red", label="torch: reshaped kernel")
axes[1].plot(sharpness, [n.upper for n in ours], "o-", color="tab:green", label="operator norm (proved)")
axes[1].axhline(1, color="0.4", lw=1)
axes[1].set(ylim=(0, None), xlabel="how peaked the kernels are", ylabel="norm of the convolution after normalization to 1")
axes[1].set(title="spectral normalization, 3 × 3 on 8 × 8")
axes[1].legend(frameon=False)
plt.show()
