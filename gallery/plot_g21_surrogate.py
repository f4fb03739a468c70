"""
A network left as it is, certified through another
==================================================

A network trained on all labels leaves none to certify it with. But R(h) ≤ R(s) + P(h ≠ s): a surrogate s, trained on a
part of the labels and tested on the rest, bounds the network's risk together with their disagreement on unlabelled
inputs. Bazinet, Zantedeschi and Germain 2026; both counts are tested at once here, which takes a third off the slack.
"""

import matplotlib.pyplot as plt
import numpy as np
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
    e = certificate.evidence
    rows.append((members, e["surrogate_errors"] / e["labelled"], e["disagreements"] / e["n"], certificate.value))
inputs, labels = held(test)
error = float((answers(target, inputs).argmax(1) != labels).float().mean())

figure, axes = plt.subplots(figsize=(6.4, 4))
words = [f"{members} network{'s' if members > 1 else ''}" for members, *_ in rows]
wrong, apart, value = (np.array(column) for column in list(zip(*rows, strict=True))[1:])
axes.bar(words, wrong, label="surrogate's errors, labels held out from it")
axes.bar(words, apart, bottom=wrong, label="disagreements, unlabelled")
axes.bar(words, value - wrong - apart, bottom=wrong + apart, color="0.8", label="chance: both tails at once")
axes.axhline(error, color="black", lw=1, label="the network's error on the test labels")
axes.set(
    ylim=(0, 0.21), xlabel="mean of", ylabel="bound on the network's risk", title="An unmodified network on digits, δ = 0.05"
)
axes.legend()
plt.show()

assert all(error < value < 0.3 for *_, value in rows)
