"""
Skips to the output: no bad local valleys
=========================================

Nguyen, Mukkamala and Hein 2019, Theorem 3.4 (Wu's deck): if at least as many analytic neurons skip to the output as there are
examples, a path leads from every point to a cross-entropy below any ε. Here the plain network stands still at loss ln 2, with a
gradient that is exactly zero; the path is a small move of the hidden weights and a straight line in the skips. The price: the infimum
is not attained, and the path's end moves away as ε falls.
"""

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nonvacuous.optimization.output_skips import OutputSkips, descend

x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
y = torch.tensor([0, 1, 1, 0])


def network():
    net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    for p in net.parameters():
        nn.init.zeros_(p)
    return net


plain = network()
stepper = torch.optim.SGD(plain.parameters(), lr=1.0)
stuck = []
for _ in range(40):
    loss = cross_entropy(plain(x), y)
    stuck.append(loss.item())
    stepper.zero_grad()
    loss.backward()
    stepper.step()
assert max(abs(value - math.log(2)) for value in stuck) < 1e-12

# %%
paths, lengths = {}, []
for epsilon in (1e-1, 1e-2, 1e-4, 1e-8):
    wrapped = OutputSkips(network(), x)
    paths[epsilon] = descend(wrapped, x, y, epsilon)
    lengths.append(wrapped.skip.weight.detach().norm().item())
    assert paths[epsilon].reached < epsilon and paths[epsilon].rises_by() < 1e-9
assert lengths == sorted(lengths)
print(*wrapped.conditions(x), sep="\n")

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for epsilon, path in paths.items():
    axes[0].semilogy([i / 40 for i in range(41)], path.losses[1:], label=f"ε = {epsilon:g}")
axes[0].axhline(stuck[-1], color="0.5", ls=":", label="the plain network under descent")
axes[0].set(xlabel="fraction of the line in V", ylabel="cross-entropy", title="the loss never rises on the way")
axes[0].legend(frameon=False)
axes[1].loglog(list(paths), lengths, "o-")
axes[1].set(xlabel="ε", ylabel="‖V‖ at the end", title="the infimum is not attained")
plt.show()
