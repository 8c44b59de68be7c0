"""The result of an evaluation: measured values, and some samples to look at."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from common.domains.display import Display
from common.reporting.writers import from_json_number, to_json_number

Z = 1.959964  # of a 95 % interval: the quantile 0.975 of a standard normal


class Measure(NamedTuple):
  """A measured value.

  Attributes:
    value: None if it cannot be measured, NaN if it was not finite; the note then says why.
    standard_error: 0 if the value is exact, None if the error is unknown.
    note: what a reader needs to know next to the number.
    parts: if the value is a sum: its parts by name, each given by its terms, which add up to it.
    dof: degrees of freedom of the standard error; None: so many that it is as good as known.
    interval: of a share, its 95 % interval, which lies in [0, 1]; None: that of the error.
  """

  value: float | None
  standard_error: float | None = None
  note: str = ''
  parts: Mapping[str, tuple[float, ...]] = {}
  dof: int | None = None
  interval: tuple[float, float] | None = None

  @property
  def is_finite(self) -> bool:
    """False if the value was measured and is NaN or infinite."""
    return self.value is None or math.isfinite(self.value)

  def to_json(self) -> dict[str, Any]:
    """The measure as a JSON object; numbers that are not finite as in `metrics.jsonl`."""
    return self._asdict() | {
      'value': None if self.value is None else to_json_number(self.value),
      'standard_error': self.standard_error and to_json_number(self.standard_error),
    }

  @classmethod
  def from_json(cls, record: Mapping[str, Any]) -> 'Measure':
    """The measure that `to_json` wrote."""
    numbers = {key: from_json_number(record[key]) for key in ('value', 'standard_error')}
    interval = record.get('interval')  # files from before there were intervals have none
    return cls(**dict(record) | numbers | {'interval': interval and tuple(interval)})


class Evaluation(NamedTuple):
  """The result of `common.evaluation.evaluate.evaluate`.

  Attributes:
    measures: by name of metric.
    display: some of the samples; empty if no metric drew any.
  """

  measures: dict[str, Measure]
  display: Display = Display()


def proportion(hits: int, total: int) -> tuple[float, float, tuple[float, float]]:
  """A binomial proportion, its standard error and its 95 % interval, which lies in [0, 1].

  The error is computed with two hits and two misses added (Agresti and Coull 1998), so that a
  proportion of 0 or 1 does not get an error of zero. The interval is that of Wilson (1927).
  """
  # For a 95 % interval, z² ≈ 4 pseudo-observations are added, half of them hits.
  smooth = (hits + 2) / (total + 4)
  value, error = hits / total, math.sqrt(smooth * (1 - smooth) / (total + 4))
  # The proportions p with |p̂ − p| ≤ z √(p (1 − p) / n).
  centre = (hits + Z**2 / 2) / (total + Z**2)
  half = Z / (total + Z**2) * math.sqrt(hits * (total - hits) / total + Z**2 / 4)
  # Rounding must not exclude the value itself.
  return value, error, (max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value)))
