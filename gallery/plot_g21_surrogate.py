"""
A network left as it is, certified through another
==================================================

A network trained on all labels leaves none to certify it with. But R(h) ≤ R(s) + P(h ≠ s): a surrogate s, trained on a
part of the labels and certified on the rest, bounds the network's risk together with their disagreement on unlabelled
inputs. Both parts come out of one δ. Bazinet, Zantedeschi and Germain 2026.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from nonvacuous.learning.in_memory import answers, held
from nonvacuous.learning.method import Task
from nonvacuous.learning.surrogate import Surrogate
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.training import train as train_plainly


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


train, test = load("digits", "train"), load("digits", "test")  # the labels of ``test`` only draw the line
torch.manual_seed(0)
target = network()
train_plainly(target, train, epochs=30, progress=False)

rows = []
for members in (1, 3, 8):
    method = Surrogate(members=members, epochs=20, fraction=0.3, learning_rate=3e-3)
    certificate = method.certified(Task(network, train, delta=0.05, seed=0, model=target, unlabelled=test)).certificate
    rows.append((members, certificate.evidence["surrogate_value"], certificate.value))
inputs, labels = held(test)
error = float((answers(target, inputs).argmax(1) != labels).float().mean())

figure, axes = plt.subplots(figsize=(6.4, 4))
words = [f"{members} network{'s' if members > 1 else ''}" for members, *_ in rows]
axes.bar(words, [v for _, v, _ in rows], label="surrogate's certificate")
axes.bar(words, [value - v for _, v, value in rows], bottom=[v for _, v, _ in rows], label="disagreement, unlabelled")
axes.axhline(error, color="black", lw=1, label="the network's error on the test labels")
axes.set(
    ylim=(0, 0.17), xlabel="mean of", ylabel="bound on the network's risk", title="An unmodified network on digits, δ = 0.05"
)
axes.legend()
plt.show()

assert all(error < value < 0.3 for _, _, value in rows)
