# slow
r"""
Curvature and vanishing gradients
=================================

Training is hard where the Hessian is badly conditioned and where gradients vanish on their way to the first layers (Ollion and Grisel's
deck). The spectrum of a trained classifier is a bulk at zero with about as many outliers as classes (Sagun et al. 2018); the gradient
that reaches a layer shrinks by a constant factor a layer with sigmoids, and not with residual connections.
"""

# %%
import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nonvacuous.operators.curvature import ggn, hessian
from nonvacuous.operators.gradient_norms import gradient_norms
from nonvacuous.operators.lanczos import bottom_eigenpairs, top_eigenpairs
from nonvacuous.operators.spectral_density import spectral_density
from nonvacuous.operators.traces import trace
from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.sources import load
from nonvacuous.studies.curvature_of_networks import read

x, y = next(iter(load("digits", "train").batches(500)))[:2]
torch.manual_seed(0)
model = mlp(64, 8, 10)
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(80):
    optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    optimizer.step()
batches = [(x[:300], y[:300]), (x[300:], y[300:])]  # uneven batches: every example still weighs the same

# %%
H, G = hessian(model, cross_entropy, batches), ggn(model, cross_entropy, batches)
top, bottom = top_eigenpairs(H, 12), bottom_eigenpairs(H, 1)
density = spectral_density(H, steps=30, probes=5)
true = torch.linalg.eigvalsh(H.dense().double()).flip(0)
for bracket, value in zip([*top.measured(), *bottom.measured()], [*true[:12].tolist(), true[-1].item()], strict=True):
    assert bracket.lower <= value + 1e-5 and value - 1e-5 <= bracket.upper
assert true.sum().item() in trace(H, 40).measured()
assert true[0] > 10 * true[20] > 0 > true[-1]  # few outliers, and a saddle
assert bottom_eigenpairs(G, 1).values[0] > -1e-5  # the Gauss-Newton part has no negative curvature

# %%
# The same width, twenty layers deep.


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, h):
        return h + 0.3 * self.layer(h.relu())


def deep(kind, depth=20, width=32):
    torch.manual_seed(0)
    blocks = {
        "sigmoid": lambda: nn.Sequential(nn.Linear(width, width), nn.Sigmoid()),
        "tanh": lambda: nn.Sequential(nn.Linear(width, width), nn.Tanh()),
        "residual": lambda: Residual(width),
    }
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), *(blocks[kind]() for _ in range(depth)), nn.Linear(width, 10))


norms = {kind: gradient_norms(deep(kind), cross_entropy, batches) for kind in ("sigmoid", "tanh", "residual")}
decays = {kind: found.decay() for kind, found in norms.items()}
assert decays["sigmoid"].upper < 0.25 and decays["tanh"].upper < 0.9 and decays["residual"].lower > 0.9

# %%
# Real networks, stored by
# ``python -m nonvacuous.studies.curvature_of_networks --threads 2 --out results/curvature_of_networks.json`` with the time and the peak
# memory that each took on two cores, ResNet-18 with its 11.2 million weights among them; and the largest eigenvalues of a network of
# 654,310 weights on Fashion-MNIST beside other libraries, at equal verified residual, stored by
# ``OMP_NUM_THREADS=1 python benchmarks/bench_curvature.py 3 results/curvature_speed.csv``.
results = Path(globals().get("__file__", "page.py")).resolve().parent.parent / "results"
real = read(results / "curvature_of_networks.json")
for entry in real:
    tops = " ".join(f"{value['lower']:.3g}{'' if value['converged'] else '?'}" for value in entry["top"])
    print(f"{entry['network']}: {entry['parameters']:,} weights, {entry['examples']} examples, {entry['products']} products")
    print(
        f"  {entry['seconds']:.0f} s, peak {entry['peak_mb']:.0f} MB; eigenvalues {tops}; trace {np.mean(entry['trace']):.3g}"
    )
    assert entry["top"][0]["converged"] and entry["top"][0]["lower"] > 3 * entry["top"][-1]["lower"] / 2 > 0
    assert entry["density"]["lower"][np.argmax(entry["density"]["values"])] > 0  # the bulk stands out of its error band
speed = list(csv.DictReader((results / "curvature_speed.csv").open(encoding="utf-8"))) if real else []
for row in speed:
    print(f"{row['method']:<40} {row['cpu_seconds']:>6} s, verified residual {row['verified_residual']}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
grid = density.grid(800)
band = density.density(grid, width=0.01 * float(top.values[0]))
floor = 1e-3
left.fill_between(grid, band.lower.clip(floor), band.upper.clip(floor), alpha=0.25, lw=0)
left.semilogy(grid, band.values.clip(floor), label="density, band of 2 standard errors")
left.plot(top.values, [2 * floor] * 12, "|", ms=14, color="C3", label="12 largest eigenvalues")
left.plot(bottom.values, [2 * floor], "|", ms=14, color="C2", label="smallest eigenvalue")
left.set(xlabel="eigenvalue of the Hessian", ylabel="density", ylim=(floor, None), title="10 classes, 610 parameters")
left.legend(frameon=False)
for kind, found in norms.items():
    signal = [layer.signal for layer in found.layers]
    right.semilogy(signal, "o-", ms=3, label=f"{kind}: factor {decays[kind].midpoint:.2f} a layer")
right.set(xlabel="layer, from the input", ylabel="norm of the gradient that arrives", title="20 layers at initialisation")
right.legend(frameon=False)

if real:
    fig, axes = plt.subplots(1, len(real) + 1, figsize=(4.3 * (len(real) + 1), 3.8), layout="constrained")
    for axis, entry in zip(axes, real, strict=False):
        curve = {name: np.array(entry["density"][name]) for name in ("grid", "values", "lower", "upper")}
        floor = 1e-5 * curve["values"].max()
        axis.fill_between(
            curve["grid"], curve["lower"].clip(floor), curve["upper"].clip(floor, curve["values"].max() * 2), alpha=0.25, lw=0
        )
        axis.semilogy(curve["grid"], curve["values"].clip(floor))
        axis.plot([v["lower"] for v in entry["top"]], [2 * floor] * len(entry["top"]), "|", ms=14, color="C3")
        spent = f"{entry['products']} products, {entry['seconds']:.0f} s, {entry['peak_mb']:.0f} MB"
        axis.set(
            title=f"{entry['network']}\n{entry['parameters']:,} weights; {spent}", xlabel="eigenvalue", ylim=(floor, None)
        )
        axis.title.set_fontsize(9)
    equal = [row for row in speed if float(row["verified_residual"]) <= 1e-3]
    axes[-1].barh([row["method"] for row in equal], [float(row["cpu_seconds"]) for row in equal], color="C0")
    axes[-1].invert_yaxis()
    axes[-1].tick_params(axis="y", labelsize=7)
    axes[-1].set(xlabel="CPU seconds", title="5 eigenvalues, verified residual ≤ 10⁻³")
    axes[-1].title.set_fontsize(9)
plt.show()
