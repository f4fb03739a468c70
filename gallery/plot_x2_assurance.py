"""
A certificate as evidence: what a program checked, and what a person must still argue
=====================================================================================

No program can see whether the examples are independent, whether they are those of the operation in view, or who looked at the test set
first. Each sheet of a report therefore starts with its limits and leaves these lines to a person, in the words of the aviation
guidance (EASA concept paper for level 1 and 2 machine learning, objectives LM-04, LM-14, DM-06, DM-08).
"""

# %%
# An audit of a small network on data that come with scikit-learn.
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

import nonvacuous
from nonvacuous.auditing.assurance import sheets
from nonvacuous.runtime.models import initialise, load_model
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.training import train

data = {part: load("breast-cancer", part) for part in ("train", "test")}
network, before = (initialise(lambda: load_model("linear:30-2"), seed=0) for _ in range(2))
train(network, data["train"], epochs=60, progress=False)
audit = nonvacuous.audit(network, initial=before, **data)
pages = sheets(audit)

first = pages[0]
print(first.statement, "\n\nIt does not say:")
print(*(f"- {limit}" for limit in first.limits), sep="\n")
print("\nA person must argue:")
print(*(f"- {heading}: {question}" for heading, _, question in first.argue), sep="\n")

# %%
# All certificates against all hypotheses.
headings = list(dict.fromkeys(heading for page in pages for heading, _, _ in (*page.argue, *page.checked)))
state = np.zeros((len(pages), len(headings)))
for row, page in enumerate(pages):
    for value, lines in ((1, page.checked), (2, page.argue)):
        for heading, _, _ in lines:
            state[row, headings.index(heading)] = value

figure, axis = plt.subplots(figsize=(9, 4.6))
axis.imshow(state, cmap=plt.matplotlib.colors.ListedColormap(["#f4f4f1", "#7fb59a", "#e2a04a"]), aspect="auto")
for (row, column), value in np.ndenumerate(state):
    axis.text(column, row, ("", "checked", "argue")[int(value)], ha="center", va="center", fontsize=8)
axis.set_yticks(range(len(pages)), [f"{page.title}: {page.value}" for page in pages])
axis.set_xticks(range(len(headings)), [fill(heading, 14) for heading in headings], fontsize=7)
axis.set_title("What each certificate rests on: checked by a program, or argued by a person")
figure.tight_layout()
plt.show()

# %%
# Every certificate leaves something to a person, and every hypothesis of its theorem is on its sheet.
for page in pages:
    assert page.limits and any(assumption.name == "iid" for _, assumption, _ in page.argue)
    required = {hypothesis.name for hypothesis in page.certificate.theorem().hypotheses}
    assert required <= {assumption.name for _, assumption, _ in (*page.argue, *page.checked)}
