# slow
"""
The practical levers, part by part
==================================

Weight decay, early stopping, dropout, augmentation, snapshot ensembles, batch and step size, adversarial training and normalizers are each
said to help against overfitting (optimization and theory lectures). One change at a time of the same recipe on the same 2,000 images of
Fashion-MNIST: what each does to approximation, optimization and generalization, under attack, and to the network's local slopes.
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from nonvacuous.runtime.sources import load
from nonvacuous.studies.batch_size import draw
from nonvacuous.studies.lever_effects import effects, read
from nonvacuous.studies.practical_levers import Protocol, levers, run

train, test = draw(load("digits"), None, 0), draw(load("digits", "test"), None, 0)
assert isinstance(train.inputs, Tensor)
few = ("baseline", "adversarial training", "step size / 4")
small = Protocol(examples=100, seeds=6, epochs=60, others=())
live = run(train, test, [x for x in levers((1, 8, 8), 10) if x.name in few], small)
by_name = {effect.lever: effect for effect in effects(live, "loss")}
assert by_name["step size / 4"].optimization.lower > 0  # too slow a recipe stays above the least training risk
adversarial = by_name["adversarial training"]
assert adversarial.attacked.upper < 0 and adversarial.slope.upper < 1  # fewer errors under attack, by smaller local slopes

# %%
# All levers on Fashion-MNIST, 2,000 examples and ten seeds, and 500 to 4,000 examples for the curves whose limits tell the approximation:
# stored by ``python -m nonvacuous.studies.practical_levers --network dense --out results/practical_levers.csv``.
stored = Path(globals().get("__file__", "page.py")).resolve().parent.parent / "results" / "practical_levers.csv"
rows = [row for row in read(stored) if row.family == "dense"] if stored.is_file() else live
found = {effect.lever: effect for effect in effects(rows)}
if stored.is_file():
    adversarial = found["adversarial training"]
    assert adversarial.attacked.upper < -0.05 and adversarial.slope.upper < 0.8
    measured = [row for row in rows if not np.isnan(row.slope_upper)]
    assert all(
        row.slope_lower <= row.slope_upper for row in measured
    )  # each bracket: gradient norm, and what is proved of the ball

# %%
parts = {"risk": "k", "approximation": "#5b8c5a", "optimization": "#c7691b", "generalization": "#2f6f9f"}
figure, axes = plt.subplots(1, 3, figsize=(16, 6), layout="constrained", width_ratios=[1.6, 0.8, 1])
for offset, (part, color) in enumerate(parts.items()):
    for place, effect in enumerate(found.values()):
        interval, y = getattr(effect, part), -place - 0.2 * (offset - 1.5)
        if interval is not None:
            ends = np.clip([100 * interval.lower, 100 * interval.upper], -14, 14)
            axes[0].plot(ends, [y, y], color=color, lw=3.5, alpha=0.5, solid_capstyle="butt")
            axes[0].plot(np.clip(100 * interval.midpoint, -14, 14), y, "o", color=color, ms=3.5, label=None if place else part)
axes[0].set(yticks=[-i for i in range(len(found))], yticklabels=list(found), xlabel="percentage points against the baseline")
axes[0].set(title="Each part of the risk (all intervals at once: 95 %)", xlim=(-14, 14))
axes[0].legend(frameon=False, fontsize=9, loc="lower right")
for place, effect in enumerate(found.values()):
    if effect.attacked is not None:
        axes[1].plot(
            [100 * effect.attacked.lower, 100 * effect.attacked.upper], [-place] * 2, color="#a03b2a", lw=6, alpha=0.6
        )
axes[1].set(yticks=[-i for i in range(len(found))], yticklabels=[], title="Error under attack", xlabel="percentage points")
for axis in axes[:2]:
    axis.axvline(0, color="k", lw=0.8)
for name in dict.fromkeys(row.lever for row in rows):
    mine = [row for row in rows if row.lever == name and not np.isnan(row.slope_lower)]
    if mine:
        slope, error = np.mean([row.slope_lower for row in mine]), 100 * np.mean([row.attacked_error for row in mine])
        top = np.mean([row.slope_upper for row in mine])
        axes[2].plot([slope, top if slope <= top <= 30 * slope else slope], [error] * 2, color="0.75", lw=3)
        axes[2].plot(slope, error, "o", ms=5)
        axes[2].annotate(name, (slope, error), xytext=(4, 3), textcoords="offset points", fontsize=8)
axes[2].set(xscale="log", xlabel="local Lipschitz constant: seen (●) to proved", ylabel="error under attack, %")
axes[2].set(title="Smaller local slopes withstand attacks", xticks=[5, 10, 20, 50], xticklabels=["5", "10", "20", "50"])
axes[2].minorticks_off()
plt.show()
