"""
Identity everywhere, zero at the end
====================================

Wu, Wang and Ma 2019, Theorem 4.3 (Wu's deck): from W_1 = … = W_{L−1} = I and W_L = 0, gradient descent on ½‖W_L⋯W_1 − Φ‖² obeys
R(t) ≤ (1 − η/2)^t R(0) for any Φ, if η is at most min{1/(4L³φ⁶), 1/(144L²φ⁴)}. All constants are there, so this is a promise. On
width one and Φ = −1 the plain identity start sticks at R = ½, and Gaussian starts need time exponential in the depth.
"""

# %%
import matplotlib.pyplot as plt
import torch

from nonvacuous.optimization.zero_asymmetric import descend, envelope, scalar_descent, step_limit

Phi = torch.randn(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 64
depth, steps = 4, 40_000
eta = step_limit(Phi, depth)
curve = descend(Phi, depth, eta, steps)
bound = envelope(Phi, depth, eta)
print(bound)
assert bound.promised and bound.violations(curve.tolist()) == []

# %%
starts = {"identity": torch.ones(10), "zero-asymmetric": torch.tensor([1.0] * 9 + [0.0])}
runs = {name: scalar_descent(start, -1.0, 1e-2, 3000, 10) for name, start in starts.items()}
assert runs["identity"].min() >= 0.5 and runs["zero-asymmetric"][-1] < 1e-6
generator = torch.Generator().manual_seed(0)
medians = {}
for L in (4, 8, 12, 16, 20, 24):
    draws = torch.randn(200, L, dtype=torch.float64, generator=generator)
    medians[L] = scalar_descent(draws, -1.0, 1e-2, 2000, 2000)[:, -1].nanmedian().item()
assert medians[4] < 1e-3 and medians[24] > 0.4

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
axes[0].semilogy(curve, label="measured")
axes[0].semilogy([bound.at(t) for t in range(steps + 1)], "k--", label="(1 − η/2)^t R(0)")
axes[0].set(title=f"64 × 64, L = {depth}, η = {eta:.2g}", xlabel="step", ylabel="R")
for name, run in runs.items():
    axes[1].semilogy(range(0, 3001, 10), run.clip(min=1e-12), label=name)
axes[1].axhline(0.5, color="0.6", ls=":")
axes[1].set(title="width 1, Φ = −1, L = 10", xlabel="step")
axes[2].plot(list(medians), list(medians.values()), "o-", color="tab:red")
axes[2].axhline(0.5, color="0.6", ls=":")
axes[2].set(title="Φ = −1: Gaussian starts, 2000 steps", xlabel="depth L", ylabel="median R at the end")
axes[0].legend(frameon=False)
axes[1].legend(frameon=False)
plt.show()
