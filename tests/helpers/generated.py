"""Hypothesis with one profile: test modules take `given`, `st` and the rest from here.

A profile holds for the tests that are defined after it is loaded. `conftest.py` does not load it,
because to import hypothesis takes seconds.
"""

from hypothesis import example, given, settings
from hypothesis import strategies as st

__all__ = ["example", "given", "settings", "st"]

# The same examples on every machine and in every run; no time limits.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("suite")
