"""
A network as it is, cell by cell
================================

Than's Theorem 1: cut X × Y into cells before seeing the data; the risk exceeds the training loss by at most what the loss varies within
cells, λᵢLᵢ (diameter times local Lipschitz constant), plus a term g of the cell counts. No retraining, no second network. Every hypothesis
is needed: without the variation a memoriser refutes it, and cells of X alone are refuted by labels that change inside them.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_moons
from torch import nn

from nonvacuous.bounds.partition import OccupiedCellsBound, PartitionBound, kawaguchi_spread, xu_mannor_spread
from nonvacuous.measures.lipschitz import Box, local_upper

n, low, high = 100_000, np.array([-1.5, -1.0]), np.array([2.5, 1.5])
hoeffding, occupied = PartitionBound(), OccupiedCellsBound()


def moons(seed):
    """Clipped to the rectangle, so that its cells cover every input that can occur."""
    points, labels = make_moons(n, noise=0.06, random_state=seed)
    return np.clip(points, low, high), labels


points, labels = moons(0)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
adam = torch.optim.Adam(net.parameters(), lr=0.02)
for part in torch.randint(n, (400, 256)):
    adam.zero_grad()
    nn.functional.cross_entropy(net(torch.tensor(points[part]).float()), torch.tensor(labels[part])).backward()
    adam.step()
difference = nn.Linear(2, 1, bias=False)
difference.weight.data.copy_(torch.tensor([[-1.0, 1.0]]))
score = nn.Sequential(net, difference).double()  # class 1 minus class 0: the margin, up to the label's sign


def margin(points, labels):
    with torch.no_grad():
        return score(torch.tensor(points))[:, 0].numpy() * (2 * labels - 1)


def ramp(margins):
    """The loss: 1 where wrong, 0 from a margin of 1 on; 1-Lipschitz in the margin, and at least the 0–1 loss."""
    return np.clip(1 - margins, 0, 1)


# %%
# Three grids, chosen beforehand; each bound spends a third of δ. The loss may rise in the cell of s from ramp(m) to at most ramp(m − λL).
delta, margins, grids = 0.05, margin(points, labels), {}
risk, fresh = float(ramp(margins).mean()), ramp(margin(*moons(1))).mean()
for k in (6, 12, 22):
    side = (high - low) / k
    places, cell = np.unique(np.minimum((points - low) // side, k - 1), axis=0, return_inverse=True)
    boxes = [Box(torch.tensor(low + place * side), torch.tensor(low + (place + 1) * side)) for place in places]
    slopes = np.array([local_upper(score, box).upper for box in boxes])
    diameter, met = float(np.linalg.norm(side)), len(np.unique(2 * cell + labels))
    product = diameter * slopes[cell]
    rise = ramp(margins - product) - ramp(margins)
    literal, variation, cells = np.minimum(1, product).mean(), float(rise.mean()), 2 * k * k
    value = hoeffding.solve(hoeffding.Evidence(risk, variation, cells, n), delta / 3)
    other = occupied.solve(occupied.Evidence(risk, variation, met, cells, n), delta / 3)
    grids[k] = (places, np.bincount(cell, rise) / np.bincount(cell), literal, variation, value, other, met)
    print(f"{cells:5} cells, |T_D| {met:3}, λ {diameter:.2f}, L from {slopes.min():.1f} to {slopes.max():.1f}, ", end="")
    print(f"variation {variation:.3f} (λL cut at 1: {literal:.3f}), risk ≤ {value:.3f} or {other:.3f}; fresh data {fresh:.4f}")
assert all(fresh <= min(grid[4:6]) for grid in grids.values())
assert grids[22][4] < 0.15 < grids[6][4] and grids[22][2] > 0.9  # λL alone is vacuous even here: the margins' room saves it

# %%
# A memoriser: right on the sample, wrong elsewhere. And labels drawn from 1,000 at random, n cells of X, the constant best on each.
many = 2000
drawn, where = (np.random.default_rng(seed).integers(0, top, many) for seed, top in ((0, 1000), (1, many)))
best = sum(np.bincount(drawn[where == place]).max() for place in np.unique(where)) / many
refuted = {
    "memoriser,\nvariation left out": (1.0, hoeffding.solve(hoeffding.Evidence(0.0, 0.0, 968, n), delta)),
    "memoriser,\nvariation 1": (1.0, hoeffding.solve(hoeffding.Evidence(0.0, 1.0, 968, n), delta)),
    "random labels,\ncells of X": (0.999, hoeffding.solve(hoeffding.Evidence(1 - best, 0.0, many, many), delta)),
    "random labels,\ncells of X × Y": (0.999, hoeffding.solve(hoeffding.Evidence(1 - best, 0.0, 1000 * many, many), delta)),
}
assert [claimed >= true for true, claimed in refuted.values()] == [False, True, False, True]

# %%
figure, axes = plt.subplots(1, 4, figsize=(17, 4), layout="constrained", width_ratios=[1.35, 0.8, 1, 1.15])
places, rises = grids[22][:2]
picture = np.full((22, 22), np.nan)
picture[tuple(places.astype(int).T[::-1])] = rises
extent = (low[0], high[0], low[1], high[1])
shown = axes[0].imshow(picture, origin="lower", extent=extent, cmap="YlOrRd", vmin=0, vmax=1, aspect="auto")
axes[0].scatter(*points[:1500].T, c=labels[:1500], s=1, cmap="bwr", alpha=0.6)
mesh = np.stack(np.meshgrid(*[np.linspace(a, b, 120) for a, b in zip(low, high, strict=True)]), -1)
axes[0].contour(*np.moveaxis(mesh, -1, 0), margin(mesh.reshape(-1, 2), 1).reshape(120, 120), [0.0], colors="k")
axes[0].set(title="what the loss may rise by in a cell", xticks=[], yticks=[])
figure.colorbar(shown, ax=axes[0], shrink=0.8)
bars = np.array([(risk, variation, value - variation - risk) for *_, variation, value, _, _ in grids.values()])
for bottom, height, colour, label in zip(
    np.cumsum(bars, 1).T - bars.T,
    bars.T,
    ("k", "tab:red", "tab:blue"),
    ("training loss", "variation", "cell counts"),
    strict=True,
):
    axes[1].bar([f"{2 * k * k:,}" for k in grids], height, 0.6, bottom, color=colour, label=label)
axes[1].set(xlabel="cells of X × Y", title="certified risk", ylim=(0, 1.05))
axes[1].legend(frameon=False, fontsize=8)
sizes, (cells, met) = np.geomspace(1e3, 1e8, 16).astype(int), (968, grids[22][6])
for name, style, spread in (
    ("Kawaguchi et al., |T_D|", "C1--", lambda m: kawaguchi_spread(met, cells, m, delta)),
    ("same, better constant", "C1-", lambda m: occupied.solve(occupied.Evidence(0.0, 0.0, met, cells, m), delta)),
    ("Xu–Mannor, K", "C0--", lambda m: xu_mannor_spread(cells, m, delta)),
    ("same, one-sided", "C0-", lambda m: hoeffding.solve(hoeffding.Evidence(0.0, 0.0, cells, m), delta)),
):
    axes[2].loglog(sizes, [min(1.0, spread(int(m))) for m in sizes], style, label=name)
axes[2].set(xlabel="examples n", title=f"two choices of g: K = {cells:,}, |T_D| = {met}")
axes[2].legend(frameon=False, fontsize=8)
for row, (true, claimed) in enumerate(refuted.values()):
    axes[3].barh(row, claimed, 0.55, color="tab:green" if claimed >= true else "tab:red")
    axes[3].plot([true, true], [row - 0.4, row + 0.4], "k", lw=2, label="true risk" if row == 0 else None)
axes[3].set_yticks(range(4), refuted)
axes[3].set(title="claims with and without the hypotheses", xlim=(0, 1.05))
axes[3].legend(frameon=False, fontsize=8, loc="upper left")
axes[3].invert_yaxis()
plt.show()
