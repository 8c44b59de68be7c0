"""Marks cases of parametrized tests as slow, where their siblings run by default."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow(cases: Iterable[Any]) -> list[Any]:
  """The cases, marked as slow. A tuple holds the values of several arguments."""
  values = (case if isinstance(case, tuple) else (case,) for case in cases)
  return [pytest.param(*value, marks=pytest.mark.slow) for value in values]


def mostly_slow(cases: Iterable[Any], default: Iterable[Any]) -> list[Any]:
  """All cases; only those in `default` run by default."""
  quick = list(default)  # a list, because a case may be a dict
  return [case if case in quick else slow([case])[0] for case in cases]
