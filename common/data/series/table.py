"""A table of time series, from a file or from arrays.

Rows of a file may be in any order. Missing values, and steps that are missing altogether, are NaN.
Every error names the line and the column that are wrong.
"""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from common.config import ConfigError
from common.data.series import calendars, frequencies, times
from common.data.series.columns import COLUMN_NAMES, Columns, Rows, check_column, is_missing
from common.data.series.files import read_rows
from common.data.series.layouts import long_rows

MAX_NUMBER = 1e300  # sums of larger numbers overflow float64
MAX_SERIES = 100_000
MAX_TEXTS = 1_000  # different texts in a column of categories


class Table(NamedTuple):
  """Several series, one after the other, each with one row for every step, in the order of time.

  Attributes:
    names: names of the series.
    lengths: number of rows of each series.
    times: the time of each row.
    frequency: the distance between rows of a series.
    value: the value of each row; NaN: missing.
    covariates: the numbers of each row, in the order of `columns.covariates`; NaN: missing.
    columns: the roles of the columns.
    notes: what was left out of the file, or filled.
    codes: the categories of each row, in the order of `columns.categories`: indices into `texts`;
      -1: missing. None: there are none.
    texts: the texts of each column of categories.
    future: number of rows at the end of each series that come after its last value: only their
      covariates are known. None: no such rows.
    test: number of steps at the end of each series, before these rows, that are the published test
      part. None: the split is ours.
    validation: the same for the steps before the test part. None: as many as for testing.
    season: number of steps after which the series tend to repeat, if it is published; None: that
      of the frequency.
    unit: what the values are measured in; '' if unknown.
  """

  names: tuple[str, ...]
  lengths: Int[np.ndarray, 'series']
  times: calendars.Timestamps
  frequency: calendars.Frequency
  value: Float[np.ndarray, 'rows']
  covariates: Float[np.ndarray, 'rows columns']
  columns: Columns
  notes: tuple[str, ...] = ()
  codes: Int[np.ndarray, 'rows categories'] | None = None
  texts: tuple[tuple[str, ...], ...] = ()
  future: Int[np.ndarray, 'series'] | None = None
  test: Int[np.ndarray, 'series'] | None = None
  validation: Int[np.ndarray, 'series'] | None = None
  season: int | None = None
  unit: str = ''

  @property
  def starts(self) -> Int[np.ndarray, 'series']:
    """The first row of each series."""
    return np.cumsum(self.lengths) - self.lengths

  @property
  def ends(self) -> Int[np.ndarray, 'series']:
    """Number of rows of each series up to its last value."""
    return self.lengths if self.future is None else self.lengths - self.future

  @property
  def period(self) -> int:
    """Number of steps after which the series tend to repeat."""
    return self.frequency.season if self.season is None else self.season


def table_of(
  names: Sequence[str],
  values: Sequence[Float[np.ndarray, '_']],
  frequency: calendars.Frequency,
  columns: Columns,
  first: Sequence[int] | None = None,
  style: str = '',
  **fields: Any,
) -> Table:
  """A table of series in arrays.

  Args:
    names: names of the series.
    values: the values of each, NaN where they are missing; training and test part joined.
    frequency: the distance between values.
    columns: the roles of the columns, for headers and axes.
    first: the time of the first value of each series, in `frequency.unit`; None: 0.
    style: how times are written (`calendars.Timestamps`); '' for steps.
    **fields: other attributes of the table.
  """
  lengths = np.array([len(value) for value in values])
  steps = np.concatenate([np.arange(length) for length in lengths])
  start = np.zeros(len(values), np.int64) if first is None else np.array(first)
  moments = np.repeat(start, lengths) + frequency.step * steps
  return Table(
    names=tuple(names),
    lengths=lengths,
    times=calendars.Timestamps(frequency.unit, moments, style),
    frequency=frequency,
    value=np.concatenate(values).astype(np.float64),
    **dict(covariates=np.zeros((len(steps), 0)), columns=columns) | fields,
  )


class _Parsed(NamedTuple):
  """The columns of a file, in its order of rows: numbers, the value first, and codes."""

  numbers: Float[np.ndarray, 'rows numbers']
  codes: Int[np.ndarray, 'rows categories']
  texts: tuple[tuple[str, ...], ...]


