"""Windows whose horizons begin after the last value of a series: of the run's, or of a file's."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from common.data.pipeline import Data
from common.data.series import calendars, encoding, times
from common.data.series.files import read_file
from common.data.series.layouts import TIME
from common.data.series.table import Table, read_table
from common.data.series.windows import FUTURE
from common.data.sources import GivenSource
from common.data.spec import DataSpec, SeriesSpec
from common.domains.forecasts.draws import Windows


def future_windows(
  data: Data, horizon: int | None = None, on: str | None = None, future: str | None = None
) -> Windows:
  """The last values of each series, each followed by a horizon of steps to forecast.

  Args:
    data: the data of the run.
    horizon: number of steps to forecast; None: as many as in training.
    on: path of another file with the same columns, whose series are forecast instead.
    future: path of a file with the covariates that are known in advance.

  Raises:
    ValueError: a file is not like that of the run, or does not continue the series; or covariates
      are missing for the steps to forecast.
  """
  horizon = horizon or data.spec.series.horizon
  windows = _of_split(data, horizon) if on is None else _of_file(data.spec, on, horizon)
  if future is not None:
    windows = _with_covariates(windows, future)
  _check_covariates(windows)
  return windows


def _of_split(data: Data, horizon: int) -> Windows:
  """Windows of the series of the run; covariates as far as its file has them."""
  if FUTURE not in data.splits:
    raise ValueError('these data have no series to continue; prepare them again, or give --on=FILE')
  source, series = data.splits[FUTURE], data.spec.series
  batch = source.gather(np.arange(len(source)))
  batch = {key: array[np.argsort(batch['label'])] for key, array in batch.items()}
  spec = _with_horizon(data.spec, horizon)
  stored, context = batch['x'], data.spec.shape[0] - series.horizon
  x = np.full((len(stored), *spec.shape), np.nan, np.float32)
  shared = context + min(horizon, series.horizon)
  x[:, :shared] = stored[:, :shared]
  for column in _static_columns(series):
    # Known for every step, so also for the last given one.
    x[:, context:, column] = stored[:, context - 1, None, column]
  features = _time_features(spec.series, batch['start'], batch['label'], x.shape[1])
  x[..., _feature_columns(series)] = features
  arrays = {'x': x, 'label': batch['label'], 'series': batch['label'], 'start': batch['start']}
  return Windows(spec, GivenSource(arrays), np.arange(len(x)))


def _with_horizon(spec: DataSpec, horizon: int, **series: Any) -> DataSpec:
  """The description of windows with another horizon, and other attributes of the series."""
  shape = (spec.shape[0] - spec.series.horizon + horizon, spec.shape[1])
  replaced = dataclasses.replace(spec.series, horizon=horizon, **series)
  return dataclasses.replace(spec, shape=shape, series=replaced)


def _static_columns(series: SeriesSpec) -> list[int]:
  """The columns of windows that are the same in all steps of a series."""
  return [column for name, column in _columns_by_name(series).items() if name in series.static]


def _columns_by_name(series: SeriesSpec) -> dict[str, int]:
  """The columns of windows that come from the file, besides the value."""
  first = 1 + len(series.covariates)
  categories = {name: first + i for i, name in enumerate(series.columns.categories)}
  return {name: 1 + i for i, name in enumerate(series.columns.covariates)} | categories


def _feature_columns(series: SeriesSpec) -> slice:
  """The columns of windows that depend only on the time."""
  return slice(1 + len(series.columns.covariates), 1 + len(series.covariates))


def _time_features(
  series: SeriesSpec,
  start: Int[np.ndarray, 'windows'],
  label: Int[np.ndarray, 'windows'],
  length: int,
) -> Float[np.ndarray, 'windows length features']:
  """The features of the times of windows."""
  steps, clock = start[:, None] + np.arange(length), series.clock
  moments = series.times(start, label, length).reshape(-1)
  features = calendars.time_features(
    calendars.Timestamps(clock.unit, moments),
    calendars.Frequency(clock.unit, clock.step),
    np.maximum(steps, 0).reshape(-1),
  )
  return features.reshape(*steps.shape, -1)


def _of_file(spec: DataSpec, path: str, horizon: int) -> Windows:
  """Windows at the ends of the series of another file."""
  table = _read(spec.series, path, '--on')
  series, context = spec.series, spec.shape[0] - spec.series.horizon
  if series.counts and not encoding.is_counts(table.value):
    raise ValueError(
      f'--on={path}: the values of the run are whole numbers from 0, those of the file are not'
    )
  levels = [_levels(spec, table, i) for i in range(len(table.names))]
  stored = encoding.Encoding(
    counts=series.counts,
    means=series.means,
    deviations=series.deviations,
    texts=series.categories,
    static=tuple(set(series.static) & set(encoding.static_columns(table))),
  )
  rows = encoding.SeriesRows(table, stored, levels)
  windows = [rows.rows(i, context, horizon) for i in range(len(table.names))]
  # Row `context` of these is the first step of the series.
  x = [part[end : end + context + horizon] for part, end in zip(windows, table.ends, strict=True)]
  # From here on, series are numbered as in the file.
  made = _with_horizon(
    spec,
    horizon,
    origins=() if series.counts else tuple(level.origin for level in levels),
    units=() if series.counts else tuple(level.unit for level in levels),
    first=tuple(table.times.values[table.starts].tolist()),
    clock=series.clock._replace(style=table.times.style),
  )
  classes = {name: label for label, name in enumerate(spec.class_names)}
  labels = [classes.get(name, spec.num_classes) for name in table.names]
  return Windows(
    dataclasses.replace(made, class_names=table.names),
    GivenSource(
      {
        'x': np.stack(x),
        'label': np.array(labels, np.int32),
        'series': np.arange(len(x), dtype=np.int32),
        'start': (table.ends - context).astype(np.int32),
      }
    ),
    np.arange(len(x)),
  )


def _levels(spec: DataSpec, table: Table, i: int) -> encoding.Levels:
  """The origin and the unit of a series of another file; those of training if it is known."""
  series, name = spec.series, table.names[i]
  if series.counts:
    return encoding.Levels()
  if name in spec.class_names:
    known = spec.class_names.index(name)
    return encoding.Levels(series.origins[known], series.units[known])
  return encoding.levels_of(table, i, int(table.ends[i]))


def _read(series: SeriesSpec, path: str, flag: str, values: bool = True) -> Table:
  """A file with the columns of the run's; of several frequencies, the series with the run's."""
  place = pathlib.Path(path).expanduser()
  roles: Any = series.columns
  if values and series.layout != 'long':
    time = series.columns.time if series.columns.time != TIME else ''
    roles = {'layout': series.layout} | ({'time': time} if time else {})
  frequency = calendars.Frequency(series.clock.unit, series.clock.step).name
  return read_table(read_file(place, flag), str(place), roles, frequency, values)


def _with_covariates(windows: Windows, path: str) -> Windows:
  """The windows with the covariates of a file in the steps to forecast."""
  spec, series = windows.spec, windows.spec.series
  table = _read(series, path, '--future', values=False)
  columns = _columns_by_name(series)
  names = table.columns.covariates + table.columns.categories
  if not names:
    known = [name for name in columns if name not in series.columns.observed]
    wanted = ', '.join(known) or 'the run has none'
    raise ValueError(f'--future={path} has no covariate that is known in advance: {wanted}')
  batch = windows.source.gather(windows.indices)
  x, context = batch['x'].copy(), spec.shape[0] - series.horizon
  moments = series.times(batch['start'], batch['series'], spec.shape[0])[:, context:]
  for window, number in enumerate(batch['series'].tolist()):
    name = spec.class_names[number]
    rows = _rows_of(table, series, name, moments[window], path)
    for covariate, column in enumerate(table.columns.covariates):
      place = series.columns.covariates.index(column)
      raw = table.covariates[rows, covariate]
      x[window, context:, columns[column]] = (raw - series.means[place]) / series.deviations[place]
    for category, column in enumerate(table.columns.categories):
      known = series.categories[series.columns.categories.index(column)]
      numbers = [_code(known, text) for text in table.texts[category]] + [np.nan]
      # The last number is that of a missing text, whose code is -1.
      x[window, context:, columns[column]] = np.array(numbers)[table.codes[rows, category]]
  return windows._replace(source=GivenSource(batch | {'x': x}), indices=np.arange(len(x)))


def _code(known: Sequence[str], text: str) -> int:
  """The code of a text: 0 if training has not seen it."""
  return known.index(text) + 1 if text in known else 0


def _rows_of(
  table: Table, series: SeriesSpec, name: str, moments: Int[np.ndarray, 'horizon'], path: str
) -> slice:
  """The rows of a file of covariates at the steps to forecast of a series.

  Raises:
    ValueError: the file has no such series, or not all of these steps.
  """
  if not table.columns.series:
    number = 0
  elif name in table.names:
    number = table.names.index(name)
  else:
    raise ValueError(f'--future={path} has no rows of series {name!r}')
  start, length = int(table.starts[number]), int(table.lengths[number])
  first, last = table.times.values[[start, start + length - 1]].tolist()
  skipped, rest = divmod(int(moments[0]) - first, series.clock.step)
  if rest or skipped < 0 or skipped + len(moments) > length:
    clock = series.clock
    wanted = times.format_times(clock.unit, clock.style, moments[[0, -1]])
    found = times.format_times(clock.unit, clock.style, np.array([first, last]))
    raise ValueError(
      f'--future={path} does not continue series {name!r}: its forecast is from {wanted[0]} to '
      f'{wanted[1]}, the file has {found[0]} to {found[1]}'
    )
  return slice(start + skipped, start + skipped + len(moments))


def _check_covariates(windows: Windows) -> None:
  """Raises ValueError if a covariate that is known in advance is missing for a step to forecast."""
  series = windows.spec.series
  batch = windows.source.gather(windows.indices)
  ahead = batch['x'][:, -series.horizon :]
  for name, column in _columns_by_name(series).items():
    missing = np.argwhere(np.isnan(ahead[..., column]))
    if name in series.columns.observed or not len(missing):
      continue
    window, step = missing[0]
    start, number = batch['start'][[window]], batch['series'][[window]]
    moment = series.times(start, number, windows.spec.shape[0])[0, step - series.horizon]
    (when,) = times.format_times(series.clock.unit, series.clock.style, np.array([moment]))
    raise ValueError(
      f'the forecast of series {windows.spec.class_names[int(number[0])]!r} needs {name!r} at '
      f'{when}: give it by --future=FILE, or in rows without a value at the end of the file; or '
      f'train with data.observed={name}'
    )
