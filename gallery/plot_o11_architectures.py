# slow
"""
Conditioning fixed by the architecture
======================================

In a plain deep network the first layers' gradients vanish; skip connections and normalisation are said to fix the conditioning.
Measured at initialisation: all of them stop the vanishing, but batch norm, weight norm and standardised weights without skip
connections let gradients explode (Yang et al. 2019), and only networks with skips keep the curvature's spectrum in shape.
"""

# %%
import math

import matplotlib.pyplot as plt

from nonvacuous.runtime.sources import load
from nonvacuous.studies.conditioning_by_architecture import Architecture, initialised, layer_gradients, table

sample = load("digits")
x, y = sample.inputs[:24].double(), sample.targets[:24]

# %%
# Gradient norms layer by layer, 100 hidden layers of 32 units.
norms = {kind: layer_gradients(initialised(kind, x, 10, 100), x, y) for kind in Architecture}
for kind, row in norms.items():
    print(f"{kind.value:<20} first layer / last layer = {row[0] / row[-1]:.2g}")
assert norms[Architecture.PLAIN][0] < 1e-20 * norms[Architecture.PLAIN][-1]
assert all(row[0] > 1e-3 * row[-1] for kind, row in norms.items() if kind is not Architecture.PLAIN)

# %%
# The spectrum of the Gauss–Newton matrix: largest over median of the n(k − 1) eigenvalues that can be other than 0, by depth.
depths = [10, 20, 40]
rows = table(Architecture, depths, x, y)
ratios = {kind: [row.ratio for row in rows if row.architecture == kind.value] for kind in Architecture}
for kind, found in ratios.items():
    print(f"{kind.value:<20}" + "".join(f"{ratio:12.3g}" for ratio in found))
skips = (Architecture.RESIDUAL, Architecture.NORMALISER_FREE)
assert all(ratios[kind][-1] < 1e-5 * ratios[Architecture.PLAIN][-1] for kind in skips)
assert all(ratios[kind][-1] < min(ratios[other][-1] for other in Architecture if other not in skips) for kind in skips)

# %%
figure, axes = plt.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
limit = 1e18
for kind in Architecture:
    width = 2.5 if kind in (Architecture.PLAIN, *skips) else 1.2
    axes[0].semilogy([norm / norms[kind][-1] for norm in norms[kind]], lw=width, label=kind.value)
    axes[1].semilogy(depths, [min(ratio, limit) for ratio in ratios[kind]], "o-", lw=width, ms=4)
axes[0].set(xlabel="layer", ylabel="gradient norm / last layer's", title="100 layers: gradients", ylim=(1e-42, 1e14))
axes[0].legend(frameon=False, fontsize=8)
axes[1].set(xlabel="hidden layers", title="largest / median eigenvalue")
if any(math.isinf(ratio) for found in ratios.values() for ratio in found):
    axes[1].text(depths[0], limit, "beyond float64", va="bottom", fontsize=8)
plt.show()
