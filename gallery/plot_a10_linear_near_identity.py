"""
A linear map, a hair's breadth at a time
========================================

Every matrix of positive determinant is a product (I + A_m)…(I + A_1) with ‖A_i‖ = O(1/m) (Hardt and Ma 2017, Bartlett's deck):
a residual network can compute it with layers as near to the identity as depth allows. The −1s that have no real logarithm are
turned away in pairs.
"""

# %%
import matplotlib.pyplot as plt
import torch

from nonvacuous.approximation.near_identity import factors, size

torch.manual_seed(0)
A = torch.tensor([[-1.3, 0.0], [0.4, -0.6]], dtype=torch.float64)  # both eigenvalues negative
depths = [2**k for k in range(1, 11)]
matrices = {"the matrix on the left": A}
for d in (3, 10, 30):
    B = torch.randn(d, d, dtype=torch.float64)
    B[0] *= B.det().sign()
    matrices[f"random, {d} × {d}"] = B


def farthest(M, m):
    return max(torch.linalg.matrix_norm(F, 2) for F in factors(M, m))


largest = {name: [farthest(M, m) for m in depths] for name, M in matrices.items()}

# %%
# m · max‖A_i‖ levels off at c = ‖log Q‖ + ‖log P‖, and the product is the matrix.
for name, M in matrices.items():
    product = torch.eye(len(M), dtype=torch.float64)
    for F in factors(M, depths[-1]):
        product = product + F @ product
    assert torch.linalg.matrix_norm(product - M, 2) <= 1e-10 * torch.linalg.matrix_norm(M, 2)
    assert depths[-1] * largest[name][-1] <= 1.02 * size(M)

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
angle = torch.linspace(0, 2 * torch.pi, 400, dtype=torch.float64)
circle = torch.stack([angle.cos(), angle.sin()])
m = 24
for step, F in enumerate([torch.zeros(2, 2, dtype=torch.float64), *factors(A, m)]):
    circle = circle + F @ circle
    colour = plt.cm.viridis(step / m)
    axes[0].plot(*circle, color=colour, lw=2.2 if step in (0, m) else 0.8, alpha=1 if step in (0, m) else 0.7)
    axes[0].plot(*circle[:, 0], "o", color=colour, ms=6 if step in (0, m) else 4)
axes[0].set(aspect="equal", title=f"the circle through {m} layers, first (violet) to last (yellow)")
axes[0].set_axis_off()
for name, norms in largest.items():
    (line,) = axes[1].loglog(depths, norms, "o-", label=f"{name}, c = {size(matrices[name]):.3g}")
    axes[1].loglog(depths[2:], [size(matrices[name]) / d for d in depths[2:]], ":", color=line.get_color())
axes[1].set(xlabel="layers m", ylabel="max ‖A_i‖", title="how far the layers are from the identity; dotted c/m")
axes[1].legend(frameon=False)
plt.show()
