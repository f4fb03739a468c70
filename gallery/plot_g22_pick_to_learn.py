"""
A network certified on all its data by the examples it picked
=============================================================

Pick-to-Learn trains on examples it gets wrong, adds some more of them, and goes on. Given only what it picked (and what
is still wrong), it would have ended with the same network; so the picks are what the network owes to the sample, and
their number k bounds its risk: δ P(Bin(n, v) > k) ≥ n v P(Bin(n, v) = k). No example is held out. Paccagnan, Campi and
Garatti 2023; the union over subsets (Littlestone and Warmuth 1986) pays ln C(n, k) nats for the same set.
"""

import matplotlib.pyplot as plt
from torch import nn

from nonvacuous.bounds.sample_compression import PickToLearnBound, SampleCompressionBound
from nonvacuous.learning.in_memory import answers, held
from nonvacuous.learning.method import Task
from nonvacuous.learning.sample_compression import SampleCompression
from nonvacuous.runtime.sources import load

train, test = load("digits", "train"), load("digits", "test")
method = SampleCompression(start=60, least=32, rounds=5, epochs=30, learning_rate=3e-3)
done = method.certified(
    Task(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), train, delta=0.05, seed=0)
)
inputs, labels = held(test)
error = float((answers(done.model, inputs).argmax(1) != labels).float().mean())

n, sizes = train.n, list(done.certificate.measurement["sizes"])
picked = [method._size_at(stop, n) for stop in range(len(sizes))]
preferred, classical = PickToLearnBound(), SampleCompressionBound()
by_preference = [preferred.solve(preferred.Evidence(k, method.rounds, n), 0.05) for k in sizes]
by_union = [
    classical.solve(classical.Evidence(k, max(0, size - k), n), 0.05 / method.rounds)
    for k, size in zip(picked, sizes, strict=True)
]

figure, axes = plt.subplots(figsize=(6.4, 4))
axes.plot(picked, [size / n for size in sizes], "o:", label="picked + still wrong, as a fraction of n")
axes.plot(picked, by_preference, "o-", label="certificate (preference)")
axes.plot(picked, by_union, "s--", label="union over subsets")
axes.axhline(error, color="black", lw=1, label="error on the test set (of the best stop)")
axes.set(xlabel="examples picked", ylabel="risk", ylim=(0, 1), title=f"Digits, n = {n}: risk ≤ {done.certificate.value:.3f}")
axes.legend()
plt.show()

assert error < done.certificate.value == min(by_preference) < 0.3
assert all(union > ours for union, ours in zip(by_union, by_preference, strict=True))
