"""
A certificate is a file that refuses to lie
===========================================

A digest catches accidents, the theorem's own arithmetic catches a false value, and measuring again from model and data catches false
evidence; each refusal says which (none of the systems the decks compare has this). The checker for the first two imports no PyTorch
and searches nothing: it asks one question of one formula.
"""

# %%
import copy
import json

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import nonvacuous
from nonvacuous.core.certificate import Certificate

# %%
generator = np.random.default_rng(0)


def draw(n):
    y = generator.integers(0, 2, n)
    return (generator.normal(size=(n, 2)) + 1.6 * y[:, None]).astype(np.float32), y


train, test = draw(500), draw(1000)
model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
torch.manual_seed(0)
optimizer = torch.optim.Adam(model.parameters(), 0.02)
for _ in range(150):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.tensor(train[0])), torch.tensor(train[1])).backward()
    optimizer.step()
certificate = nonvacuous.audit(model, train=train, test=test).best
honest = json.loads(certificate.to_json())
errors, n = honest["evidence"]["errors"], honest["evidence"]["n"]


# %%
# Four ways to promise more than was proved: with an editor, with care for the digest, with care for the arithmetic, with another model.
def attempt(change, repair_digest=False, model=model):
    content = copy.deepcopy(honest)
    change(content)
    if repair_digest:
        from hashlib import sha256

        content.pop("digest")
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        content["digest"] = "sha256:" + sha256(text.encode()).hexdigest()
    try:
        found = Certificate.from_json(json.dumps(content))
    except nonvacuous.core.errors.CertificateRefused as refusal:
        return 1, str(refusal)
    return 2, nonvacuous.verify(found, model=model, test=test).results[0].message


def lower_value(content):
    content["value"] = 0.05


def fewer_errors(content):
    content["evidence"]["errors"] = errors // 2
    content["value"] = certificate.theorem().solve(certificate.theorem().Evidence(errors // 2, n), certificate.delta)


other = copy.deepcopy(model)
with torch.no_grad():
    other[0].weight[0, 0] += 0.001
attempts = {
    "as issued": attempt(lambda content: None),
    "value edited": attempt(lower_value),
    "value edited,\ndigest recomputed": attempt(lower_value, repair_digest=True),
    "errors halved, value\nand digest recomputed": attempt(fewer_errors, repair_digest=True),
    "a weight changed\nby 0.001": attempt(lambda content: None, model=other),
}
words = ["measured again", "digest:", "arithmetic:", "evidence: errors", "evidence: the weights"]
for (_, message), word in zip(attempts.values(), words, strict=True):
    assert word in message
assert [level for level, _ in attempts.values()] == [2, 1, 1, 2, 2]

# %%
# What values would the evidence support? The predicate says no below the certified value and yes above: a forger has no room.
bound, evidence = certificate.theorem(), certificate.theorem_evidence()
grid = np.linspace(0, 0.4, 400)
accepted = np.array([bound.holds(evidence, certificate.delta, float(v)) for v in grid])
assert not accepted[grid < certificate.value].any() and accepted[grid > certificate.value].all()

# %%
figure, axes = plt.subplots(1, 2, figsize=(13, 3.9), layout="constrained", width_ratios=[1, 1.7])
axes[0].fill_between(grid, 0, 1, where=accepted, color="C2", alpha=0.3, lw=0, label="accepted")
axes[0].fill_between(grid, 0, 1, where=~accepted, color="C3", alpha=0.2, lw=0, label="refused")
axes[0].axvline(certificate.value, color="k", lw=1.2)
axes[0].axvline(errors / n, color="k", lw=0.8, ls=":")
axes[0].text(certificate.value + 0.005, 0.62, f"issued: {certificate.value:.4f}")
axes[0].text(errors / n - 0.005, 0.4, f"test error\n{errors / n:.3f}", ha="right")
axes[0].set(xlabel="claimed value", yticks=[], ylim=(0, 1), xlim=(0, 0.4), title=f"One question: {errors} errors of {n:,}")
axes[0].legend(frameon=False, loc="upper right")

axes[1].axis("off")
axes[1].set(xlim=(0, 10), ylim=(-0.3, len(attempts)), title="Five files, and what the verifier says")
for i, (name, (level, message)) in enumerate(attempts.items()):
    row = len(attempts) - 1 - i
    good = i == 0
    axes[1].text(0, row + 0.35, name, va="center", fontsize=10)
    axes[1].text(2.75, row + 0.35, "✓" if good else "✗", va="center", ha="center", fontsize=17, color="C2" if good else "C3")
    axes[1].text(3.05, row + 0.35, f"level {level}", va="center", fontsize=9, color="grey")
    short = message.split(" (its")[0].split("; ")[0].split(" (stated")[0].split(" (their")[0]
    short = (
        short.replace(" from this evidence", "\nfrom this evidence")
        .replace(" when measured", "\nwhen measured")
        .replace(" holds", "")
    )
    axes[1].text(3.85, row + 0.35, short, va="center", fontsize=9, family="monospace")
    axes[1].axhline(row + 0.85, color="lightgrey", lw=0.7)
plt.show()
