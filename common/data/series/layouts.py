"""Files with a column or a row for each series, as files with a row for each value."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from common.config import ConfigError
from common.data.series.columns import Columns, Rows, find_columns, is_missing, one_column

# What a row or a column of the file holds: a row a value ('long'), or each a series.
LAYOUTS = ('long', 'columns', 'rows')
SERIES, TIME, VALUE = 'series', 'time', 'value'  # the columns of the result
# The settings without an effect, with their defaults.
_ROLES = {'target': '', 'series': '', 'covariates': 'all', 'categories': '', 'observed': ''}
IGNORED = {'columns': _ROLES, 'rows': {'time': ''} | _ROLES}


class WideSeries(NamedTuple):
  """A series; and the line, the column, the time and the text of each of its values."""

  name: str
  lines: Sequence[int]
  fields: Sequence[str]
  times: Sequence[str]
  values: Sequence[str]


def long_rows(rows: Rows, what: str, settings: Mapping[str, Any]) -> tuple[Rows, Columns]:
  """The rows of a file in the layout `data.layout`, with a row for each value, and its columns.

  Missing values before the first value of a series and after its last one are left out, because
  series may have different lengths. Without a column of times, these are the numbers of the steps.

  Args:
    rows: the rows of the file.
    what: the file, for messages.
    settings: a config's `data` section.

  Raises:
    ConfigError: for settings that do not fit the file.
  """
  layout = settings.get('layout', 'long')
  if layout == 'long':
    return rows, find_columns(rows, what, settings)
  for role, default in IGNORED[layout].items():
    if settings.get(role, default) != default:
      raise ConfigError(f'data.{role}={settings[role]} has no effect with data.layout={layout}')
  names = tuple(rows.texts)
  time = None if layout == 'rows' else one_column(names, 'time', what, settings, required=False)
  found = _from_rows(rows) if layout == 'rows' else _from_columns(rows, time)
  lines, fields, labels, moments, values = [], [], [], [], []
  for one in found:
    filled = [i for i, text in enumerate(one.values) if not is_missing(text)]
    if not filled:
      raise ConfigError(
        f'{what}, {rows.line} {one.lines[0]}: series {one.name!r} has no values; remove it'
      )
    part = slice(filled[0], filled[-1] + 1)
    labels += [one.name] * (part.stop - part.start)
    for whole, its in zip((lines, fields, moments, values), one[1:], strict=True):
      whole += its[part]
  # The user's name of the column of times, unless another column has it.
  columns = Columns((SERIES,), TIME if time in (None, SERIES, VALUE) else time, VALUE)
  texts = {SERIES: labels, columns.time: moments, VALUE: values}
  return rows._replace(lines=lines, texts=texts, fields=fields), columns


def _from_columns(rows: Rows, time: str | None) -> Iterator[WideSeries]:
  """The series of a file with a column for each; `time` is the column of times, if it has one."""
  length = len(rows.lines)
  moments = rows.texts[time] if time else tuple(map(str, range(length)))
  for name, values in rows.texts.items():
    if name != time:
      yield WideSeries(name, rows.lines, (name,) * length, moments, values)


def _from_rows(rows: Rows) -> Iterator[WideSeries]:
  """The series of a file with a row for each, which begins with its name."""
  _, *fields = rows.texts
  steps = tuple(map(str, range(len(fields))))
  for line, name, *values in zip(rows.lines, *rows.texts.values(), strict=True):
    yield WideSeries(name, (line,) * len(values), fields, steps, values)
