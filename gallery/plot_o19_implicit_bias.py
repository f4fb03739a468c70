"""
What gradient descent prefers
=============================

Among all solutions, gradient descent picks one (Ollion and Grisel's, Wu's and Zhang's decks). From zero, least squares ends at the
interpolant of least norm. On separable data the direction tends to the largest margin, at the rate 1/log t (Soudry et al. 2018). From
small weights a diagonal network finds a sparse solution, from large ones that of a kernel (Woodworth et al. 2020). The last panel
tracks the same on a network in training.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from nonvacuous.optimization.implicit_bias import BiasTracker
from nonvacuous.optimization.interpolation import LeastSquares
from nonvacuous.optimization.max_margin import direction_of_descent, largest_margin
from nonvacuous.optimization.rich_and_lazy import diagonal_limit, least_l1
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.training import train

generator = torch.Generator().manual_seed(0)
X = torch.randn(12, 30, dtype=torch.float64, generator=generator)
sparse = torch.zeros(30, dtype=torch.float64)
sparse[:2] = 1.0
y = X @ sparse
problem = LeastSquares.of(X, y)
zero, other = torch.zeros(30, dtype=torch.float64), torch.randn(30, dtype=torch.float64, generator=generator)
steps = [2**k for k in range(12)]
from_zero, elsewhere = (
    [(problem.after(w, problem.step_limit() / 2, t) - problem.minimum_norm()).norm().item() for t in steps]
    for w in (zero, other)
)
assert from_zero[-1] < 1e-9 and elsewhere[-1] > 1

# %%
points = torch.randn(40, 3, dtype=torch.float64, generator=generator)
signs = torch.sign(points @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
best = largest_margin(points, signs)
flow = direction_of_descent(points, signs, start=3 * torch.randn(3, generator=generator).double(), until=1e40)
scaled = flow.gaps(best) * np.log(flow.times)
assert scaled[-1] < 1.5 * scaled[len(scaled) // 2]

# %%
alphas = np.logspace(-6, 1, 25)
solutions = [diagonal_limit(X, y, alpha) for alpha in alphas]
l1 = [s.abs().sum().item() for s in solutions]
assert l1[0] < 1.05 * least_l1(X, y).abs().sum() < 0.8 * l1[-1]

# %%
inputs = torch.randn(128, 4, generator=generator)
labels = (inputs[:, 0] * inputs[:, 1] > 0).long()


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(1)
        self.net, self.scale = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2)), scale

    def forward(self, x):
        return self.scale * self.net(x)


runs = {}
for scale in (1.0, 30.0):
    net = Scaled(scale)
    tracker = BiasTracker(net, inputs, labels)
    options = {"epochs": 40, "learning_rate": 0.3 / scale**2, "optimizer": "sgd", "batch_size": 32, "progress": False}
    train(net, as_sample((inputs, labels)), **options, after_epoch=tracker)
    runs[scale] = tracker.records
assert runs[30.0][-1].kernel < runs[1.0][-1].kernel

# %%
figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
axes[0, 0].loglog(steps, np.maximum(from_zero, 1e-15), label="from zero")
axes[0, 0].loglog(steps, elsewhere, label="from elsewhere")
axes[0, 0].set(title="distance to the least-norm interpolant", xlabel="step")
axes[0, 1].semilogx(flow.times, flow.gaps(best), label="‖w/‖w‖ − ŵ‖")
axes[0, 1].semilogx(flow.times, scaled, label="the same · log t")
axes[0, 1].set(title="largest margin, at the rate 1/log t", xlabel="time")
axes[1, 0].semilogx(alphas, l1, label="‖β‖₁")
axes[1, 0].semilogx(alphas, [s.norm().item() for s in solutions], label="‖β‖₂")
axes[1, 0].axhline(least_l1(X, y).abs().sum().item(), color="0.6", ls=":", label="least ‖β‖₁ and ‖β‖₂")
axes[1, 0].axhline(problem.minimum_norm().norm().item(), color="0.6", ls=":")
axes[1, 0].set(title="small starts are rich, large ones lazy", xlabel="size α of the start")
for scale, records in runs.items():
    name = "rich" if scale == 1 else "lazy"
    axes[1, 1].plot([r.kernel for r in records], label=f"{name}: change of the kernel")
    axes[1, 1].plot([r.weights for r in records], "--", label=f"{name}: change of the weights")
axes[1, 1].set(title="a network in training, outputs × 1 and × 30", xlabel="epoch")
for axis in axes.flat:
    axis.legend(frameon=False, fontsize=8)
plt.show()
