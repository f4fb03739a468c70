r"""
Gauss–Newton steps
==================

For least squares the step :math:`w - (J^T J + \lambda I)^{-1} J^T (f - y)` uses the curvature that first derivatives already hold (the
numerics deck; Levenberg 1944, Marquardt 1963). It is found here by conjugate gradients on Jacobian products, without a matrix; a
network's fit that stalls under gradient descent and Adam takes a few dozen steps.
"""

# %%
import copy

import matplotlib.pyplot as plt
import torch
from torch import nn

from nonvacuous.optimization.gauss_newton import gauss_newton_step, levenberg_marquardt

torch.manual_seed(0)
x = torch.linspace(-1, 1, 80, dtype=torch.float64)[:, None]
y = torch.sin(6 * x) * torch.exp(-x) / 2
start = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1)).double()
batches = [(x[:50], y[:50]), (x[50:], y[50:])]

# %%
# The step equals the one with the matrix :math:`J^T J` written out.
step = gauss_newton_step(start, batches, damping=0.1)
w = torch.cat([p.detach().flatten() for p in start.parameters()])


def outputs(w):
    parts = w.split([p.numel() for p in start.parameters()])
    named = zip(start.named_parameters(), parts, strict=True)
    return torch.func.functional_call(start, {name: part.view_as(p) for (name, p), part in named}, (x,)).flatten()


J = torch.func.jacrev(outputs)(w)
dense = -torch.linalg.solve(J.T @ J + 0.1 * torch.eye(len(w), dtype=w.dtype), J.T @ (outputs(w) - y.flatten()))
assert (step.direction - dense).norm() < 1e-6 * dense.norm()

# %%
fitted = copy.deepcopy(start)
fit = levenberg_marquardt(fitted, batches, 30, tolerance=1e-6)
budget = 30 + 2 * sum(fit.iterations)  # passes by the Jacobian or its transpose


def descended(make):
    model, values = copy.deepcopy(start), []
    optimizer = make(model.parameters())
    for _ in range(budget):
        optimizer.zero_grad()
        loss = 0.5 * (model(x) - y).square().sum()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return model, values


plain, gradient = descended(lambda p: torch.optim.SGD(p, 2e-3))
adaptive, adam = descended(lambda p: torch.optim.Adam(p, 1e-2))
assert fit.values[-1] < 0.1 * min(min(adam), min(gradient))

# %%
fig, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
passes = torch.tensor([0, *fit.iterations]).cumsum(0) * 2 + torch.arange(len(fit.values))
axes[0].loglog(range(1, budget + 1), gradient, label="gradient descent")
axes[0].loglog(range(1, budget + 1), adam, label="Adam")
axes[0].loglog(passes + 1, fit.values, "o-", ms=3, label="Levenberg–Marquardt")
axes[0].set(xlabel="backward passes or Jacobian products", ylabel="½ sum of squared errors")
axes[0].legend(frameon=False)
axes[1].semilogy(fit.values, "o-", ms=3, color="C2")
axes[1].set(xlabel="step", title=f"{len(fit.values) - 1} steps")
for model, name, colour in (
    (plain, "gradient descent", "C0"),
    (adaptive, "Adam", "C1"),
    (fitted, "Levenberg–Marquardt", "C2"),
):
    axes[2].semilogy(x, (model(x) - y).abs().detach(), color=colour, lw=1, label=name)
axes[2].set(xlabel="x", title="error of the fit")
plt.show()
