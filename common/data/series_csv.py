"""Time series from CSV files in long format: a header, then one row for each value.

Rows may be in any order. Every error names the line and the column that are wrong.
"""

import contextlib
import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from common.config import ConfigError
from common.data import calendars

COLUMN_NAMES = {  # in a user's file, in upper or lower case
  'series': ('series', 'series_id', 'item_id', 'unique_id', 'id'),
  'time': ('time', 'date', 'timestamp', 'ds'),
  'value': ('value', 'target', 'y'),
}


class Columns(NamedTuple):
  """The roles of the columns of a file.

  Attributes:
    series: columns whose texts together name the series; empty if the file is one series.
    time, value: the columns of the time and of the value.
    covariates: columns of numbers that are known in advance.
  """

  series: tuple[str, ...]
  time: str
  value: str
  covariates: tuple[str, ...] = ()


class Rows(NamedTuple):
  """The rows of a CSV file, as text.

  Attributes:
    lines: the line number of each row in the file, for messages.
    texts: the fields of each column, by name of the column.
  """

  lines: Sequence[int]
  texts: Mapping[str, Sequence[str]]


class Table(NamedTuple):
  """Several series, one after the other, each in the order of time.

  Attributes:
    names: names of the series.
    lengths: number of rows of each series.
    times: the time of each row.
    frequency: the distance between rows of a series.
    value: the value of each row.
    covariates: the covariates of each row.
    covariate_names: names of the covariates.
  """

  names: tuple[str, ...]
  lengths: Int[np.ndarray, 'series']
  times: calendars.Timestamps
  frequency: calendars.Frequency
  value: Float[np.ndarray, 'rows']
  covariates: Float[np.ndarray, 'rows columns']
  covariate_names: tuple[str, ...]

  @property
  def starts(self) -> Int[np.ndarray, 'series']:
    """The first row of each series."""
    return np.cumsum(self.lengths) - self.lengths


def read_table(data: bytes, what: str, columns: Columns | None = None) -> Table:
  """Reads a CSV file in long format: a header, then one row for each value.

  Args:
    data: contents of the file.
    what: the file, for messages.
    columns: the roles of the columns; None: as in COLUMN_NAMES, and all others are covariates.

  Raises:
    ConfigError: for a file in another format, with the line and the column that are wrong.
  """
  header, rows = _read_rows(data, what)
  columns = columns or _find_columns(header, what)
  numeric = (columns.value, *columns.covariates)
  for name in (*columns.series, columns.time, *numeric):
    if name not in header:
      raise ConfigError(f'{what} needs a column {name!r}, got {", ".join(header)}')
  try:
    times = calendars.parse_times(rows.texts[columns.time])
  except ConfigError as error:
    raise ConfigError(f'{what}, column {columns.time!r}: {error}') from None
  names, series = np.unique(_series_of(rows, columns, what), return_inverse=True)
  # By series, then by time within each: rows of the file may be in any order.
  order = np.lexsort((times.values, series))
  times = times._replace(values=times.values[order])
  try:
    frequency, times = calendars.infer_frequency(times, _starts(series[order]))
  except calendars.UnevenTimesError as error:
    before, after = order[error.index - 1 : error.index + 1].tolist()
    in_series = f'in series {str(names[series[after]])!r}'
    raise ConfigError(
      f'{what}, {_uneven_message(rows, columns, before, after, in_series)}'
    ) from None
  numbers = np.stack([_numbers(rows, name, what) for name in numeric], -1)[order]
  return Table(
    names=tuple(map(str, names)),
    lengths=np.bincount(series),
    times=times,
    frequency=frequency,
    value=numbers[:, 0],
    covariates=numbers[:, 1:],
    covariate_names=columns.covariates,
  )


def _read_rows(data: bytes, what: str) -> tuple[list[str], Rows]:
  """The header of a CSV file, and its rows."""
  try:
    # utf-8-sig: spreadsheets put a byte order mark in front of the header.
    reader = csv.reader(io.StringIO(data.decode('utf-8-sig'), newline=''), strict=True)
    header = [name.strip() for name in next(reader, [])]
    numbered = [(reader.line_num, row) for row in reader if row]
  except (UnicodeDecodeError, csv.Error) as error:
    raise ConfigError(f'cannot read {what} as a CSV file in UTF-8: {error}') from None
  if not numbered:
    raise ConfigError(f'{what} needs a header and one row for each value, got no rows')
  for line, row in numbered:
    if len(row) != len(header):
      raise ConfigError(
        f'{what}, line {line}: a row must have {len(header)} fields, as the header has, got '
        f'{len(row)}'
      )
  lines, fields = zip(*numbered, strict=True)
  texts = {}
  for name, column in zip(header, zip(*fields, strict=True), strict=True):
    texts.setdefault(name, column)  # of two columns with the same name, the first counts
  return header, Rows(lines, texts)


def _find_columns(header: Sequence[str], what: str) -> Columns:
  """The roles of the columns of a user's file, by their names."""
  by_lower_case = {name.lower(): name for name in header}
  found = {}
  for role, known in COLUMN_NAMES.items():
    found[role] = next((by_lower_case[name] for name in known if name in by_lower_case), None)
    if found[role] is None and role != 'series':
      raise ConfigError(
        f'{what} needs a column for the {role}, called {" or ".join(known)}; got '
        f'{", ".join(header)}'
      )
  covariates = tuple(name for name in header if name not in found.values())
  series = () if found['series'] is None else (found['series'],)
  return Columns(series, found['time'], found['value'], covariates)


def _series_of(rows: Rows, columns: Columns, what: str) -> np.ndarray:
  """The name of the series of each row; the name of the file if it is a single series."""
  if not columns.series:
    return np.array([pathlib.Path(what).stem] * len(rows.lines), str)
  parts = zip(*(rows.texts[name] for name in columns.series), strict=True)
  return np.array([', '.join(texts) for texts in parts], str)


def _starts(series: Int[np.ndarray, 'rows']) -> Bool[np.ndarray, 'rows']:
  """Whether a row is the first of its series, for rows that are sorted by series."""
  # -1 comes before every series, so the first row is a start too.
  return np.diff(series, prepend=-1) > 0


def _uneven_message(rows: Rows, columns: Columns, before: int, after: int, in_series: str) -> str:
  """Describes two rows of a series whose times are at a wrong distance."""
  earlier, later = rows.texts[columns.time][before], rows.texts[columns.time][after]
  hint = ''
  if not columns.series and earlier == later:
    hint = f'; a file with several series needs a column {COLUMN_NAMES["series"][0]!r}'
  return (
    f'line {rows.lines[after]}: times must be evenly spaced, without gaps, but {in_series} '
    f'{later!r} comes after {earlier!r}{hint}'
  )


def _numbers(rows: Rows, name: str, what: str) -> Float[np.ndarray, 'rows']:
  """A column as finite numbers."""
  texts = rows.texts[name]
  # Text that is not a number stays NaN, which is refused below, like infinity.
  numbers = np.full(len(texts), np.nan)
  for i, text in enumerate(texts):
    with contextlib.suppress(ValueError):
      numbers[i] = float(text)
    if not np.isfinite(numbers[i]):
      raise ConfigError(
        f'{what}, line {rows.lines[i]}, column {name!r}: a value must be a number, got {text!r}'
      )
  return numbers
