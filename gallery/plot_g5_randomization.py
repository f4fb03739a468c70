"""
Networks fit random labels
==========================

By one recipe a network fits true labels, random labels, shuffled pixels and noise, to 1 % training error and below (Zhang,
Bengio, Hardt, Recht and Vinyals 2017), so a training error alone says nothing. How well it fits random signs bounds its Rademacher
complexity from below, and with it every bound that adds this complexity to the training error.
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.sources import load
from nonvacuous.studies.randomization import Recipe, arms, randomization, read

recipe = Recipe(examples=60, seeds=2, most_steps=400, batch_size=30, learning_rate=5e-3)
digits = randomization(
    lambda: mlp(64, 64, 10), load("digits"), load("digits", "test"), recipe=recipe, which=arms((0.25, 0.5, 0.75))
)
studies = {"digits, 60 examples": digits}

# %%
# The same on Fashion-MNIST for a dense and a convolutional network, stored by ``nonvacuous study randomization --out DIR`` with
# ``--examples 3000 --seeds 2 --most-steps 4000``, and with ``--model convnet:28x28x1-10 --examples 500 --seeds 1 --most-steps 1500``.
results = Path(globals().get("__file__", "page.py")).resolve().parent.parent / "results"
for name, file in {
    "Fashion-MNIST, 3,000 examples": "randomization.json",
    "Fashion-MNIST, convnet, 500 examples": "randomization_convnet.json",
}.items():
    if (results / file).is_file():
        studies[name] = read(results / file)


def by_corruption(found):
    """Shares of labels drawn anew, steps to fit, test errors: means over seeds."""
    labelled = [arm for arm in found.arms if "label" in arm.setting.value]
    steps = [np.mean([run.steps_to_fit(0.01).midpoint for run in found.of(arm)]) for arm in labelled]
    errors = [np.mean([run.test_error for run in found.of(arm)]) for arm in labelled]
    return [arm.corruption for arm in labelled], np.array(steps), np.array(errors)


for found in studies.values():
    _, steps, errors = by_corruption(found)
    assert all(run.looks[-1].error <= 0.01 for run in found.runs)  # everything is fitted, noise too
    assert steps[-1] > 1.3 * steps[0] and errors[0] < 0.4 and abs(errors[-1] - 0.9) < 0.1  # from learned to guessed
    assert found.capacity().lower > 0.7

# %%
figure, axes = plt.subplots(1, 3, figsize=(15, 4.3), layout="constrained", width_ratios=[1.5, 1, 1])
name = max(studies, key=lambda key: studies[key].recipe.examples)
found = studies[name]
for i, arm in enumerate(found.arms):
    runs = found.of(arm)
    axes[0].plot([look.step for look in runs[0].looks], np.mean([[k.loss for k in r.looks] for r in runs], axis=0))
    axes[0].lines[-1].set(
        label=arm.name, lw=1.8, color=plt.get_cmap("viridis")(i / 6) if arm.corruption or not i else f"C{i % 9}"
    )
axes[0].set(xlabel="steps", ylabel="training loss", xscale="symlog", title=f"(a) Every setting is fitted ({name})")
axes[0].legend(frameon=False, fontsize=8, ncols=2)
for name, found in studies.items():
    shares, steps, errors = by_corruption(found)
    axes[1].plot(shares, steps / steps[0], "o-", label=name)
    axes[2].plot(shares, errors, "o-", label=f"{name}: capacity ≥ {found.capacity().lower:.2f}")
axes[1].set(
    xlabel="label corruption", ylabel="steps to fit, true labels = 1", ylim=(0, None), title="(b) Random labels take longer"
)
axes[2].axhline(0.9, color="grey", ls=":")
axes[2].set(xlabel="label corruption", ylabel="test error", ylim=(0, 1), title="(c) Test error where training error ≤ 1 %")
axes[2].legend(frameon=False, fontsize=8, loc="lower right")
plt.show()
