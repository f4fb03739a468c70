"""
Five PAC-Bayes formulas, one inequality
=======================================

All bound the risk of the Gibbs classifier by its training risk and KL(Q‖P): Maurer–Langford–Seeger's kl form is the tightest, and
McAllester's, the quadratic and the λ form weaken it by Pinsker-like inequalities (the deck; Maurer 2004, Thiemann et al. 2017).
Catoni's fixes λ beforehand, or pays for a grid, and then comes within a hair of the kl form without its ln(2√n).
"""

# %%
from math import log, sqrt

import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.bounds.pac_bayes import CatoniBound, LambdaBound, McAllesterBound, QuadraticBound, SeegerBound

n, delta = 60_000, 0.05
plain = {"kl (Seeger)": SeegerBound(), "quadratic": QuadraticBound(), "McAllester": McAllesterBound()}


def best(bound, risk, kl, candidates):
    """λ chosen after the data: free for the λ form, already paid for in Catoni's."""
    value = 1.0
    for c in candidates:
        evidence = bound.Evidence(risk, kl, n, float(c))
        if bound.holds(evidence, delta, value * 0.999):  # one look tells most candidates from the best so far
            value = bound.solve(evidence, delta)
    return value


def values(risk, kl):
    found = {name: bound.solve(bound.Evidence(risk, kl, n), delta) for name, bound in plain.items()}
    found["λ, best λ"] = best(LambdaBound(), risk, kl, np.geomspace(0.02, 1.9, 30))
    found["Catoni, grid paid"] = best(CatoniBound(), risk, kl, n * np.geomspace(0.01, 20, 40))
    return found


divergences = np.geomspace(1, 30_000, 11)
rows = [values(0.05, float(kl)) for kl in divergences]
risks = np.linspace(0, 0.3, 9)
columns = [values(float(r), 1000.0) for r in risks]

# %%
for row in [*rows, *columns]:
    others = [row[name] for name in ("quadratic", "McAllester", "λ, best λ")]
    assert row["kl (Seeger)"] <= min(others) + 1e-12  # the kl form implies the others
    assert row["quadratic"] <= row["λ, best λ"] + 1e-12  # and the quadratic form is the best λ
assert columns[0]["quadratic"] < columns[0]["McAllester"] / 2  # at small risk the fast rate 1/n matters

# %%
# One λ against all of them: the λ form touches the quadratic one where λ = 2/(√(2r̂/(2κ) + 1) + 1).
kl, risk = 1000.0, 0.05
kappa = (kl + log(2 * sqrt(n) / delta)) / (2 * n)
lams = np.geomspace(0.03, 1.9, 25)
curve = [LambdaBound().solve(LambdaBound.Evidence(risk, kl, n, float(lam)), delta) for lam in lams]
touch = 2 / (sqrt(risk / kappa + 1) + 1)
assert abs(LambdaBound().solve(LambdaBound.Evidence(risk, kl, n, touch), delta) - values(risk, kl)["quadratic"]) < 1e-12

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained")
styles = {"kl (Seeger)": "k-", "Catoni, grid paid": "C2--", "quadratic": "C0-", "λ, best λ": "C0o", "McAllester": "C1-."}
for name, style in styles.items():
    axes[0].plot(divergences, [row[name] for row in rows], style, ms=4, mfc="none", label=name)
    excess = [column[name] - column["kl (Seeger)"] for column in columns]
    if name != "kl (Seeger)":
        axes[1].plot(risks, np.maximum(excess, 1e-6), style, ms=4, mfc="none", label=name)
axes[0].axhline(0.05, color="grey", lw=0.8)
axes[0].set(
    xscale="log", xlabel="KL(Q‖P), nats", ylabel="certified Gibbs risk", ylim=(0, 1), title="Training risk 0.05, n = 60,000"
)
axes[0].legend(frameon=False)
axes[1].set(
    yscale="log",
    ylim=(3e-5, 0.2),
    xlabel="training Gibbs risk",
    ylabel="value − value of the kl form",
    title="What a simpler formula costs, KL = 1000",
)
axes[2].plot(lams, curve, "C0o-", ms=3, label="λ form")
axes[2].axhline(values(risk, kl)["quadratic"], color="C0", lw=1)
axes[2].axhline(values(risk, kl)["kl (Seeger)"], color="k", lw=1)
axes[2].annotate(
    "quadratic form", (1.9, values(risk, kl)["quadratic"]), (0, 3), textcoords="offset points", ha="right", color="C0"
)
axes[2].annotate("kl form", (1.9, values(risk, kl)["kl (Seeger)"]), (0, -11), textcoords="offset points", ha="right")
axes[2].axvline(touch, color="grey", lw=0.8, ls=":")
axes[2].set(xscale="log", xlabel="λ", ylabel="certified Gibbs risk", ylim=(0.05, 0.4), title="λ may be chosen after the data")
plt.show()
