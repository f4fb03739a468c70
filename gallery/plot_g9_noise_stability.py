"""
Trained networks carry their inputs better than noise
=====================================================

Noise as large as what a layer reads fades on its way up a trained network, so that weights may be replaced by random projections of
themselves (Oberman's deck; Arora, Ge, Neyshabur and Zhang 2018: layer and interlayer cushions, Figure 1, Algorithm 1). What is certified is
the compressed network, at the price of every number that is sent; on small networks the price is high, and shown.
"""

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from nonvacuous.bounds.compression import CompressionBound
from nonvacuous.measures.losses import margins
from nonvacuous.measures.noise_stability import noise_stability
from nonvacuous.measures.sign_projections import sign_projection

digits = load_digits()
x, y = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)


def network(*widths):
    torch.manual_seed(0)
    return nn.Sequential(*[part for a, b in pairwise(widths) for part in (nn.Linear(a, b, bias=False), nn.ReLU())][:-1])


def trained(net, steps):
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        adam.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        adam.step()
    return net


widths = (64, 128, 128, 128, 128, 10)
before, after = (noise_stability(net, x[:300]) for net in (network(*widths), trained(network(*widths), 60)))
print(after)

# %%
# Noise among hidden units fades where the network is trained, and cushions grow. Theorem 4.1 still asks for more examples than there are,
# its hypothesis on smoothness fails, and within its guarantee Algorithm 1 needs more numbers than there are weights.
for untrained, layer in zip(before.layers[1:], after.layers[1:], strict=True):
    assert layer.attenuation[-1] < 0.6 * untrained.attenuation[-1]
assert all(b.cushions.median() > a.cushions.median() for a, b in zip(before.layers, after.layers, strict=True))
assert not after.smooth_enough and all(layer.projections > layer.weights for layer in after.layers)

# %%
# A network small enough to pay for: its numbers in 8 bits, decoded from the seed, and what the certificate says of the decoded network.
small, bound, n = trained(network(64, 16, 10), 300), CompressionBound(), len(x)
counts = [(k, k // 4) for k in (128, 256, 384, 512, 640, 768, 896, 1024)]
sent = [sign_projection(small, pair, bits=8) for pair in counts]
risks = [float((message.decoded(small)(x).argmax(1) != y).double().mean()) for message in sent]
values = {
    m: [bound.solve(message.evidence(risk, m), 0.05) for message, risk in zip(sent, risks, strict=True)]
    for m in (n, 60_000, 10**6)
}
margin = float(margins(small(x).detach(), y).quantile(0.1))
gap = noise_stability(small, x, draws=0).log_complexity(margin) / np.log(10)
print(f"Theorem 4.1, constants dropped: {10**gap:.1e} examples; there are {n}. Certificate at n: {min(values[n]):.3f}")
assert risks[-1] < 0.02 < risks[0] and all(value >= risk for value, risk in zip(values[n], risks, strict=True))
assert (
    min(values[n]) > 0.9 > min(values[60_000]) > min(values[10**6])
)  # 1,797 digits do not pay for them; guessing errs at 0.9
assert 10**gap > 100 * n

# %%
figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
colours = plt.cm.viridis(np.linspace(0, 0.85, len(widths) - 1))
for found, style in ((before, ":"), (after, "-")):
    for i, (layer, colour) in enumerate(zip(found.layers, colours, strict=True)):
        axes[0].plot(range(i, len(widths)), [1.0, *layer.attenuation], style, marker=".", color=colour)
axes[0].plot([], [], "k-", label="trained")
axes[0].plot([], [], "k:", label="as initialized")
axes[0].set(
    xlabel="layer", ylabel="relative error ‖x̂ − x‖/‖x‖", ylim=(0, None), title="noise as large as what the layer reads"
)
axes[0].set_xticks(range(len(widths)), ["input", *map(str, range(1, len(widths)))])
axes[0].legend(frameon=False)
for i, (one, two) in enumerate(zip(before.layers, after.layers, strict=True)):
    for layer, colour, side, label in ((one, "0.7", -0.17, "as initialized"), (two, "tab:blue", 0.17, "trained")):
        violin = axes[1].violinplot(layer.cushions.numpy(), [i + 1 + side], widths=0.32, showextrema=False)
        violin["bodies"][0].set(facecolor=colour, alpha=0.9)
        axes[1].plot(i + 1 + side, layer.interlayer_cushion, "_", ms=14, color="k" if colour == "tab:blue" else "0.5")
        axes[1].plot([], [], "s", color=colour, label=label if i == 0 else None)
axes[1].plot([], [], "k_", ms=12, label="interlayer cushion, the least")
axes[1].set(xlabel="layer", ylim=(0, 0.42), title="layer cushions of 300 digits")
axes[1].legend(frameon=False, fontsize=8, loc="upper left")
numbers = [message.numbers for message in sent]
axes[2].plot(numbers, risks, "ko-", ms=4, label="training error, decoded")
for (m, line), colour in zip(values.items(), ("tab:blue", "tab:green", "tab:olive"), strict=True):
    label = f"certified, these {m:,}" if m == n else f"if it were of {m:,}"
    axes[2].plot(numbers, line, "o-" if m == n else "--", ms=4, color=colour, label=label)
axes[2].axhline(0.9, color="0.6", lw=0.8)
axes[2].text(numbers[0], 0.905, "guessing", fontsize=8, color="0.4")
axes[2].set(xlabel="numbers of 8 bits sent", ylim=(0, 1.03), title="64–16–10: 1,184 weights")
axes[2].legend(frameon=False, fontsize=8)
plt.show()
