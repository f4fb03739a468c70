# slow
"""
Conditioning fixed by the optimizer
===================================

A preconditioner P makes descent see the curvature P^{1/2} G P^{1/2} instead of the Gauss–Newton matrix G; diagonal ones (AdaGrad, RMSProp,
AdaDelta, Adam), Kronecker ones (Shampoo) and K-FAC (Martens and Grosse 2015) are said to improve its conditioning. Here all are read at the
same weights of one network; since κ is undefined (G is singular), the figure is λ_max over the median eigenvalue. K-FAC improves it by
orders of magnitude, the diagonal ones hardly, Shampoo not at all at these weights.
"""

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nonvacuous.operators.curvature import ggn
from nonvacuous.optimization.conditioning import compared
from nonvacuous.optimization.preconditioners import gather, identity, preconditioner_of
from nonvacuous.optimization.preconditioners_kfac import kfac
from nonvacuous.runtime.models import initialise
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.training import train

sample = load("digits")
layers = [nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 10)]
net = initialise(lambda: nn.Sequential(nn.Flatten(), *layers), 0)
train(net, sample, epochs=2, learning_rate=0.01, progress=False)
net.double()
x, y = sample.inputs[:400].double(), sample.targets[:400]
batches = [(a, b) for a, b in zip(x.split(50), y.split(50), strict=True)]

# %%
# Every optimizer sees the gradients of all mini-batches four times, at weights that stay where they are; then its state is read.
optimizers = [torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.Adadelta, torch.optim.Adam]
try:
    from pytorch_optimizer import Shampoo

    optimizers.append(Shampoo)
except ImportError:
    print("Shampoo left out: pip install pytorch-optimizer")
chosen = [identity(sum(p.numel() for p in net.parameters()))]
for make in optimizers:
    optimizer = make(net.parameters())
    gather(optimizer, net, cross_entropy, batches, passes=4)
    chosen.append(preconditioner_of(optimizer, net))
chosen.append(kfac(net, cross_entropy, batches, damping=1e-6))

# %%
# The spectra in full, of 682 parameters.
found = compared(ggn(net, cross_entropy, batches), chosen, share=0.5)
for each in found:
    print(f"{each.name:<10} λ_max / median = {each.ratio.midpoint:10.3g}")
ratio = {each.name: each.ratio.midpoint for each in found}
assert ratio["K-FAC"] < 0.1 * ratio["SGD"]
assert ratio["K-FAC"] == min(ratio.values())

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained", width_ratios=(3, 2))
for each in found:
    values = each.eigenvalues.flip(0).clamp_min(1e-300) / each.eigenvalues[-1]
    axes[0].semilogy(
        torch.linspace(0, 1, len(values)), values, label=each.name, lw=2.5 if each.name in ("SGD", "K-FAC") else 1.2
    )
axes[0].axvline(0.5, color="0.8", zorder=0)
axes[0].set(
    ylim=(1e-14, 2), xlabel="share of the eigenvalues above", ylabel="eigenvalue / largest", title="preconditioned spectra"
)
axes[0].legend(frameon=False)
axes[1].barh([each.name for each in found][::-1], [each.ratio.midpoint for each in found][::-1], color="tab:blue")
axes[1].set(xscale="log", title="largest over median eigenvalue", xlabel="smaller is better conditioned")
plt.show()
