"""
Layers as Euler steps
=====================

A residual network x + f_k(x)/N takes N Euler steps of dx/dt = f(x; θ(t)) (Chen et al. 2018; Zhang's deck). With the weights of a
network trained on digits, finer steps converge to the ODE with order one, and the network itself is as far from it as one layer is
long.
"""

# %%
import matplotlib.pyplot as plt
import torch

from nonvacuous.approximation.euler import ResidualNetwork, refinement
from nonvacuous.runtime.bundled import digits
from nonvacuous.runtime.training import initialise, train

test = torch.as_tensor(digits("test").inputs).double()
labels = torch.as_tensor(digits("test").targets)
nets = {}
for depth in (5, 20):
    nets[depth] = initialise(lambda depth=depth: ResidualNetwork(64, 32, depth, 10), 0)
    train(nets[depth], digits("train"), epochs=6, learning_rate=3e-3, progress=False)
    nets[depth].double().eval()

with torch.no_grad():
    found = {depth: refinement(net.flow(), net.stem(test[:100]), (1, 2, 4, 8)) for depth, net in nets.items()}
    for depth, net in nets.items():
        assert (net.head(net.flow().euler(net.stem(test), depth)) - net(test)).abs().max() < 1e-12  # the network is Euler's
        answers, by_ode = net(test).argmax(1), net.head(net.flow().solve(net.stem(test), rtol=1e-6)[-1]).argmax(1)
        right = [(a == labels).double().mean().item() for a in (answers, by_ode)]
        print(
            f"{depth} layers: {right[0]:.1%} right, {right[1]:.1%} by the ODE, {(answers == by_ode).double().mean():.1%} agree"
        )

# %%
# Order one, and well above the reference solver's own error.
for refined in found.values():
    assert abs(refined.order - 1) < 0.1
    assert refined.solver < 1e-2 * refined.errors[-1]

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
net = nets[5]
with torch.no_grad():
    start = net.stem(test[:300])
    exact = torch.stack(net.flow().states(start, 5 * 32))
    plane = torch.linalg.svd(exact[-1] - exact[-1].mean(0), full_matrices=False).Vh[:2].T
    coarse = torch.stack(net.flow().states(start)) @ plane
    exact = exact @ plane
colours = plt.cm.tab10(labels[:300].numpy())
for i in range(40):
    axes[0].plot(*exact[:, i].T, color=colours[i], lw=1.4)
    axes[0].plot(*coarse[:, i].T, "o-", color=colours[i], lw=0.6, ms=3, alpha=0.8)
axes[0].scatter(*exact[-1].T, c=colours, s=8, alpha=0.4)
axes[0].set(title="5 layers (dots) along the ODE (curves), coloured by digit", xticks=[], yticks=[])
for (depth, refined), colour in zip(found.items(), ("tab:blue", "tab:orange"), strict=True):
    label = f"{depth} layers: order {refined.order:.2f} ± {2 * refined.stderr:.2f}"
    axes[1].loglog(refined.steps, refined.errors, "o-", color=colour, label=label)
    axes[1].loglog(refined.steps[0], refined.errors[0], "*", color=colour, ms=16)
axes[1].loglog([5, 160], [0.5, 0.5 * 5 / 160], ":", color="0.5", label="1/steps")
axes[1].set(xlabel="Euler steps (star: the network)", ylabel="relative distance from the ODE")
axes[1].legend(frameon=False)
plt.show()
