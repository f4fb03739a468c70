"""
Wide deep linear networks converge at a linear rate
===================================================

Du and Hu 2019, Theorem 4.1 (Wu's deck): from Gaussian weights and with η ≤ d_out/(3L‖XᵀX‖), the excess loss falls by
1 − ηLλ_r(XᵀX)/(4d_out) a step if the width is at least C·L·max{…}. The theorem does not state C, so its width condition is never
called met: the envelope is a prediction. It lies above the curves of wide networks, and not above those of narrow deep ones.
"""

# %%
import matplotlib.pyplot as plt
import torch

from nonvacuous.optimization.du_hu import WideLinear, envelope

generator = torch.Generator().manual_seed(0)
X = torch.randn(8, 10_000, dtype=torch.float64, generator=generator)
Y = torch.randn(2, 8, dtype=torch.float64, generator=generator) @ X
depth, steps = 6, 120
curves = {}
for width in (2, 16, 128, 1024):
    problem = WideLinear.of(X, Y, width, depth)
    curves[width] = problem.descend(problem.step_limit(), steps, seed=1)
bounds = {w: envelope(problem, problem.step_limit(), curve[0]) for w, curve in curves.items()}
print(bounds[1024])
assert not bounds[1024].promised
assert bounds[128].violations(curves[128]) == [] == bounds[1024].violations(curves[1024])
assert bounds[2].violations(curves[2])

# %%
figure, axis = plt.subplots(figsize=(8, 4.6), layout="constrained")
for width, curve in curves.items():
    axis.semilogy([max(loss / curve[0], 1e-14) for loss in curve], label=f"width {width}")
axis.semilogy([bounds[1024].factor ** t for t in range(steps + 1)], "k--", label="the envelope")
axis.set(
    xlabel="step",
    ylabel="loss / loss(0)",
    title=f"depth {depth}, 10,000 examples reduced to their second moments",
    ylim=(1e-13, 10),
)
axis.legend(frameon=False)
plt.show()
