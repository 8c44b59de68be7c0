"""Rows that are all combinations of several axes, and their cells with one axis across."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from common.config import ConfigError
from common.studies.plans import Row, Study


class Setting(NamedTuple):
  """What a value of an axis sets, as in a `Row`."""

  config: Mapping[str, Any] = {}
  sampling: Mapping[str, Any] = {}


# By name, the settings of each value of an axis.
Axis = Mapping[str, Setting]


def row_name(*values: str) -> str:
  """The name of the row of a combination of values."""
  return ', '.join(values)


def cross(*axes: Axis) -> tuple[Row, ...]:
  """A row for each combination of values, one of each axis; the last axis varies fastest.

  Raises:
    ConfigError: two axes set the same setting.
  """
  rows = []
  for values in itertools.product(*axes):
    settings = [axis[value] for axis, value in zip(axes, values, strict=True)]
    config = _joined([setting.config for setting in settings], values)
    sampling = _joined([setting.sampling for setting in settings], values)
    rows.append(Row(row_name(*values), config, sampling, at=values))
  return tuple(rows)


def _joined(parts: Sequence[Mapping[str, Any]], values: Sequence[str]) -> dict[str, Any]:
  joined: dict[str, Any] = {}
  for part, value in zip(parts, values, strict=True):
    for key in part:
      # 'sampler' is the whole component, and 'sampler.eta' a part of it.
      if any(f'{key}.'.startswith(f'{k}.') or f'{k}.'.startswith(f'{key}.') for k in joined):
        raise ConfigError(
          f'{value!r} sets {key}, which another axis sets too: a row would have one of the two'
        )
    joined |= part
  return joined


class Layout(NamedTuple):
  """The rows of a study that have a place on its axes, laid out as a table.

  Attributes:
    title: the axes, 'η by steps'.
    down: the names of the lines: the values of all axes but the last.
    across: the names of the columns: the values of the last axis.
    rows: by line and column, the name of the row.
  """

  title: str
  down: tuple[str, ...]
  across: tuple[str, ...]
  rows: Mapping[tuple[str, str], str]


def layout(study: Study) -> Layout | None:
  """The layout of a study's rows; None if it has fewer than two axes or one place."""
  placed = [row for row in study.shown if row.at]
  if len(study.axes) < 2 or len(placed) < 2:
    return None
  places = {(row_name(*row.at[:-1]), row.at[-1]): row.name for row in placed}
  down, across = (tuple(dict.fromkeys(names)) for names in zip(*places, strict=True))
  title = f'{row_name(*study.axes[:-1])} by {study.axes[-1]}'
  return Layout(title, down, across, places)


def laid_out(study: Study) -> tuple[str, ...]:
  """The metrics that are worth a layout: those with published cells, or else the first one."""
  published = {metric for _, metric in study.published}
  return tuple(m for m in study.metrics if m in published) or study.metrics[:1]
