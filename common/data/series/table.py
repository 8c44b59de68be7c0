"""Time series from CSV files: a header, then one row for each value.

Rows may be in any order. Fields are separated by commas, or by semicolons or tabs if the header has
no comma; then numbers may have a decimal comma. Every error names the line and the column that are
wrong.
"""

import collections
import contextlib
import csv
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from common.config import ConfigError
from common.data.series import calendars, times
from common.data.series.columns import COLUMN_NAMES, MISSING, Columns, Rows, check_column, listing
from common.data.series.layouts import long_rows

INDEX_NAME = re.compile(r'(Unnamed: 0)?')  # of the column that pandas adds for its row numbers
MAX_NUMBER = 1e300  # sums of larger numbers overflow float64
MAX_SERIES = 100_000
COMPRESSED = (b'\x1f\x8b', b'PK\x03\x04', b'BZh', b'\xfd7zXZ')  # how gzip, zip, bzip2 and xz begin


class Table(NamedTuple):
  """Several series, one after the other, each in the order of time.

  Attributes:
    names: names of the series.
    lengths: number of rows of each series.
    times: the time of each row.
    frequency: the distance between rows of a series.
    value: the value of each row.
    covariates: the covariates of each row.
    columns: the roles of the columns.
    notes: what was left out of the file.
  """

  names: tuple[str, ...]
  lengths: Int[np.ndarray, 'series']
  times: calendars.Timestamps
  frequency: calendars.Frequency
  value: Float[np.ndarray, 'rows']
  covariates: Float[np.ndarray, 'rows columns']
  columns: Columns
  notes: tuple[str, ...] = ()

  @property
  def covariate_names(self) -> tuple[str, ...]:
    """Names of the covariates."""
    return self.columns.covariates

  @property
  def starts(self) -> Int[np.ndarray, 'series']:
    """The first row of each series."""
    return np.cumsum(self.lengths) - self.lengths


def read_table(data: bytes, what: str, roles: Columns | Mapping[str, Any] | None = None) -> Table:
  """Reads a CSV file.

  Args:
    data: contents of the file.
    what: the file, for messages.
    roles: the roles of the columns, or a config's `data` section, with the settings `target`,
      `time`, `series`, `covariates` and `layout`.

  Raises:
    ConfigError: for a file in another format, with the line and the column that are wrong.
  """
  rows = _read_rows(data, what)
  if isinstance(roles, Columns):
    columns = roles
  else:
    rows, columns = long_rows(rows, what, roles or {})
  numeric = (columns.target, *columns.covariates)
  for name in (*columns.series, columns.time, *numeric):
    check_column(rows.texts, name, what)
  try:
    moments = times.parse_times(rows.texts[columns.time])
  except times.TimeError as error:
    at = [text.strip() for text in rows.texts[columns.time]].index(error.text)
    raise ConfigError(f'{what}, line {rows.lines[at]}, column {columns.time!r}: {error}') from None
  names, series = np.unique(_series_of(rows, columns, what), return_inverse=True)
  if len(names) > MAX_SERIES:
    raise ConfigError(
      f'{what}, column {", ".join(columns.series)!r}: at most {MAX_SERIES:,} series, got '
      f'{len(names):,}; if the column numbers the rows, name another one with data.series'
    )
  # By series, then by time within each: rows of the file may be in any order.
  order = np.lexsort((moments.instants, series))
  moments = moments.take(order)
  try:
    frequency, moments = calendars.infer_frequency(moments, _starts(series[order]))
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
    times=moments,
    frequency=frequency,
    value=numbers[:, 0],
    covariates=numbers[:, 1:],
    columns=columns,
    notes=rows.notes,
  )


