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
runs, infinite, gaps = {}, {}, {}
for width in (64, 512, 4096):
    torch.manual_seed(0)
    net = Wide(width)
    infinite[width] = linearised(limit, (net(x) - y).detach().flatten(), step, steps)
    runs[width] = tangent_run(net, x, y, step=step, steps=steps)
    gaps[width] = max(abs(math.log(a / b)) for a, b in zip(runs[width].losses, runs[width].linearised, strict=True))
wide = runs[4096]
assert values[0] > 0 and wide.stayed_positive() and wide.losses[-1] < 1e-3 * wide.losses[0]
assert gaps[4096] < 0.7 and abs(math.log(wide.losses[-1] / float(infinite[4096][-1]))) < 0.7  # while the loss falls 5,000-fold

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for number, (width, own) in enumerate(runs.items()):
    axes[0].semilogy(own.losses, color=f"C{number}", label=f"width {width}")
    axes[0].semilogy(own.linearised, color=f"C{number}", ls="--")
axes[0].semilogy(infinite[4096], color="k", ls=":", label="kernel of infinite width")
rate = (1 - step * float(values[0])) ** 2
axes[0].semilogy([wide.losses[0] * rate**t for t in range(steps + 1)], color="0.7", label="slowest direction alone, λ_min")
axes[0].set(title="training loss; dashed: by the network's own kernel", xlabel="step")
axes[0].legend(frameon=False, fontsize=8)
for width, own in runs.items():
    axes[1].plot([a / b for a, b in zip(own.losses, own.linearised, strict=True)], label=f"width {width}")
axes[1].axhline(1, color="0.7")
axes[1].set(title="measured loss / predicted by its own kernel", xlabel="step")
axes[1].legend(frameon=False, fontsize=8)
plt.show()
