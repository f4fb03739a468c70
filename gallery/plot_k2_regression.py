"""
An infinite network predicts, and says how sure it is
=====================================================

An infinitely wide network trained to the end on the squared error is kernel regression, f(x) = k(x, X)(K + λI)⁻¹Y with its tangent kernel
(Jacot et al. 2018; Wu's deck); the Gaussian process of the same kernel adds a variance. Noise and amplitude are chosen by marginal
likelihood; intervals are then held against data that were not fitted.
"""

# %%
# Handwritten digits as ten outputs, 1 − 1/10 for the own class and −1/10 for the others.

import matplotlib.pyplot as plt

from nonvacuous.kernels.gaussian_process import conformal_factor, coverage, posterior
from nonvacuous.kernels.recursion import nngp_ntk
from nonvacuous.kernels.regression import Iterative, fitted, one_hot_targets
from nonvacuous.runtime.sources import load

train, test = (next(load("digits", part).batches(2000)) for part in ("train", "test"))
x, new = (8 * b.inputs.flatten(1) / b.inputs.flatten(1).norm(dim=1, keepdim=True) for b in (train, test))
y, goal = (one_hot_targets(b.targets, 10) for b in (train, test))


def kernel(a, b):
    """The tangent kernel of an infinitely wide network of three hidden layers."""
    return nngp_ntk(a, b, depth=3, activation="relu", weight_std=2**0.5, bias_std=0.1).ntk


fit = slice(0, 1000)
process = posterior(kernel, x[fit], y[fit])
prediction = process.predicted(new)
right = float((prediction.mean.argmax(1) == test.targets).float().mean())
print(f"{right:.1%} right; {process.regression.solved}")
print(f"noise/amplitude {process.regression.ridge:.3g}, log-likelihood {process.log_likelihood:.0f}")

# %%
# The same equations by conjugate gradients, as for a Gram matrix that does not fit into memory.

ridge = process.regression.ridge
iterative = fitted(kernel, x[fit], y[fit], ridge=ridge, solver=Iterative(rank=200, tolerance=1e-6))
apart = float((iterative.predicted(new) - prediction.mean).abs().max())
print(f"{iterative.solved.method}: {iterative.solved.iterations} passes, predictions differ by at most {apart:.1e}")

# %%
# Calibration. Labels are not Gaussian, so the model's own intervals need not hold; a factor from 400 examples that were not fitted to
# makes them hold for exchangeable ones, all ten outputs at once (split conformal inference).

held = process.predicted(x[1000:1400])
levels = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
own = [coverage(prediction, goal, level).fraction for level in levels]
made = [coverage(prediction, goal, level, conformal_factor(held, y[1000:1400], level)).fraction for level in levels]

sure = prediction.variance.argsort()
wrong = prediction.mean.argmax(1) != test.targets
halves = [float(wrong[part].float().mean()) for part in sure.tensor_split(4)]

figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for found, name, colour in ((own, "the model's own", "tab:orange"), (made, "calibrated on 400 more", "tab:blue")):
    middle = [f.midpoint for f in found]
    axes[0].errorbar(levels, middle, [f.width / 2 for f in found], fmt="o-", color=colour, label=name)
axes[0].plot([0.5, 1], [0.5, 1], "k:", label="as promised")
axes[0].set(title="test digits with all ten outputs inside", xlabel="level", ylabel="fraction inside")
axes[0].legend(frameon=False, fontsize=8)
axes[1].bar(range(4), halves, color=plt.cm.viridis([0.2, 0.4, 0.6, 0.8]))
axes[1].set(title="errors by predicted variance", xticks=range(4), xticklabels=["surest", "2nd", "3rd", "least sure"])
axes[1].set(ylabel="fraction wrong")
for i, row in enumerate((sure[:5], sure[-5:])):
    for j, k in enumerate(row.tolist()):
        place = axes[2].inset_axes([j / 5, 0.55 - 0.5 * i, 0.18, 0.4])
        place.imshow(test.inputs[k, 0], cmap="gray_r")
        place.set(xticks=[], yticks=[])
        place.set_title(f"{int(prediction.mean[k].argmax())} ± {float(prediction.deviation()[k, 0]):.2f}", fontsize=7)
axes[2].set(title="surest five, least sure five")
axes[2].axis("off")
plt.show()

# %%
assert right > 0.97 and process.regression.solved.residual < 1e-6
assert iterative.solved.converged and apart < 1e-3
assert all(f.upper >= level for f, level in zip(made, levels, strict=True))
assert halves[3] >= max(halves[:2])
