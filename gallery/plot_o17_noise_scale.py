# slow
"""
Why mini-batches: most of the gradient is told many times
=========================================================

A batch of B examples drawn at random gives the gradient up to a relative error of scale/B, with scale = tr Σ/‖g‖² (McCandlish et al.
2018; deck O): early in training a few dozen digits tell what all 1,797 do. A second copy of the data doubles the cost of a full
gradient and leaves the scale, so SGD's cost, as it was.
"""

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from nonvacuous.optimization.noise import example_losses, gradient_noise
from nonvacuous.optimization.sde import sgd_path

images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
losses = example_losses(model, nn.functional.cross_entropy, x, y)
copies = example_losses(model, nn.functional.cross_entropy, torch.cat([x, x]), torch.cat([y, y]))

# %%
path = sgd_path(losses, step=0.2, steps=1600, batch=32, every=200)
scales = [gradient_noise(losses, theta) for theta in path]
twice = gradient_noise(copies, path[2])
assert scales[0].scale.upper < len(x) / 10  # at the start a tenth of the data would do
later = sorted(scale.scale.midpoint for scale in scales[4:])
assert later[2] > 2 * scales[0].scale.upper  # later on, in the median, more examples are needed
assert abs(twice.scale.midpoint / scales[2].scale.midpoint - 1) < 0.01  # copies add cost, not information

each = torch.func.vmap(torch.func.grad(lambda p, row: losses(p, row[None])[0]), in_dims=(None, 0))(
    path[2], torch.arange(len(x))
)
generator = torch.Generator().manual_seed(0)
batches = (1, 4, 16, 64, 256)
errors = []
for size in batches:
    drawn = torch.stack([each[torch.randint(len(x), (size,), generator=generator)].mean(0) for _ in range(1000)])
    errors.append(float((drawn - each.mean(0)).square().sum(1).mean() / each.mean(0).square().sum()))
assert all(0.7 < error / scales[2].relative_noise(size) < 1.4 for size, error in zip(batches, errors, strict=True))

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
axes[0].loglog(batches, errors, "ko", label="measured on 1,000 batches")
axes[0].loglog(batches, [scales[2].relative_noise(size) for size in batches], "C0-", label="scale / batch")
axes[0].axhline(1, color="grey", lw=0.8)
axes[0].set(xlabel="batch", ylabel="‖g_B − g‖² / ‖g‖²", title="After 400 steps")
axes[0].legend(frameon=False)
steps = range(0, 1601, 200)
axes[1].fill_between(steps, [s.scale.lower for s in scales], [s.scale.upper for s in scales], alpha=0.3, lw=0)
axes[1].semilogy(steps, [s.scale.midpoint for s in scales], "C0o-")
axes[1].axhline(len(x), color="C3", lw=1)
axes[1].text(0, 1.1 * len(x), "all digits", color="C3")
axes[1].set(xlabel="step", ylabel="noise scale (examples)", title="Batch at which more examples stop paying")
plt.show()
