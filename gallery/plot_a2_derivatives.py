"""
Function and derivatives at once
================================

With a smooth activation a network is dense in C^r: it comes within ε of a function *and* of its derivatives (Zhang's deck; Hornik
1991, Theorem 3). A ReLU network is never C¹, and close values say nothing of its slope.
"""

# %%
import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LogNorm

from nonvacuous.approximation.bumps import approximate
from nonvacuous.approximation.smooth import approximate_with_derivative, approximate_with_gradient


def f(x):
    return torch.sin(2 * x) + x**2 / 4


def df(x):
    return 2 * torch.cos(2 * x) + x / 2


relu = approximate(f, (-2.0, 2.0), 0.05)
soft = approximate_with_derivative(f, df, (-2.0, 2.0), 0.05, derivative_lipschitz=4.5)
x = torch.linspace(-2, 2, 8001, dtype=torch.float64).requires_grad_()
slopes = [torch.autograd.grad(built.module(x).sum(), x)[0] for built in (relu, soft)]

# %%
# Both are within 0.05 of f; only one is within 0.05 of f′. In the plane, quadratic splines do it with relu² units.
x = x.detach()
assert (relu.module(x) - f(x)).abs().max() <= 0.05 and (soft.module(x) - f(x)).abs().max() <= 0.05
assert (slopes[1] - df(x)).abs().max() <= soft.error.upper <= 0.05
assert (slopes[0] - df(x)).abs().max() > 1


def hill(p):
    return torch.sin(p.square().sum(1))


plane = approximate_with_gradient(hill, [(-1.5, 1.5)] * 2, 0.5, gradient_lipschitz=20.0)
grid = torch.cartesian_prod(*[torch.linspace(-1.5, 1.5, 151, dtype=torch.float64)] * 2).requires_grad_()
(gradient,) = torch.autograd.grad(plane.module(grid).sum(), grid)
(truth,) = torch.autograd.grad(hill(grid).sum(), grid)
assert (gradient - truth).abs().max() <= plane.error.upper <= 0.5

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
with torch.no_grad():
    axes[0].plot(x, relu.module(x), color="tab:red", lw=1, label=f"{len(relu.module.knots)} ReLUs")
    axes[0].plot(x, soft.module(x), color="tab:blue", lw=1, label=f"{len(soft.module.centres)} softplus units")
    axes[0].plot(x, f(x), "k:", lw=2, label="f")
    axes[0].set(title="values: both within 0.05", xlabel="x")
    axes[1].plot(x, slopes[0], color="tab:red", lw=0.4)
    axes[1].plot(x, slopes[1], color="tab:blue", lw=2)
    axes[1].plot(x, df(x), "k:", lw=2, label="f′")
    axes[1].set(ylim=(-6, 6), title="slopes: only softplus", xlabel="x")
    picture = axes[2].imshow(
        (gradient - truth).norm(dim=1).reshape(151, 151).T,
        origin="lower",
        extent=(-1.5, 1.5, -1.5, 1.5),
        cmap="magma",
        norm=LogNorm(1e-5, 0.3),
    )
    axes[2].set(title=f"error of the gradient, {plane.module.coefficients.numel():,} splines")
    figure.colorbar(picture, ax=axes[2], shrink=0.8)
axes[0].legend(frameon=False, fontsize=8)
plt.show()
