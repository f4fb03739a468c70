# slow
"""
A network's units as particles
==============================

For f_n = (1/n) Σ c_i φ(x, y_i) the squared loss is C_f − (1/n) Σ c_i F(y_i) + (1/2n²) Σ c_i c_j K(y_i, y_j), to rounding, and gradient
descent with step size η is the particles' motion with time step η/n (Rotskoff and Vanden-Eijnden 2018, Wu's deck). The gap in *loss* to
the limit is O(1/n), exactly g/n for independent units; the gap in *function* is therefore O(n^(−1/2)). Both rates outlive training.
"""

# %%
# Handwritten digits: even against odd, as ±1.

import matplotlib.pyplot as plt
import torch

from nonvacuous.kernels.mean_field import MeanField, Particles, gap_constant, ridge_unit
from nonvacuous.kernels.rates import fitted_rate
from nonvacuous.runtime.sources import load

batch = next(load("digits").batches(200))
x = batch.inputs.flatten(1).double()
x = 4 * (x - x.mean(0)) / x.norm(dim=1).mean()
field = MeanField(x, 2.0 * (batch.targets % 2).double() - 1, ridge_unit(torch.tanh))


def start(n, seed):
    """n independent units."""
    g = torch.Generator().manual_seed(seed)
    charges = 2 * torch.randn(n, generator=g, dtype=torch.float64)
    return Particles(charges, torch.randn(n, 65, generator=g, dtype=torch.float64) / 2)


# %%
# The identity, and descent on the network beside the motion that F and K alone prescribe.

n, eta, steps = 50, 5.0, 300
network = particles = start(n, 0)
losses, energies = [], []
for _ in range(steps):
    losses.append(float(field.loss(network)))
    energies.append(float(field.energy(particles)))
    network = Particles(*(p - eta * s for p, s in zip(network, field.network_gradient(network), strict=True)))
    particles = Particles(*(p + eta / n * v for p, v in zip(particles, field.velocity(particles), strict=True)))
apart = max(abs(a - b) for a, b in zip(losses, energies, strict=True))
print(
    f"loss and pair energy differ by at most {apart:.1e} over {steps} steps; the loss fell from {losses[0]:.2f} to {losses[-1]:.2f}"
)
assert apart < 1e-11 and losses[-1] < losses[0] / 2

# %%
# Rates at the start, where the limit is 0 because the charges' signs are fair, and after some mean-field time, where 3000 units stand
# for the limit.

sizes, time = [10, 20, 40, 80, 160], 8.0
wide = start(3000, 10**6)
trained = field.moved(wide, time=time, step=0.2)
limit = {0.0: torch.zeros_like(field.targets), time: field.outputs(trained)}
g = float(gap_constant(field, wide))
gaps, errors = {t: [] for t in limit}, {t: [] for t in limit}
for n in sizes:
    fresh = [start(n, 1000 * n + k) for k in range(50)]
    for t, f in limit.items():
        several = [field.moved(p, time=t, step=0.2) for p in fresh] if t else fresh
        squares = torch.stack([(field.outputs(p) - f).square().mean() for p in several])
        gaps[t].append(torch.stack([field.loss(p) for p in several]) - field.loss(trained) if t else squares / 2)
        errors[t].append(squares.sqrt())
rates = {t: (fitted_rate(sizes, gaps[t]), fitted_rate(sizes, errors[t])) for t in limit}
for t, (loss_rate, function_rate) in rates.items():
    print(f"time {t:g}: loss gap ∝ n^{loss_rate.slope}, function error ∝ n^{function_rate.slope}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained")
axes[0].plot(losses, lw=5, color="0.8", label="loss of the network, descent with step η")
axes[0].plot(energies, "--", color="tab:red", label="pair energy of the particles, time step η/n")
axes[0].set(title="50 units on 200 digits", xlabel="step")
for (t, (loss_rate, function_rate)), marker in zip(rates.items(), "os", strict=True):
    when = f"after time {t:g}" if t else "at the start"
    axes[1].errorbar(sizes, loss_rate.means, loss_rate.errors, fmt=f"{marker}-", color="tab:blue", label=f"loss gap {when}")
    axes[1].errorbar(
        sizes, function_rate.means, function_rate.errors, fmt=f"{marker}-", color="tab:orange", label=f"function error {when}"
    )
axes[1].plot(sizes, [g / n for n in sizes], "k:", label="g/n")
axes[1].plot(sizes, [(2 * g / n) ** 0.5 for n in sizes], "k--", lw=1, label="√(2g/n)")
axes[1].set(xscale="log", yscale="log", title="distance to the mean-field limit", xlabel="units n")
for axis in axes:
    axis.legend(frameon=False, fontsize=8)
plt.show()

# %%
# At the start the law is exact; after training the exponents are still −1 and −1/2.

assert -1.0 in rates[0.0][0].slope and -0.5 in rates[0.0][1].slope
assert -1.0 in rates[time][0].slope and abs(rates[time][1].slope.midpoint + 0.5) < 0.1
assert all(abs(m - g / n) < 4 * e for n, m, e in zip(sizes, rates[0.0][0].means, rates[0.0][0].errors, strict=True))
