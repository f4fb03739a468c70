"""
What an exact infinite-width kernel costs
=========================================

A kernel of N samples is N²/2 small recursions: with L hidden layers each takes L transcendental functions, and between images that are
pooled in the end one for every pair of pixels, S⁴ for S × S images (Arora et al. 2019, section 4). So time should grow like N², like L
and like S⁴, and no faster; beside it the peer, neural-tangents 0.6.5 compiled on the same core, and a floor: matrix product and
transcendental functions alone.
"""

# %%
# Measured in single runs, both sides alternated: ``python benchmarks/bench_kernels.py --out results/kernels/speed.csv`` and
# ``bench_convolutional_kernels.py`` likewise; the table names machine and command.

import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

stored = Path(globals().get("__file__", "page.py")).resolve().parent.parent / "results" / "kernels" / "speed.csv"
with stored.open(newline="", encoding="utf-8") as stream:
    table = {tuple(row["case"].split()): row for row in csv.DictReader(stream)}


def curve(cases, column):
    found = [(x, float(table[case][column])) for x, case in cases.items() if table[case][column]]
    return np.array(found).T


def dense(n, depth):
    return "dense", "relu", str(n), str(depth), "0.0"


def pooled(side, n, depth):
    return "pool", str(side), str(n), str(depth)


panels = {
    "samples N": {
        "fully connected, depth 5": {n: dense(n, 5) for n in (500, 1000, 2000, 4000)},
        "3 convolutions, pooled, 14×14": {n: pooled(14, n, 3) for n in (10, 20, 30, 60)},
    },
    "hidden layers L": {
        "fully connected, N = 2000": {depth: dense(2000, depth) for depth in (1, 3, 5, 10, 20)},
        "convolutions, pooled, 7×7, N = 20": {depth: pooled(7, 20, depth) for depth in (1, 3, 6)},
    },
    "pixels a side S": {"3 convolutions, pooled, N = 20": {side: pooled(side, 20, 3) for side in (7, 14, 28)}},
}
styles = {"ours_processor_seconds": "o-", "peer_processor_seconds": "s--", "floor_seconds": ":"}
names = {"ours_processor_seconds": "nonvacuous", "peer_processor_seconds": "neural-tangents", "floor_seconds": "floor"}
slopes = {}
figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
for axis, (label, curves) in zip(axes, panels.items(), strict=True):
    for color, (name, cases) in zip(("C0", "C3"), curves.items(), strict=False):
        for column, style in styles.items():
            x, seconds = curve(cases, column)
            axis.loglog(x, seconds, style, color=color, ms=4, alpha=0.5 if column == "floor_seconds" else 1)
            slopes[label, name, column] = np.polyfit(np.log(x), np.log(seconds), 1)[0]
        axis.plot([], [], color=color, label=name)
    axis.set(xlabel=label, ylabel="processor seconds, one core")
    ticks = sorted({x for cases in curves.values() for x in cases})
    axis.set_xticks(ticks, [str(x) for x in ticks], fontsize=8)
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=8)
for column, style in styles.items():
    axes[2].plot([], [], "k" + style, ms=4, label=names[column])
axes[2].legend(frameon=False, fontsize=8)
plt.show()

# %%
# No faster than N², L and S⁴; and the claims of speed, wall time, where the peer was there.
for (label, name, column), slope in slopes.items():
    if column == "ours_processor_seconds":
        most = {"samples N": 2.0, "hidden layers L": 1.0, "pixels a side S": 4.0}[label]
        print(f"{name}: time ∝ {label.split()[-1]}^{slope:.2f}")
        assert slope < most + 0.15, (label, name, slope)


def ratio(case, what="seconds"):
    return float(table[case][f"peer_{what}"]) / float(table[case][f"ours_{what}"])


for case in (dense(2000, 5), pooled(14, 30, 3)):
    print(f"{' '.join(case)}: {ratio(case):.1f} × faster, {ratio(case, 'mib'):.1f} × less memory than the peer")
assert ratio(dense(2000, 5)) > 5 and ratio(pooled(14, 30, 3)) > 20
