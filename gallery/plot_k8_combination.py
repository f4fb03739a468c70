# slow
"""
A kernel a layer, and their combination
=======================================

Each layer of an infinitely wide network has a kernel; Zhang's deck stacks such kernels and combines them. Non-negative weights are
chosen by alignment with the labels (Cortes, Mohri and Rostamizadeh 2012), by marginal likelihood, or by validation, and compared on real
data with the best single kernel and with the plain mean. A combination that is fitted is not worse than the mean; it need not beat the
best single layer.
"""

# %%
# Seven kernels of handwritten digits: the linear one, five depths of a ReLU network, and a cascade of mixed activations.

from functools import partial

import matplotlib.pyplot as plt
import torch

from nonvacuous.kernels.cholesky import Cholesky
from nonvacuous.kernels.combination import (
    alignment,
    by_alignment,
    by_likelihood,
    by_validation,
    cascaded,
    linear_block,
    normalized,
    single,
    uniform,
)
from nonvacuous.kernels.recursion import nngp_ntk
from nonvacuous.kernels.regression import one_hot_targets
from nonvacuous.runtime.sources import load

batch = next(load("digits").batches(2000))
x = batch.inputs.flatten(1).double()
x = 8 * x / x.norm(dim=1, keepdim=True)
names = ["linear", "1 layer", "2 layers", "4 layers", "8 layers", "32 layers", "cascade"]
kernels = [x @ x.T / 64, *(nngp_ntk(x, depth=depth).nngp for depth in (1, 2, 4, 8, 32))]
block = linear_block(x, x)
for _ in range(3):
    block = cascaded(block, ["relu", "gaussian", "sin"], torch.tensor([1.0, 0.5, 0.5]))
kernels.append(block.covariance)
kernels = [K / scale for K, scale in zip(kernels, normalized(kernels), strict=True)]
Y = one_hot_targets(batch.targets, 10)

# %%
# Six random splits: 150 digits fitted, 150 to validate on, 600 tested. Ridges by validation for all but the likelihood, which has its own.

ridges = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2]
ways = ["best single", "plain mean", "alignment", "likelihood", "validation"]
errors, weights = {way: [] for way in ways}, {}
for split in range(6):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(split))
    fit, held, test = order[:150], order[150:300], order[300:900]
    grams = [K[fit][:, fit] for K in kernels]
    crosses = [K[held][:, fit] for K in kernels]
    news = [K[test][:, fit] for K in kernels]

    chosen = partial(by_validation, grams, Y[fit], crosses, Y[held], ridges)
    singles, mean = [single(7, i) for i in range(7)], uniform(7)
    aligned, likely = by_alignment(grams, Y[fit]), by_likelihood(grams, Y[fit])
    found = {
        "best single": chosen(singles),
        "plain mean": chosen([mean]),
        "alignment": chosen([aligned]),
        "likelihood": likely,
        "validation": chosen([*singles, mean, aligned, likely]),
    }
    for way, combination in found.items():
        alpha = Cholesky(combination.combined(grams), combination.ridge).solved(Y[fit])
        guess = combination.combined(news) @ alpha
        errors[way].append(float((guess - Y[test]).square().sum(1).mean()))
        weights.setdefault(way, []).append(combination.weights)

# %%
# Differences are taken split by split.

mean_error = {way: sum(e) / 6 for way, e in errors.items()}
below = {}
for way in ways:
    d = torch.tensor(errors[way]) - torch.tensor(errors["plain mean"])
    below[way] = (float(d.mean()), float(d.std() / 6**0.5))
    print(f"{way}: squared error {mean_error[way]:.4f}; against the plain mean {below[way][0]:+.4f} ± {below[way][1]:.4f}")

figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
axes[0].bar(names, [alignment(K[:300, :300], Y[:300]) for K in kernels], color="0.6")
axes[0].set(title="alignment of each kernel with the labels")
axes[0].tick_params(axis="x", rotation=45)
bottom = torch.zeros(5).double()
table = torch.stack([torch.stack(weights[way]).mean(0) for way in ways])
for i, name in enumerate(names):
    axes[1].bar(ways, table[:, i], bottom=bottom, label=name, color=plt.cm.viridis(i / 6))
    bottom = bottom + table[:, i]
axes[1].set(title="mean weights")
axes[1].tick_params(axis="x", rotation=45)
axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
axes[2].errorbar(ways, [below[w][0] for w in ways], [2 * below[w][1] for w in ways], fmt="o", capsize=4)
axes[2].axhline(0, color="k", lw=0.8)
axes[2].set(title="test squared error, minus that of the plain mean")
axes[2].tick_params(axis="x", rotation=45)
plt.show()

# %%
# Fitted weights beat the plain mean; the best of all candidates on the validation digits is never far from the best single kernel.

assert below["likelihood"][0] + 2 * below["likelihood"][1] < 0 or below["validation"][0] + 2 * below["validation"][1] < 0
assert mean_error["validation"] < 1.02 * mean_error["best single"]
