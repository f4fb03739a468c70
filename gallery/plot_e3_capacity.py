# slow
"""
Bias and variance by capacity
=============================

Trees and polynomials overfit as they grow: bias falls, variance rises, and so in the end does the risk. A network of one hidden layer
without regularization does not get worse with width (optimization lecture), when Adam's step size falls with 1/width; at one step size for
all widths, wider networks train further and their variance grows a little. One-dimensional regression whose noise grows to the right.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.studies.capacity import Networks, Polynomials, Trees, capacity_curve, heteroscedastic, rise

capacities = {
    Trees(): (1, 2, 3, 4, 6, 8, 12, 20, 40),
    Polynomials(): (1, 2, 3, 4, 5, 7, 9, 11, 13),
    Networks(steps=1500): (1, 2, 4, 8, 16, 64, 256),
}
curves = {
    family: capacity_curve(family, sizes, refits=10 if isinstance(family, Networks) else 20)
    for family, sizes in capacities.items()
}
trees, polynomials, networks = curves.values()
assert rise(trees).lower > 0 and (polynomials[-1].risks > min(split.risk for split in polynomials)).all()  # overfitting
assert rise(networks).upper < 0.25 < rise(polynomials).midpoint  # none to speak of
assert networks[-1].variance < polynomials[-1].variance / 2

# %%
figure, axes = plt.subplots(3, 4, figsize=(15, 8.5), layout="constrained", width_ratios=[1, 1, 1, 1.5])
truth = heteroscedastic()
for row, (family, curve) in zip(axes, curves.items(), strict=True):
    best = min(curve, key=lambda split: split.risk)
    for axis, (word, split) in zip(row, (("too small", curve[1]), ("best", best), ("largest", curve[-1])), strict=False):
        mean, deviation = truth.mean(split.at), truth.deviation(split.at)
        axis.fill_between(split.at, mean - 2 * deviation, mean + 2 * deviation, color="0.9", lw=0)
        axis.plot(split.at, split.answers.T, color="C0", lw=0.7, alpha=0.5)
        axis.plot(split.at, mean, "k", lw=1.5)
        axis.set(ylim=(-2.5, 2.5), title=f"{family.name}, capacity {split.capacity} ({word})", xticks=(-1, 0, 1))
    sizes = [split.capacity for split in curve]
    parts = np.maximum([[split.noise, split.bias, split.variance] for split in curve], 0)
    row[3].stackplot(sizes, parts.T, labels=["noise", "bias²", "variance"], colors=["0.85", "#2f6f9f", "#c7691b"])
    row[3].plot(sizes, [split.risk for split in curve], "k.-", label="risk")
    row[3].set(
        xscale="log", ylim=(0, 0.9), xlabel="capacity", title=f"risk rises by {rise(curve).midpoint:.0%} from its least"
    )
axes[0, 3].legend(frameon=False, ncols=2)
plt.show()
