"""Contracts to inherit in tests: a new bound, or a new module, is held to the same demands as the ones of this package."""
