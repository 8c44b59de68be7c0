"""The result of an evaluation: measured values, and some samples to look at."""

from collections.abc import Mapping
from typing import NamedTuple

from common.domains.base import Display


class Measure(NamedTuple):
  """A measured value.

  Attributes:
    value: None if it cannot be measured; the note then says why.
    standard_error: 0 if the value is exact, None if the error is unknown.
    note: what a reader needs to know next to the number.
    parts: if the value is a sum: its parts by name, each given by its terms, which add up to it.
  """

  value: float | None
  standard_error: float | None = None
  note: str = ''
  parts: Mapping[str, tuple[float, ...]] = {}


class Evaluation(NamedTuple):
  """The result of `common.evaluation.evaluate.evaluate`.

  Attributes:
    measures: by name of metric.
    display: some of the samples; empty if no metric drew any.
  """

  measures: dict[str, Measure]
  display: Display = Display()