def read_table(
  data: bytes,
  what: str,
  roles: Columns | Mapping[str, Any] | None = None,
  frequency: str = '',
  values: bool = True,
) -> Table:
  """Reads a CSV or Parquet file.

  Args:
    data: contents of the file.
    what: the file, for messages.
    roles: the roles of the columns, or a config's `data` section, with the settings `target`,
      `time`, `series`, `covariates`, `categories`, `observed` and `layout`.
    frequency: the name of the frequency of the series to keep; '': they must have one in common.
    values: whether each series must have values; otherwise the file holds covariates, of which
      those are read that are known in advance, for all series together if it names none.

  Raises:
    ConfigError: for a file in another format, with the line and the column that are wrong.
  """
  rows = read_rows(data, what)
  if isinstance(roles, Columns):
    columns = roles
  else:
    rows, columns = long_rows(rows, what, roles or {})
  if not values:
    rows, columns = _without_values(rows, columns)
  known = (*columns.series, columns.time, columns.target, *columns.covariates, *columns.categories)
  for name in known:
    check_column(rows.texts, name, what)
  try:
    moments = times.parse_times(rows.texts[columns.time])
  except times.TimeError as error:
    at = [text.strip() for text in rows.texts[columns.time]].index(error.text)
    raise ConfigError(f'{what}, {rows.place(at, columns.time)}: {error}') from None
  names, series = np.unique(_series_of(rows, columns, what), return_inverse=True)
  if len(names) > MAX_SERIES:
    raise ConfigError(
      f'{what}, column {", ".join(columns.series)!r}: at most {MAX_SERIES:,} series, got '
      f'{len(names):,}; if the column numbers the rows, name another one with data.series'
    )
  # By series, then by time within each: rows of the file may be in any order.
  order = np.lexsort((moments.instants, series))
  series = series[order]
  try:
    regular = frequencies.infer_frequency(moments.take(order), _starts(series), frequency)
  except frequencies.UnevenTimesError as error:
    before, after = order[error.index - 1 : error.index + 1].tolist()
    in_series = f'in series {str(names[series[error.index]])!r}'
    raise ConfigError(
      f'{what}, {_uneven_message(rows, columns, before, after, in_series)}'
    ) from None
  except frequencies.FrequencyError as error:
    raise ConfigError(f'{what}: {_frequency_message(error.found, frequency)}') from None
  parsed = _parse(rows, columns, what)
  kept = regular.kept[series]
  chosen = _Parsed(parsed.numbers[order[kept]], parsed.codes[order[kept]], parsed.texts)
  table = _filled(names, series[kept], regular, chosen, columns)
  notes = rows.notes
  if left_out := int((~regular.kept).sum()):
    notes += (f'{left_out} series are not {frequency} and were left out',)
  if filled := len(table.value) - int(kept.sum()):
    notes += (f'{filled:,} steps that the file leaves out are missing values',)
  table = table._replace(notes=notes)
  return trimmed(table, what) if values else table._replace(future=table.lengths)


def _without_values(rows: Rows, columns: Columns) -> tuple[Rows, Columns]:
  """A file of covariates: it may have no column of values, and none that names series."""
  texts = dict(rows.texts)
  if not set(columns.series) <= texts.keys():
    columns = columns._replace(series=())
  ahead = [
    tuple(name for name in names if name in texts and name not in columns.observed)
    for names in (columns.covariates, columns.categories)
  ]
  columns = columns._replace(covariates=ahead[0], categories=ahead[1])
  nothing = {columns.target: ('',) * len(rows.lines)}
  return rows._replace(texts=texts | nothing), columns


def _filled(
  names: np.ndarray,
  series: Int[np.ndarray, 'kept'],
  regular: frequencies.Regular,
  parsed: _Parsed,
  columns: Columns,
) -> Table:
  """The table with a row for every step, of rows that are sorted by series and time.

  Args:
    names: names of all series.
    series: the series of each row that is kept.
    regular: the times of these rows.
    parsed: the columns of these rows.
    columns: their roles.
  """
  moments, step = regular.times, regular.frequency.step
  starts = np.flatnonzero(_starts(series))
  counts = np.diff(np.append(starts, len(series)))
  position = (moments.values - np.repeat(moments.values[starts], counts)) // step
  lengths = position[starts + counts - 1] + 1
  at = np.repeat(np.cumsum(lengths) - lengths, counts) + position
  numbers = np.full((lengths.sum(), parsed.numbers.shape[1]), np.nan)
  codes = np.full((lengths.sum(), parsed.codes.shape[1]), -1)
  numbers[at], codes[at] = parsed.numbers, parsed.codes
  table = table_of(
    names[series[starts]].tolist(),
    np.split(numbers[:, 0], np.cumsum(lengths)[:-1]),
    regular.frequency,
    columns,
    moments.values[starts].tolist(),
    moments.style,
  )
  return table._replace(covariates=numbers[:, 1:], codes=codes, texts=parsed.texts)


