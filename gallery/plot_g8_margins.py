# slow
"""
Margins tell true labels from random ones, once rescaled
========================================================

A network fits random labels with margins much like those of true ones; divided by the spectral complexity R_A that the fit took, they
part (Bartlett's deck; Bartlett, Foster and Telgarsky 2017, here on Fashion-MNIST). R_A is the theorem's, with (2,1) norms: the deck's own
√Σ‖A‖_F/‖A‖ does not bound, as a layer of random signs shows on a page of its own.
"""

# %%
from itertools import pairwise
from math import exp, sqrt

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from nonvacuous.bounds.margin import SpectralMarginBound
from nonvacuous.bounds.spectral_complexity import LayerNorms, log_frobenius_complexity, spectral_complexity
from nonvacuous.measures.losses import margins
from nonvacuous.runtime import sources

n, widths = 2000, (784, 512, 512, 10)
train, test = (sources.load("fashion-mnist", part) for part in ("train", "test"))
x, y = train.inputs[:n].flatten(1), train.targets[:n]
fresh, answers = test.inputs[:n].flatten(1), test.targets[:n]
generator = torch.Generator().manual_seed(0)
labels = {"true labels": y, "random labels": torch.randint(10, (n,), generator=generator)}


# %%
def fitted(goal):
    """Adam until the mean cross-entropy is below 0.01: both networks fit their labels equally well."""
    torch.manual_seed(0)
    net = nn.Sequential(*[part for a, b in pairwise(widths) for part in (nn.Linear(a, b, bias=False), nn.ReLU())][:-1])
    adam, order = torch.optim.Adam(net.parameters(), lr=0.001), torch.Generator().manual_seed(0)
    loss, epochs = 1.0, 0
    while loss > 0.01 and epochs < 300:
        for part in torch.randperm(n, generator=order).split(100):
            adam.zero_grad()
            nn.functional.cross_entropy(net(x[part]), goal[part]).backward()
            adam.step()
        with torch.no_grad():
            scores = net(x)
        loss, epochs = float(nn.functional.cross_entropy(scores, goal)), epochs + 1
    weights = [part.weight.detach() for part in net if isinstance(part, nn.Linear)]
    norms = [(float(torch.linalg.matrix_norm(a, 2)), float(a.norm(dim=1).sum()), float(a.norm())) for a in weights]
    with torch.no_grad():
        wrong = float((net(fresh).argmax(1) != answers).double().mean())
    return margins(scores, goal).numpy(), norms, epochs, wrong


fits = {name: fitted(goal) for name, goal in labels.items()}

# %%
# R_A of the theorem; and the certificate, with margins, norms and inputs as they are: true, and vacuous, for both.
rms, plain, rescaled, complexity = float(x.norm()) / sqrt(n), {}, {}, {}
for name, (margin, norms, epochs, wrong) in fits.items():
    spectral, distance, frobenius = map(np.array, zip(*norms, strict=True))
    complexity[name] = spectral.prod() * ((distance / spectral) ** (2 / 3)).sum() ** 1.5
    layers = spectral_complexity([LayerNorms(s, b) for s, b, _ in norms])
    assert complexity[name] <= exp(layers.log_spectral_complexity_nats) <= 2 * complexity[name]  # rounded up to a grid
    plain[name], rescaled[name] = margin, margin / (complexity[name] * rms)
    evidence = SpectralMarginBound.Evidence(0.1, float(np.quantile(margin, 0.1)), *layers, rms, max(widths), n)
    deck = exp(log_frobenius_complexity(list(zip(spectral, frobenius, strict=True))))
    print(
        f"{name}: {epochs} epochs, error {(margin <= 0).mean():.4f}, test {wrong:.3f}, R_A {complexity[name]:.3g} (deck {deck:.3g})"
    )
    assert (margin <= 0).mean() < 0.005 and SpectralMarginBound().solve(evidence, 0.05) == 1.0


def overlap(shown):
    """Share that two histograms have in common: 1 alike, 0 apart."""
    edges = np.histogram_bin_edges(np.concatenate(list(shown.values())), 200)
    one, two = (np.histogram(values, edges)[0] / n for values in shown.values())
    return np.minimum(one, two).sum()


shared = overlap(plain), overlap(rescaled)
print(f"the distributions share {shared[0]:.0%} before and {shared[1]:.0%} after")
assert complexity["random labels"] > 2 * complexity["true labels"] and shared[1] < 0.6 * shared[0]

# %%
figure, axes = plt.subplots(1, 3, figsize=(13.5, 3.9), layout="constrained", width_ratios=[1, 1, 0.8])
colours = {"true labels": "tab:blue", "random labels": "tab:red"}
for axis, shown, title in (
    (axes[0], plain, f"margins: {shared[0]:.0%} in common"),
    (axes[1], rescaled, f"divided by R_A and the inputs' size: {shared[1]:.0%}"),
):
    top = np.quantile(np.concatenate(list(shown.values())), 0.99)
    for name, values in shown.items():
        axis.hist(values, np.linspace(0, top, 60), histtype="stepfilled", alpha=0.5, color=colours[name], label=name)
    axis.set(xlabel="margin", yticks=[], title=title)
axes[0].legend(frameon=False)
places = np.arange(len(widths) - 1)
for k, (name, (_, norms, _, wrong)) in enumerate(fits.items()):
    spectral, distance, _ = map(np.array, zip(*norms, strict=True))
    axes[2].bar(places + 0.2 * k - 0.3, spectral, 0.18, color=colours[name], label=f"{name}, test error {wrong:.2f}")
    axes[2].bar(places + 0.2 * k + 0.12, distance / spectral, 0.18, color=colours[name], alpha=0.45)
axes[2].set_yscale("log")
axes[2].set_xticks(places, [f"layer {k + 1}" for k in places])
axes[2].set(title="‖A‖ (full) and ‖Aᵀ‖₂,₁/‖A‖ (pale)", ylim=(1, 3000))
axes[2].legend(frameon=False, fontsize=8)
plt.show()
