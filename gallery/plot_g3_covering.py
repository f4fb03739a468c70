"""
Covering numbers at any depth
=============================

An ε-net of the networks with P free numbers has at most (1 + 2LBS/ε)^P members, S the product of spectral norms: evaluated as a logarithm
it neither overflows at 200 layers nor hides how many examples it asks for (Zhang's deck prints (AL)^(L(L+1))/ε^(2L), whose exponent of
1/ε is too small already for one linear layer; derivation in docs/proofs/covering.md).
"""

# %%
from math import log

import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.bounds.covering import CoveringNumberBound, log_covering_number, log_slide_covering_number

bound = CoveringNumberBound()
depths = np.unique(np.geomspace(1, 200, 40).astype(int))
width, gain = 100, log(2.0)  # every layer: 100 × 100 and spectral norm 2
truth = [log_covering_number(int(L) * width**2, int(L), L * gain, 1.0, 0.1) / log(10) for L in depths]
slide = [log_slide_covering_number(2.0, int(L), 0.1) / log(10) for L in depths]

# %%
# One linear layer on D coordinates needs ε^(−D) balls at least, more than the slide allows from D = 3 on.
scales = np.geomspace(1e-4, 0.5, 60)
for D in (3, 10):
    for scale in scales[scales < 0.1]:
        assert log_slide_covering_number(1.0, 1, scale) < D * log(1 / scale) <= log_covering_number(D, 1, 0.0, 1.0, scale)
assert np.isfinite(truth).all() and np.isfinite(slide).all()

parameters = [10**k for k in range(1, 9)]
needed = {
    L: [bound.needed(bound.Evidence(0.02, 1.0, L * gain, 1.0, L, P, 1000), 0.05, 0.1) for P in parameters]
    for L in (2, 20, 200)
}
assert all(n is not None and n > P for line in needed.values() for n, P in zip(line, parameters, strict=True))

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
axes[0].loglog(depths, truth, color="tab:blue", label="upper bound, width 100")
axes[0].loglog(depths, slide, "--", color="tab:red", label="the slide's form")
axes[0].axhline(308, color="0.7", lw=1)
axes[0].text(1.1, 380, "largest float", color="0.5", fontsize=8)
axes[0].set(xlabel="depth L", ylabel="log₁₀ of the covering number", title="ε = 0.1, spectral norms 2")
axes[0].legend(frameon=False, fontsize=8)
for D, colour in ((3, "tab:green"), (10, "tab:purple")):
    axes[1].semilogx(scales, D * np.log10(1 / scales), color=colour, label=f"at least, D = {D}")
    upper = [log_covering_number(D, 1, 0.0, 1.0, s) / log(10) for s in scales]
    axes[1].fill_between(scales, D * np.log10(1 / scales), upper, color=colour, alpha=0.15, lw=0)
axes[1].semilogx(
    scales, [log_slide_covering_number(1.0, 1, s) / log(10) for s in scales], "--", color="tab:red", label="slide, L = 1"
)
axes[1].set(xlabel="ε", title="one linear layer of norm 1", ylabel="log₁₀ of the covering number")
axes[1].legend(frameon=False, fontsize=8)
for (L, line), colour in zip(needed.items(), plt.cm.viridis([0.1, 0.5, 0.85]), strict=True):
    axes[2].loglog(parameters, line, "o-", color=colour, ms=4, label=f"L = {L}")
axes[2].loglog(parameters, parameters, ":", color="0.5", label="one example a parameter")
axes[2].set(xlabel="parameters", ylabel="examples needed", title="for risk ≤ 10 % at margin risk 2 %")
axes[2].legend(frameon=False, fontsize=8)
plt.show()
