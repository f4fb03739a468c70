"""
Two bounds: with and without normalizers
========================================

Than's Lemma 4 puts ∏ s_k against ∏ s_k‖NO_k‖, and where the normalizers' product is small promises exponentially smaller bounds and
sample sizes (his decks, "Exponential benefits"; ResNet-18: 10⁻⁸). In trained networks that product may shrink or inflate the bound,
and the weights answer it: so both are shown, with the steepest slope seen.
"""

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from nonvacuous.measures.normalization import normalization_gain
from nonvacuous.measures.slopes import sampled_lower

digits = load_digits()
names = torch.tensor(digits.target)


def trained(scale):
    """Five layers with batch norm; Lemma 4's products as training goes on, on pixels of this scale."""
    torch.manual_seed(0)
    images = torch.tensor(digits.data).float() * scale
    blocks = [part for k in range(4) for part in (nn.Linear(64 if k == 0 else 48, 48), nn.BatchNorm1d(48), nn.ReLU())]
    net, rows = nn.Sequential(*blocks, nn.Linear(48, 10)), []
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(121):
        if step % 20 == 0:
            gain = normalization_gain(net, (64,))
            slope = torch.tensor(sampled_lower(net, images[:50]).lower).log10().item()
            rows.append((step, gain.log10_weights, gain.log10_normalizers, gain.log10_normalized, slope))
        net.train()
        adam.zero_grad()
        nn.functional.cross_entropy(net(images), names).backward()
        adam.step()
    return torch.tensor(rows).T


runs = {
    "pixels from 0 to 0.016": trained(0.001),
    "pixels from 0 to 1": trained(1 / 16),
    "pixels from 0 to 1600": trained(100.0),
}

# %%
# The bound with normalizers holds, and the factor it differs by from the one without goes both ways.
for _, weights, normalizers, both, slope in runs.values():
    assert (slope <= both).all() and torch.allclose(weights + normalizers, both, atol=1e-3)
small, large = (runs[name][2, -1] for name in ("pixels from 0 to 1600", "pixels from 0 to 0.016"))
assert small < 0 < large

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 4), sharey=True, layout="constrained")
for axis, (name, (step, weights, normalizers, both, slope)) in zip(axes, runs.items(), strict=True):
    axis.axhline(0, color="0.8", lw=1)
    axis.plot(step, weights, "--", color="0.4", label="∏ s: the bound without normalizers")
    axis.fill_between(step, weights, both, color="tab:green" if normalizers[-1] < 0 else "tab:red", alpha=0.15, lw=0)
    axis.plot(step, both, "-", color="tab:blue", lw=2, label="∏ s‖NO‖: the bound with them")
    axis.plot(step, slope, ".-", color="tab:orange", label="steepest slope seen")
    samples = 2 * normalizers[-1].item()
    axis.set(title=f"{name}\nsamples for the same bound: × 10$^{{{samples:+.1f}}}$", xlabel="step of training")
axes[0].set_ylabel("log₁₀ of the Lipschitz constant")
axes[0].legend(frameon=False, fontsize=8)
plt.show()
