"""Every registered bound meets the contract: ours, and those of any installed plug-in."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nonvacuous.core.bound import registered
from nonvacuous.testing.bounds import BoundContract

for _kind in registered().values():
    _name = f"Test{_kind.__name__}"
    globals()[_name] = type(_name, (BoundContract,), {"bound": _kind(), "__module__": __name__})


def test_all_bounds_are_here() -> None:
    assert {f"Test{kind.__name__}" for kind in registered().values()} <= set(globals())
    assert len(registered()) >= 13


@pytest.mark.parametrize("name", sorted(registered()))
def test_the_names_the_floor_promises(name: str) -> None:
    kind = registered()[name]
    assert kind.name == name
    assert kind.of({}).parameters == kind().parameters


def test_without_hypothesis_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['hypothesis'] = None\nimport nonvacuous.testing.bounds"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install hypothesis" in done.stderr
