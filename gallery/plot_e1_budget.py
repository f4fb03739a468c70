"""
Where the error is
==================

risk = irreducible + approximation + sampling + optimization + generalization, an identity (the decks' two-part split drops the third
part, whose sign is unknown). The audit brackets every part from one network and no refit; here the distribution is known, so all true
parts are computed exactly, and lie in their intervals in at least 1 − δ of the runs.
"""

# %%
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats

import nonvacuous

points, delta = 8, 0.2
positive = np.array([0.05, 0.1, 0.15, 0.7, 0.4, 0.8, 0.9, 0.95])  # P(y = 1 | x): a dent that no threshold follows
says = np.array([[(x >= t) ^ s for x in range(points)] for t, s in product(range(points + 1), (0, 1))])
true_risks = np.where(says, 1 - positive, positive).mean(1)
names = ["irreducible", "approximation", "sampling", "optimization", "generalization"]


def run(seed, n=400, held_out=300, rank=3):
    """Draw samples, take the threshold that is only the fourth best in training, audit it: intervals and truth."""
    generator = np.random.default_rng(seed)
    samples = []
    for size in (n, held_out):
        x = generator.integers(points, size=size)
        y = (generator.random(size) < positive[x]).astype(int)
        samples.append((np.stack([x, generator.random(size)], 1).astype(np.float32), y))
    (inputs, y), test = samples
    in_sample = (says[:, inputs[:, 0].astype(int)] != y).mean(1)
    chosen = np.argsort(in_sample, kind="stable")[rank]
    table = torch.tensor(says[chosen].astype(int))
    budget = nonvacuous.audit(lambda z: table[z[:, 0].long()], train=(inputs, y), test=test, delta=delta).budget
    best, bayes = true_risks.min(), np.minimum(positive, 1 - positive).mean()
    truth = [
        bayes,
        best - bayes,
        in_sample.min() - best,
        in_sample[chosen] - in_sample.min(),
        true_risks[chosen] - in_sample[chosen],
    ]
    return budget, dict(zip(names, truth, strict=True)), true_risks[chosen]


# %%
runs = [run(seed) for seed in range(80)]
held = [
    all(truth[name] in budget[name] for name in names) and risk in budget.risk.measured and risk in budget.sum
    for budget, truth, risk in runs
]
assert held.count(False) <= stats.binom.isf(0.01, len(runs), delta)  # all parts at once, up to the luck of 80 runs
assert all(truth["optimization"] in budget["optimization"] for budget, truth, _ in runs)  # this one is exact, always
assert all(abs(sum(truth.values()) - risk) < 1e-12 for _, truth, risk in runs)  # the parts add up
assert min(truth["sampling"] for _, truth, _ in runs) < 0 < max(truth["sampling"] for _, truth, _ in runs)  # either sign

# %%
figure, axes = plt.subplots(1, 2, figsize=(13, 4.1), layout="constrained", width_ratios=[1.5, 1])
budget, truth, risk = runs[0]
for row, name in enumerate([*names, "risk"][::-1]):
    interval, true = (budget.risk.measured, risk) if name == "risk" else (budget[name], truth[name])
    color = "C0" if interval.kind.name == "EXACT" else "C1"
    axes[0].plot([interval.lower, interval.upper], [row, row], color=color, lw=9, alpha=0.35, solid_capstyle="butt")
    axes[0].plot(true, row, "kd", ms=7)
    axes[0].text(0.47, row, f"{true:+.3f} in [{interval.lower:+.3f}, {interval.upper:+.3f}]", va="center", fontsize=9)
axes[0].axvline(0, color="grey", lw=0.8)
axes[0].axhline(0.5, color="grey", lw=0.8)
axes[0].set(
    yticks=range(6), yticklabels=[*names, "risk"][::-1], xlim=(-0.42, 0.9), title="One audit: intervals, and the truth (◆)"
)
axes[0].set_xticks([-0.4, -0.2, 0, 0.2, 0.4])
axes[0].plot([], [], color="C0", lw=9, alpha=0.35, label="exact")
axes[0].plot([], [], color="C1", lw=9, alpha=0.35, label="with confidence 1 − δ")
axes[0].legend(frameon=False, loc="upper left", fontsize=9)

for row, name in enumerate(names):
    low, quarter, middle, rest, high = np.quantile([truth[name] for _, truth, _ in runs], (0.05, 0.25, 0.5, 0.75, 0.95))
    axes[1].plot([low, high], [row, row], "k-", lw=1)
    axes[1].plot([quarter, rest], [row, row], color="C0", lw=9, alpha=0.5, solid_capstyle="butt")
    axes[1].plot(middle, row, "kd", ms=6)
axes[1].set(yticks=range(len(names)), yticklabels=names)
axes[1].invert_yaxis()
axes[1].axvline(0, color="grey", lw=0.8)
axes[1].set(title=f"True parts over {len(runs)} samples (90 %, 50 %, median)")
axes[1].set(xlabel=f"all inside their intervals in {np.mean(held):.0%} of runs")
plt.show()
