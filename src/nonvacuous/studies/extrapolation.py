"""Learning curves put to the test: what small samples and narrow networks foretell, beside what larger ones do.

``python -m nonvacuous.studies.extrapolation --out results/learning_curves.csv --folder out/learning-curves`` trains
784-128-10 on Fashion-MNIST; the folder keeps what is finished, and the same command goes on from it.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nonvacuous.core.measured import Measured
from nonvacuous.learning.in_memory import held
from nonvacuous.runtime.factories import replacement
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.widths import Widened
from nonvacuous.studies.learning_curve import learning_curve
from nonvacuous.studies.refits import Cell, Plan, plan
from nonvacuous.studies.refitting import Refitted, World, refitted

SIZES = (1250, 2500, 5000, 10_000, 30_000, 60_000)
WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
SEEN_SIZE, SEEN_WIDTH = 10_000, 1.0
FIELDS = ("n", "width", "epochs", "replicate", "train_risk", "test_risk", "seconds")


@dataclass(frozen=True)
class Foretold:
    """A size or width beyond those seen: the interval for the mean of its refits, and that mean."""

    along: str
    place: float
    interval: Measured
    measured: float

    @property
    def held(self) -> bool:
        """Whether the mean lies in the interval."""
        return self.measured in self.interval


def fashion_world(factory: str) -> World:
    """Fashion-MNIST whole: 60,000 to train on, 10,000 to test on."""
    train, test = held(load("fashion-mnist", "train")), held(load("fashion-mnist", "test"))
    return World(Widened(factory), train.inputs, train.targets, test.inputs, test.targets, 10)


def fashion_plan(epochs: float, replicates: int, seed: int) -> Plan:
    """All sizes at width 1, all widths at 10,000 examples; cheap cells first."""
    cells = (
        [Cell(n, 1.0) for n in SIZES[:4]] + [Cell(SEEN_SIZE, w) for w in WIDTHS if w != 1] + [Cell(n, 1.0) for n in SIZES[4:]]
    )
    made = plan(SIZES[-1], epochs=epochs, seed=seed, replicates=replicates, small=False)
    return replace(made, cells=tuple(cells), lengths=(1.0,), matched=False)


def written(run: Refitted, path: Path) -> None:
    """One line a refit."""
    with replacement(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(FIELDS)
        for r in sorted(run.refits, key=lambda r: (r.cell, r.replicate)):
            epochs = r.length * run.plan.epochs
            lines.writerow(
                [r.cell.n, r.cell.width, epochs, r.replicate, f"{r.train_risk:.5f}", f"{r.risk:.5f}", f"{r.seconds:.1f}"]
            )


def foretold(rows: Sequence[dict[str, str]]) -> list[Foretold]:
    """From the rows of the file: curves through the small sizes and widths, against the larger ones."""
    found = []
    for along, key, last, other, fixed in (
        ("examples", "n", float(SEEN_SIZE), "width", 1.0),
        ("width", "width", SEEN_WIDTH, "n", float(SEEN_SIZE)),
    ):
        line = [(float(r[key]), float(r["test_risk"])) for r in rows if float(r[other]) == fixed]
        seen = [(x, risk) for x, risk in line if x <= last]
        curve = learning_curve([x for x, _ in seen], [risk for _, risk in seen])
        for place in sorted({x for x, _ in line if x > last}):
            risks = [risk for x, risk in line if x == place]
            found.append(Foretold(along, place, curve.measured_at(place), sum(risks) / len(risks)))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, write the rows, and say what was foretold and what came."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--model", default="mlp:784-128-10")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args(arguments)
    run = refitted(
        fashion_world(given.model),
        fashion_plan(given.epochs, given.replicates, given.seed),
        seconds=60 * given.minutes,
        folder=given.folder,
        processes=given.processes,
    )
    written(run, given.out)
    with given.out.open(encoding="utf-8") as file:
        for item in foretold(list(csv.DictReader(file))):
            print(f"{item.place:>8g} {item.along}: foretold {item.interval}, measured {item.measured:.4f}, held: {item.held}")


if __name__ == "__main__":
    main()
