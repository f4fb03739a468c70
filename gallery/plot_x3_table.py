"""
Certificates on small data sets
===============================

For n from 140 to 60,000, does a certificate that reads all labels twice, to train and to certify, beat a pre-declared 20 % hold-out?
``results/certificates_table.csv`` has ten draws of wine, breast cancer and digits, ten of two survey tables (fair, randhie) for the
hold-outs and the learnt prior, three of 5,000 MNIST digits, one to three of 500, 1,000 and 5,000 pictures of Fashion-MNIST, and the
committed certificates at 60,000. It is made by ``python -m nonvacuous.studies.certificates_table --data
wine,breast-cancer,digits,fair,randhie,mnist-5000,fashion-mnist@500,fashion-mnist@1000,fashion-mnist@5000 --methods
holdout,holdout-half,pac-bayes,sample-compression,disintegrated,data-dependent --out results/certificates_table.csv``.

On 5,000 digits, yes: a prior trained on a part of the sample certifies 0.027 where the hold-out has 0.042, on each of three draws
(the prior's training shifts digits by a pixel, the hold-out's plain training does not: a part of the difference); at 60,000 it is 0.071
against 0.072. Elsewhere, no: on wine, breast cancer and digits the hold-out's certificates have means of 0.279, 0.122
and 0.062, a learnt prior 0.301, 0.135 and 0.071, a data-free prior 0.31, 0.15 and 0.28; on the survey tables, whose risks are near 0.28
and 0.30 whatever is done, a learnt prior is 1.0 and 0.8 points above. What a small sample does reward is a larger part held out: half of it
gives 0.224, 0.108 and 0.059, and 0.9 and 0.5 points less on the survey tables. With few pictures data-free priors are far off: 0.61 where
the hold-out has 0.28 at 500. The hold-out's values scatter widely; and the PAC-Bayes classifiers with a data-free prior err less on the
test examples of wine and breast cancer.

Row X3. The hold-out certificate is the exact binomial limit; PAC-Bayes is Seeger's kl form (Langford and Seeger 2001), sample
compression is Pick-to-Learn's. The table has one drawn network too (Rivasplata et al. 2020, Theorem 1(i)).
"""

# %%
import csv
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.studies.certificates_table import run

root = Path(globals().get("__file__", "page.py")).resolve().parent.parent
with (root / "results" / "certificates_table.csv").open(encoding="utf-8") as lines:
    rows = list(csv.DictReader(lines))
table = defaultdict(list)
for row in rows:
    table[row["data"], row["method"]].append(row)


def mean(data, method, column="value"):
    return float(np.mean([float(row[column]) for row in table[data, method]])) if table[data, method] else np.nan


# %%
# The table can be made again: one of its rows is, here.
again = run("wine", "pac-bayes", 0)
assert abs(again.value - float(next(row["value"] for row in table["wine", "pac-bayes"] if row["seed"] == "0"))) < 0.02

# A certificate lies above the risk. The test risk estimates that from few examples: three of its deviations are allowed.


def excess(row):
    value, seen = float(row["value"]), float(row["test_risk"])
    return (seen - value) / max((seen * (1 - seen) / int(row["test_n"])) ** 0.5, 1e-9)


assert max(excess(row) for row in rows if row["data"] != "randhie") < 3
# Not so on randhie, where a row is a person's year and equal rows stay on one side of a split: its examples are not independent, which
# every certificate here has as its hypothesis, and no arithmetic sees.
print(
    "deviations above the certificate on randhie:",
    *(f"{e:.1f}" for row in rows if row["data"] == "randhie" and (e := excess(row)) > 1),
)

ten = [data for data in dict.fromkeys(row["data"] for row in rows) if len(table[data, "data-dependent"]) >= 10]
assert all(mean(data, "holdout-half") < mean(data, "data-dependent") for data in ten)  # half held out is ahead of every other
assert mean("mnist-5000", "data-dependent") < mean("mnist-5000", "holdout") - 0.01

# %%
methods = {
    "holdout": ("20 % held out", "C7", "s"),
    "holdout-half": ("half held out", "k", "D"),
    "data-dependent": ("prior from a part", "C1", "o"),
    "pac-bayes": ("data-free prior", "C0", "o"),
    "disintegrated": ("one drawn network", "C4", "^"),
    "sample-compression": ("Pick-to-Learn", "C2", "v"),
}
size = {data: np.mean([int(row["n"]) for row in rows if row["data"] == data]) for data in {row["data"] for row in rows}}
order = sorted(size, key=size.get)
figure, axis = plt.subplots(figsize=(10, 4.6), layout="constrained")
for place, data in enumerate(order):
    for step, (method, (label, colour, mark)) in enumerate(methods.items()):
        at = place + 0.11 * (step - 2.5)
        if table[data, method]:
            axis.plot([at] * 2, [mean(data, method, "test_risk"), mean(data, method)], color=colour, lw=1)
            axis.plot(at, mean(data, method), mark, ms=6, color=colour, label=label if data == "wine" else None)
            axis.plot(at, mean(data, method, "test_risk"), "_", ms=8, color=colour)
axis.set_xticks(range(len(order)), [f"{data.partition('@')[0]}\nn = {size[data]:,.0f}" for data in order], fontsize=8)
axis.set(ylabel="risk: certified at δ = 0.05 (marks), seen on test examples (dashes)", ylim=(0, None))
axis.yaxis.label.set_fontsize(8)
axis.legend(frameon=False, ncols=3)
plt.show()
