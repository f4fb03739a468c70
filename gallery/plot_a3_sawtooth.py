"""
One more layer, twice the oscillations
======================================

tri∘…∘tri has 2^(k−1) teeth from 2k ReLUs, and a ReLU network with one hidden layer needs 2^k − 1 units to come within ½ of it
(Telgarsky 2015 and 2016; Ollion and Grisel's deck). Trained shallow networks stay above the crossing-number floor, which one
hidden layer of 2^k units attains.
"""

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

from nonvacuous.approximation.depth import Sawtooth, alternating_points, least_width, misclassified_floor
from nonvacuous.approximation.hinges import HingeSum

k = 4
x, y = alternating_points(k)


def trained(width, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, 1)).double()
    with torch.no_grad():  # kinks spread over the interval
        net[0].bias.copy_(-net[0].weight[:, 0] * torch.rand(width))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(800):
        optimizer.zero_grad()
        (net(x[:, None])[:, 0] - y).square().mean().backward()
        optimizer.step()
    return net


widths = [2, 4, 6, 8, 12, 16, 24]
nets = {width: trained(width) for width in widths}
wrong = {width: ((net(x[:, None])[:, 0] >= 0.5) != (y == 1)).double().mean().item() for width, net in nets.items()}


def first_hinges(width):
    """The sawtooth's own first hinges: right on as many points as `width` allows, constant after."""
    knots = torch.arange(width, dtype=torch.float64) / 2**k
    return HingeSum(knots, 2.0**k * torch.tensor([1.0] + [2.0 * (-1) ** j for j in range(1, width)]))


attained = {w: ((first_hinges(w)(x) >= 0.5) != (y == 1)).double().mean().item() for w in range(1, 17)}

# %%
# Nothing falls below the floor; the first hinges of the sawtooth stand on it, up to the rounding of an odd point.
for width, share in attained.items():
    assert 0 <= share - misclassified_floor(k, [width]) <= 1 / 2**k
for width in widths:
    assert wrong[width] >= misclassified_floor(k, [width])
assert ((Sawtooth(k)(x) >= 0.5) == (y == 1)).all()
assert least_width(k) == 15 and misclassified_floor(k, [2] * k) == 0

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained", width_ratios=[1, 1, 1.1])
fine = torch.linspace(0, 1, 2**11 + 1, dtype=torch.float64)
for row, layers in enumerate((1, 2, 3, 4)):
    axes[0].plot(fine, Sawtooth(layers)(fine) * 0.8 - row, lw=1.2, color=plt.cm.viridis(row / 4))
    axes[0].text(1.02, 0.3 - row, f"k = {layers}\n{2 * layers} ReLUs", fontsize=8, va="center")
axes[0].set(title="tri∘…∘tri", yticks=[], xlim=(0, 1.25), xlabel="x")
axes[0].spines[["top", "right", "left"]].set_visible(False)
with torch.no_grad():
    axes[1].plot(fine, Sawtooth(k)(fine), color="0.8", lw=1, label="sawtooth, 8 ReLUs")
    for width, colour in ((4, "tab:orange"), (12, "tab:red")):
        axes[1].plot(fine, nets[width](fine[:, None])[:, 0], color=colour, lw=1.3, label=f"trained, {width} ReLUs")
axes[1].set(title="one hidden layer, trained", xlabel="x", ylim=(-0.1, 1.5))
axes[1].legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
line = list(range(1, 25))
axes[2].fill_between(line, [misclassified_floor(k, [w]) for w in line], color="tab:gray", alpha=0.3, lw=0, label="impossible")
axes[2].plot(widths, list(wrong.values()), "o-", color="tab:red", label="one hidden layer, trained")
axes[2].plot(list(attained), list(attained.values()), ".", color="k", label="one hidden layer, constructed")
axes[2].plot([2 * k], [0], "*", ms=14, color="tab:green", label=f"{k} layers of 2, constructed", clip_on=False, zorder=3)
axes[2].set(xlabel="ReLUs", ylabel="misclassified", title=f"2^{k} alternating points", ylim=(0, 0.8))
axes[2].legend(frameon=False, fontsize=8)
plt.show()
