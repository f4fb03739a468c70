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
step, steps = 1 / float(values[-1]), 1500
runs = {}
for width in (64, 512, 8192):
    torch.manual_seed(0)
    runs[width] = tangent_run(Wide(width), x, y, step=step, steps=steps, kernel=limit), width
gaps = {}
for width in runs:
    torch.manual_seed(0)
    own = tangent_run(Wide(width), x, y, step=step, steps=steps)
    gap = [abs(math.log(a / b)) for a, b in zip(own.losses, own.linearised, strict=True)]
    gaps[width] = max(gap)
    runs[width] = own, runs[width][0].linearised
assert values[0] > 0 and runs[8192][0].losses[-1] < 1e-2 * runs[8192][0].losses[0]
assert gaps[8192] < gaps[512] < gaps[64] and gaps[8192] < 0.5

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for number, (width, (own, _)) in enumerate(runs.items()):
    axes[0].semilogy(own.losses, color=f"C{number}", label=f"width {width}")
    axes[0].semilogy(own.linearised, color=f"C{number}", ls="--")
axes[0].semilogy(runs[8192][1], color="k", ls=":", label="kernel of infinite width")
rate = (1 - step * float(values[0])) ** 2
axes[0].semilogy(
    [runs[8192][0].losses[0] * rate**t for t in range(steps + 1)], color="0.7", label="slowest direction alone, λ_min"
)
axes[0].set(title="training loss; dashed: by the network's own kernel", xlabel="step")
axes[0].legend(frameon=False, fontsize=8)
axes[1].loglog(list(gaps), list(gaps.values()), "o-")
axes[1].set(title="largest |ln(measured/predicted)| along the run", xlabel="width")
plt.show()
