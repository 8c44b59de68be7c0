"""The columns of a file of time series, and their roles.

A header is a contract: each name occurs once, and if two columns could have a role, a setting must
choose one.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from common.config import ConfigError, suggestion

COLUMN_NAMES = {  # in a user's file, in upper or lower case
  'series': ('series', 'series_id', 'item_id', 'unique_id', 'id'),
  'time': ('time', 'date', 'timestamp', 'ds'),
  'target': ('value', 'target', 'y'),
}
MISSING = ('', 'na', 'n/a', 'nan', 'null', 'none', '-', '?')
MAX_COVARIATES = 1_000
MAX_NAMED = 8  # columns that a message lists


class Columns(NamedTuple):
  """The roles of the columns of a file.

  Attributes:
    series: columns whose texts together name the series; empty if the file is one series.
    time, target: the columns of the time and of the value.
    covariates: columns of numbers.
    categories: columns of texts, or of numbers that are taken as names.
    observed: the covariates and categories that are known only afterwards, as the value is; the
      others are known in advance.
  """

  series: tuple[str, ...]
  time: str
  target: str
  covariates: tuple[str, ...] = ()
  categories: tuple[str, ...] = ()
  observed: tuple[str, ...] = ()


class Rows(NamedTuple):
  """The rows of a file, as text.

  Attributes:
    lines: the number of each row in the file, for messages.
    texts: the fields of each column, by name of the column.
    decimal_comma: whether numbers may have a decimal comma.
    notes: what was left out.
    fields: the column of the file that each row comes from, if a row of the file became several.
    line: what `lines` counts, for messages.
  """

  lines: Sequence[int]
  texts: Mapping[str, Sequence[str]]
  decimal_comma: bool = False
  notes: tuple[str, ...] = ()
  fields: Sequence[str] = ()
  line: str = 'line'

  def place(self, row: int, column: str) -> str:
    """The line and the column of a field, for messages."""
    field = self.fields[row] if self.fields else column
    return f'{self.line} {self.lines[row]}, column {field!r}'


def find_columns(rows: Rows, what: str, settings: Mapping[str, Any]) -> Columns:
  """The roles of the columns of a user's file, by the settings or else by their names.

  Covariates that hold only texts are categories, as are those that the settings name.

  Raises:
    ConfigError: a role has no column or several, or a column has several roles.
  """
  names = tuple(rows.texts)
  time, target = (one_column(names, role, what, settings) for role in ('time', 'target'))
  series = _series_columns(names, what, settings)
  others = tuple(name for name in names if name not in (time, target, *series))
  chosen = settings.get('covariates', 'all')
  covariates = {'all': others, 'none': ()}.get(chosen) if chosen not in names else None
  covariates = _listed(chosen) if covariates is None else covariates
  roles = [time, target, *series, *covariates]
  if twice := next((name for name in roles if roles.count(name) > 1), None):
    raise ConfigError(
      f'{what}: column {twice!r} has two roles in data.time, data.target, data.series and '
      'data.covariates; give it one'
    )
  if len(covariates) > MAX_COVARIATES:
    raise ConfigError(
      f'{what}: at most {MAX_COVARIATES:,} covariates, got {len(covariates):,}; list some of them '
      'in data.covariates, or set it to none'
    )
  named = _chosen(settings, 'categories', covariates, what)
  observed = _chosen(settings, 'observed', covariates, what)
  texts = {name for name in covariates if name in named or _holds_texts(rows, name)}
  numbers = tuple(name for name in covariates if name not in texts)
  return Columns(
    series, time, target, numbers, tuple(name for name in covariates if name in texts), observed
  )


def _chosen(
  settings: Mapping[str, Any], role: str, covariates: Sequence[str], what: str
) -> tuple[str, ...]:
  """The covariates that `data.ROLE` lists."""
  text = settings.get(role, '')
  names = (text,) if text in covariates else _listed(text)
  for name in names:
    if name not in covariates:
      known = listing(covariates) or 'none'
      raise ConfigError(
        f'{what}: data.{role} names {name!r}, which is no covariate; the covariates: {known}'
      )
  return names


def _holds_texts(rows: Rows, name: str) -> bool:
  """Whether a column has values, and none of them is a number."""
  filled = [text for text in set(rows.texts.get(name, ())) if not is_missing(text)]
  return bool(filled) and not any(map(_is_number, filled))


def is_missing(text: str) -> bool:
  """Whether a field stands for a missing value."""
  return text.strip().lower() in MISSING


def _is_number(text: str) -> bool:
  try:
    float(text.replace(',', '.'))
  except ValueError:
    return False
  return True


def _listed(names: str) -> tuple[str, ...]:
  return tuple(filter(None, (name.strip() for name in names.split(','))))


def one_column(
  names: Sequence[str], role: str, what: str, settings: Mapping[str, Any], required: bool = True
) -> str | None:
  """The column of a role: the one that `data.ROLE` names, or the only one with a known name.

  Raises:
    ConfigError: there are several, or none although one is required.
  """
  if settings.get(role):
    check_column(names, settings[role], what)
    return settings[role]
  found = [name for name in names if name.lower() in COLUMN_NAMES[role]]
  if len(found) > 1:
    raise ConfigError(
      f'{what}: each of the columns {" and ".join(map(repr, found))} could be the {role}; choose '
      f'one by data.{role}={found[0]}'
    )
  if not found and required:
    raise ConfigError(
      f'{what} needs a column for the {role}, called {" or ".join(COLUMN_NAMES[role])}, or named '
      f'by data.{role}, got {listing(names)}; a file with a column or a row for each series '
      'needs data.layout=columns or rows'
    )
  return found[0] if found else None


def _series_columns(
  names: Sequence[str], what: str, settings: Mapping[str, Any]
) -> tuple[str, ...]:
  """The columns that name the series; empty for a single series."""
  chosen = settings.get('series', '')
  if chosen in names:
    return (chosen,)
  if chosen:
    return () if chosen == 'none' else _listed(chosen)
  found = one_column(names, 'series', what, settings, required=False)
  return () if found is None else (found,)


def check_column(names: Collection[str], name: str, what: str) -> None:
  """Raises ConfigError unless the file has a column of this name."""
  if name not in names:
    raise ConfigError(f'{what} needs a column {name!r};{suggestion(name, names)}')


def listing(names: Sequence[str]) -> str:
  """The first of some names."""
  more = f', … ({len(names)} columns)' if len(names) > MAX_NAMED else ''
  return ', '.join(names[:MAX_NAMED]) + more
