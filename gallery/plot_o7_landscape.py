"""
Landscapes: the two-weight network, its mini-batches, and a trained network's neighbourhood
===========================================================================================

The optimization lecture draws the loss of f(x) = w₂ relu(w₁x) and its stochastic versions; Li et al. (2018) draw any network along random
directions whose filters have the size of the network's own. Both here, with the path that training took, and the barrier between two runs.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from nonvacuous.optimization.directions import filter_normalized, random_direction
from nonvacuous.optimization.directions_path import path_plane
from nonvacuous.optimization.modes import connection
from nonvacuous.optimization.modes_alignment import aligned
from nonvacuous.optimization.slices_objective import objective
from nonvacuous.optimization.surfaces import axis, surface
from nonvacuous.optimization.surfaces_stochastic import mini_batches
from nonvacuous.optimization.surfaces_two_weights import TwoWeightLoss, lecture_points

# %%
# **Two weights.** The minima are a hyperbola: one function, but the sharpness along it has no upper limit. A mini-batch of three examples
# has a hyperbola of its own, and the mean over mini-batches is the surface of all.
x, y = lecture_points()
whole = TwoWeightLoss.of(x, y)
w1, w2 = torch.linspace(-1.5, 4, 111).double(), torch.linspace(-2, 4, 121).double()
grid = whole(w1[:, None], w2[None])
batches = mini_batches(len(x), 3, 400, seed=0)
noisy = torch.stack([TwoWeightLoss.of(x[rows], y[rows])(w1[:, None], w2[None]) for rows in batches])
assert abs(whole.sharpness(0.4) / whole.sharpness(whole.product**0.5)) > 5  # the same function, five times as sharp
assert ((noisy.mean(0) - grid).abs() <= 5 * noisy.std(0) / 20 + 1e-9).all()

figure, axes = plt.subplots(1, 4, figsize=(15, 3.8), layout="constrained", sharey=True)
levels = np.geomspace(0.15, 40, 22)
for ax, surface_, title in zip(axes, [grid, *noisy[:3]], ["all 30 examples", *["3 examples"] * 3], strict=True):
    ax.contourf(w1, w2, surface_.T.clamp(0.16, 39), levels=levels, norm="log", cmap="viridis")
    valley = torch.linspace(0.3, 4, 200)
    ax.plot(valley, whole.product / valley, "w--", lw=1)
    ax.set(title=title, xlabel="$w_1$", ylim=(-2, 4))
axes[0].set(ylabel="$w_2$")
plt.show()

# %%
# **A network on digits.** Two runs from different starts; the first one's checkpoints are kept.
digits = load_digits()
data = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)


def trained(seed, keep=None):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(150):
        if keep is not None and step % 10 == 0:
            keep.append({k: v.clone() for k, v in net.state_dict().items()})
        adam.zero_grad()
        nn.functional.cross_entropy(net(data[0]), data[1]).backward()
        adam.step()
    return net


path = []
net, other = trained(0, path), trained(1)
path.append(net.state_dict())
target = objective(net, data)
around = surface(
    target,
    [axis(filter_normalized(net, random_direction(net, k, f"direction {k + 1}")), -1, 1, 41) for k in range(2)],
    tolerance=0.02,
)
plane = path_plane(net, path)
low, high = plane.coordinates.min(0).values - 1.5, plane.coordinates.max(0).values + 1.5
along = surface(
    target, [axis(d, float(a), float(b), 41) for d, a, b in zip(plane.directions, low, high, strict=True)], tolerance=0.02
)
straight = connection(target, other.state_dict())
matched = connection(target, aligned(net, other.state_dict()))
print(f"{around.evaluated.mean():.0%} of the points evaluated; the plane holds {sum(plane.shares):.1%} of the path")
print(f"barrier {straight.loss.height:.3f}; hidden units matched {matched.loss.height:.3f}")
assert around.lowest == (0.0, 0.0) or around.loss.min() > 0.8 * around.origin.loss  # trained: nearly the lowest place around
assert matched.loss.height < 0.6 * straight.loss.height and sum(plane.shares) > 0.9

# %%
figure = plt.figure(figsize=(15, 4.4), layout="constrained")
first = figure.add_subplot(1, 3, 1, projection="3d")
first.plot_surface(*np.meshgrid(*around.coordinates, indexing="ij"), around.loss, cmap="viridis", rcount=60, ccount=60)
first.set(title="random directions, filter-normalised", zlabel="loss")
second = figure.add_subplot(1, 3, 2)
drawn = second.contourf(*along.coordinates, np.log10(along.loss).T, levels=24, cmap="viridis")
figure.colorbar(drawn, ax=second, label="log₁₀ loss")
second.plot(*plane.coordinates.T, "o-", color="tab:red", ms=3)
second.set(title=f"the path's plane, {sum(plane.shares):.1%} of it", xlabel="principal axis 1", ylabel="principal axis 2")
third = figure.add_subplot(1, 3, 3)
for link, name in ((straight, "as trained"), (matched, "hidden units matched")):
    third.plot(link.line.coordinates[0], link.line.loss, label=f"{name}: barrier {link.loss.height:.2f}")
third.set(title="between two runs", xlabel="t", ylabel="loss", ylim=(0, 1.3 * straight.line.loss.max()))
third.legend(frameon=False)
plt.show()
