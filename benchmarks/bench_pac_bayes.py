"""A Gaussian head's Gibbs risk by quadrature beside a loop over drawn networks, and an epoch of its posterior beside a plain one.

Then the same for a 784-600-600-10 network on Fashion-MNIST with every weight Gaussian: beside a plain epoch and beside the loop of the
published programs, which draws all weights once a batch and once a pass of the evaluation. Times are of the processor, so that other work
disturbs them little.

``python benchmarks/bench_pac_bayes.py`` prints seconds, both in one run on the same head: the loop draws a whole network at a time, as the
published evaluations do, and owes a Monte-Carlo term besides.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.functional import cross_entropy

from nonvacuous.learning.deep_pac_bayes import DeepPacBayes, _errors
from nonvacuous.learning.gaussian_head import GaussianHead
from nonvacuous.learning.gaussian_training import Featured, fit
from nonvacuous.learning.method import Task
from nonvacuous.learning.objectives import inverted_kl
from nonvacuous.learning.quadrature import lead_probability
from nonvacuous.numerics.tails import kl_inverse_upper
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.sources import load

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


WIDTHS, DEEP_N, BATCH, PASSES = (784, 600, 600, 10), 6_000, 256, 10


def network() -> nn.Sequential:
    """The network of the published experiments, plain."""
    layers: list[nn.Module] = []
    for before, after in pairwise(WIDTHS):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class DrawnOnceABatch:
    """The oracle: means and deviations of all weights, a fresh draw of them for every batch, the quadratic bound, momentum."""

    def __init__(self, start: nn.Sequential) -> None:
        self.network, self.start = start, [p.detach().clone() for p in start.parameters()]
        self.mean = [p.clone().requires_grad_() for p in self.start]
        self.rho = [torch.full_like(p, -3.5).requires_grad_() for p in self.start]
        self.stepper = torch.optim.SGD([*self.mean, *self.rho], lr=1e-3, momentum=0.95)

    def outputs(self, x: Tensor) -> Tensor:
        """Of one network drawn from the posterior."""
        deviations = [functional.softplus(rho) for rho in self.rho]
        drawn = [m + s * torch.randn_like(m) for m, s in zip(self.mean, deviations, strict=True)]
        names = [name for name, _ in self.network.named_parameters()]
        found: Tensor = functional_call(self.network, dict(zip(names, drawn, strict=True)), x)
        return found

    def epoch(self, x: Tensor, y: Tensor) -> None:
        """One pass."""
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = cross_entropy(self.outputs(x[rows]), y[rows]) / math.log(1e5)
            divergence = torch.zeros(())
            for m, rho, start in zip(self.mean, self.rho, self.start, strict=True):
                square = functional.softplus(rho).square()
                divergence = (
                    divergence + 0.5 * ((square + (m - start).square()) / 0.03**2 - 1 - (square / 0.03**2).log()).sum()
                )
            budget = (divergence + math.log(2 * len(x) ** 0.5 / 0.05)) / (2 * len(x))
            self.stepper.zero_grad(set_to_none=True)
            ((loss + budget).sqrt() + budget.sqrt()).square().backward()
            self.stepper.step()

    @torch.no_grad()
    def errors(self, x: Tensor, y: Tensor) -> int:
        """Errors of one drawn network a pass."""
        return sum(int((self.outputs(x).argmax(1) != y).sum()) for _ in range(PASSES))


def deep() -> None:
    """One epoch of each, alternated, and the evaluation."""
    batch = next(iter(load("fashion-mnist", "train").batches(DEEP_N)))
    x, y = torch.as_tensor(batch.inputs).flatten(1), batch.targets
    task = Task(network, as_sample((x, y), classes=10))
    initial, trained = task.network(), task.network()
    plain = torch.optim.Adam(trained.parameters(), lr=1e-3)

    def plain_epoch() -> None:
        for rows in torch.randperm(DEEP_N).split(BATCH):
            plain.zero_grad(set_to_none=True)
            cross_entropy(trained(x[rows]), y[rows]).backward()
            plain.step()

    for _ in range(2):
        plain_epoch()
    method = DeepPacBayes(plain_epochs=2, epochs=1, batch_size=BATCH, draws=PASSES)
    (ours, training), oracle = method._start(task, initial, trained), DrawnOnceABatch(network())
    print(
        "trained of each layer: " + ", ".join(f"{tuple(b.moved.shape)} of {tuple(b.prior.shape)}" for b in training.blocks())
    )
    runs = {"plain": plain_epoch, "ours": lambda: method._descend(task, training), "loop": lambda: oracle.epoch(x, y)}
    best = dict.fromkeys(runs, math.inf)
    for _ in range(3):
        for name, run in runs.items():
            begun = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - begun)
    print(", ".join(f"{name} {seconds:.2f} s ({seconds / best['plain']:.2f} x plain)" for name, seconds in best.items()))
    training.written_into(ours)
    begun = time.process_time()
    _errors(task, ours, PASSES)
    batched, begun = time.process_time() - begun, time.process_time()
    oracle.errors(x, y)
    looped = time.process_time() - begun
    print(f"{PASSES} passes of the evaluation: one network an example {batched:.2f} s, one a pass {looped:.2f} s")
    tried = PASSES * DEEP_N
    print(
        f"  owed for measuring at an error of 0.1: {kl_inverse_upper(0.1, math.log(100) / tried) - 0.1:.4f} against "
        f"{kl_inverse_upper(0.1, math.log(100) / PASSES) - 0.1:.4f}"
    )


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
    deep()
