"""Forecasts as tables: quantiles, and draws, with their times."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from common.data.series import times
from common.data.spec import SeriesSpec
from common.domains.forecasts.draws import QUANTILE_LEVELS, Forecasts

QUANTILE_NAMES = tuple(f'q{level:g}' for level in QUANTILE_LEVELS)


def table(blocks: Iterable[Forecasts], all_draws: bool = False) -> str:
  """Quantiles as CSV: a row for each step of each window of the blocks, of which there is one.

  Times are written as in the data. A number has the fewest digits that tell it from its neighbours
  in float32 of the stored values. A true value that is missing is empty; beyond the end of the data
  there is no column for them.

  Args:
    blocks: the forecasts.
    all_draws: whether each draw has a column of its own after those of the quantiles.
  """
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  before, window = ('window', 'series', 'step'), 0
  for forecasts in blocks:
    if not window:
      after = _columns(forecasts, all_draws)
      # The user's name of the column, unless another column has it.
      time = forecasts.series.time
      writer.writerow([*before, 'time' if time in (*before, *after) else time, *after])
    for rows in _table_rows(forecasts, all_draws):
      writer.writerows([window, *row] for row in rows)
      window += 1
  return buffer.getvalue()


def _columns(forecasts: Forecasts, all_draws: bool) -> list[str]:
  """The names of the columns of numbers, and before them that of the unit if it is known."""
  draws = range(1, forecasts.draws.shape[1] + 1) if all_draws else ()
  return [
    *(['unit'] if forecasts.series.unit else []),
    *([] if forecasts.is_future else ['truth']),
    'mean',
    *QUANTILE_NAMES,
    *(f'draw{number}' for number in draws),
  ]


def _table_rows(forecasts: Forecasts, all_draws: bool) -> Iterator[list[list[Any]]]:
  """The rows of each window, without its number."""
  series, horizon = forecasts.series, forecasts.truth.shape[1]
  columns = np.stack(
    [
      *([] if forecasts.is_future else [forecasts.truth]),
      forecasts.draws.mean(1),
      *forecasts.quantiles(),
      *(forecasts.draws.swapaxes(0, 1) if all_draws else ()),
    ],
    -1,
  )
  unit = [series.unit] if series.unit else []
  tolerance = _resolution(series, columns, forecasts.label)
  for i, name in enumerate(forecasts.names):
    moments = times.format_times(
      series.clock.unit, series.clock.style, forecasts.times[i, -horizon:]
    )
    texts = [
      map(shortest, numbers, near)
      for numbers, near in zip(columns[i].tolist(), tolerance[i].tolist(), strict=True)
    ]
    yield [[name, step + 1, moments[step], *unit, *texts[step]] for step in range(horizon)]


def _resolution(
  series: SeriesSpec,
  raw: Float[np.ndarray, 'windows *steps'],
  label: Int[np.ndarray, 'windows'],
) -> Float[np.ndarray, 'windows *steps']:
  """Half the distance between neighbouring stored values, in raw units."""
  # 0 and 1 of the stored scale as raw values are the origin and the origin plus a unit.
  zero, one = (series.raw(np.full(raw.shape, each), label) for each in (0.0, 1.0))
  # float32 has 24 digits; a little more, for the rounding of this arithmetic in float64.
  half = 1.001 * 2.0**-24
  return half * np.maximum(np.abs(raw - zero), 1e-6 * np.abs(one - zero))


def shortest(number: float, tolerance: float) -> str:
  """A number with the fewest digits that are within a tolerance of it; '' for NaN."""
  if np.isnan(number):
    return ''
  for digits in range(1, 18):  # 17 digits tell all numbers of float64 apart
    text = f'{number:.{digits}g}'
    if abs(float(text) - number) <= tolerance:
      break
  # 1123450 and not 1.12345e+06, where it is not much longer.
  short = 'e' not in text or not 1e-6 < abs(number) < 1e16
  return text if short else np.format_float_positional(float(text), trim='-')
