"""
Products of norms, side by side
===============================

Π‖W‖_F (Neyshabur et al. 2015, Golowich et al. 2018) and Π‖W‖₂ (Bartlett et al. 2017, Neyshabur et al. 2018) bound the risk of the same
networks, and Than's deck calls them uninformative for modern ones. With all constants in place each says at how many examples it would
begin to say something: here for ReLU networks of growing depth with the norms of their initialisation.
"""

# %%
from math import log, sqrt

import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.bounds.covering import CoveringNumberBound
from nonvacuous.bounds.margin import SpectralMarginBound
from nonvacuous.bounds.norm_products import NeyshaburTomiokaSrebroBound, SpectralPacBayesBound
from nonvacuous.bounds.rademacher import GolowichBound
from nonvacuous.bounds.spectral_complexity import LayerNorms, spectral_complexity

rng = np.random.default_rng(0)
width, depths, n, delta, target = 64, [1, 2, 3, 4, 5, 6, 8, 10, 12], 60_000, 0.05, 0.5
curves = {
    name: [] for name in ("2^L ΠFrobenius", "Golowich", "spectral, (2,1)", "spectral, PAC-Bayes", "covering, by parameters")
}
products = []
for L in depths:
    weights = [rng.normal(size=(width if i < L - 1 else 1, width)) / sqrt(width) for i in range(L)]
    two, frobenius = ([np.linalg.norm(w, order) for w in weights] for order in (2, "fro"))
    log_two, log_frobenius = float(np.log(two).sum()), float(np.log(frobenius).sum())
    products.append((log_two, log_frobenius))
    layers = [LayerNorms(float(s), float(np.linalg.norm(w, axis=1).sum())) for s, w in zip(two, weights, strict=True)]
    ranks = float(sum((f / s) ** 2 for f, s in zip(frobenius, two, strict=True)))
    numbers = sum(w.size for w in weights)
    for name, bound, e in (
        ("2^L ΠFrobenius", NeyshaburTomiokaSrebroBound(), (0.0, 1.0, log_frobenius, 1.0, L, 2, n)),
        ("Golowich", GolowichBound(), (0.0, 1.0, log_frobenius, 1.0, L, 2, n)),
        ("spectral, (2,1)", SpectralMarginBound(), (0.0, 1.0, *spectral_complexity(layers), 1.0, width, n)),
        ("spectral, PAC-Bayes", SpectralPacBayesBound(), (0.0, 1.0, log_two, ranks, 1.0, L, width, n)),
        ("covering, by parameters", CoveringNumberBound(), (0.0, 1.0, log_two, 1.0, L, numbers, n)),
    ):
        needed = bound.needed(bound.Evidence(*e), delta, target)
        curves[name].append(np.nan if needed is None else needed)

# %%
# Each needs more with depth; the product with 2^L never needs less than Golowich; parameters win once norms multiply.
for line in curves.values():
    known = [x for x in line if not np.isnan(x)]
    assert known == sorted(known)
assert all(a >= b for a, b in zip(curves["2^L ΠFrobenius"], curves["Golowich"], strict=True) if not np.isnan(a))
assert curves["covering, by parameters"][-1] < 10**8

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=[1, 1.5])
axes[0].plot(depths, [f / log(10) for _, f in products], "s-", color="tab:red", label="Π‖W‖_F")
axes[0].plot(depths, [s / log(10) for s, _ in products], "o-", color="tab:blue", label="Π‖W‖₂")
axes[0].set(xlabel="depth L", ylabel="log₁₀ of the product", title="width 64, at initialisation")
axes[0].legend(frameon=False)
for (name, line), marker in zip(curves.items(), "v^osD", strict=True):
    axes[1].semilogy(depths, line, marker=marker, ms=5, lw=1.3, label=name)
axes[1].axhline(n, color="0.6", ls=":")
axes[1].text(depths[-1], n * 1.4, "MNIST", ha="right", color="0.5", fontsize=8)
axes[1].axhline(2**53, color="0.8", lw=1)
axes[1].text(depths[-1], 2**53 / 4, "beyond any count", ha="right", color="0.5", fontsize=8)
axes[1].set(xlabel="depth L", ylabel="examples needed", title="to certify a risk below ½ at margin 1, all margins right")
axes[1].legend(frameon=False, fontsize=8)
plt.show()
