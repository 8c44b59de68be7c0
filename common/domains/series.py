"""Time series: forecasts of windows, drawn as samples and shown as plots or tables."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from common.data import times
from common.data.sources import Source
from common.data.spec import DataSpec, SeriesSpec
from common.domains.base import Domain, SampleSettings, TrainedModel
from common.domains.display import Display
from common.domains.labels import parse_label
from common.files import atomic_write
from common.method import Method, PyTree, Request
from common.reporting import pictures, plots

QUANTILE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # the median and the 50 % and 90 % intervals
WINDOWS, DRAWS = 6, 100  # windows that a plot shows, and draws of each
BATCH_SIZE = 500  # draws in one call of the sampler


class Windows(NamedTuple):
  """Windows of a split that are to be forecast.

  Attributes:
    spec: the data.
    source: the split.
    indices: indices of the windows in the split.
  """

  spec: DataSpec
  source: Source
  indices: Int[np.ndarray, 'windows']

  def repeated(self, draws: int) -> dict[str, np.ndarray]:
    """A batch in which each window is repeated `draws` times in a row."""
    return self.source.gather(np.repeat(self.indices, draws))


class Forecasts(NamedTuple):
  """Draws of the values that follow the given part of each window, as raw values in float64.

  Attributes:
    series: the description of the windows.
    label: the series of each window, as a class.
    names: their names.
    times: the times of all steps of each window.
    past: the given values.
    truth: the values that followed.
    draws: the forecast values, drawn several times for each window.
  """

  series: SeriesSpec
  label: Int[np.ndarray, 'windows']
  names: tuple[str, ...]
  times: Int[np.ndarray, 'windows length']
  past: Float[np.ndarray, 'windows context']
  truth: Float[np.ndarray, 'windows horizon']
  draws: Float[np.ndarray, 'windows draws horizon']

  def quantiles(
    self, levels: Sequence[float] = QUANTILE_LEVELS
  ) -> Float[np.ndarray, 'levels windows horizon']:
    """Quantiles of the draws, for each step separately."""
    return np.quantile(self.draws, levels, axis=1)

  def first(self, number: int) -> 'Forecasts':
    """The forecasts of the first `number` windows."""
    return Forecasts(self.series, *(part[:number] for part in self[1:]))


class SeriesDomain(Domain):
  """Windows, float32 [context + horizon, 1 + covariates]: the value, then its covariates.

  A covariate is known in advance, so it is given over the horizon too. A class is a series.
  """

  noun = 'time series'
  usage = 'whose windows are forecast'
  metrics = Domain.metrics | {'crps', 'normalised_crps'}
  flags: Mapping[str, str] = {
    'num': 'number of windows of the test split (6; all for a .csv)',
    'label': 'the series to forecast, by name or number (default: all)',
    'draws': 'number of draws of each forecast (100)',
  }
  suffixes = ('.png', '.npy', '.csv')
  unit = 'windows'

  def preview_request(self, spec, labelled, source):
    windows = Windows(spec, source, np.arange(min(WINDOWS, len(source))))
    return forecast_request(spec, windows.repeated(DRAWS))

  def evaluation_request(self, spec, indices, label, source, options):
    # One draw of each window, in turn: enough to count evaluations and seconds.
    return forecast_request(spec, source.gather(indices % len(source)), options)

  def preview_display(self, data, x, request):
    source = data.splits['validation']  # of which `preview_request` asks for the first windows
    windows = Windows(data.spec, source, np.arange(min(WINDOWS, len(source))))
    return Display(plot=picture(to_forecasts(data.spec, windows.repeated(DRAWS), x, DRAWS)))

  def evaluation_display(self, spec, drawn):
    if drawn.forecasts is None:
      return Display()
    return Display(plot=picture(drawn.forecasts.first(WINDOWS)))

  def describe(self, spec):
    return f'windows of {spec.shape[0] - spec.series.horizon} + {spec.series.horizon} steps'

  def draw(self, trained, settings):
    """`Forecasts` of the windows."""
    return self._forecasts(trained, settings, WINDOWS)

  def sample(self, trained, settings, out):
    # A table holds all windows, a picture or an array only a few, unless --num says otherwise.
    forecasts = self._forecasts(trained, settings, None if out.suffix == '.csv' else WINDOWS)
    if out.suffix == '.csv':
      atomic_write(out, table(forecasts))
    elif out.suffix == '.npy':
      pictures.save_array(out, forecasts.draws)
    else:
      pictures.save_png(out, picture(forecasts))
    number, draws, horizon = forecasts.draws.shape
    return (
      f'{number} × {horizon} steps of the test split, {draws} draws from step {trained.step}, '
      f'in {out}'
    )

  def _forecasts(
    self, trained: TrainedModel, settings: SampleSettings, default_num: int | None
  ) -> Forecasts:
    """Forecasts of the windows that the flags select; without --num, `default_num` or all."""
    return forecast(
      trained.method,
      trained.params,
      jax.random.key(settings.seed),
      self._windows(trained, settings, default_num),
      settings.flags.draws or DRAWS,
      options=settings.options,
    )

  def _windows(
    self, trained: TrainedModel, settings: SampleSettings, default_num: int | None
  ) -> Windows:
    """The windows of the test split that the flags select; without --num, `default_num` or all."""
    flags, spec = settings.flags, trained.data.spec
    source = trained.data.splits['test']
    indices = np.arange(len(source))
    label = None if flags.label is None else parse_label(flags.label, 1, spec)
    if label is not None:
      indices = indices[source.gather(indices)['label'] == int(label[0])]
    # A split is stored in random order; those that are shown are in the order of series and time.
    indices = indices[: flags.num or default_num]
    chosen = source.gather(indices)
    return Windows(spec, source, indices[np.lexsort((chosen['start'], chosen['label']))])


def forecast_request(
  spec: DataSpec, batch: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> Request:
  """A request for one draw of each window of a batch.

  The values before the horizon and all covariates are given.
  """
  mask = np.ones(spec.shape, bool)
  mask[-spec.series.horizon :, 0] = False  # column 0 holds the values, the others the covariates
  return Request(len(batch['x']), batch['label'], batch['x'], mask, options or {})


def to_forecasts(spec: DataSpec, batch: Mapping[str, Any], x: np.ndarray, draws: int) -> Forecasts:
  """Forecasts from the samples of `forecast_request` for a batch from `Windows.repeated`."""
  series, length = spec.series, spec.shape[0]
  context = length - series.horizon
  # Rows i·draws ... (i + 1)·draws - 1 belong to window i: one of them gives its past and truth.
  stored, label, start = (np.asarray(batch[key])[::draws] for key in ('x', 'label', 'start'))
  values = series.raw(stored[..., 0], label)
  drawn = np.asarray(x)[:, context:, 0].reshape(len(values), draws, -1)
  return Forecasts(
    series,
    label,
    tuple(spec.class_names[i] for i in label),
    series.times(start, label, length),
    values[:, :context],
    values[:, context:],
    series.raw(drawn, label),
  )


def forecast(
  method: Method,
  params: PyTree,
  key: Key[Array, ''],
  windows: Windows,
  draws: int,
  batch_size: int = BATCH_SIZE,
  options: Mapping[str, Any] | None = None,
) -> Forecasts:
  """Draws forecasts of windows of a split.

  Args:
    method, params: the model.
    key: determines all random numbers.
    windows: what to forecast.
    draws: number of draws of each window.
    batch_size: draws in one call of the sampler: more are faster but need more memory.
    options: sampler settings that replace those of the config.
  """
  batch = windows.repeated(draws)
  total, x = len(batch['x']), []
  batch_size = min(batch_size, total)
  for call, start in enumerate(range(0, total, batch_size)):
    # The last call repeats its last row: all calls have one shape, so the sampler compiles once.
    part = np.minimum(start + np.arange(batch_size), total - 1)
    request = forecast_request(windows.spec, {k: v[part] for k, v in batch.items()}, options)
    x.append(np.asarray(method.draw(params, jax.random.fold_in(key, call), request).x))
  return to_forecasts(windows.spec, batch, np.concatenate(x)[:total], draws)


def picture(forecasts: Forecasts, columns: int = 2) -> UInt8[np.ndarray, 'height width 3']:
  """A panel for each window: past, truth, the median, and the 50 % and 90 % intervals."""
  context, horizon = forecasts.past.shape[1], forecasts.truth.shape[1]
  begin = max(context - 4 * horizon, 0)  # a longer past would squeeze the forecast
  clock, panels = forecasts.series.clock, []
  for name, moments, past, truth, levels in zip(
    forecasts.names,
    forecasts.times,
    forecasts.past,
    forecasts.truth,
    forecasts.quantiles().swapaxes(0, 1),
    strict=True,
  ):
    (begins,) = times.format_times(clock.unit, clock.style, moments[context : context + 1])
    if clock.unit != 'step':
      moments = np.array(times.moments_of(clock.unit, moments), 'datetime64[s]')
    after = moments[context:]
    panels.append(
      plots.Panel(
        title=f'{name}\nfrom {begins}',
        lines={
          'given': plots.Series(moments[begin:context], past[begin:]),
          # From the last given value on, so that the lines are joined.
          'truth': plots.Series(moments[context - 1 :], [past[-1], *truth]),
          'median of the forecast': plots.Series(after, levels[2]),
        },
        bands={
          '90 % interval': (after, levels[0], levels[4]),
          '50 % interval': (after, levels[1], levels[3]),
        },
      )
    )
  return plots.panels(panels, columns, forecasts.series.time, forecasts.series.value)


def table(forecasts: Forecasts) -> str:
  """Quantiles as CSV: a row for each step of each window.

  Times are written as in the data. A number has the fewest digits that tell it from its neighbours
  in float32 of the stored values.
  """
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  names = tuple(f'q{level:g}' for level in QUANTILE_LEVELS)
  series, horizon = forecasts.series, forecasts.truth.shape[1]
  before, after = ('window', 'series', 'step'), ('truth', 'mean', *names)
  # The user's name of the column, unless another column has it.
  time = 'time' if series.time in (*before, *after) else series.time
  writer.writerow([*before, time, *after])
  columns = np.stack([forecasts.truth, forecasts.draws.mean(1), *forecasts.quantiles()], -1)
  tolerance = _resolution(series, columns, forecasts.label)
  for i, name in enumerate(forecasts.names):
    moments = times.format_times(
      series.clock.unit, series.clock.style, forecasts.times[i, -horizon:]
    )
    for step, moment in enumerate(moments):
      numbers = map(shortest, columns[i, step].tolist(), tolerance[i, step].tolist())
      writer.writerow([i, name, step + 1, moment, *numbers])
  return buffer.getvalue()


def _resolution(
  series: SeriesSpec,
  raw: Float[np.ndarray, 'windows *steps'],
  label: Int[np.ndarray, 'windows'],
) -> Float[np.ndarray, 'windows *steps']:
  """Half the distance between neighbouring stored values, in raw units."""
  # 0 and 1 of the stored scale as raw values are the origin and the origin plus a unit.
  zero, one = (series.raw(np.full(raw.shape, each), label) for each in (0.0, 1.0))
  # float32 has 24 digits; a little more, for the rounding of this arithmetic in float64.
  half = 1.001 * 2.0**-24
  return half * np.maximum(np.abs(raw - zero), 1e-6 * np.abs(one - zero))


def shortest(number: float, tolerance: float) -> str:
  """A number with the fewest digits that are within a tolerance of it."""
  for digits in range(1, 18):  # 17 digits tell all numbers of float64 apart
    text = f'{number:.{digits}g}'
    if abs(float(text) - number) <= tolerance:
      break
  # 1123450 and not 1.12345e+06, where it is not much longer.
  short = 'e' not in text or not 1e-6 < abs(number) < 1e16
  return text if short else np.format_float_positional(float(text), trim='-')
