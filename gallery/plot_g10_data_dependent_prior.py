# slow
"""
A prior from a part of the sample
=================================

A prior may read any part of the sample that the bound does not count (Ambroladze, Parrado-Hernández and Shawe-Taylor 2006). A network
trained on that part centres a Gaussian on its last layer, and the rest moves and certifies it: the divergence falls from hundreds of
nats to a few, but the sample that is counted shrinks. On digits, δ = 0.05, beside the hold-out certificate of the very same network.
"""

import matplotlib.pyplot as plt
import numpy as np

from nonvacuous.learning.data_dependent import DataDependent
from nonvacuous.learning.method import Task
from nonvacuous.learning.pac_bayes import PacBayes
from nonvacuous.runtime.models import load_model
from nonvacuous.runtime.sources import load
from nonvacuous.studies.certificates_table import tested

train, test = load("digits", "train"), load("digits", "test")
task = Task(lambda: load_model("mlp:64-64-10"), train, seed=0)
fractions = (0.2, 0.4, 0.6, 0.8, 0.95)
found = [DataDependent(prior_fraction=part, epochs=40, alternatives=1).certified(task) for part in fractions]
free = PacBayes(alternatives=1, directions=64, epochs=60).certified(task)

values = np.array([one.certificate.value for one in found])
divergences = np.array([one.certificate.evidence["kl_nats"] for one in found])
risks = np.array([tested(one, test, 0) for one in found])
beside = np.array([one.comparator.certificate.value for one in found])

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained")
left.plot(fractions, values, "C0o-", label="Gibbs classifier, Seeger's bound")
left.plot(fractions, beside, "C7s--", label="the prior's own network, hold-out")
left.plot(fractions, risks, "C0o:", mfc="white", label="Gibbs classifier on the test sample")
left.axhline(free.certificate.value, color="C3", lw=1, label="prior without data")
left.set(xlabel="part that makes the prior", ylabel="risk", ylim=(0, None), title="certified, δ = 0.05")
left.legend(frameon=False, fontsize=8, loc="center right", bbox_to_anchor=(1, 0.69))
right.bar([f"{part:g}" for part in fractions], divergences)
right.axhline(free.certificate.evidence["kl_nats"], color="C3", lw=1)
right.set(
    yscale="log", ylim=(1, 500), xlabel="part that makes the prior", ylabel="KL(Q‖P) with its price, nats", title="divergence"
)
plt.show()

assert (risks < values).all()
assert values.min() < free.certificate.value / 2  # the prior is worth more than the examples it takes
assert divergences.max() < free.certificate.evidence["kl_nats"] / 5
assert values[-1] > values.min()  # too few are left to count
