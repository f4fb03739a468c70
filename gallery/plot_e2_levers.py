# slow
"""
More data, a bigger model, or longer training?
==============================================

Refits at several sample sizes, widths and lengths of training tell which doubling lowers the risk most, each gain with an interval
(row E2). No theorem grants the law behind the extrapolated gain, so it is an indicator, and it is tested: curves through at most 10,000
Fashion-MNIST images foretell 30,000 and 60,000.

The table is made by ``python -m nonvacuous.studies.extrapolation --out results/learning_curves.csv --folder out/learning-curves``.
"""

# %%
import csv
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.widths import Widened
from nonvacuous.studies.extrapolation import foretold
from nonvacuous.studies.learning_curve import learning_curve
from nonvacuous.studies.levers import levers
from nonvacuous.studies.refits import Cell, plan
from nonvacuous.studies.refitting import World, refitted


def narrow(width=1.0):
    """Two hidden units at width 1."""
    return mlp(2, round(2 * width), 2)


def advice(n, dimension, rule, factory, seed, **recipe):
    """Levers for a task whose rule is known: labels rule(x) on n examples, judged on 4,000."""
    x = torch.randn(n + 4000, dimension, generator=torch.Generator().manual_seed(seed))
    world = World(Widened(factory), x[:n], rule(x)[:n], x[n:], rule(x)[n:], 2)
    made = plan(n, replicates=8, **recipe)
    needed = tuple(cell for cell in made.cells if cell.width == 1 or cell == Cell(n, 2.0))
    return levers(refitted(world, replace(made, cells=needed), seconds=10_000, progress=False))


# %%
tasks = {
    "too few examples": advice(
        400, 60, lambda x: (x.sum(1) > 0).long(), "mlp:60-16-2", 1, epochs=40, batch_size=32, learning_rate=0.01
    ),
    "too small a class": advice(
        1600, 2, lambda x: (x.prod(1) > 0).long(), narrow, 2, epochs=15, batch_size=64, learning_rate=0.03
    ),
    "too few steps": advice(
        3000,
        60,
        lambda x: (x.sum(1) > 0).long(),
        "mlp:60-16-2",
        3,
        epochs=2,
        batch_size=64,
        learning_rate=0.05,
        optimizer="sgd",
    ),
}
right = {"too few examples": "data", "too small a class": "width", "too few steps": "training"}
for task, found in tasks.items():
    assert found[0].name == right[task] and found[0].verdict == "helps", (task, found)

stored = Path(globals().get("__file__", "page.py")).resolve().parent.parent / "results" / "learning_curves.csv"
with stored.open() as file:
    table = list(csv.DictReader(file))
predictions = foretold(table)
assert len(predictions) == 4 and all(prediction.held for prediction in predictions)

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
points = [(float(r["n"]), float(r["test_risk"])) for r in table if float(r["width"]) == 1]
seen = [(n, risk) for n, risk in points if n <= 10_000]
curve = learning_curve([n for n, _ in seen], [risk for _, risk in seen])
grid = np.geomspace(1000, 120_000, 80)
bands = [curve.measured_at(n) for n in grid]
axes[0].fill_between(grid, [b.lower for b in bands], [b.upper for b in bands], alpha=0.25, lw=0, label="90 % interval")
axes[0].plot(*zip(*seen, strict=True), "ko", ms=5, label="seen")
axes[0].plot(*zip(*[p for p in points if p[0] > 10_000], strict=True), "C3D", ms=6, label="came later")
axes[0].set(xscale="log", yscale="log", xlabel="training images", ylabel="test error", title="Fashion-MNIST, 784-128-10")
axes[0].set_yticks([0.1, 0.15, 0.2, 0.25], ["10 %", "15 %", "20 %", "25 %"])
axes[0].minorticks_off()
axes[0].legend(frameon=False)

colours = {"data": "C0", "width": "C1", "training": "C2"}
for row, found in enumerate(tasks.values()):
    for shift, lever in zip((0.22, 0, -0.22), sorted(found, key=lambda lever: list(colours).index(lever.name)), strict=True):
        ends = [100 * lever.gain.lower, 100 * lever.gain.upper]
        axes[1].plot(ends, [row + shift] * 2, lw=8, color=colours[lever.name], solid_capstyle="butt")
for name, colour in colours.items():
    axes[1].plot([], [], lw=8, color=colour, label=f"twice the {name}")
axes[1].axvline(0, color="grey", lw=0.8)
axes[1].set(yticks=range(3), yticklabels=list(tasks), xlabel="risk falls by (points)", title="What doubling gains, by task")
axes[1].invert_yaxis()
axes[1].legend(frameon=False)
plt.show()
