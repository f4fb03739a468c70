# slow
"""
Forecasts of a series: what independence would promise, and what may be promised
================================================================================

A series is no independent sample, so theorems for independent examples prove nothing of a forecast. If the series is stationary and
forgets at a rate that somebody states and defends, blocks of it are nearly independent, and its forecasts have a certificate (Yu 1994,
Corollary 2.7; Mohri and Rostamizadeh 2008); conformal intervals (MAPIE) keep their shape, and lose their guarantee.
"""

# %%
# Sea surface temperature of the eastern Pacific, less that of a year before: twelve months forecast the next. The first half trains and
# calibrates, two years are left out, the rest is held out.
import matplotlib.pyplot as plt
import numpy as np

import nonvacuous
from nonvacuous.bounds.heldout import BinomialTailBound
from nonvacuous.bounds.mixing import SpacedBinomialBound
from nonvacuous.measures.losses import missed
from nonvacuous.runtime.models import initialise, load_model
from nonvacuous.runtime.series import named, windows
from nonvacuous.runtime.training import train
from nonvacuous.studies.forecast_intervals import adaptive_conformal, calibration_split, split_conformal

months = named("elnino")
change = months[12:] - months[:-12]
split = windows(change, lags=12, gap=24, train_fraction=0.45)
fitting, calibration = calibration_split(split.kept)
network = initialise(lambda: load_model("mlp:12-32-1"), seed=0)
train(network, fitting, epochs=40, progress=False)

fixed = split_conformal(network, calibration, split.held_out, coverage=0.9)
moving = adaptive_conformal(network, calibration, split.held_out, coverage=0.9)
print(f"coverage measured, 90 % asked for: {fixed.coverage:.1%} of one width, {moving.coverage:.1%} adaptive")

# %%
# The rate at which the intervals of one width miss is the risk of the network for the loss ``missed``. The assumption comes first.
law = nonvacuous.Mixing(scale=1.0, rate=0.7)
audit = nonvacuous.audit(
    network,
    train=split.kept,
    test=split.held_out,
    loss=missed(fixed.half_width),
    series=nonvacuous.Series(law),
)
print(audit.best.hypotheses[0].statement)
print({c.bound: round(c.value, 3) for c in audit.certificates})
demoted = {i.name: i for i in audit.indicators if i.name.endswith("_if_independent") and i.predictor == "deterministic"}
print(*(f"{name}: {i.upper:.3f}, {i.reason}" for name, i in demoted.items()), sep="\n")

# %%
# Is it needed? On a chain with two states β(k) = 2π(0)π(1)|λ|^k exactly, and so is the probability that a limit is too low, counted over
# all numbers of errors by their law. Errors at rate ¼ that come in runs, 800 examples, δ = 0.05.
delta, n, rate = 0.05, 800, 0.25


def law_of_errors(memory, count):
    """Probability of 0, …, count errors in a stationary chain of that second eigenvalue."""
    up, down = (1 - memory) * rate, (1 - memory) * (1 - rate)
    held = np.zeros((2, count + 1))
    held[0, 0], held[1, 1] = 1 - rate, rate
    for _ in range(count - 1):
        moved = np.array([[1 - up, down], [up, 1 - down]]) @ held
        held = np.stack([moved[0], np.r_[0.0, moved[1, :-1]]])
    return held.sum(0)


def proves_too_little(bound, evidence):
    """Whether the bound proves a risk below the true one."""
    return bound.holds(evidence, delta, np.nextafter(rate, 0.0))


memories, spacing, tail = np.array([0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9]), 39, BinomialTailBound()
as_if = [proves_too_little(tail, tail.Evidence(k, n)) for k in range(n + 1)]
wrong = {"as if independent": [law_of_errors(memory, n) @ as_if for memory in memories], "by spaced examples": []}
for memory in memories:
    spaced = SpacedBinomialBound(scale=2 * rate * (1 - rate), rate=float(memory), spacing=spacing, gap=500)
    kept = spaced.count(n)
    errors = np.tril(np.ones((kept + 1, kept)), -1)  # k errors among the kept, k = 0, …
    losses = np.zeros((kept + 1, n))
    losses[:, :: spacing + 1] = errors
    short = [proves_too_little(spaced, spaced.Evidence(tuple(row.tolist()), n)) for row in losses]
    wrong["by spaced examples"].append(law_of_errors(memory ** (spacing + 1), kept) @ short)

# %%
assert {c.bound for c in audit.certificates} == {"independent-blocks", "block-chernoff"}  # nothing that needs independence
assert demoted["betting_if_independent"].upper < audit.best.value < 1  # pretending would have promised more
assert audit.facts.test.risk < audit.best.value and abs(1 - fixed.coverage - audit.facts.test.risk) < 1e-9
assert delta / 4 < max(wrong["by spaced examples"]) <= delta
assert wrong["as if independent"][0] <= delta and wrong["as if independent"][-1] > 4 * delta

# %%
figure, axes = plt.subplots(1, 3, figsize=(14, 4.1), layout="constrained", width_ratios=(1.5, 1, 1))
shown = np.arange(120)
centre = (fixed.lower + fixed.upper) / 2
axes[0].fill_between(shown, fixed.lower[shown], fixed.upper[shown], color="C0", alpha=0.2, lw=0, label="conformal, one width")
for end in (moving.lower, moving.upper):
    axes[0].plot(
        shown, np.where(np.isfinite(end), end, np.nan)[shown], "C2", lw=0.8, label="adaptive" if end is moving.upper else None
    )
axes[0].plot(shown, centre[shown], "C0", lw=1, label="forecast")
outside = shown[fixed.missed[shown]]
axes[0].plot(shown, fixed.targets[shown], "k.", ms=3.5)
axes[0].plot(outside, fixed.targets[outside], "C3o", ms=5, mfc="none", label="missed")
axes[0].set(
    xlabel="month of the held-out stretch", ylabel="change over a year (training's deviations)", title="90 % asked for"
)
axes[0].legend(frameon=False, fontsize=8, ncols=2)

rows = [(f"{c.bound}", c.value, "C0", "") for c in audit.certificates]
rows += [(name.removesuffix("_if_independent"), i.upper, "0.75", "//") for name, i in demoted.items() if "occam" not in name]
for place, (_, value, colour, hatch) in enumerate(rows):
    axes[1].barh(place, value, color=colour if not hatch else "white", edgecolor=colour, hatch=hatch, height=0.65)
    axes[1].text(min(value, 0.8) + 0.01, place, f"{value:.2f}", va="center", fontsize=8)
axes[1].axvline(audit.facts.test.risk, color="k", lw=0.9)
axes[1].set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=8)
axes[1].invert_yaxis()
axes[1].set(xlim=(0, 1), xlabel="share of misses at most", title=f"Certified if {law.statement};\nhatched: indicators only")

for (name, values), style in zip(wrong.items(), ("C3s--", "C0o-"), strict=True):
    axes[2].plot(memories, values, style, ms=4, label=name)
axes[2].axhline(delta, color="k", lw=0.9)
axes[2].annotate("δ", (0.0, delta), (2, 3), textcoords="offset points")
axes[2].set(
    xlabel="memory λ of the chain",
    ylabel="probability that the limit is too low",
    ylim=(-0.03, None),
    title="Exact, on a chain of known β",
)
axes[2].annotate("nothing promised", (memories[-1], 0.0), (0, -12), textcoords="offset points", ha="right", fontsize=8)
axes[2].legend(frameon=False)
plt.show()
