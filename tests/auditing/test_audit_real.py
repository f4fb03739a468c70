"""The main job on real data, from Python: digits and breast-cancer, networks, estimators, functions, losses, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.tree import DecisionTreeClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nonvacuous
from nonvacuous.auditing.result import Audit
from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.losses import Loss
from nonvacuous.runtime import sources
from nonvacuous.runtime.data import as_sample

Data = tuple[np.ndarray, np.ndarray]


def arrays(spec: str, part: Any) -> Data:
    batches = list(sources.load(spec, part).batches())
    return torch.cat([b.inputs for b in batches]).numpy(), torch.cat([b.targets for b in batches]).numpy()  # type: ignore[arg-type]


def fitted(data: Data, hidden: int, classes: int) -> nn.Sequential:
    torch.manual_seed(0)
    x, y = torch.tensor(data[0]).flatten(1), torch.tensor(data[1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


DIGITS = arrays("digits", "train"), arrays("digits", "test")
CANCER = arrays("breast-cancer", "train"), arrays("breast-cancer", "test")
DIGITS_NET, CANCER_NET = fitted(DIGITS[0], 16, 10), fitted(CANCER[0], 8, 2)


@pytest.fixture(scope="module")
def digits() -> Audit:
    return nonvacuous.audit(DIGITS_NET, train=DIGITS[0], test=DIGITS[1])


def test_digits(digits: Audit, tmp_path: Path) -> None:
    best, test = digits.best, digits.facts.test
    assert best.bound == "binomial-tail" and best.predictor == "deterministic" and best.loss == "zero_one"
    assert test is not None and test.errors is not None
    assert test.errors / test.n < best.value < test.errors / test.n + 0.05
    assert {c.bound for c in digits.certificates} >= {
        "binomial-tail",
        "catoni",
        "growth-function",
        "lambda",
        "mcallester",
        "occam-binomial",
        "quadratic",
        "seeger",
        "vc",
    }
    values = [c.value for c in digits.certificates]
    assert values == sorted(values)
    assert sum(digits.ledger.values()) <= 0.05 and all(c.delta == digits.ledger[c.bound] for c in digits.certificates)
    reasons = {s.bound: s.reason for s in digits.skipped}
    for name in ("betting", "chernoff", "empirical-bernstein", "hoeffding", "occam"):
        assert "never better than" in reasons[name]
    assert {s.bound for s in digits.skipped}.isdisjoint(c.bound for c in digits.certificates) and all(reasons.values())
    gibbs = [c for c in digits.certificates if c.predictor == "gibbs"]
    assert all("drawn_once" in {a.name for a in c.hypotheses} for c in gibbs)
    saved = digits.save(tmp_path / "out")
    assert nonvacuous.verify(saved).ok
    assert digits.budget.risk.measured.lower < test.errors / test.n < digits.budget.risk.measured.upper


def test_the_same_seed_gives_the_same_certificates(digits: Audit) -> None:
    again = nonvacuous.audit(DIGITS_NET, train=DIGITS[0], test=DIGITS[1])
    assert again.certificates == digits.certificates
    other = nonvacuous.audit(DIGITS_NET, train=DIGITS[0], test=DIGITS[1], seed=1)
    for name in ("binomial-tail", "occam-binomial", "vc"):
        assert [c.value for c in other.certificates if c.bound == name] == [
            c.value for c in digits.certificates if c.bound == name
        ]
    assert {c.measurement["trial_seed"] for c in other.certificates if c.predictor == "gibbs"}.isdisjoint(
        {c.measurement["trial_seed"] for c in digits.certificates if c.predictor == "gibbs"}
    )


def test_global_random_numbers_are_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    nonvacuous.audit(CANCER_NET, train=CANCER[0], test=CANCER[1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("loss", ["brier", "bounded_cross_entropy", "bounded_cross_entropy:0.001"])
def test_graded_losses(loss: str) -> None:
    audit = nonvacuous.audit(CANCER_NET, train=CANCER[0], test=CANCER[1], loss=loss)
    assert audit.best.loss == audit.facts.loss and audit.best.bound == "betting"
    assert {c.loss for c in audit.certificates} == {audit.facts.loss}
    values = {c.bound: c.value for c in audit.certificates}
    assert values["betting"] < 0.2 and values["chernoff"] <= values["hoeffding"]


def test_a_loss_of_ones_own() -> None:
    top_two = Loss("top_two", lambda outputs, y: (outputs.topk(2).indices != y[:, None]).all(1).double())
    audit = nonvacuous.audit(DIGITS_NET, train=DIGITS[0], test=DIGITS[1], loss=top_two)
    assert audit.best.loss == "top_two" and audit.best.value < 0.1
    assert audit.budget["optimization"].upper >= 0
    for wrong in (
        {"name": "zero_one", "per_example": top_two.per_example},
        {"name": "mine", "per_example": top_two.per_example, "binary": True},
    ):
        with pytest.raises(InvalidInput, match="zero_one"):
            Loss(**wrong)  # type: ignore[arg-type]
    too_large = Loss("too_large", lambda outputs, y: outputs.abs().amax(1))
    with pytest.raises(InvalidInput, match=r"one number in \[0, 1\]"):
        nonvacuous.audit(DIGITS_NET, train=DIGITS[0], loss=too_large)


@pytest.mark.parametrize(
    "model",
    [LogisticRegression(max_iter=500), DecisionTreeClassifier(max_depth=4)],
    ids=lambda m: type(m).__name__,
)
def test_estimators(model: Any) -> None:
    (x, y), test = CANCER
    audit = nonvacuous.audit(model.fit(x, y), train=(x, y), test=test)
    assert audit.best.value < 0.15
    assert audit.facts.train.errors == int((model.predict(x) != y).sum())
    reasons = {s.bound: s.reason for s in audit.skipped}
    assert "not an nn.Module" in reasons["seeger"] and "not an nn.Module" in reasons["vc"]
    floats = model.fit(x, y.astype(float))  # whose labels come back as 0.0 and 1.0
    assert nonvacuous.audit(floats, train=(x, y), test=test).facts.train.errors == audit.facts.train.errors
    with pytest.raises(InvalidInput, match="labels, not scores"):
        nonvacuous.audit(model.fit(x, y), train=(x, y), test=test, loss="brier")


@pytest.mark.parametrize("loss", ["clipped_squared:200", "clipped_absolute:123.456789012345"])
def test_regression(loss: str) -> None:
    x, y = load_diabetes(return_X_y=True)
    x, y = x.astype(np.float32), y.astype(np.float32)
    model = Ridge(0.1).fit(x[:300], y[:300])
    audit = nonvacuous.audit(model, train=(x[:300], y[:300]), test=(x[300:], y[300:]), loss=loss)
    assert audit.facts.loss == loss and audit.best.bound == "betting" and audit.best.value < 0.6
    assert nonvacuous.verify(audit.best, model=model, train=(x[:300], y[:300]), test=(x[300:], y[300:])).ok
    assert audit.facts.test is not None and audit.facts.test.errors is None


def test_every_way_to_pass_data_gives_the_same_certificates() -> None:
    (x, y), (u, v) = CANCER
    expected = nonvacuous.audit(CANCER_NET, train=(x, y), test=(u, v)).certificates
    dataset, test = TensorDataset(torch.tensor(x), torch.tensor(y)), TensorDataset(torch.tensor(u), torch.tensor(v))
    for train in (
        dataset,
        DataLoader(dataset, batch_size=32),
        DataLoader(dataset, batch_size=32, shuffle=True),
        (torch.tensor(x), torch.tensor(y)),
        as_sample((x, y)),
        list(zip(x, y, strict=True)),
    ):
        audit = nonvacuous.audit(CANCER_NET, train=train, test=test, batch_size=50)
        assert audit.certificates == expected
        shuffled = isinstance(train, DataLoader) and not isinstance(train.sampler, torch.utils.data.SequentialSampler)
        assert any("order" in note for note in audit.facts.train.notes) == shuffled


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = CANCER_NET

    def forward(self, pixels: torch.Tensor, more: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.inner(pixels) + 0 * more[:, None]}


def test_named_inputs_and_named_outputs() -> None:
    (x, y), (u, v) = CANCER
    train = {"pixels": x, "more": np.zeros(len(x), np.float32)}, y
    test = {"pixels": u, "more": np.zeros(len(u), np.float32)}, v
    audit = nonvacuous.audit(Named(), train=train, test=test)
    plain = nonvacuous.audit(CANCER_NET, train=(x, y), test=(u, v))
    assert audit.best.value == plain.best.value
    assert "named inputs" in {s.bound: s.reason for s in audit.skipped}["vc"]


def test_a_collating_loader_measures_the_same_again() -> None:
    """A loader that pads keeps its own batch size; trials of its size are drawn again at level two."""
    (x, y), test = CANCER
    dataset = [{"x": row, "label": int(label)} for row, label in zip(x, y, strict=True)]

    def collate(items: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(np.stack([i["x"] for i in items])), torch.tensor([i["label"] for i in items])

    loader = DataLoader(dataset, batch_size=100, collate_fn=collate)  # type: ignore[arg-type]
    audit = nonvacuous.audit(CANCER_NET, train=loader, test=test)
    (seeger,) = [c for c in audit.certificates if c.bound == "seeger"]
    assert seeger.measurement["trial_examples"] == 100 and seeger.measurement["trials"] >= 500
    assert nonvacuous.verify(list(audit.certificates), model=CANCER_NET, train=loader, test=test).ok


@pytest.mark.parametrize("fails", [False, True])
def test_modes_are_restored_module_by_module(fails: bool) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.train()
    model[3].eval()  # frozen statistics, as in fine-tuning
    modes = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    train = CANCER[0] if not fails else (CANCER[0][0][:, :7], CANCER[0][1])
    if fails:
        with pytest.raises(InvalidInput, match="could not be applied to inputs"):
            nonvacuous.audit(model, train=train)
    else:
        nonvacuous.audit(model, train=train, test=CANCER[1])
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def with_nan(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[5, 3] = np.nan
    return x


X, Y = CANCER[0]
NAN_NET = nn.Sequential(nn.Linear(30, 2))
with torch.no_grad():
    NAN_NET[0].weight[0, 0] = float("nan")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": (with_nan(X), Y)}, r"(?i)nan"),
        ({"train": (np.where(X[4, 2] == X, np.inf, X), Y)}, r"(?i)inf"),
        ({"train": (X, Y + 5)}, "labels out of range"),
        ({"train": (X, Y - 1)}, "label"),
        ({"train": (X, Y + 0.5)}, "label"),
        ({"train": (X[:0], Y[:0])}, "empty"),
        ({"train": (X, Y[:-3])}, "number of examples"),
        ({"train": None}, "None"),
        ({"train": "digits"}, "sources.load"),
        ({"train": (X.astype(str), Y)}, "text|numbers|object"),
        ({"test": CANCER[0]}, "also occur in the training sample"),
        ({"delta": 0.0}, r"\(0, 1\)"),
        ({"delta": 1.0}, r"\(0, 1\)"),
        ({"delta": float("nan")}, r"\(0, 1\)"),
        ({"delta": True}, r"\(0, 1\)"),
        ({"loss": "accuracy"}, "unknown loss"),
        ({"loss": "clipped_squared"}, "SCALE"),
        ({"loss": "brier:3"}, "number"),
        ({"model": 7}, "is no model"),
        ({"model": NAN_NET}, "weights hold NaN"),
        ({"model": nn.Linear(7, 2)}, "could not be applied"),
        ({"model": lambda x: torch.full((len(x), 2), float("nan"))}, "outputs are NaN"),
        ({"model": lambda x: torch.zeros(3, 2)}, "first dimension must be the batch"),
        ({"model": lambda x: torch.zeros(len(x), 2, 2)}, "outputs have shape"),
        ({"model": lambda x: "cat"}, "not scores or labels|outputs"),
        ({"batch_size": 0}, "at least 1"),
        ({"initial": "weights"}, "initial is the network before training"),
    ],
    ids=lambda v: f"{next(iter(v))}" if isinstance(v, dict) else "",
)
def test_bad_input_is_named_with_a_remedy(given: dict[str, Any], message: str) -> None:
    model = given.pop("model", CANCER_NET)
    with pytest.raises(InvalidInput, match=message):
        nonvacuous.audit(model, **{"train": CANCER[0], **given})


@pytest.mark.parametrize("kind", ["batch statistics", "chance", "counter"])
def test_a_predictor_that_is_not_one_function_of_an_example_is_refused(kind: str) -> None:
    """Its errors on different examples would not be independent, whatever the sample."""
    calls = iter(range(10**6))
    models = {
        "batch statistics": nn.Sequential(nn.Linear(30, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 2)),
        "chance": lambda x: torch.rand(len(x), 2),
        "counter": lambda x: nn.functional.one_hot(torch.full((len(x),), next(calls) % 2), 2).float(),
    }
    with pytest.raises(InvalidInput, match="not one fixed predictor"):
        nonvacuous.audit(models[kind], train=CANCER[0])


def test_overlap_that_belongs_to_the_problem_counts_as_errors() -> None:
    (x, y), (u, v) = CANCER
    test = np.concatenate([u, x[:50]]), np.concatenate([v, y[:50]])
    audit = nonvacuous.audit(CANCER_NET, train=(x, y), test=test, allow_overlap=True)
    clean = nonvacuous.audit(CANCER_NET, train=(x, y), test=(u, v))
    assert audit.facts.overlap == 50
    assert audit.best.evidence["errors"] == clean.best.evidence["errors"] + 50
    assert audit.budget.risk.measured.lower <= clean.budget.risk.measured.lower, "and as right answers below"
