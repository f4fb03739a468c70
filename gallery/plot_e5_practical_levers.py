# slow
"""
The practical levers, side by side
==================================

Weight decay, early stopping, dropout, augmentation, snapshot ensembles, batch size, step size and normalizers are each said to help against
overfitting (optimization lecture). One change at a time of the same recipe on the same digits: what each does to training risk, test risk
and the gap between them, with intervals that hold for all at once.
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
from torch import Tensor

from nonvacuous.runtime.sources import load
from nonvacuous.studies.batch_size import draw
from nonvacuous.studies.practical_levers import effects, levers, read, run

stored = Path(globals().get("__file__", "page.py")).resolve().parent.parent / "results" / "practical_levers.csv"
train, test = draw(load("digits"), None, 0), draw(load("digits", "test"), None, 0)
assert isinstance(train.inputs, Tensor)
few = ("baseline", "augmentation", "step size / 4")
live = run(train, test, [x for x in levers(64, 10) if x.name in few], examples=100, steps=400, seeds=6)
by_name = {effect.lever: effect for effect in effects(live, "loss")}
assert by_name["step size / 4"].train.lower > 0  # too slow a recipe has a larger training loss
assert by_name["step size / 4"].gap.upper < 0  # and so a smaller gap, which is no merit

# %%
# All levers, 200 examples, ten seeds: stored by ``python -m nonvacuous.studies.practical_levers --out results/practical_levers.csv``.
# Weight decay, snapshots, smaller batches and smaller steps shrink the gap in log loss, part of it by a larger training loss; no lever is
# sure to lower the test error, and on pictures of 8×8 a shift by a pixel raises it.
rows = read(stored) if stored.is_file() else live
if stored.is_file():
    in_loss, in_error = ({effect.lever: effect for effect in effects(rows, measure)} for measure in ("loss", "error"))
    assert all(in_loss[name].gap.upper < 0 for name in ("weight decay", "snapshot ensemble", "batch / 4", "step size / 4"))
    assert in_error["augmentation"].test.lower > 0 and not any(effect.test.upper < 0 for effect in in_error.values())
figure, axes = plt.subplots(1, 2, figsize=(14, 4.8), layout="constrained", sharey=True)
for axis, (measure, unit) in zip(axes, (("error", 100), ("loss", 1)), strict=True):
    found = effects(rows, measure)
    for offset, (part, color) in enumerate((("train", "0.55"), ("test", "#c7691b"), ("gap", "#2f6f9f"))):
        for place, effect in enumerate(found):
            interval, y = getattr(effect, part), -place - 0.22 * (offset - 1)
            label = {"train": "training risk", "test": "test risk", "gap": "gap"}[part] if not place else None
            axis.plot(
                [unit * interval.lower, unit * interval.upper], [y, y], color=color, lw=4, alpha=0.45, solid_capstyle="butt"
            )
            axis.plot(unit * interval.midpoint, y, "o", color=color, ms=4, label=label)
    axis.axvline(0, color="k", lw=0.8)
    axis.set(yticks=[-i for i in range(len(found))], yticklabels=[effect.lever for effect in found])
axes[0].set(xlabel="percentage points against the baseline", title="zero-one risk")
axes[1].set(xlabel="nats against the baseline", title="log loss")
axes[0].legend(frameon=False, fontsize=9)
plt.show()
