"""A part of a study: some of its rows, and other seeds."""

import dataclasses
import re
from collections.abc import Collection, Sequence

from common.config import ConfigError
from common.studies.plans import Row, Study


def select(study: Study, only: str = '', seeds: Sequence[int] = ()) -> Study:
  """The study with some of its rows, and what they need: a first stage, members, the row of a try.

  Claims, published cells and what else names other rows are left out.

  Args:
    study: the study.
    only: a regular expression that the names of the rows match anywhere; '': all rows.
    seeds: seeds in the place of the study's; empty: those of the study.

  Raises:
    ConfigError: for an expression that is invalid or matches no row, and for seeds that are
      negative or occur twice.
  """
  if any(seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
    raise ConfigError(
      f'--seeds must be different whole numbers from 0, such as 0,1,2, got {list(seeds)}'
    )
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


def _matching(names: Collection[str], only: str) -> list[str]:
  """The names that match an expression."""
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
      left += [*row.ensemble, *filter(None, (row.first_stage, row.tries_of))]
  return found
