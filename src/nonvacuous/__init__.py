"""What can be promised about a trained network, where its error is, and what would reduce it.

The names below load lazily: ``import nonvacuous`` loads no PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nonvacuous._version import __version__

if TYPE_CHECKING:
    from nonvacuous.auditing.levels import verify
    from nonvacuous.auditing.refits import RefitBudget, budget
    from nonvacuous.auditing.result import Audit
    from nonvacuous.auditing.run import audit
    from nonvacuous.auditing.series import Series
    from nonvacuous.bounds.mixing import Mixing
    from nonvacuous.core.certificate import Certificate, Indicator
    from nonvacuous.learning.method import Certified
    from nonvacuous.learning.run import certify

__all__ = [
    "Audit",
    "Certificate",
    "Certified",
    "Indicator",
    "Mixing",
    "RefitBudget",
    "Series",
    "__version__",
    "audit",
    "budget",
    "certify",
    "verify",
]

_HOME = {
    "Audit": "nonvacuous.auditing.result",
    "audit": "nonvacuous.auditing.run",
    "verify": "nonvacuous.auditing.levels",
    "Series": "nonvacuous.auditing.series",
    "Mixing": "nonvacuous.bounds.mixing",
    "RefitBudget": "nonvacuous.auditing.refits",
    "budget": "nonvacuous.auditing.refits",
    "Certified": "nonvacuous.learning.method",
    "certify": "nonvacuous.learning.run",
    "Certificate": "nonvacuous.core.certificate",
    "Indicator": "nonvacuous.core.certificate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nonvacuous' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
