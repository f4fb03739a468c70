r"""What a practical lever does to each part of the error: paired with the baseline by seed, or read off learning curves.

For the risk F, the network h of a recipe, the best network h* and the least training risk F(D, h°) that the recipe can reach:

    F(P, h) = F(P, y*) + [F(P, h*) − F(P, y*)] + [F(D, h°) − F(P, h*)] + [F(D, h) − F(D, h°)] + [F(P, h) − F(D, h)].

Against the baseline, the irreducible part cancels.  *Optimization*: the training risk, less F(D, h°), which lies between 0 and the least
training risk seen in that architecture on those examples.  *Generalization*: test minus training risk.  *Approximation*: the class of a
recipe is what it can reach, so that weights which decay or attacks keep it from are outside; its best risk is where its learning curve
goes, an extrapolation.  (Of the class of all weights of the architecture, only a lever that changes the architecture changes this part.)
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.measures.student import mean_interval
from nonvacuous.studies.learning_curve import interval, learning_curve

CONFIDENCE = 0.95
BASELINE = "baseline"
PARTS = ("risk", "approximation", "optimization", "generalization", "attacked", "slope")
LEAST_ERROR = 1e-4
PAIRINGS = 25


@dataclass(frozen=True)
class Row:
    """One network: zero-one and log loss on its own training examples (as they are) and on the test.

    family: its kind of network; architecture: networks of one architecture share their weights' class. attacked_error: on test examples
    moved within the study's ball; slope_lower, slope_upper: the local Lipschitz constant of the outputs on such balls around test examples
    is at least and at most this, in mean (nan: not measured).
    """

    family: str
    lever: str
    architecture: str
    examples: int
    seed: int
    train_error: float
    test_error: float
    train_loss: float
    test_loss: float
    attacked_error: float = math.nan
    slope_lower: float = math.nan
    slope_upper: float = math.nan


@dataclass(frozen=True)
class Effect:
    """A lever less the baseline, in mean over seeds (module docstring); slope: the ratio of the local slopes. None: not measured."""

    lever: str
    risk: Measured
    approximation: Measured | None
    optimization: Measured
    generalization: Measured
    attacked: Measured | None
    slope: Measured | None


def effects(rows: Sequence[Row], measure: str = "error") -> list[Effect]:
    """Of ``error`` or ``loss``, at the sample size that most seeds of the baseline have; rows of one family.

    All intervals hold at once with 95 % (Bonferroni): Student's over seeds, and for the approximation those of two curves' posteriors as
    if they were independent. They are over examples and weights, on one test sample: indicators. Approximation: of errors alone.

    :raises InvalidInput: another measure, several families, no baseline, or fewer than three common seeds.
    """
    if measure not in ("error", "loss"):
        raise InvalidInput(f"measure {measure!r}: error or loss")
    if len({row.family for row in rows}) > 1:
        raise InvalidInput("rows of several families of networks: give those of one")
    of_base = [row.examples for row in rows if row.lever == BASELINE]
    if not of_base:
        raise InvalidInput(f"no row of the {BASELINE}: there is nothing to compare with")
    size = max(sorted(set(of_base)), key=of_base.count)
    here = [row for row in rows if row.examples == size]
    names = [name for name in dict.fromkeys(row.lever for row in here) if name != BASELINE]
    claims = len(PARTS) * max(1, len(names))
    base = {row.seed: row for row in here if row.lever == BASELINE}
    least = _least(here, measure)
    foretold = limit(rows, BASELINE) if measure == "error" else None
    found = []
    for name in names:
        pairs = [(row, base[row.seed]) for row in here if row.lever == name and row.seed in base]
        if len(pairs) < 3:
            raise InvalidInput(f"{name}: {len(pairs)} seeds in common with the baseline; an interval needs three. Run more")

        def paired(value: Callable[[Row], float], pairs: list[tuple[Row, Row]] = pairs) -> Measured | None:
            differences = [value(a) - value(b) for a, b in pairs]
            return mean_interval(differences, CONFIDENCE, claims) if np.isfinite(differences).all() else None

        risk = paired(lambda row: float(getattr(row, f"test_{measure}")))
        fit = paired(lambda row: float(getattr(row, f"train_{measure}")))
        gap = paired(lambda row: float(getattr(row, f"test_{measure}") - getattr(row, f"train_{measure}")))
        slope = paired(lambda row: math.log(row.slope_lower))
        assert risk is not None and fit is not None and gap is not None
        found.append(
            Effect(
                name,
                risk,
                _curves(foretold, limit(rows, name) if foretold is not None else None, claims),
                _optimization(fit, pairs, least),
                gap,
                paired(lambda row: row.attacked_error),
                None if slope is None else Measured.indicator(math.exp(slope.lower), math.exp(slope.upper)),
            )
        )
    return found


def _least(rows: Sequence[Row], measure: str) -> dict[tuple[str, int], float]:
    """The least training risk seen of an architecture on the examples of a seed."""
    found: dict[tuple[str, int], float] = {}
    for row in rows:
        key = (row.architecture, row.seed)
        found[key] = min(found.get(key, math.inf), float(getattr(row, f"train_{measure}")))
    return found


def _optimization(fit: Measured, pairs: Sequence[tuple[Row, Row]], least: dict[tuple[str, int], float]) -> Measured:
    """The difference of training risks, less that of F(D, h°); the latter is 0 where both have one architecture."""
    if all(a.architecture == b.architecture for a, b in pairs):
        return fit
    own, other = (float(np.mean([least[row.architecture, row.seed] for row in column])) for column in zip(*pairs, strict=True))
    return Measured.indicator(fit.lower - own, fit.upper + other)


def limit(rows: Sequence[Row], lever: str) -> NDArray[np.float64] | None:
    """Draws of where the test error of a recipe goes with ever more examples; None with fewer than four sample sizes."""
    mine = [(row.examples, max(row.test_error, LEAST_ERROR)) for row in rows if row.lever == lever]
    if len({n for n, _ in mine}) < 4:
        return None
    curve = learning_curve([n for n, _ in mine], [error for _, error in mine])
    return curve.level * curve.offset


def _curves(base: NDArray[np.float64] | None, own: NDArray[np.float64] | None, claims: int) -> Measured | None:
    if base is None or own is None:
        return None
    generator = np.random.default_rng(0)
    differences = np.concatenate([own - generator.permutation(base) for _ in range(PAIRINGS)])
    return interval(differences, 1 - (1 - CONFIDENCE) / claims)


def read(path: Path) -> list[Row]:
    """The rows that a file holds.

    :raises InvalidInput: its columns are not a row's.
    """
    kinds: dict[str, Callable[[str], object]] = {"str": str, "int": int, "float": lambda text: float(text or "nan")}
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if table.fieldnames != [f.name for f in fields(Row)]:
            raise InvalidInput(f"{path} has the columns {table.fieldnames}, not those of this study. Name another file")
        return [Row(**{f.name: kinds[str(f.type)](row[f.name]) for f in fields(Row)}) for row in table]  # type: ignore[arg-type]
