"""Lipschitz bounds of a 784-512-512-10 ReLU net beside eclipse-nn's ECLipsE-Fast, in one run, alternating.

``python benchmarks/bench_lipschitz.py`` prints seconds (best of three) and the bounds.  The peer is not a dependency: install it with
``pip install --no-deps --target DIR eclipse-nn`` and set PYTHONPATH to DIR, or its lines are left out with a message.  Ours is proved
with rounding counted, theirs is plain float64.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nonvacuous.measures.lipschitz import Ball, global_table, local_upper, sampled_lower, traced
from nonvacuous.measures.relaxation import ellipsoid_bound
from nonvacuous.measures.walk import Walk


def network(seed: int = 0) -> nn.Sequential:
    """Default initialisation."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def ellipsoids(net: nn.Module, steps: int = 0) -> float:
    """The bound over all inputs by ellipsoids alone, tracing included."""
    exact, seen = traced(net, (784,))
    with torch.no_grad():
        found = ellipsoid_bound(Walk(exact, seen, None, {}, 1.0), steps)
    assert found is not None
    return math.exp(found)


def peer(net: nn.Sequential) -> Callable[[], float] | None:
    """ECLipsE-Fast on the same weights, None where it is not installed."""
    spec = find_spec("eclipse_nn")  # the package itself wants cvxpy, this file of it torch alone
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / "eclipsE_fast.py"
    inner = spec_from_file_location("eclipse_fast", file)
    assert inner is not None and inner.loader is not None
    module = module_from_spec(inner)
    inner.loader.exec_module(module)

    weights = [part.weight.detach().double() for part in net if isinstance(part, nn.Linear)]
    slopes = [0.0] * 2, [1.0] * 2
    return lambda: float(module.ECLipsE_Fast(weights, *slopes))


def alternated(jobs: dict[str, Callable[[], Any]], rounds: int = 3) -> dict[str, tuple[Any, float]]:
    """Value and best time of each job, one round after the other."""
    best: dict[str, tuple[Any, float]] = {}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            value = job()
            took = time.perf_counter() - start
            best[name] = value, min(took, best.get(name, (None, math.inf))[1])
    return best


def main() -> None:
    net = network()
    centre = torch.rand(784)
    jobs: dict[str, Callable[[], Any]] = {
        "ellipsoids, all inputs": lambda: ellipsoids(net),
        "ball of radius 0.1": lambda: local_upper(net, Ball(centre, 0.1)).upper,
        "ball of radius 1": lambda: local_upper(net, Ball(centre, 1.0)).upper,
        "gradient at the centre": lambda: sampled_lower(net, centre[None]).lower,
    }
    theirs = peer(net)
    if theirs is None:
        print("eclipse-nn is not importable: pip install --no-deps --target DIR eclipse-nn; PYTHONPATH=DIR")
    else:
        jobs["eclipse-nn, ECLipsE-Fast"] = theirs
    best = alternated(jobs)
    for name, (value, seconds) in best.items():
        print(f"{name:<28} {value:10.6f} {seconds:8.3f} s")
    table = global_table(net, (784,))
    print(f"{'product of the norms':<28} {math.exp(table.steps[-1].log_upper):10.6f}")
    start = time.perf_counter()
    print(f"{'ellipsoids, 20 steps':<28} {ellipsoids(net, 20):10.6f} {time.perf_counter() - start:8.3f} s")


if __name__ == "__main__":
    main()
