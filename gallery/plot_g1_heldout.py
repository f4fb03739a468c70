"""
What a test set proves
======================

With k errors on n fresh examples, the risk is at most the p at which P(Bin(n, p) ≤ k) = δ, except with probability δ (Clopper and
Pearson 1934; the deck's honest baseline). For graded losses betting does what the binomial tail does for errors, and Hoeffding's
radius, which most papers quote, is the price of not looking at the variance.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from nonvacuous.bounds.heldout import BettingBound, BinomialTailBound, EmpiricalBernsteinBound, HoeffdingBound

delta, rate = 0.05, 0.06
tail, hoeffding = BinomialTailBound(), HoeffdingBound()
sizes = np.unique(np.geomspace(50, 50_000, 16).astype(int) // 50 * 50)
exact = [tail.solve(tail.Evidence(round(rate * n), int(n)), delta) for n in sizes]
quoted = [hoeffding.solve(hoeffding.Evidence(rate, int(n)), delta) for n in sizes]

# %%
# How often is the limit wrong? Not simulated: every k that can occur, with its probability, for every true risk.
n = 200
limits = np.array([tail.solve(tail.Evidence(k, n), delta) for k in range(n + 1)])
risks = np.linspace(0.0005, 0.6, 900)
counts = np.arange(n + 1)
missed = np.array([stats.binom.pmf(counts, n, p)[limits < p].sum() for p in risks])

# %%
# Graded losses: mostly near 0.1, rarely 1, as a cross-entropy divided by its largest value often is.
generator = np.random.default_rng(0)
betting, bernstein = BettingBound(), EmpiricalBernsteinBound()
graded = {"betting": [], "empirical Bernstein": [], "Hoeffding": []}
lengths = np.geomspace(100, 20_000, 9).astype(int)
for m in lengths:
    losses = np.where(generator.random(m) < 0.02, 1.0, generator.beta(2, 18, m)).round(4)
    mean, variance = float(losses.mean()) + 1e-12, float(losses.var(ddof=1)) + 1e-12
    graded["betting"].append(betting.solve(betting.Evidence(tuple(losses.tolist()), int(m)), delta) - mean)
    graded["empirical Bernstein"].append(bernstein.solve(bernstein.Evidence(mean, variance, int(m)), delta) - mean)
    graded["Hoeffding"].append(hoeffding.solve(hoeffding.Evidence(mean, int(m)), delta) - mean)

# %%
assert missed.max() <= delta  # the guarantee, for every risk
assert missed.max() > 0.99 * delta  # and nothing is given away
assert all(rate < a < b for a, b in zip(exact, quoted, strict=True))
assert all(a < b for a, b in zip(graded["betting"], graded["Hoeffding"], strict=True))

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained")
axes[0].fill_between(sizes, rate, exact, color="C0", alpha=0.25, lw=0)
axes[0].plot(sizes, exact, "C0o-", ms=3.5, label="exact binomial limit")
axes[0].plot(sizes, quoted, "C1s--", ms=3.5, label="Hoeffding")
axes[0].axhline(rate, color="k", lw=0.8)
axes[0].annotate("test error 6 %", (sizes[-1], rate), (0, -4), textcoords="offset points", ha="right", va="top")
axes[0].set(xscale="log", xlabel="test examples n", ylabel="certified risk", ylim=(0.04, 0.24), title="Value, δ = 0.05")
axes[0].legend(frameon=False)

axes[1].plot(risks, missed, "C0", lw=0.9)
axes[1].axhline(delta, color="C3", lw=1.2, label="δ")
axes[1].set(
    xlabel="true risk", ylabel="probability that the limit is too low", ylim=(0, 0.06), title="Exact coverage, n = 200"
)
axes[1].legend(frameon=False, loc="lower right")

for (name, values), style in zip(graded.items(), ("C2o-", "C4^-.", "C1s--"), strict=True):
    axes[2].plot(lengths, values, style, ms=4, label=name)
axes[2].set(
    xscale="log", yscale="log", xlabel="test examples n", ylabel="certified risk − mean loss", title="Graded losses in [0, 1]"
)
axes[2].legend(frameon=False)
plt.show()
