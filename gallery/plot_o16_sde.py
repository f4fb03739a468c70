# slow
"""
SGD and its stochastic differential equation
============================================

Near a minimum SGD with examples drawn with replacement is an Ornstein–Uhlenbeck process dθ = −∇L dt + √η Σ^{1/2} dW (Li, Tai and E
2017; deck Z): on a quadratic the stationary variance is ηΣ/(h(2 − ηh)) for SGD and ηΣ/(2h) for the equation. Passes in random order
scatter less than either, which the equation does not see.
"""

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from nonvacuous.optimization.noise import ExampleLosses, NoiseCovariance, example_losses
from nonvacuous.optimization.sde import sde_path, sgd_path, stationary_variance

x = torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
x = (x - x.mean()) / x.std(correction=0)
one = ExampleLosses(lambda p, rows: (p[0] - x[rows]) ** 2 / 2, torch.zeros(1, dtype=torch.float64), 50)


def spread(path):
    """Mean square around 0, the beginning left out."""
    return float(path[len(path) // 10 :].square().mean())


steps = (0.05, 0.1, 0.3, 0.8)
sgd = [spread(sgd_path(one, step=s, steps=int(700 / s**0.5))) for s in steps]
sde = [spread(sde_path(one, step=s, steps=int(700 / s**0.5), substeps=2)) for s in steps]
passes = [spread(sgd_path(one, step=s, steps=int(700 / s**0.5), reshuffled=True)) for s in steps]
exact = [stationary_variance(1.0, 1.0, s) for s in steps]
for seen, formula in ((sgd, [e.sgd for e in exact]), (sde, [e.sde for e in exact])):
    assert all(0.6 < a / b < 1.6 for a, b in zip(seen, formula, strict=True))
assert all(p < 0.8 * e.sgd for p, e in zip(passes[:2], exact[:2], strict=True))

# %%
# On a network: 30-2-2 with weight decay on the breast-cancer data, descended to its minimum first. The spread of both processes along
# the noisiest direction there.
data = load_breast_cancer()
inputs = torch.tensor((data.data - data.data.mean(0)) / data.data.std(0))[:200]
labels = torch.tensor(data.target)[:200].long()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(30, 2), nn.Tanh(), nn.Linear(2, 2)).double().eval()
plain = example_losses(model, nn.functional.cross_entropy, inputs, labels)
decayed = lambda p, rows: plain(p, rows) + 0.05 * p.square().sum()  # noqa: E731
theta = plain.start
for _ in range(800):
    theta = theta - 0.4 * ExampleLosses(decayed, theta, 200).mean_gradient(theta)
network = ExampleLosses(decayed, theta, 200)
assert float(network.mean_gradient(theta).norm()) < 1e-4
direction = torch.linalg.eigh(NoiseCovariance(network) @ torch.eye(len(theta), dtype=torch.float64)).eigenvectors[:, -1]
paths = {
    "SGD": sgd_path(network, step=0.05, steps=1200, batch=2),
    "equation": sde_path(network, step=0.05, steps=1200, batch=2, substeps=2),
    "SGD, passes": sgd_path(network, step=0.05, steps=1200, batch=2, reshuffled=True),
}
along = {name: (path - theta) @ direction for name, path in paths.items()}
assert 0.5 < spread(along["SGD"]) / spread(along["equation"]) < 2

# %%
figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained", width_ratios=[1.2, 1.4, 1])
axes[0].loglog(steps, [e.sgd for e in exact], "C0-", label="SGD, formula")
axes[0].loglog(steps, sgd, "C0o", label="SGD, run")
axes[0].loglog(steps, [e.sde for e in exact], "C1-", label="equation, formula")
axes[0].loglog(steps, sde, "C1s", label="equation, run")
axes[0].loglog(steps, passes, "C2^", label="SGD in passes, run")
axes[0].set(xlabel="step size η (h = Σ = 1)", ylabel="stationary variance", title="Quadratic")
axes[0].set_xticks(steps, [str(s) for s in steps])
axes[0].minorticks_off()
axes[0].legend(frameon=False, fontsize=9)
for (name, values), colour in zip(along.items(), ("C0", "C1", "C2"), strict=True):
    axes[1].plot(values[:1200], lw=0.6, color=colour, label=name)
    axes[2].hist(values[120:], bins=60, histtype="step", density=True, color=colour, label=name)
axes[1].set(xlabel="step", title="Network: noisiest direction")
axes[2].set(xlabel="distance from the minimum", title="Stationary law")
axes[2].legend(frameon=False, fontsize=9)
plt.show()
