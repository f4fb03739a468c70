"""A Gaussian head's Gibbs risk by quadrature beside a loop over drawn networks, and an epoch of its posterior beside a plain one.

``python benchmarks/bench_pac_bayes.py`` prints seconds, both in one run on the same head: the loop draws a whole network at a time, as the
published evaluations do, and owes a Monte-Carlo term besides.
"""

from __future__ import annotations

import math
import time

import torch
from torch.nn.functional import cross_entropy

from nonvacuous.learning.gaussian_head import GaussianHead
from nonvacuous.learning.gaussian_training import Featured, fit
from nonvacuous.learning.method import Task
from nonvacuous.learning.objectives import inverted_kl
from nonvacuous.learning.quadrature import lead_probability
from nonvacuous.numerics.tails import kl_inverse_upper
from nonvacuous.runtime.data import as_sample

N, P, R, K, DRAWS = 20_000, 1000, 500, 10, 100


def plain_epochs(data: Featured, epochs: int) -> float:
    """Seconds of Adam on cross-entropy for the same head with fixed weights."""
    weights = torch.zeros(P, K, requires_grad=True)
    stepper, begun = torch.optim.Adam([weights], lr=0.03), time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(N).split(1000):
            loss = cross_entropy(data.features[rows] @ weights, data.targets[rows])
            stepper.zero_grad(set_to_none=True)
            loss.backward()
            stepper.step()
    return time.perf_counter() - begun


def main() -> None:
    """One head on synthetic features with a decaying spectrum."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(K, (N,), generator=generator)
    x = torch.randn(N, P, generator=generator) / torch.arange(1, P + 1)
    x[:, :K] += torch.nn.functional.one_hot(y, K)
    data, task = Featured(torch.nn.functional.normalize(x, dim=1), y), Task(None, as_sample((x, y), classes=K))
    head = GaussianHead(P, R, K, 8.0)
    seconds = {}
    for epochs in (3, 3, 33):  # the first warms up; the difference leaves out the basis
        begun = time.perf_counter()
        fit(head, data, task, objective=inverted_kl, epochs=epochs, rate=0.03, batch=1000)
        seconds[epochs] = time.perf_counter() - begun
    posterior, plain = (seconds[33] - seconds[3]) / 30, plain_epochs(data, 10) / 10
    print(f"epoch: posterior {posterior:.3f} s, plain {plain:.3f} s, ratio {posterior / plain:.2f}")

    begun = time.perf_counter()
    mean, std = head.law(data.features)
    exact = 1 - float(lead_probability(mean, std, y, head.least_lead(data.features)).mean())
    quadrature = time.perf_counter() - begun
    begun, wide, wrong = time.perf_counter(), data.features.double(), 0.0
    for _ in range(DRAWS):
        wrong += float((((wide @ head.draw(generator).weights).argmax(1)) != y).float().mean()) / DRAWS
    loop = time.perf_counter() - begun
    owed = kl_inverse_upper(wrong, math.log(1 / 0.01) / DRAWS)
    print(
        f"Gibbs risk: quadrature {quadrature:.2f} s, {exact:.4f}; {DRAWS} draws {loop:.2f} s, {wrong:.4f}, certified {owed:.4f}"
    )


if __name__ == "__main__":
    main()
