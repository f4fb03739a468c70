# slow
"""
The curse, and a tree that escapes it
=====================================

With s derivatives in d dimensions, n numbers or n clean samples give error n^(−s/d) (Zhang's deck); with noise it is only
n^(−s/(2s+d)) (Stone 1982). A target composed of functions of two variables spares a network of the same shape this dependence on d
(Poggio et al. 2017): at equal size, trained trees beat shallow networks.
"""

# %%
import matplotlib.pyplot as plt

from nonvacuous.approximation.compositional import approximation_rate, compare, learning_rate, table

rates = [approximation_rate(s, d) for d in (1, 2, 3) for s in (1, 2)]
rates += [learning_rate(s, d) for d in (1, 2, 3) for s in (1, 2)]
rates += [learning_rate(s, d, noise=0.5) for d in (1, 2) for s in (1, 2)]
print(table(rates))
widths = (8, 16, 32)
found = {width: compare(8, width, seeds=(0, 1, 2), steps=1000) for width in widths}

# %%
# Theory's slopes lie in the intervals, and at every size the worst tree beats the best shallow network.
assert all(rate.agrees for rate in rates)
for comparison in found.values():
    assert comparison.deep_parameters <= comparison.shallow_parameters
    assert max(comparison.deep) < min(comparison.shallow)

# %%
figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), layout="constrained", width_ratios=[1, 1.15, 1])
for rate in rates[:6]:
    mean = [sum(row[i] for row in rate.errors) / len(rate.errors) for i in range(len(rate.sizes))]
    style = {"color": f"C{rate.d - 1}", "marker": "os"[rate.s - 1], "ls": ["-", "--"][rate.s - 1]}
    axes[0].loglog(rate.sizes, mean, **style, label=f"d = {rate.d}, s = {rate.s}: {rate.slope:.2f}")
axes[0].set(xlabel="numbers n", ylabel="root mean square error", title="piecewise polynomials, slope")
axes[0].legend(frameon=False, fontsize=8)
for place, rate in enumerate(reversed(rates)):
    colour = {"approximation": "tab:blue", "learning": "tab:green", "noisy learning": "tab:red"}[rate.what]
    ends = [rate.low - rate.expected, rate.high - rate.expected]
    axes[1].plot(ends, [place, place], color=colour, lw=6, alpha=0.4, solid_capstyle="butt")
    axes[1].plot(rate.slope - rate.expected, place, "o", color=colour, ms=4)
    axes[1].text(0.088, place, f"{rate.slope:.3f} / {rate.expected:.3f}", fontsize=8, va="center", ha="right")
names = [f"{rate.what}, s = {rate.s}, d = {rate.d}" for rate in reversed(rates)]
axes[1].set_yticks(range(len(rates)), names, fontsize=8)
axes[1].axvline(0, color="k", lw=0.8)
axes[1].set(xlabel="slope − theory, 95% interval", title="measured / −s/d, with noise −s/(2s+d)", xlim=(-0.08, 0.09))
for name, colour in (("shallow", "tab:orange"), ("deep", "tab:purple")):
    sizes = [getattr(c, f"{name}_parameters") for c in found.values()]
    errors = [getattr(c, name) for c in found.values()]
    for seed in range(3):
        axes[2].loglog(sizes, [row[seed] for row in errors], "o", color=colour, alpha=0.6)
    axes[2].loglog(
        sizes, [sum(row) / 3 for row in errors], color=colour, label={"deep": "tree, 3 levels"}.get(name, "one hidden layer")
    )
axes[2].set(xlabel="parameters", ylabel="relative test error", title="8 variables, composed two by two", ylim=(0.15, 1))
axes[2].legend(frameon=False)
plt.show()
