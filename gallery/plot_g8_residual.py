# slow
"""
Rescaled margins of convolutional and residual networks
=======================================================

The spectral complexity R_A speaks of networks with branches too: a residual block brings the factor 1 + ‖A₁‖‖A₂‖ and counts the (2,1)
norms of its two convolutions only (Bartlett, Foster and Telgarsky 2017; the proof for graphs is this library's). Margins of true and of
random labels, alike before, part once divided by it, for a plain convolutional network and for one with a downsampling residual block.
"""

# %%
from math import exp, sqrt

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from nonvacuous.bounds.margin import SpectralMarginBound
from nonvacuous.measures.losses import margins
from nonvacuous.measures.norm_quantities import weight_graph
from nonvacuous.runtime import sources

n = 250
data = sources.load("fashion-mnist", "train")
x, y = data.inputs[:n], data.targets[:n]
labels = {"true labels": y, "random labels": torch.randint(10, (n,), generator=torch.Generator().manual_seed(0))}


class Block(nn.Module):
    """relu(Sx + A₂ relu(A₁x)) with a shortcut S: the identity, or a convolution where the size changes."""

    def __init__(self, inner, outer, stride):
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1)
        self.shortcut = nn.Conv2d(inner, outer, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return (self.shortcut(x) + self.second(self.first(x).relu())).relu()


def head(channels):
    return [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10)]


def stem(channels):
    return [nn.Conv2d(1, channels, 5, 2, 2), nn.ReLU()]


makers = {
    "convolutional": lambda: nn.Sequential(
        *stem(16), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(), *head(32)
    ),
    "residual": lambda: nn.Sequential(*stem(16), Block(16, 16, 1), Block(16, 32, 2), *head(32)),
}


# %%
def fitted(make, goal):
    """Adam until the mean cross-entropy is below 0.02: both networks fit their labels equally well."""
    torch.manual_seed(0)
    net, loss, epochs = make(), 1.0, 0
    adam, order = torch.optim.Adam(net.parameters(), lr=0.004), torch.Generator().manual_seed(0)
    while loss > 0.02 and epochs < 200:
        for part in torch.randperm(n, generator=order).split(50):
            adam.zero_grad()
            nn.functional.cross_entropy(net(x[part]), goal[part]).backward()
            adam.step()
        with torch.no_grad():
            scores = net(x)
        loss, epochs = float(nn.functional.cross_entropy(scores, goal)), epochs + 1
    return net, margins(scores, goal).numpy(), epochs


rms = sqrt(float(x.norm()) ** 2 / n + 1)  # the appended 1 of the biases
plain, rescaled, sizes = {}, {}, {}
for kind, make in makers.items():
    for name, goal in labels.items():
        net, margin, epochs = fitted(make, goal)
        graph = weight_graph(net, x.shape[1:])
        found = graph.complexity(None)
        sizes[kind, name] = found.log_spectral_complexity_nats
        plain[kind, name], rescaled[kind, name] = margin, margin / (exp(sizes[kind, name]) * rms)
        e = SpectralMarginBound.Evidence(0.1, float(np.quantile(margin, 0.1)), *found, rms, graph.widest, n)
        assert (margin <= 0).mean() < 0.005 and SpectralMarginBound().solve(e, 0.05) == 1.0
        print(f"{kind}, {name}: {len(graph.layers)} layers, {epochs} epochs, R_A {exp(sizes[kind, name]):.3g}")


# %%
def overlap(shown, kind):
    """Share that the two histograms have in common: 1 alike, 0 apart."""
    values = [shown[kind, name] for name in labels]
    edges = np.histogram_bin_edges(np.concatenate(values), 200)
    one, two = (np.histogram(v, edges)[0] / n for v in values)
    return np.minimum(one, two).sum()


figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
colours = {"true labels": "tab:blue", "random labels": "tab:red"}
for row, kind in zip(axes, makers, strict=True):
    shared = overlap(plain, kind), overlap(rescaled, kind)
    assert sizes[kind, "random labels"] > sizes[kind, "true labels"] + np.log(1.5) and shared[1] < 0.7 * shared[0]
    for axis, shown, title in zip(row, (plain, rescaled), ("margins", "divided by R_A·x"), strict=True):
        top = np.quantile(np.concatenate([shown[kind, name] for name in labels]), 0.99)
        for name in labels:
            axis.hist(
                shown[kind, name], np.linspace(0, top, 50), histtype="stepfilled", alpha=0.5, color=colours[name], label=name
            )
        axis.set(yticks=[], title=f"{kind}: {title}, {shared[shown is rescaled]:.0%} in common")
axes[0, 0].legend(frameon=False)
plt.show()
