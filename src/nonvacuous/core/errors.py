"""Errors that say what is wrong, why, and what to do.

Every error a user can meet derives from :class:`NonvacuousError`; the command line prints its message without a traceback and
exits with its ``exit_code``.
"""

from __future__ import annotations


class NonvacuousError(Exception):
    """Base of every error raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class InvalidInput(NonvacuousError, ValueError):
    """An argument, file, array or option that cannot be used; the message carries the remedy."""

    exit_code = 2


class MissingInput(InvalidInput):
    """A sample or network that was not given, and without which one certificate's evidence cannot be measured again."""


class InvalidEvidence(InvalidInput):
    """Evidence or confidence outside its domain (a negative KL, an error count above n, δ outside (0, 1))."""


class UnknownBound(InvalidInput):
    """No bound of that name is registered."""


class CertificateRefused(NonvacuousError):
    """A certificate that is false, altered, unreadable, or from a newer schema."""


class DeltaOverspent(NonvacuousError):
    """The plan asks for more failure probability than the ledger holds."""


class HypothesisViolated(NonvacuousError):
    """A recorded fact contradicts a hypothesis of the theorem."""


class UnsupportedModule(NonvacuousError):
    """A layer or model for which no rule exists; the message says how to register one."""


class UntrustedCode(InvalidInput):
    """A file that could run code when it is loaded; it was not loaded."""
