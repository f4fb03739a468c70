# slow
"""
One neuron removes every bad local minimum, and what that is worth
==================================================================

Liang et al. 2018, Theorem 1 (Wu's deck): add a·exp(wᵀx + b) to a binary classifier and λa²/2 to its loss, and every local minimum is
global. A dead ReLU network sits in a certified bad minimum; with the neuron a direction leads down. But the theorem promises no
minimum: from this start the run goes down for ever, w and b to infinity, a like t^(−1/2), and the network learns nothing.
"""

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

from nonvacuous.optimization.escape import End, ExponentialNeuron, dead_minimum, escape_direction, gradient_flow, kill

x = torch.tensor([[-1.0], [-0.4], [0.5], [1.0], [1.3]], dtype=torch.float64)
y = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
torch.manual_seed(1)
dead = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1)).double()
kill(dead, x, y)
minimum = dead_minimum(dead, x, y)
wrapped = ExponentialNeuron(dead, 1)
way = escape_direction(wrapped, x, y, reach=0.1)
print(f"plain: loss {minimum.loss:.3f} within radius {minimum.radius:.3f}; with the neuron it falls at rate {way.slope:.3f}")
assert minimum.loss > 1 and way.slope < 0

# %%
# Two runs of gradient flow on the wrapped objective: from the dead start, and from ordinary weights.
with torch.no_grad():
    wrapped.a += 0.1 * way.sign
dying = gradient_flow(wrapped, x, y, until=1e4)
torch.manual_seed(3)
alive = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()
healthy = gradient_flow(ExponentialNeuron(alive, 1, amplitude=0.5), x, y, until=1e4)
assert dying.end is End.DIVERGING and abs(dying.exponent + 0.5) < 0.1
assert healthy.end is End.FINITE

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
for run, name, colour in ((dying, "dead start", "tab:red"), (healthy, "ordinary start", "tab:green")):
    axes[0].loglog(run.times, run.objective.clip(1e-12), color=colour, label=f"{name}: {run.end.name.lower()}")
    axes[1].loglog(run.times, run.amplitude.clip(1e-9), color=colour)
    axes[2].semilogx(run.times, run.reach, color=colour)
late = dying.times > 10
axes[1].loglog(dying.times[late], dying.amplitude[-1] * (dying.times[late] / dying.times[-1]) ** -0.5, "k:", label="t^(−1/2)")
titles = ("loss and penalty", "|a|", "‖(w, b)‖")
for axis, title in zip(axes, titles, strict=True):
    axis.set(title=title, xlabel="time", xlim=(1e-2, None))
axes[0].legend(frameon=False)
axes[1].legend(frameon=False)
plt.show()