def trimmed(table: Table, what: str) -> Table:
  """The table without rows before the first value of a series; those after its last are future.

  Raises:
    ConfigError: a series has no values.
  """
  known = np.isfinite(table.value)
  keep, future = np.ones(len(known), bool), np.zeros(len(table.names), int)
  for i, (start, length) in enumerate(zip(table.starts, table.lengths, strict=True)):
    filled = np.flatnonzero(known[start : start + length])
    if not len(filled):
      raise ConfigError(f'{what}: series {table.names[i]!r} has no values; remove it')
    keep[start : start + filled[0]] = False
    future[i] = length - 1 - filled[-1]
  owner = np.repeat(np.arange(len(table.names)), table.lengths)
  return table._replace(
    lengths=np.bincount(owner[keep]),
    times=table.times.take(np.flatnonzero(keep)),
    value=table.value[keep],
    covariates=table.covariates[keep],
    codes=None if table.codes is None else table.codes[keep],
    future=future,
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
    f'{rows.line} {rows.lines[after]}: times must be whole steps apart, but {in_series} '
    f'{later!r} comes after {earlier!r}{hint}'
  )


def _frequency_message(found: Mapping[str, int], chosen: str) -> str:
  """Describes the frequencies of the series of a file."""
  counts = ', '.join(f'{name} ({number} series)' for name, number in found.items())
  if chosen:
    return f'data.frequency={chosen}: no series has this frequency; found {counts}'
  first = next(iter(found))
  return f'series have several frequencies: {counts}; keep one by data.frequency={first}'


def _parse(rows: Rows, columns: Columns, what: str) -> _Parsed:
  """The columns of numbers and of categories."""
  numbers = [_numbers(rows, name, what) for name in (columns.target, *columns.covariates)]
  empty = [np.zeros((0, len(rows.lines)), int)]
  codes, texts = empty, []
  for name in columns.categories:
    column = np.array([text.strip() for text in rows.texts[name]])
    known, inverse = np.unique(column, return_inverse=True)
    missing = np.array([is_missing(text) for text in known.tolist()])
    if (~missing).sum() > MAX_TEXTS:
      raise ConfigError(
        f'{what}, column {name!r}: at most {MAX_TEXTS:,} different texts are categories, got '
        f'{(~missing).sum():,}; leave it out (data.covariates)'
      )
    # Missing texts get -1, the others consecutive numbers.
    renumbered = np.where(missing, -1, np.cumsum(~missing) - 1)
    codes.append(renumbered[inverse][None])
    texts.append(tuple(known[~missing].tolist()))
  return _Parsed(np.stack(numbers, -1), np.concatenate(codes).T, tuple(texts))


def _numbers(rows: Rows, name: str, what: str) -> Float[np.ndarray, 'rows']:
  """A column as finite numbers, or NaN where a value is missing."""
  texts = rows.texts[name]
  # 1,5 is a number only where no number of the column has a point: 1,234.5 is ambiguous.
  comma = rows.decimal_comma and not any('.' in text for text in texts)
  numbers = np.full(len(texts), np.nan)
  for i, text in enumerate(texts):
    if is_missing(text):
      continue
    with contextlib.suppress(ValueError):
      # Python would read 1_000 as a thousand.
      numbers[i] = float(text.replace(',', '.') if comma else text.replace('_', ' '))
    # Text that is not a number is still NaN.
    if not abs(numbers[i]) <= MAX_NUMBER:
      raise ConfigError(f'{what}, {rows.place(i, name)}: {_number_message(text, numbers[i])}')
  return numbers


def _number_message(text: str, number: float) -> str:
  """Why a text is not a number that can be used, and what to do."""
  if not np.isnan(number):
    return f'a number must be at most {MAX_NUMBER:g} in size, got {text!r}'
  return (
    f'a value must be a number, got {text!r}; a covariate can be a name (data.categories), or be '
    'left out (data.covariates)'
  )
