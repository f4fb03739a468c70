# slow
"""
Good and bad global minima
==========================

Networks with two hidden layers fit a few points in the plane and err little: gradient descent avoids the bad minima that exist
(optimization lecture; Wu, Zhu and E 2017). Bad ones are reached by training on wrong labels first; at the same loss on the same points
they are sharper, have the smaller basin, and err more, here by little.
"""

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from nonvacuous.studies.good_and_bad_minima import by_width, planted, returned, spirals

train, test = spirals(40, 0, turns=0.6), spirals(500, 1, turns=0.6)
rows = by_width(train, test, (4, 16, 64), seeds=2, steps=300)
for row in rows:
    print(f"hidden: {row.width:>3}  train {np.mean(row.train):.1%}  test {np.mean(row.test):.1%}")
assert min(rows[-1].train) == 1.0 and min(rows[-1].test) > 0.9

# %%
# Good and planted minima, both at a mean cross entropy of about 0.01 on the clean points, and from how far training comes back.
radii = [0.2, 0.4, 0.8]
good, bad = (planted(train, test, poison, width=24, seeds=2, steps=300, settle=600, target=0.01) for poison in (0.0, 2.0))
back = {}
for name, found in (("good", good), ("planted", bad)):
    each = [[returned(net, train, test, r, moves=8, settle=100) for r in radii] for net in found.networks]
    back[name] = np.mean(each, 0)
    for m in found.minima:
        print(f"{name:<8} loss {m.loss:.3f}  train {m.train:.1%}  test {m.test:.1%}  λ_max {m.top:.3g}  back {back[name]}")
assert all(m.train == 1.0 for m in good.minima + bad.minima)
assert min(m.test for m in good.minima) > max(m.test for m in bad.minima)
assert max(m.top for m in good.minima) < min(m.top for m in bad.minima)
assert back["good"].sum() > back["planted"].sum()

# %%
# The whole table, 60 points of a full turn and five seeds, stored by
# ``python -m nonvacuous.studies.good_and_bad_minima --out results/good_and_bad_minima.json``.
stored = Path(globals().get("__file__", "page.py")).resolve().parent.parent / "results" / "good_and_bad_minima.json"
whole = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else None
if whole:
    for row in whole["by_width"]:
        print(f"hidden: {row['width']:>3}  train {np.mean(row['train']):.1%}  test {np.mean(row['test']):.1%}")
    wide = [row for row in whole["by_width"] if row["width"] >= 64]
    assert all(min(row["train"]) == 1.0 and np.mean(row["test"]) > 0.95 for row in wide)  # no overfitting with 512 units
    for poison in (0.0, 1.0, 2.0):
        some = [m for m in whole["minima"] if m["poison"] == poison]
        means = {key: np.mean([np.mean(m[key]) for m in some]) for key in ("train", "test", "top", "back")}
        shares = ", ".join(f"{key} {means[key]:.1%}" for key in ("train", "test", "back"))
        print(f"poison {poison:g}: {shares}, λ_max {means['top']:.2f}")
    good_ones, bad_ones = ([m for m in whole["minima"] if bool(m["poison"]) is planted] for planted in (False, True))
    assert max(m["top"] for m in good_ones) < min(m["top"] for m in bad_ones)
    assert np.mean([m["test"] for m in good_ones]) > np.mean([m["test"] for m in bad_ones])

# %%
figure, axes = plt.subplots(1, 4 if whole else 3, figsize=(17 if whole else 13, 4.2), layout="constrained")
grid = torch.stack(torch.meshgrid(torch.linspace(-1.2, 1.2, 150), torch.linspace(-1.2, 1.2, 150), indexing="xy"), -1)
for axis, found, name in ((axes[0], good, "good"), (axes[1], bad, "planted")):
    with torch.no_grad():
        share = found.networks[0](grid.reshape(-1, 2)).softmax(1)[:, 1].reshape(150, 150)
    axis.contourf(grid[..., 0], grid[..., 1], share, levels=20, cmap="RdBu", alpha=0.6)
    axis.scatter(*train.inputs.T, c=train.targets, cmap="RdBu", edgecolors="black", s=25)
    m = found.minima[0]
    axis.set(title=f"{name}: train {m.train:.0%}, test {m.test:.1%}, λ_max {m.top:.2g}", xticks=[], yticks=[])
for name, shares in back.items():
    axes[2].plot(radii, shares, "o-", label=name)
axes[2].set(xlabel="length of the move / weights", ylabel="share that comes back", title="basins", ylim=(-0.05, 1.05))
axes[2].legend(frameon=False)
if whole:
    widths = [row["width"] for row in whole["by_width"]]
    for key, style in (("train", "o-"), ("test", "s-")):
        shares = np.array([row[key] for row in whole["by_width"]])
        axes[3].semilogx(widths, shares.mean(1), style, label=f"{key}, mean of {shares.shape[1]} seeds")
        axes[3].fill_between(widths, shares.min(1), shares.max(1), alpha=0.2, lw=0)
    axes[3].set(xlabel="units in each of two hidden layers", ylabel="accuracy", title="60 points of two spirals, by width")
    axes[3].legend(frameon=False)
plt.show()
