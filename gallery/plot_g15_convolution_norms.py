"""
The norm of a convolution, and what is taken for it
===================================================

The operator norm of a convolution is not the σ of its reshaped kernel, which spectral normalization divides by and which may be
too small by √taps; nor the largest singular value over frequencies of a circle, which is too large on small images (Miyato 2018;
Sedghi, Gupta and Long 2019). On a circle with a *twisted* seam that value is still proved to be an upper end, and is close.
"""

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

from nonvacuous.operators.norms import linear_map, spectral_norm

torch.manual_seed(0)


def smooth_kernel(taps, channels=4):
    """Random signs between channels, one hump over the taps, as trained kernels often are."""
    hump = torch.sin(math.pi * (torch.arange(taps) + 1) / (taps + 1))
    layer = nn.Conv2d(channels, channels, taps, padding=taps // 2, bias=False)
    layer.weight.data = torch.randn(channels, channels, 1, 1) * hump[:, None] * hump
    layer.weight.data /= torch.linalg.matrix_norm(layer.weight.data.flatten(1), 2)  # spectral normalization: σ = 1
    return layer


sizes = [1, 3, 5, 7]
brackets = [spectral_norm(smooth_kernel(taps), (4, 24, 24)) for taps in sizes]
assert all(bracket.upper <= 1.01 * bracket.lower for bracket in brackets)
assert brackets[0].upper < 1.01 and brackets[-1].lower > 5  # normalized to 1, it stretches five times


# %%
# Small images: the dense truth, a plain circle and the twisted one.
def circle(layer, side):
    """Largest singular value over the frequencies of a plain circle of side + 2."""
    spectrum = torch.fft.fft2(layer.weight.detach().double(), (side + 2, side + 2)).permute(2, 3, 0, 1)
    return torch.linalg.matrix_norm(spectrum, 2).max().item()


layer, sides = smooth_kernel(3), [3, 4, 5, 6, 8, 11, 16, 24]
truth = [torch.linalg.matrix_norm(linear_map(layer, (4, side, side)).dense(), 2).item() for side in sides]
plain = [circle(layer, side) for side in sides]
twisted = [linear_map(layer, (4, side, side)).upper(t, 0.01, memory=0) for side, t in zip(sides, truth, strict=True)]
for true, loose, tight in zip(truth, plain, twisted, strict=True):
    assert true <= tight <= loose * 1.01
    assert tight <= 1.02 * true
assert plain[0] > 1.3 * truth[0]

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
axes[0].plot(sizes, [b.upper for b in brackets], "o-", color="tab:green", label="operator norm (proved bracket)")
axes[0].plot(sizes, [1] * 4, "s--", color="tab:red", label="σ of the reshaped kernel")
axes[0].plot(sizes, sizes, ":", color="0.6", label="√taps")
axes[0].set(xlabel="kernel size", xticks=sizes, title="after spectral normalization of the kernel")
axes[0].legend(frameon=False)
axes[1].plot(sides, plain, "s--", color="tab:orange", label="plain circle")
axes[1].plot(sides, twisted, "o-", color="tab:green", label="twisted circle (upper end)")
axes[1].plot(sides, truth, "k.", label="dense SVD")
axes[1].set(xlabel="image side", xscale="log", xticks=sides, xticklabels=sides, title="3 × 3 kernel, zero padding")
axes[1].minorticks_off()
axes[1].legend(frameon=False)
plt.show()
