"""From a table of series to the numbers that windows hold, and back.

The unit of a series does not matter: a value is stored as (value - origin) / unit, subtracted in
float64. The origin of a series is the mean of its training part, its unit the mean distance from
it. Only whole numbers from 0, up to MAX_COUNT, are stored as they are, because a head over counts
needs them. Covariates of a file are standardised to mean 0 and standard deviation 1 over the
training part. A category is stored as its number among the texts of the training part, from 1; 0
stands for any other text. What is missing is NaN.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from common.config import ConfigError
from common.data.series import calendars
from common.data.series.table import Table

MAX_COUNT = 2**24  # float32 has every whole number up to this
MAX_STORED = 1e30  # in units: squares of larger values overflow float32


class Levels(NamedTuple):
  """The origin and the unit of the values of a series."""

  origin: float = 0.0
  unit: float = 1.0


@dataclasses.dataclass(frozen=True)
class Encoding:
  """How the columns of a table are stored, besides the values.

  Attributes:
    counts: whether all values are whole numbers from 0, which are stored as they are.
    means, deviations: of each covariate of the file.
    texts: the texts of each column of categories that have numbers of their own.
    static: the covariates and categories that are the same in all rows of a series.
  """

  counts: bool
  means: tuple[float, ...] = ()
  deviations: tuple[float, ...] = ()
  texts: tuple[tuple[str, ...], ...] = ()
  static: tuple[str, ...] = ()


def is_counts(value: Float[np.ndarray, 'rows']) -> bool:
  """Whether all values are whole numbers from 0 that float32 can hold, or missing."""
  value = value[~np.isnan(value)]
  return bool(((value >= 0) & (value <= MAX_COUNT) & (value == np.round(value))).all())


def fit_encoding(table: Table, training: Bool[np.ndarray, 'rows']) -> Encoding:
  """The encoding of a table; of covariates only the `training` rows count.

  Raises:
    ConfigError: for a covariate without values in the training part, or one whose values are too
      far from those.
  """
  means, deviations = [], []
  for name, column in zip(table.columns.covariates, table.covariates.T, strict=True):
    # Only the training part: held-out steps must not leak into it.
    seen = column[training & np.isfinite(column)]
    if not len(seen):
      raise ConfigError(
        f'column {name!r} has no values in the training part; leave it out (data.covariates)'
      )
    with np.errstate(over='ignore'):  # an infinite spread is refused below
      mean, deviation = seen.mean(), seen.std()
    if (seen == seen[0]).all():  # the rounding of a mean is no spread
      mean, deviation = seen[0], 1.0
    far = np.abs(column - mean) / deviation > MAX_STORED
    if far.any() or not np.isfinite(deviation):
      raise ConfigError(
        f'column {name!r} has values more than {MAX_STORED:g} times its spread in the training '
        'part: check it, or leave it out (data.covariates)'
      )
    means.append(float(mean))
    deviations.append(float(deviation))
  return Encoding(
    counts=is_counts(table.value),
    means=tuple(means),
    deviations=tuple(deviations),
    texts=_known_texts(table, training),
    static=static_columns(table),
  )


def _known_texts(table: Table, training: Bool[np.ndarray, 'rows']) -> tuple[tuple[str, ...], ...]:
  """The texts of each column of categories that occur in the training rows."""
  columns = () if table.codes is None else table.codes[training].T
  return tuple(
    tuple(texts[code] for code in np.unique(column[column >= 0]).tolist())
    for texts, column in zip(table.texts, columns, strict=True)
  )


def static_columns(table: Table) -> tuple[str, ...]:
  """Names of the columns that have one value in each series, apart from missing ones."""
  columns = list(zip(table.columns.covariates, table.covariates.T, strict=True))
  if table.codes is not None:
    codes = np.where(table.codes < 0, np.nan, table.codes.astype(float)).T
    columns += list(zip(table.columns.categories, codes, strict=True))
  return tuple(
    name
    for name, column in columns
    if all(len(_distinct(part)) == 1 for part in np.split(column, table.starts[1:]))
  )


def _distinct(column: Float[np.ndarray, 'rows']) -> Float[np.ndarray, 'values']:
  return np.unique(column[np.isfinite(column)])


def levels_of(table: Table, i: int, end: int) -> Levels:
  """The origin and the unit of series i, from its first `end` steps.

  Raises:
    ConfigError: for a value that is too far from these.
  """
  start = table.starts[i]
  values = table.value[start : start + table.lengths[i]]
  seen = values[:end][np.isfinite(values[:end])]
  seen = seen if len(seen) else values[np.isfinite(values)][:1]
  if (seen == seen[0]).all():  # a constant has no spread: its unit is its size, or 1
    levels = Levels(float(seen[0]), float(abs(seen[0])) or 1.0)
  else:
    origin = float(seen.mean())
    levels = Levels(origin, float(np.abs(seen - origin).mean()))
  far = np.flatnonzero(np.abs(values - levels.origin) / levels.unit > MAX_STORED)
  if len(far):
    raise ConfigError(
      f'step {far[0]} of series {table.names[i]!r} is {values[far[0]]:g}, more than '
      f'{MAX_STORED:g} times the spread of its training part ({levels.unit:g}) away from it: '
      'check it'
    )
  return levels


def spread(values: Float[np.ndarray, 'steps']) -> float:
  """The standard deviation of the values of a series that are known; NaN without any."""
  known = values[np.isfinite(values)]
  with np.errstate(over='ignore'):  # values that no window could hold are refused elsewhere
    return float(known.std()) if len(known) else float('nan')


def naive_scale(values: Float[np.ndarray, 'steps'], season: int) -> float:
  """The mean size of the error of the seasonal naive forecast one season ahead, within a series.

  It is the denominator of MASE (Hyndman & Koehler 2006); of a series that is no longer than a
  season, with a season of 1. NaN if there is no pair of values.
  """
  lag = season if len(values) > season else 1
  errors = np.abs(values[lag:] - values[:-lag])
  errors = errors[np.isfinite(errors)]
  return float(errors.mean()) if len(errors) else float('nan')


@dataclasses.dataclass(frozen=True)
class SeriesRows:
  """The stored rows of the series of a table: the value, covariates, time features, categories.

  Attributes:
    table: the series.
    encoding: how their covariates are stored.
    levels: the origin and the unit of each series.
  """

  table: Table
  encoding: Encoding
  levels: Sequence[Levels]

  @property
  def covariate_names(self) -> tuple[str, ...]:
    """Names of the columns of numbers next to the value."""
    return self.table.columns.covariates + calendars.feature_names(self.table.frequency)

  def rows(self, i: int, before: int, after: int) -> Float[np.ndarray, 'steps columns']:
    """The rows of series i, with `before` more steps at its beginning and `after` at its end.

    Beyond the series values and covariates are missing, unless they are static.
    """
    table, start, length = self.table, self.table.starts[i], self.table.lengths[i]
    part = slice(start, start + length)
    steps = np.arange(-before, length + after)
    padding = ((before, after), (0, 0))
    value = (table.value[part] - self.levels[i].origin) / self.levels[i].unit
    means, deviations = np.array(self.encoding.means), np.array(self.encoding.deviations)
    columns = (table.covariates[part] - means) / deviations
    padded = np.pad(np.concatenate([value[:, None], columns], 1), padding, constant_values=np.nan)
    codes = np.pad(self._codes(part), padding, constant_values=np.nan)
    # A static column has one value, which also holds beyond the series.
    for number, name in enumerate(table.columns.covariates):
      if name in self.encoding.static:
        padded[:, 1 + number] = np.nanmax(columns[:, number])
    for number, name in enumerate(table.columns.categories):
      if name in self.encoding.static:
        codes[:, number] = np.nanmax(codes[:, number])
    moments = table.times.values[start] + table.frequency.step * steps
    times = calendars.Timestamps(table.frequency.unit, moments)
    features = calendars.time_features(times, table.frequency, np.maximum(steps, 0))
    # Rounded to float32 last: the arithmetic above is in float64.
    return np.concatenate([padded, features, codes], 1).astype(np.float32)

  def _codes(self, part: slice) -> Float[np.ndarray, 'rows categories']:
    """The categories of some rows as they are stored."""
    table = self.table
    if not table.texts:
      return np.zeros((part.stop - part.start, 0))
    columns, found = [], table.codes[part].T
    for texts, known, codes in zip(table.texts, self.encoding.texts, found, strict=True):
      numbers = {text: number for number, text in enumerate(known, 1)}
      # The last entry is that of a missing text, whose code is -1.
      columns.append(np.array([*(numbers.get(text, 0) for text in texts), np.nan])[codes])
    return np.stack(columns, -1)
