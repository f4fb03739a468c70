"""
A network that is few bits
==========================

A network that a self-delimiting stream of b bits decodes to has, with probability at least 1 − δ, a risk of at most every v with
P(Bin(n, v) ≤ errors) ≤ δ 2^(−b), however it was found (Langford 2005, Theorem 4.1). Training can minimise that number itself: weights
are small integers along random directions that a seed gives, and the entropy of the integers is part of the loss. The stream holds
all that was chosen after seeing the data, and decodes to the very network that is certified.
"""

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_moons

from nonvacuous.bounds.code_length import OccamBinomialBound
from nonvacuous.learning.compression import Compression
from nonvacuous.learning.method import Task
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.models import mlp

n = 3000
x, y = make_moons(n + 20_000, noise=0.15, random_state=0)
x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
task = Task(lambda: mlp(2, 24, 2), as_sample((x[:n], y[:n])), delta=0.05, seed=1)

runs = {}
for price in (0.1, 0.8, 6.4):
    method = Compression(dimension=128, epochs=12, batch_size=100, price=price, levels=2)
    runs[price] = method, method.certified(task)

# %%
# The stream alone gives the network back, bit by bit; cut or lengthened, it is refused.
for method, done in runs.values():
    stream = bytes.fromhex(done.certificate.measurement["stream"])
    decoded = method.decoded(stream, task, outputs=2)
    assert torch.equal(decoded(x), done.model(x))
    for damaged in (stream[:-1], stream + b"\0"):
        try:
            method.decoded(damaged, task, outputs=2)
            raise AssertionError("a damaged stream was accepted")
        except ValueError as error:
            refused = str(error)

bits = np.array([done.certificate.evidence["code_bits"] for _, done in runs.values()])
train = np.array([done.certificate.evidence["errors"] / n for _, done in runs.values()])
risk = np.array([(done.model(x[n:]).argmax(1) != y[n:]).float().mean().item() for _, done in runs.values()])
value = np.array([done.certificate.value for _, done in runs.values()])
assert (risk <= value).all() and value.min() < 0.3 and bits[-1] < bits[0]

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained")
best = list(runs.values())[int(value.argmin())][1]
grid = torch.stack(torch.meshgrid(torch.linspace(-1.6, 2.6, 200), torch.linspace(-1.1, 1.6, 160), indexing="xy"), -1).reshape(
    -1, 2
)
label = best.model(grid).argmax(1).reshape(160, 200)
axes[0].contourf(label, levels=[-0.5, 0.5, 1.5], extent=(-1.6, 2.6, -1.1, 1.6), colors=["#c6dbef", "#fdd0a2"])
axes[0].scatter(*x[:600].T, c=np.array(["tab:blue", "tab:orange"])[y[:600]], s=4)
code = best.certificate.measurement["stream"]
axes[0].set_title(f"{best.certificate.evidence['code_bits']} bits: risk ≤ {best.certificate.value:.1%}")
axes[0].set_xlabel("the whole network: " + code[:40] + ("…" if len(code) > 40 else ""), fontsize=8)

for values, name, style in (
    (train, "training error", "o--"),
    (risk, "risk (20,000 new examples)", "s-"),
    (value, "certified", "D-"),
):
    axes[1].plot(bits, values, style, label=name)
axes[1].set(xlabel="bits of the stream", title=f"{n:,} examples, three prices of a bit", ylim=(0, None))
axes[1].legend(frameon=False, fontsize=8)

# What a bit is worth on 60,000 examples: the largest code at which an error still gives a bound.
bound, N = OccamBinomialBound(), 60_000
lengths = np.geomspace(100, 20_000, 8).astype(int)
for error, colour in ((0.08, "tab:green"), (0.12, "tab:blue"), (0.16, "tab:purple")):
    limits = [bound.solve(bound.Evidence(errors=int(error * N), code_bits=int(b), n=N), 0.05) for b in lengths]
    axes[2].semilogx(lengths, limits, color=colour, label=f"training error {error:.0%}")
    assert all(a < b for a, b in pairwise(limits))
axes[2].axhline(0.328, color="0.6", lw=1)
axes[2].text(110, 0.335, "Lotfi et al. 2022, Fashion-MNIST", color="0.4", fontsize=8)
axes[2].set(xlabel="bits of the stream", title="risk certified on 60,000 examples", ylim=(0, 0.6))
axes[2].legend(frameon=False, fontsize=8)
plt.show()
