# slow
"""
Near the identity, a stationary point is a global minimum
=========================================================

Bartlett, Evans and Long 2018 (Bartlett's deck): if h = h_m∘…∘h_1 with ‖h_i − Id‖_L ≤ ε < 1 and h_i(0) = 0, then
‖D_{h_i}Q‖ ≥ (1 − ε)^{m−1}(Q(h) − Q(h*))/‖h − h*‖ for every layer: the *functional* derivative cannot vanish before the error does.
Both sides along a training run; the same proof gives twice the right side. The derivative by the parameters may well vanish.
"""

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

from nonvacuous.optimization.near_identity import sides

torch.manual_seed(0)
x = torch.randn(40, 3, dtype=torch.float64)
angle = 0.4 * x.norm(dim=1)
y = torch.stack([x[:, 0] * angle.cos() - x[:, 1] * angle.sin(), x[:, 0] * angle.sin() + x[:, 1] * angle.cos(), x[:, 2]], 1)
branches = nn.ModuleList(
    nn.Sequential(nn.Linear(3, 12, bias=False), nn.Tanh(), nn.Linear(12, 3, bias=False)) for _ in range(5)
).double()
with torch.no_grad():
    for p in branches.parameters():
        p *= 0.3
stepper = torch.optim.SGD(branches.parameters(), lr=0.06)
run, gradients = [], []
for _ in range(60):
    run.append(sides(list(branches), x, y))
    assert run[-1].holds() or not run[-1].applies
    out = x
    for branch in branches:
        out = out + branch(out)
    stepper.zero_grad()
    (0.5 * ((out - y) ** 2).sum(1).mean()).backward()
    gradients.append(sum((p.grad**2).sum().item() for p in branches.parameters()) ** 0.5)
    stepper.step()
assert run[0].applies and run[-1].excess < 0.5 * run[0].excess

# %%
# What the theorem does not say: with zero branches the parameter gradient is zero, and the functional derivative is not.
for p in branches.parameters():
    nn.init.zeros_(p)
still = sides(list(branches), x, y)
loss = 0.5 * ((x + branches[0](x) - y) ** 2).sum(1).mean()
slopes = torch.autograd.grad(loss, list(branches[0].parameters()))
assert max(s.abs().max().item() for s in slopes) == 0.0 and min(still.left) > still.sharp[0] > 0

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for i in range(5):
    axes[0].semilogy([both.left[i] for both in run], color=plt.cm.viridis(i / 5), label=f"left, layer {i + 1}")
    axes[0].semilogy([both.sharp[i] for both in run], ":", color=plt.cm.viridis(i / 5))
axes[0].semilogy([both.right for both in run], "k--", label="right, as the slide has it")
axes[0].set(xlabel="step", title="both sides along training (dotted: the sharper right side)")
axes[0].legend(frameon=False, fontsize=8)
axes[1].semilogy([both.excess for both in run], label="Q(h) − Q(h*)")
axes[1].semilogy(gradients, label="parameter gradient")
axes[1].plot([max(both.epsilons) for both in run], label="ε")
axes[1].set(xlabel="step", title="the run")
axes[1].legend(frameon=False)
plt.show()
