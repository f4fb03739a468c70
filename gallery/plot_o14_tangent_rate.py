# slow
"""
Wide networks reach zero loss at the rate of the tangent kernel
===============================================================

With more units than examples, λ_min of the tangent kernel is positive and full gradient descent on the squared error reaches zero at a
linear rate, in the limit of width exactly that of the constant kernel (Du, Zhai, Póczos and Singh 2019; Jacot, Gabriel and Hongler
2018). Measured on handwritten digits beside two predictions: by the network's own kernel at the start, and by that of infinite width.
"""

# %%
import math

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from nonvacuous.kernels.recursion import nngp_ntk
from nonvacuous.optimization.tangent_rate import linearised
from nonvacuous.studies.tangent_run import tangent_run

digits = load_digits()
chosen = torch.tensor(digits.target < 2).nonzero().flatten()[:24]
x = torch.tensor(digits.data, dtype=torch.float64)[chosen] / 16
y = torch.where(torch.tensor(digits.target)[chosen] == 1, 1.0, -1.0).double()[:, None]


class Wide(nn.Module):
    """Two layers in the tangent-kernel parametrisation: weights N(0, 1), divided by √fan_in in the forward pass."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(a, b, bias=False).double() for a, b in ((64, width), (width, 1)))
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight)

    def forward(self, x):
        hidden = torch.relu(self.first(x) * math.sqrt(2 / 64))
        return self.second(hidden) * math.sqrt(2 / self.second.in_features)


# %%
limit = nngp_ntk(x, depth=1).ntk
values = torch.linalg.eigvalsh(limit)
step, steps = 1 / float(values[-1]), 500
seeds = range(3)
runs, infinite = {}, {}
for width in (64, 512, 4096):
    for seed in seeds:
        torch.manual_seed(seed)
        net = Wide(width)
        infinite[width, seed] = linearised(limit, (net(x) - y).detach().flatten(), step, steps)
        runs[width, seed] = tangent_run(net, x, y, step=step, steps=steps)


def logarithms(width):
    """log of measured over predicted loss ``[seeds, steps + 1]``: by the network's own kernel, and by that of infinite width."""
    losses = torch.tensor([runs[width, seed].losses for seed in seeds]).log()
    own = torch.tensor([runs[width, seed].linearised for seed in seeds]).log()
    return losses - own, losses - torch.stack([torch.as_tensor(infinite[width, seed]) for seed in seeds]).log()


# %%
# How far the prediction is off, at its worst moment: mean over the seeds, and its standard error.
gaps = {}
for width in (64, 512, 4096):
    off = [part.abs().amax(1) for part in logarithms(width)]
    gaps[width] = [(float(part.mean()), float(part.std() / math.sqrt(len(seeds)))) for part in off]
    told = " and ".join(f"{mean:.2f} ± {error:.2f}" for mean, error in gaps[width])
    print(f"width {width}: |log(measured/predicted loss)| at most {told} (own kernel, infinite width)")
wide = [runs[4096, seed] for seed in seeds]
assert values[0] > 0 and all(run.stayed_positive() and run.losses[-1] < 2e-3 * run.losses[0] for run in wide)
assert max(gaps[4096][k][0] + 2 * gaps[4096][k][1] for k in (0, 1)) < 1  # while the loss falls a thousandfold
assert gaps[4096][1][0] < gaps[512][1][0] < gaps[64][1][0]  # the kernel of infinite width predicts wide networks best

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for number, width in enumerate((64, 512, 4096)):
    color = f"C{number}"
    for seed in seeds:
        axes[0].semilogy(runs[width, seed].losses, color=color, lw=0.8, alpha=0.7)
        axes[0].semilogy(runs[width, seed].linearised, color=color, lw=0.8, ls="--", alpha=0.5)
    axes[0].plot([], [], color=color, label=f"width {width}, {len(seeds)} seeds")
    own, _ = logarithms(width)
    mean, error = own.mean(0), own.std(0) / math.sqrt(len(seeds))
    axes[1].plot(mean.exp(), color=color, label=f"width {width}")
    axes[1].fill_between(range(steps + 1), (mean - 2 * error).exp(), (mean + 2 * error).exp(), color=color, alpha=0.2, lw=0)
axes[0].semilogy(
    torch.stack([torch.as_tensor(infinite[4096, s]) for s in seeds]).log().mean(0).exp(), "k:", label="infinite width"
)
rate = (1 - step * float(values[0])) ** 2
axes[0].semilogy([wide[0].losses[0] * rate**t for t in range(steps + 1)], color="0.7", label="slowest direction alone, λ_min")
axes[0].set(title="training loss; dashed: by the network's own kernel", xlabel="step")
axes[0].legend(frameon=False, fontsize=8)
axes[1].axhline(1, color="0.7")
axes[1].set(title="measured loss / predicted by its own kernel, mean ± 2 errors", xlabel="step", yscale="log")
axes[1].legend(frameon=False, fontsize=8)
plt.show()
