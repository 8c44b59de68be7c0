"""What an evaluation gives: measured values, and some samples to look at."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from common.reporting import pictures


class Measure(NamedTuple):
  """A measured value.

  Attributes:
    value: None where there is none to be had.
    standard_error: 0 where the value is exact, None where it is unknown.
    note: what a reader needs to know of it, beside its number.
    parts: what the value is the sum of, by name, each the sum of its terms; empty: it is one whole.
  """

  value: float | None
  standard_error: float | None = None
  note: str = ''
  parts: Mapping[str, tuple[float, ...]] = {}


class Evaluation(NamedTuple):
  """What `common.evaluation.evaluate.evaluate` returns.

  Attributes:
    measures: by name of metric.
    samples: some of the samples, in an order that gives one class per column; none where no metric
      asked for samples.
    labels: the classes asked for, or None.
    columns: of a picture of them.
    levels: they hold integers in [0, levels).
    texts: some of the samples, where they are texts and not images.
    plot: some of the forecasts, where the data are time series.
  """

  measures: dict[str, Measure]
  samples: UInt8[np.ndarray, 'n *shape']
  labels: Int[np.ndarray, 'n'] | None
  columns: int
  levels: int
  texts: tuple[str, ...] = ()
  plot: UInt8[np.ndarray, 'rows cols 3'] | None = None

  def picture(self, scale: int = 1) -> UInt8[np.ndarray, 'rows cols 3']:
    """The samples side by side."""
    return pictures.image_grid(self.samples, self.columns, scale, self.levels)
