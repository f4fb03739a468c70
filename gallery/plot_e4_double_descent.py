"""
Double descent
==============

The test risk peaks where the training data can just be fitted, and falls again beyond: at as many features as examples for least squares of
least norm (exactly known for Gaussian features: Belkin, Hsu and Xu 2020), near as many parameters as numbers to fit for a small network
(Belkin, Hsu, Ma and Mandal 2019). At the peak more examples and more training hurt (Nakkiran et al. 2020).
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from nonvacuous.studies.double_descent import by_samples, exact_risk, least_norm, noisy_digits, peak, random_features, read


def means(points, by, what="test_risk"):
    """Places in order, and the mean of ``what`` over seeds at each."""
    places = sorted({by(point) for point in points})
    return places, [np.mean([getattr(point, what) for point in points if by(point) == place]) for place in places]


# %%
# Gaussian features, 40 examples: the theorem, and draws.
n, total, noise = 40, 200, 0.2
beta = torch.ones(total, 1, dtype=torch.float64) / np.sqrt(total)
generator = torch.Generator().manual_seed(0)


def drawn_risk(p):
    """Risk of least squares on the first p features, for one sample."""
    x = torch.randn(n, total, generator=generator, dtype=torch.float64)
    y = x @ beta + np.sqrt(noise) * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    found = torch.zeros_like(beta)
    found[:p] = least_norm(x[:, :p], y)
    return float((found - beta).square().sum()) + noise


sizes = [2, 10, 20, 28, 34, 46, 52, 60, 80, 120, 200]
draws = {p: np.array([drawn_risk(p) for _ in range(100)]) for p in sizes}
exact = {p: exact_risk(p / total, 1 - p / total, noise, n, p) for p in range(1, total + 1)}
assert all(abs(d.mean() - exact[p]) < 5 * d.std() / 10 for p, d in draws.items())
assert exact[n] == np.inf and exact[total] < min(exact[p] for p in range(1, n))  # the second descent goes deeper

# %%
# Random ReLU features of digits of which a fifth have random labels: by features, and by examples at 100 features.
features = (5, 10, 20, 40, 60, 80, 90, 100, 110, 120, 150, 250, 500, 2000)
lifted = random_features(noisy_digits(100, 0.2), features, seeds=4)
sampled = by_samples(noisy_digits(400, 0.2), 100, (20, 40, 60, 80, 90, 100, 110, 120, 150, 250, 400), seeds=4)
assert peak(lifted, lambda p: p.size) == 100 and peak(sampled, lambda p: p.examples) == 100

# %%
# Small networks on 50 of these digits (500 numbers to fit), stored by
# ``python -m nonvacuous.studies.double_descent --out results/double_descent.csv``.
stored = Path(globals().get("__file__", "page.py")).resolve().parent.parent / "results" / "double_descent.csv"
trained = read(stored) if stored.is_file() else []
last = [point for point in trained if point.steps == max(p.steps for p in trained)]
if trained:
    ratios, risks = means(last, lambda p: p.ratio)
    assert 0.8 < peak(last) < 2 and max(risks) > 1.5 * risks[-1] and max(risks) > 1.3 * max(risks[:2])

# %%
figure, axes = plt.subplots(1, 4, figsize=(17, 4.2), layout="constrained")
axes[0].plot(list(exact), list(exact.values()), "k", lw=1.5, label="theorem")
axes[0].plot(sizes, [d.mean() for d in draws.values()], "o", color="C1", label="100 draws")
axes[0].axvline(n, color="grey", ls=":")
axes[0].set(xlabel="Gaussian features", ylim=(0.5, 8), ylabel="risk", title="n = 40, exactly")
axes[0].legend(frameon=False)
axes[1].loglog(*means(lifted, lambda p: p.size), "o-", label="by features, 100 examples")
axes[1].loglog(*means(sampled, lambda p: p.examples), "s-", color="C2", label="by examples, 100 features")
axes[1].axvline(100, color="grey", ls=":")
axes[1].set(ylim=(0.3, 1e3), xlabel="features, or examples", title="Random ReLU features of digits")
axes[1].legend(frameon=False, fontsize=8)
if trained:
    for steps, color in zip(sorted({p.steps for p in trained})[1::2], ("#b7cfe2", "#6c9fc7", "#1d5f95"), strict=False):
        some = [point for point in trained if point.steps == steps]
        axes[2].semilogx(*means(some, lambda p: p.ratio), "o-", color=color, label=f"test, {steps} steps")
    axes[2].semilogx(*means(last, lambda p: p.ratio, "train_risk"), "k--", lw=1, label="training, to the end")
    axes[2].axvline(1, color="grey", ls=":")
    axes[2].set(xlabel="parameters / (n K)", title="A small network, by width")
    axes[2].legend(frameon=False, fontsize=8)
    for size in sorted({p.size for p in trained})[1::3]:
        some = [point for point in trained if point.size == size]
        axes[3].semilogx(*means(some, lambda p: p.steps), "o-", label=f"{some[0].ratio:.1f} n K parameters")
    axes[3].set(xlabel="steps", title="and by training")
    axes[3].legend(frameon=False, fontsize=8)
plt.show()