def _read_rows(data: bytes, what: str) -> Rows:
  """The rows of a CSV file."""
  if data.startswith(COMPRESSED):
    raise ConfigError(f'{what} is compressed: unpack it, and name the CSV file')
  try:
    # utf-8-sig: spreadsheets put a byte order mark in front of the header.
    text = data.decode('utf-8-sig')
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(reader, [])]
    numbered, line = [], reader.line_num
    for row in reader:
      # A row begins after the one before it; a quoted field may span several lines.
      numbered += [(line + 1, row)] if row else []
      line = reader.line_num
  except (UnicodeDecodeError, csv.Error) as error:
    raise ConfigError(
      f'cannot read {what} as a CSV file in UTF-8 ({error}); save it as one'
    ) from None
  if not numbered:
    raise ConfigError(f'{what} needs a header and one row for each value, got no rows')
  for line, row in numbered:
    if len(row) != len(header):
      raise ConfigError(
        f'{what}, line {line}: a row must have {len(header)} fields, as the header has, got '
        f'{len(row)}'
      )
  lines, fields = zip(*numbered, strict=True)
  columns, notes = list(zip(*fields, strict=True)), ()
  if INDEX_NAME.fullmatch(header[0]) and columns[0] == tuple(map(str, range(len(lines)))):
    notes = ('the first column, which numbers the rows, was left out',)
    header, columns = header[1:], columns[1:]
  _check_names(header, what)
  return Rows(lines, dict(zip(header, columns, strict=True)), delimiter != ',', notes)


def _delimiter(text: str) -> str:
  """The character between fields: a comma, or what the header has instead."""
  header = text.partition('\n')[0]
  return next((mark for mark in ',;\t' if mark in header), ',')


def _check_names(header: Sequence[str], what: str) -> None:
  """Raises ConfigError unless every column has a name of its own."""
  if all(re.fullmatch(r'[-+.\d][-+.,\deE]*', name) for name in header):
    raise ConfigError(
      f'{what}, line 1: must be a header with a name for each column, got only numbers '
      f'({listing(header)}); add one'
    )
  for name, number in collections.Counter(header).items():
    if not name:
      at = list(header).index(name) + 1
      raise ConfigError(f'{what}, line 1: column {at} has no name; name it, or remove it')
    if number > 1:
      raise ConfigError(
        f'{what}, line 1: {number} columns are called {name!r}; give each a name of its own'
      )


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
    hint = (
      f'; a file with several series needs a column {COLUMN_NAMES["series"][0]!r}, or data.series'
    )
  elif ':' in later:
    hint = '; if the clock changed to or from summer time, write times in UTC or with their zone'
  return (
    f'line {rows.lines[after]}: times must be evenly spaced, without gaps, but {in_series} '
    f'{later!r} comes after {earlier!r}{hint}'
  )


def _numbers(rows: Rows, name: str, what: str) -> Float[np.ndarray, 'rows']:
  """A column as finite numbers."""
  texts = rows.texts[name]
  # 1,5 is a number only where no number of the column has a point: 1,234.5 is ambiguous.
  comma = rows.decimal_comma and not any('.' in text for text in texts)
  # Text that is not a number stays NaN, which is refused below, like infinity.
  numbers = np.full(len(texts), np.nan)
  for i, text in enumerate(texts):
    with contextlib.suppress(ValueError):
      # Python would read 1_000 as a thousand.
      numbers[i] = float(text.replace(',', '.') if comma else text.replace('_', ' '))
    if not abs(numbers[i]) <= MAX_NUMBER:
      raise ConfigError(f'{what}, {rows.place(i, name)}: {_number_message(text, numbers[i])}')
  return numbers


def _number_message(text: str, number: float) -> str:
  """Why a text is not a number that can be used, and what to do."""
  if text.strip().lower() in MISSING:
    return (
      f'a value is missing ({text!r}); fill it in; a covariate can be left out (data.covariates)'
    )
  if not np.isnan(number):
    return f'a number must be at most {MAX_NUMBER:g} in size, got {text!r}'
  return (
    f'a value must be a number, got {text!r}; write categories as numbers; a covariate can be '
    'left out (data.covariates)'
  )
