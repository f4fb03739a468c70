# slow
"""
A spiking network as a dynamical system
=======================================

Membranes leak, U ← β U + I, and jump where they cross the threshold (Zhang, Zhang and Zhou, arXiv:1909.08341). Trained on digits through
snnTorch: every membrane stays in a range proved beforehand, the eigenvalues are the leaks, spikes survive any change of the input below a
proved radius, and a leak beyond 1 − I/θ wakes a silent neuron.
"""

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

from nonvacuous.measures.lipschitz import global_table
from nonvacuous.measures.student import mean_interval
from nonvacuous.networks.spiking import Direct, FiringRates, Rows, SpikingLayer, SpikingNetwork
from nonvacuous.networks.spiking_dynamics import accumulates, critical_leak, membrane_ranges, spectral_radius, trajectories
from nonvacuous.networks.spiking_stability import perturbation_growth, stability, surrogate_exponent
from nonvacuous.runtime.bundled import digits
from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.stacked_training import Member, trained_stack

train, test = digits("train"), digits("test")


def trained(factory, seeds=5):
    """Networks of several seeds, trained at once."""
    members = [Member(seed, torch.arange(train.n)) for seed in range(seeds)]
    return trained_stack(factory, train.inputs, train.targets, members, steps=200, batch_size=64, learning_rate=1e-2)


def wrong(stack):
    """Test errors, one a network."""
    return (stack.outputs(test.inputs).argmax(-1) != test.targets).double().mean(1)


# %%
# As good as a ReLU network of equal size, over five paired seeds.
spiking = trained(lambda: SpikingNetwork((64, 64, 10), Direct(12), leak=0.8))
ordinary = trained(lambda: mlp(64, 64, 10))
errors = wrong(spiking), wrong(ordinary)
change = mean_interval(errors[0] - errors[1], 0.95)
print(
    f"test error: spiking {errors[0].mean():.3f}, ReLU {errors[1].mean():.3f}; difference [{change.lower:+.3f}, {change.upper:+.3f}]"
)
assert errors[0].mean() < 0.05 and change.lower > -0.03 and change.upper < 0.03

# %%
# Digits as sequences of eight rows: one leak for all is about as good as a network of equal size without memory; eigenvalues that differ
# and adapt (64 numbers more, to 1,226) do better, as the paper recommends.
mixed = [torch.linspace(0, 0.99, 64)]
sequences = {
    "ReLU, mean over rows": lambda: nn.Sequential(Rows(8), nn.Linear(8, 64), nn.ReLU(), FiringRates(), nn.Linear(64, 10)),
    "β = 0.9": lambda: SpikingNetwork((8, 64, 10), Rows(8), leak=0.9, threshold=0.5),
    "β learned, from 0 … 0.99": lambda: SpikingNetwork((8, 64, 10), Rows(8), leak=mixed, threshold=0.5, learn_leak=True),
}
by_rows = {name: wrong(trained(factory)) for name, factory in sequences.items()}
gain = mean_interval(by_rows["β = 0.9"] - by_rows["β learned, from 0 … 0.99"], 0.95)
print({name: f"{e.mean():.3f}" for name, e in by_rows.items()}, f"gain [{gain.lower:+.3f}, {gain.upper:+.3f}]")
assert gain.lower > 0

# %%
# The membranes of every test digit, and the range proved for all inputs in [0, 1]⁶⁴; the eigenvalues; and what may change.
net, x = spiking.member(0).double(), test.inputs.double()
(run,), (proved,) = trajectories(net, x), membrane_ranges(net, 0.0, 1.0)
assert (proved.lower <= run.membranes).all() and (run.membranes <= proved.upper).all()
assert spectral_radius(net).upper < 1 and "no Lipschitz constant" in global_table(net, (1, 8, 8)).reason

