"""Slow cases of parametrized tests, whose siblings run by default; and settings of evaluations."""

from collections.abc import Iterable
from typing import Any

import pytest

from common.config import plain_defaults
from configs.base import SETTINGS


def slow(cases: Iterable[Any]) -> list[Any]:
  """The cases, marked as slow. A tuple holds the values of several arguments."""
  values = (case if isinstance(case, tuple) else (case,) for case in cases)
  return [pytest.param(*value, marks=pytest.mark.slow) for value in values]


def mostly_slow(cases: Iterable[Any], default: Iterable[Any]) -> list[Any]:
  """All cases; only those in `default` run by default."""
  quick = list(default)  # a list, because a case may be a dict
  return [case if case in quick else slow([case])[0] for case in cases]


def evaluation_settings(**changes: Any) -> dict[str, Any]:
  """The `evaluation` section of a config, with the defaults of `configs/base.py`."""
  return plain_defaults(SETTINGS['evaluation']) | changes
