# slow
"""
A random start as prior: Dziugaite and Roy
==========================================

A fully connected network's random initial weights are a prior that has seen no data; a Gaussian posterior that descends on the bound
itself proves a risk far below one half on true labels and nothing on random ones. Source: Dziugaite and Roy 2017 (UAI), section 5;
Seeger's bound, with the layers' Kronecker eigenbases as coordinates of the posterior. The full experiment, on 60,000 pictures:
``python -m nonvacuous.studies.dziugaite_roy --out DIR`` (its certificate is in ``results/certificates/fashion-mnist-two-classes``).
"""

import matplotlib.pyplot as plt

from nonvacuous.learning.deep_pac_bayes import DeepPacBayes
from nonvacuous.runtime.sources import load
from nonvacuous.studies.certificates_table import tested
from nonvacuous.studies.dziugaite_roy import experiment, two_classes, with_random_labels

# %%
# Digits 0–4 against 5–9, a 64-50-50-2 network.

train, test = (two_classes(load("digits", part)) for part in ("train", "test"))
method = DeepPacBayes(plain_epochs=10, epochs=12, learning_rate=1e-2, batch_size=64, draws=60)
runs = {
    "true labels, eigenbases": (train, method),
    "true labels, weights as they are": (train, DeepPacBayes(**method.settings | {"rotated": False})),
    "random labels": (with_random_labels(train, seed=0), method),
}
results = {name: experiment(sample, (50, 50), how, seed=0, folder=None, shown=False) for name, (sample, how) in runs.items()}

# %%
# With random labels descent gives up: the divergence that would fit them costs more than the errors it saves.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
names = list(results)
certified = [results[name].certificate.value for name in names]
training = [results[name].certificate.evidence["gibbs_risk"] for name in names]
left.barh(names, certified, color="0.85", label="certified risk (95 %)")
left.barh(names, training, height=0.35, color="tab:blue", label="Gibbs training risk")
left.plot(
    [tested(results[name], test, seed=0, passes=1) for name in names[:2]], names[:2], "k|", markersize=16, label="test sample"
)
left.axvline(0.5, color="0.4", linestyle=":", linewidth=1)
left.set(xlim=(0, 1), xlabel="risk (dotted: guessing)")
left.legend(loc="upper right", fontsize=8)
left.invert_yaxis()
right.barh(names, [results[name].certificate.evidence["kl_nats"] / train.n for name in names], color="tab:orange")
right.set(xlabel="divergence, nats an example")
figure.tight_layout()
plt.show()

# %%
# Far below guessing with true labels, never below it with random ones, whose true risk is one half.

assert results["true labels, eigenbases"].certificate.value < 0.45
assert results["true labels, eigenbases"].certificate.value < results["true labels, weights as they are"].certificate.value
assert results["random labels"].certificate.value >= 0.5
for name in names:
    print(f"{name}: risk ≤ {results[name].certificate.value:.3f}")
