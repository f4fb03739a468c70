"""
What a normalizer does to the Lipschitz constant
================================================

Batch norm scales by exactly max|γ/σ|, of which ‖γ/σ‖₂ is a loose bound, but layer norm can exceed (1 − 1/n)‖γ/σ‖ (Than's deck,
"Normalization: Lipschitz continuity"): the norm of I − 11ᵀ/n is 1, and 1 − 1/n is only its largest diagonal entry. The product
over depth says little without the norms of the weights, which grow as it shrinks.
"""

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from nonvacuous.operators.normalizer_table import normalizer_table
from nonvacuous.operators.normalizers import local_lipschitz, slide_formula

# %%
# Layer norm on n = 8 numbers, γ between (1, …, 1) and (1, 0, …, 0), at an input whose first number is the mean.
x = torch.tensor([[0.0, 3.0, -3.0, 1.0, -1.0, 2.0, -2.0, 0.0]])
mixes, true, slide = torch.linspace(0, 1, 41).tolist(), [], []
for mix in mixes:
    norm = nn.LayerNorm(8)
    norm.weight.data[1:] = 1 - mix
    true.append(local_lipschitz(norm, x).midpoint)
    slide.append(slide_formula(norm, x))
assert slide[0] > true[0]  # loose by √8 at first
assert true[-1] > 1.05 * slide[-1]  # and no bound in the end

# %%
# A batch-normalized net on the digits, as it trains.
torch.manual_seed(0)
data = load_digits()
inputs, labels = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
layers = [part for width in (64, 64, 64) for part in (nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU())]
net = nn.Sequential(*layers, nn.Linear(64, 10))
optimizer = torch.optim.Adam(net.parameters(), 1e-2, weight_decay=1e-3)
history = []
for epoch in range(31):
    if epoch % 3 == 0:
        history.append((epoch, normalizer_table(net, inputs[:1])))
    net.train()
    for batch in torch.randperm(len(inputs)).split(128):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs[batch]), labels[batch]).backward()
        optimizer.step()

epochs = [epoch for epoch, _ in history]
largest = [table.log10_largest for _, table in history]
euclidean = [table.log10_euclidean for _, table in history]
weights = [table.log10_weights.midpoint for _, table in history]
assert all(e >= m for e, m in zip(euclidean, largest, strict=True))  # for batch norm the slide's number is a bound
assert euclidean[-1] - largest[-1] > 1  # ten times and more too large over three layers
assert max(largest) - min(largest) > 0.5  # it moves by itself while the function hardly does

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
axes[0].plot(mixes, true, color="k", label="norm of the derivative")
axes[0].plot(mixes, slide, "--", color="tab:red", label="(1 − 1/n) ‖γ/σ‖")
axes[0].fill_between(mixes, slide, true, where=[t > s for t, s in zip(true, slide, strict=True)], color="tab:red", alpha=0.25)
axes[0].set(xlabel="γ from (1, …, 1) to (1, 0, …, 0)", title="layer norm: where red falls below, it is no bound")
axes[0].legend(frameon=False)
axes[1].plot(epochs, euclidean, "--", color="tab:red", label="∏ ‖γ/σ‖₂")
axes[1].plot(epochs, largest, color="k", label="∏ max|γ/σ|")
axes[1].plot(epochs, weights, color="tab:blue", label="∏ ‖W‖")
axes[1].plot(epochs, [a + b for a, b in zip(largest, weights, strict=True)], ":", color="tab:green", label="∏ ‖W‖ max|γ/σ|")
axes[1].set(xlabel="epoch", ylabel="log₁₀", xlim=(-1, 42), title="batch norm: products over depth, beside the weights'")
axes[1].legend(frameon=False, fontsize=8, loc="center right")
plt.show()
