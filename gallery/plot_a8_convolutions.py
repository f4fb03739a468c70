"""
Convolutions of length three compute any shallow network
========================================================

A deep convolutional network with one channel and filters of length at most 3 equals a given network with one hidden layer on a
bounded set, so deep convolutional nets are universal (Zhou 2020, Theorems 1 and 3; Than's deck). The rows of the hidden layer, laid end
to end, are one long filter, and its polynomial is a product of real quadratics.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

torch.manual_seed(1)
inputs, units = 4, 6
shallow = nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, 1)).double()


def short_filters(long):
    """Filters of length 2 and 3 whose convolution is ``long``, large and small ones in turn."""
    roots = np.roots(long)
    factors = [np.array([1.0, -r.real]) for r in roots if abs(r.imag) < 1e-12]
    factors += [np.array([1.0, -2 * r.real, abs(r) ** 2]) for r in roots if r.imag > 1e-12]
    factors.sort(key=lambda f: np.abs(f).sum())
    factors = [factors[i // 2 if i % 2 else -1 - i // 2] for i in range(len(factors))]
    return [abs(long[0]) ** (1 / len(factors)) * f * (np.sign(long[0]) if i == 0 else 1) for i, f in enumerate(factors)]


class DeepConvolution(nn.Module):
    """Conv1d with one channel and ReLU, again and again; the last layer picks every ``inputs``-th entry, with a bias each."""

    def __init__(self, shallow):
        super().__init__()
        filters = short_filters(shallow[0].weight.detach().numpy()[:, ::-1].reshape(-1))
        self.layers = nn.ModuleList()
        reach = 1.0  # the largest input
        for f in filters:
            layer = nn.Conv1d(1, 1, len(f), padding=len(f) - 1).double()
            layer.weight.data, layer.bias.data = (
                torch.tensor(f[::-1].copy())[None, None],
                torch.tensor([reach * np.abs(f).sum()]),
            )
            reach = 2 * float(layer.bias.detach())  # so no entry is negative, and ReLU changes nothing
            self.layers.append(layer)
        self.bias = nn.Parameter(shallow[0].bias.detach() - self.picked(torch.zeros(1, inputs).double())[0].detach())
        self.readout = shallow[2]

    def states(self, x):
        state = x[:, None]
        for layer in self.layers:
            state = layer(state).relu()
            yield state[:, 0]

    def picked(self, x):
        *_, last = self.states(x)
        return last[:, inputs - 1 :: inputs][:, :units]

    def forward(self, x):
        return self.readout((self.picked(x) + self.bias).relu())


deep = DeepConvolution(shallow)

# %%
x = 2 * torch.rand(20_000, inputs, dtype=torch.float64) - 1
with torch.no_grad():
    off = (deep(x) - shallow(x)).abs().max().item()
    carried = [s.min().item() for s in deep.states(x)]
    across = torch.tensor([[-1.0], [1.0]]).double() * torch.randn(1, inputs).double().clamp(-1, 1)
    line = torch.lerp(across[0], across[1], torch.linspace(0, 1, 400).double()[:, None])
    zero = [s[0] for s in deep.states(torch.zeros(1, inputs).double())]
    signals = [s[0] - z for s, z in zip(deep.states(line[300:301]), zero, strict=True)]
longest = max(layer.kernel_size[0] for layer in deep.layers)
assert off < 1e-6 and longest <= 3 and min(carried) >= 0
product = np.array([1.0])
for layer in deep.layers:
    product = np.convolve(product, layer.weight.detach().numpy()[0, 0, ::-1])
assert np.allclose(product, shallow[0].weight.detach().numpy()[:, ::-1].reshape(-1), atol=1e-9)

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", width_ratios=[1.2, 1, 1])
picture = np.full((len(signals), len(signals[-1])), np.nan)
for row, signal in enumerate(signals):
    picture[row, : len(signal)] = signal / signal.abs().max()
axes[0].imshow(picture, aspect="auto", cmap="RdBu", vmin=-1, vmax=1)
axes[0].plot(np.arange(units) * inputs + inputs - 1, [len(signals) - 1] * units, "k^", ms=7, clip_on=False, label="picked")
axes[0].set(xlabel="place", ylabel="layer", title="one input on its way (offset removed)")
axes[0].legend(frameon=False, loc="upper right")
axes[1].stem(np.arange(units * inputs), product, basefmt=" ")
for edge in range(1, units):
    axes[1].axvline(edge * inputs - 0.5, color="0.85", lw=1)
axes[1].set(xlabel="tap", title=f"{units} rows of {inputs} weights = {len(deep.layers)} filters of ≤ {longest}")
axes[2].plot(shallow(line).detach(), color="0.75", lw=6, label="one hidden layer")
axes[2].plot(deep(line).detach(), color="tab:red", lw=1.3, label=f"{len(deep.layers)} convolutions")
axes[2].set(xlabel="along a line", title=f"largest difference {off:.0e}")
axes[2].legend(frameon=False)
plt.show()