sure = stability(net, x)
directions = torch.randn(test.n, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
directions = nn.functional.normalize(directions, dim=1).view_as(x)
for share, holds in ((0.99, True), (100.0, False)):
    moved = x + share * sure.input_radius.view(-1, 1, 1, 1) * directions
    assert bool((trajectories(net, moved)[0].spikes == run.spikes).all()) == holds
small, large = (perturbation_growth(net, x, size, 0) for size in (1e-6, 1.0))
assert small.changed.mean() < 1e-4 < 0.01 < large.changed.mean()
exponents = surrogate_exponent(net, x[:50], 0, steps=100)
work = accumulates(net, x)
print(f"medians: proved radius {sure.input_radius.median():.1e}, tolerance of the leak {sure.leak_tolerance.median():.1e}")
print(
    f"growth a step: ln β = {torch.tensor(0.8).log():.3f} between jumps; by the surrogate {exponents.mean():+.3f} (indicator)"
)
print(f"dense {work.dense} multiply-accumulates; spikes need {work.analog} and {work.spiking.upper:.0f} additions")

# %%
# The bifurcation: neurons with leaks from 0.5 to 1 at constant currents, from rest.
leaks, currents = torch.linspace(0.5, 0.999, 400), (0.05, 0.15, 0.3)
rates = [SpikingLayer(400, 2000, leak=leaks)(torch.full((1, 1, 400), current))[0].mean(0) for current in currents]
for current, rate in zip(currents, rates, strict=True):
    beyond = leaks > critical_leak(current) + 2e-3
    assert (rate[leaks <= critical_leak(current)] == 0).all() and (rate[beyond] > 0).all()

# %%
figure, axes = plt.subplots(2, 3, figsize=(14, 7.5), layout="constrained")
(raster, membrane, ends), (radius, growth, bifurcation) = axes
time = torch.arange(1, 13)
by_rate = run.spikes[0][:, run.spikes[0].sum(0).argsort()]
raster.eventplot([time[s > 0].tolist() for s in by_rate.T], colors="k", linelengths=0.8, linewidths=2)
raster.set(xlabel="t", ylabel="neuron, by rate", title="spikes for one digit")
order = (proved.upper - proved.lower).argsort()
busy = int(run.spikes.mean((0, 1)).argmax())
membrane.plot(time, run.membranes[:60, :, busy].T, color="tab:blue", lw=0.7, alpha=0.5)
membrane.axhline(1, color="tab:red", ls="--", lw=1, label="threshold")
for end in (proved.lower[busy], proved.upper[busy]):
    membrane.axhline(end, color="k", lw=1.2, label="proved for all inputs" if end > 0 else None)
membrane.set(xlabel="t", ylabel="U", title=f"neuron {busy}, 60 digits")
membrane.legend(frameon=False, fontsize=8, loc="lower left")
seen = run.membranes.amin((0, 1))[order], run.membranes.amax((0, 1))[order]
ends.fill_between(range(64), proved.lower[order], proved.upper[order], color="0.85", label="proved")
ends.vlines(range(64), *seen, color="tab:blue", lw=2, label="seen on test digits")
ends.axhline(1, color="tab:red", ls="--", lw=1)
ends.set(xlabel="neuron, by width of the range", ylabel="U", title="where membranes go")
ends.legend(frameon=False, fontsize=8, loc="lower left")
pairs = (sure.input_radius, "ℓ2 radius of the input", "tab:blue"), (sure.leak_tolerance, "change of every leak", "tab:orange")
for values, name, colour in pairs:
    radius.plot(values.sort().values, torch.linspace(0, 1, test.n), color=colour, label=name)
radius.set(
    xscale="log", xlabel="proved to change no spike", ylabel="fraction of test digits below", title="structural stability"
)
radius.legend(frameon=False, fontsize=8)
for found, name, colour in ((small, "size 10⁻⁶", "tab:green"), (large, "size 1", "tab:purple")):
    growth.plot(
        time, found.ratios.quantile(0.5, 0), color=colour, label=f"{name}: {100 * found.changed.mean():.1f} % of spikes change"
    )
    growth.fill_between(time, found.ratios.quantile(0.1, 0), found.ratios.quantile(0.9, 0), color=colour, alpha=0.2, lw=0)
growth.plot(time, 0.8**time, "k:", label="βᵗ")
growth.set(yscale="log", xlabel="t", ylabel="distance of two runs / at the start", title="perturbed membranes")
growth.legend(frameon=False, fontsize=8)
for current, rate, colour in zip(currents, rates, ("tab:blue", "tab:orange", "tab:green"), strict=True):
    bifurcation.plot(leaks, rate, color=colour, label=f"I = {current} θ")
    bifurcation.axvline(critical_leak(current), color=colour, ls=":", lw=1)
bifurcation.set(xlabel="leak β", ylabel="spikes a step", title="silent up to β = 1 − I/θ (dotted)")
bifurcation.legend(frameon=False, fontsize=8)
plt.show()
