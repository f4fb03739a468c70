# slow
"""
Sharp and flat minima: what reparameterisation changes, and what large batches do
=================================================================================

Keskar et al. (2017) say that large batches end in sharp minima, which err more. But one layer times α and the next times 1/α is the same
function with another sharpness (Dinh et al. 2017): only measures that are aware of it can tell anything about a function. And the effect
itself, on digits with few seeds, is measured here with its interval, confirmed or not; a larger run lies in ``results/batch_size.csv``.
"""

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch

from nonvacuous.optimization.sharpness import ball_sharpness, box_sharpness
from nonvacuous.optimization.sharpness_flatness import flatness_std
from nonvacuous.optimization.sharpness_invariant import fisher_rao_norm, relative_flatness
from nonvacuous.optimization.slices_objective import objective
from nonvacuous.runtime.models import initialise, mlp
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.training import train
from nonvacuous.studies.batch_size import CLAIMS, Arm, Verdict, draw, findings, run

# %%
# **One function, many sharpnesses.** All numbers relative to α = 1.
sample = load("digits")
net = initialise(lambda: mlp(64, 32, 32, 10), 0)
train(net, sample, epochs=15, learning_rate=0.005, progress=False)


def rescaled(alpha):
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in (other[1].weight, other[1].bias):
            p *= alpha
        other[3].weight /= alpha
    return other


measures = {
    "box (Keskar)": lambda o: box_sharpness(o, steps=3, restarts=0).rise,
    "ball (SAM)": lambda o: ball_sharpness(o).rise.lower,
    "1 / noise σ": lambda o: 1 / flatness_std(o, draws=4).midpoint,
    "adaptive ball (ASAM)": lambda o: ball_sharpness(o, rho=0.5, adaptive=True).rise.lower,
    "1 / adaptive noise σ": lambda o: 1 / flatness_std(o, draws=4, adaptive=True).midpoint,
    "Fisher–Rao norm": lambda o: fisher_rao_norm(o).midpoint,
    "relative flatness": lambda o: relative_flatness(o, probes=4).total.midpoint,
}
alphas = [0.1, 0.3, 1.0, 3.0, 10.0]
targets = [objective(rescaled(a).double(), sample, examples=300) for a in alphas]
values = {name: np.array([measure(o) for o in targets]) for name, measure in measures.items()}
for number, (name, row) in enumerate(values.items()):
    change = row.max() / row.min()
    print(f"{name:<22} changes by a factor of {change:.4f}")
    assert change > 1.3 if number < 3 else change < 1.0001

# %%
# **Small against large batches**, each trained to the same training loss.
test = draw(load("digits", "test"), None, 0)
runs = [
    run("digits", draw(load("digits"), 800, seed), test, arm, seed, hidden=32, target=0.1)
    for seed in range(3)
    for arm in (Arm.SMALL, Arm.LARGE)
]
found = findings(runs, Arm.LARGE)
for f in found:
    print(f"{f.claim.name:<20} large − small {f.mean:+.4f} in {f.interval}: {f.verdict.value}")
assert all(f.interval.lower <= f.mean <= f.interval.upper and f.verdict in Verdict for f in found)
assert all(r.fitted for r in runs)  # the comparison is of networks that fit equally well

# %%
figure, axes = plt.subplots(1, 2, figsize=(13, 4.2), layout="constrained")
for number, (name, row) in enumerate(values.items()):
    axes[0].loglog(alphas, row / row[2], "o-" if number < 3 else "s--", ms=4, label=name)
axes[0].set(xlabel="α", ylabel="relative to α = 1", title="the same function, rescaled by α")
axes[0].legend(frameon=False, fontsize=8)
for place, claim in enumerate(CLAIMS):
    pairs = [[getattr(r, claim.name) for r in runs if r.arm == arm.value] for arm in (Arm.SMALL, Arm.LARGE)]
    scale = np.mean(pairs[0])
    for small, large in zip(*pairs, strict=True):
        axes[1].plot([place - 0.15, place + 0.15], [small / scale, large / scale], "o-", color="0.5", ms=4, lw=1)
axes[1].set_xticks(range(len(CLAIMS)), [c.name.replace("_", "\n") for c in CLAIMS], fontsize=8)
axes[1].set(title="small (left) and large batch (right), a line a seed", ylabel="relative to the small batch's mean")
plt.show()
