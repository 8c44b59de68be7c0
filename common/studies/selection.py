"""A part of a study: some of its rows, and other seeds."""

import dataclasses
import pathlib
import re
from collections.abc import Collection, Sequence

from common.config import ConfigError
from common.studies.plans import Row, Study

MAX_NAME = 80  # characters of a folder


def select(study: Study, only: str = '', seeds: Sequence[int] = ()) -> Study:
  """The study with some of its rows, and the rows that those need.

  A row needs its first stage, its members, its tries, and the row that it is a try of. Claims about
  other rows and their published cells are left out.

  Args:
    study: the study.
    only: the name of a row, or a regular expression that names match anywhere; '': all rows.
    seeds: seeds in the place of the study's; empty: those of the study.

  Raises:
    ConfigError: for an expression that is invalid or matches no row.
  """
  chosen = dataclasses.replace(study, seeds=tuple(seeds) or study.seeds)
  if not only:
    return chosen
  rows = {row.name: row for row in study.rows}
  names = _with_needed(_matching(rows, only), rows)
  kept = tuple(row for row in study.rows if row.name in names)
  return dataclasses.replace(
    chosen,
    rows=kept,
    claims=tuple(c for c in study.claims if all(row in names for row, _ in c.cells())),
    published={cell: value for cell, value in study.published.items() if cell[0] in names},
    about=f'{study.about} Here only the rows of --only={only}.'.strip(),
  )


def folder_of(workdir: pathlib.Path, only: str, seeds: Sequence[int]) -> pathlib.Path:
  """Where the tables of a part stand: beside those of the whole study, which stay as they are."""
  if not (only or seeds):
    return workdir
  name = '-'.join([only, *(f'seeds {" ".join(map(str, seeds))}',) * bool(seeds)])
  return workdir / 'parts' / (re.sub(r'[^\w.,+-]+', '_', name).strip('_-.') or 'part')[:MAX_NAME]


def _matching(names: Collection[str], only: str) -> list[str]:
  """The row of that name, or the names that match an expression."""
  if only in names:
    return [only]
  try:
    found = [name for name in names if re.search(only, name)]
  except re.error as error:
    raise ConfigError(f'--only={only!r} must be a regular expression: {error}') from None
  if not found:
    raise ConfigError(f'--only={only!r} matches no row; rows: {"; ".join(names)}')
  return found


def _with_needed(names: Sequence[str], rows: dict[str, Row]) -> set[str]:
  """The names, and those of the rows without which they cannot be measured."""
  found, left = set(), list(names)
  while left:
    name = left.pop()
    if name not in found and name in rows:  # `plans.plan` refuses a name that is no row
      found.add(name)
      row = rows[name]
      left += [other.name for other in rows.values() if other.tries_of == name]
      left += [*row.ensemble, *filter(None, (row.first_stage, row.tries_of))]
  return found
