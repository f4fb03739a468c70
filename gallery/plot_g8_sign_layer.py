"""
The scale that does not bound
=============================

Bartlett's deck rescales margins by Π‖Aᵢ‖√(Σ‖Aᵢ‖_F/‖Aᵢ‖); a hidden layer of n sign columns stores n coin-flip labels at constant margin,
so that the slide's bound falls to 0 while the risk stays at ½. The theorem of Bartlett, Foster and Telgarsky 2017 has (2,1) norms there,
and with them this network gets no promise.
"""

# %%
from math import exp, sqrt

import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.bounds.margin import SpectralMarginBound
from nonvacuous.bounds.spectral_complexity import LayerNorms, log_frobenius_complexity, spectral_complexity

bound = SpectralMarginBound()
rng = np.random.default_rng(0)
sizes = [2**k for k in range(4, 12)]
slide, certified, margins = [], [], {}
H = np.ones((1, 1))
for n in sizes:
    while len(H) < n:
        H = np.block([[H, H], [H, -H]])
    labels = rng.integers(0, 2, n - 1)
    layer = H[:, 1:] / sqrt(n) * labels
    scores = np.full(n, 1 / sqrt(n)) @ np.maximum(layer, 0) - 0.25  # class 1 if positive
    margins[n] = np.where(labels == 1, scores, -scores)
    assert margins[n].min() > 0.2  # every label is stored; inputs outside the sample all get class 0
    spectral = 1.0  # of both layers: orthonormal columns, a unit row
    assert np.allclose(H[:64] @ H.T, n * np.eye(n)[:64])
    scale = exp(log_frobenius_complexity([(spectral, np.linalg.norm(layer)), (1.0, 1.0)]))
    slide.append(2 * scale / (margins[n].min() * sqrt(n)))
    true = spectral_complexity([LayerNorms(spectral, float(np.linalg.norm(layer, axis=1).sum())), LayerNorms(1.0, 1.0)])
    certified.append(bound.solve(bound.Evidence(0.0, float(margins[n].min()), *true, 1.0, n, n), 0.05))

# %%
extrapolated = np.array(sizes[-1:] + [10.0**k for k in range(4, 13)])
line = slide[-1] * (extrapolated / sizes[-1]) ** -0.25
assert all(v == 1.0 for v in certified) and line[-1] < 0.1 and slide == sorted(slide, reverse=True)

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained", width_ratios=[1, 1, 1.4])
axes[0].imshow((H[:48, 1:49] * rng.integers(0, 2, 48)), cmap="RdBu", interpolation="nearest")
axes[0].set(title="first layer: signs, or 0 for label 0", xticks=[], yticks=[], xlabel="input", ylabel="unit")
axes[1].hist(margins[sizes[-1]], bins=np.linspace(-0.4, 0.4, 60), color="tab:green", label="sample")
axes[1].hist([-0.25] * 1000 + [0.25] * 1000, bins=np.linspace(-0.4, 0.4, 60), histtype="step", color="k", label="fresh inputs")
axes[1].set(xlabel="margin", yticks=[], title="all stored, half of the rest wrong")
axes[1].legend(frameon=False, fontsize=8, loc="upper left")
axes[2].loglog(sizes, slide, "o-", color="tab:red", label="slide's term, constants dropped")
axes[2].loglog(extrapolated, line, "--", color="tab:red", lw=1)
axes[2].loglog([sizes[0], extrapolated[-1]], [0.5, 0.5], color="k", label="risk")
axes[2].loglog(sizes, certified, "s", color="tab:blue", label="certificate, (2,1) norms")
axes[2].set(xlabel="n", ylim=(0.03, 12), title="the slide would promise less than the truth")
axes[2].legend(frameon=False, fontsize=8)
plt.show()
