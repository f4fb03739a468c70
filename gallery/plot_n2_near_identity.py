# slow
"""
Residual blocks near the identity
=================================

Bartlett, Evans and Long (2018) build and analyse networks of blocks with ‖h_i − Id‖_L ≤ ε. Here a parametrization enforces it in every
step of training; the bracket of each distance is proved above and attained below, and the trained network is inverted.
"""

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

from nonvacuous.networks.residual import NearIdentityBlock, NearIdentityNet, dense_branch
from nonvacuous.runtime.bundled import digits

train, test = digits("train"), digits("test")
pixels = test.inputs.flatten(1)


def trained(epsilon, depth=3):
    """Digits by h_depth ∘ … ∘ h_1 and a linear layer; brackets of the distances every 50 steps."""
    torch.manual_seed(0)
    body = NearIdentityNet([NearIdentityBlock(dense_branch(64, 32), (64,), epsilon) for _ in range(depth)])
    head, brackets = nn.Linear(64, 10), []
    adam = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.01)
    for step in range(101):
        if step % 50 == 0:
            brackets.append([(d.lower, d.upper) for d in body.distances(pixels[:4])])
        rows = torch.arange(step * 128, step * 128 + 128) % train.n
        adam.zero_grad()
        nn.functional.cross_entropy(head(body(train.inputs[rows].flatten(1))), train.targets[rows]).backward()
        adam.step()
    error = (head(body(pixels)).argmax(1) != test.targets).float().mean().item()
    return body.eval(), error, torch.tensor(brackets)


runs = {epsilon: trained(epsilon) for epsilon in (0.1, 0.9)}

# %%
# Every distance stays within ε, the proved brackets are narrow where the blocks use it, and the inverse finds the pixels again.
for epsilon, (body, _, brackets) in runs.items():
    assert (brackets[..., 1] <= epsilon).all() and (brackets[-1, :, 0] > 0.25 * epsilon).all()
    found = body.double().inverse(body(pixels[:40].double()).detach())
    assert ((found.x - pixels[:40]).norm(dim=1) <= found.error + 1e-12).all() and found.error.max() < 0.1
    pairs = (body(pixels[:40].double()) - body(pixels[40:80].double())).norm(dim=1).detach()
    ratio = pairs / (pixels[:40] - pixels[40:80]).norm(dim=1)
    assert body.expansion().lower <= ratio.min() and ratio.max() <= body.expansion().upper

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", gridspec_kw={"width_ratios": [2, 2, 1.2]})
for colour, (epsilon, (_, error, brackets)) in zip(("tab:green", "tab:blue"), runs.items(), strict=True):
    steps = 50 * torch.arange(len(brackets))
    axes[0].axhline(epsilon, color=colour, ls="--", lw=1)
    axes[0].fill_between(steps, brackets[..., 0].amin(1), brackets[..., 1].amax(1), color=colour, alpha=0.25, lw=0)
    axes[0].plot(steps, brackets[..., 1].amax(1), color=colour, label=f"ε = {epsilon}: test error {100 * error:.1f} %")
    for k, (low, high) in enumerate(brackets[-1].tolist()):
        axes[1].plot([k + epsilon / 3] * 2, [low / epsilon, high / epsilon], color=colour, lw=5, solid_capstyle="butt")
axes[0].set(
    xlabel="step of training",
    ylabel="‖h − Id‖_L, from attained to proved",
    yscale="log",
    title="all three blocks, and ε (dashed)",
)
axes[0].legend(frameon=False, fontsize=8, loc="lower right")
axes[1].axhline(1, color="0.3", ls="--", lw=1)
axes[1].set(xlabel="block", xticks=range(3), ylabel="‖h − Id‖_L / ε", ylim=(0, 1.1), title="after training, block by block")
axes[2].plot(list(runs), [r[0].expansion().upper for r in runs.values()], "k^-", label="∏(1 + ε)")
axes[2].plot(list(runs), [r[0].expansion().lower for r in runs.values()], "kv-", label="∏(1 − ε)")
axes[2].set(xlabel="ε", yscale="log", title="stretching is between")
axes[2].legend(frameon=False)
plt.show()
