"""Time series: forecasts of windows, drawn as samples and shown as plots or tables."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from common.data.sources import Source
from common.data.spec import DataSpec
from common.domains.base import Display, Domain, SampleSettings, TrainedModel
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
  """Draws of the values that follow the given part of each window.

  Attributes:
    names: the series of each window.
    past: the given values.
    truth: the values that followed.
    draws: the forecast values, drawn several times for each window.
  """

  names: tuple[str, ...]
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
    return Forecasts(*(part[:number] for part in self))


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

  def preview_request(self, spec, labelled, source):
    windows = Windows(spec, source, np.arange(min(WINDOWS, len(source))))
    return forecast_request(spec, windows.repeated(DRAWS))

  def evaluation_request(self, spec, indices, label, source, options):
    # One draw of each window, in turn: enough to count evaluations and seconds.
    return forecast_request(spec, source.gather(indices % len(source)), options)

  def preview_display(self, spec, x, request):
    batch = {'x': request.past, 'label': request.label}
    return Display(plot=picture(to_forecasts(spec, batch, x, DRAWS)))

  def evaluation_display(self, spec, drawn):
    if drawn.forecasts is None:
      return Display()
    return Display(plot=picture(drawn.forecasts.first(WINDOWS)))

  def describe(self, spec):
    return f'windows of {spec.shape[0] - spec.series.horizon} + {spec.series.horizon} steps'

  def sample(self, trained, settings, out):
    # A table holds all windows, a picture or an array only a few, unless --num says otherwise.
    default_num = None if out.suffix == '.csv' else WINDOWS
    windows = self._windows(trained, settings, default_num)
    forecasts = forecast(
      trained.method,
      trained.params,
      jax.random.key(settings.seed),
      windows,
      settings.flags.draws or DRAWS,
      options=settings.options,
    )
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
    return Windows(spec, source, indices[: flags.num or default_num])


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
  context = spec.shape[0] - spec.series.horizon
  # Rows i·draws ... (i + 1)·draws - 1 belong to window i: one of them gives its past and truth.
  values = np.asarray(batch['x'])[::draws, :, 0]
  names = tuple(spec.class_names[i] for i in np.asarray(batch['label'])[::draws])
  drawn = np.asarray(x)[:, context:, 0].reshape(len(values), draws, -1)
  return Forecasts(names, values[:, :context], values[:, context:], drawn)


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
  shown = min(context, 4 * horizon)  # a longer past would squeeze the forecast
  # Step 0 is the last given value; the line of the truth starts there, joined to the past.
  before, after = np.arange(-shown + 1, 1), np.arange(1, horizon + 1)
  panels = []
  for name, past, truth, levels in zip(
    forecasts.names,
    forecasts.past,
    forecasts.truth,
    forecasts.quantiles().swapaxes(0, 1),
    strict=True,
  ):
    panels.append(
      plots.Panel(
        title=name,
        lines={
          'past': plots.Series(before, past[-shown:]),
          'truth': plots.Series([0, *after], [past[-1], *truth]),
          'median': plots.Series(after, levels[2]),
        },
        bands={
          '90 %': (after, levels[0], levels[4]),
          '50 %': (after, levels[1], levels[3]),
        },
      )
    )
  return plots.panels(panels, columns, 'steps after the last given value')


def table(forecasts: Forecasts) -> str:
  """Quantiles as CSV: a row for each step of each window."""
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  names = (f'q{level:g}' for level in QUANTILE_LEVELS)
  writer.writerow(['window', 'series', 'step', 'truth', 'mean', *names])
  levels, means = forecasts.quantiles(), forecasts.draws.mean(1)
  for i, name in enumerate(forecasts.names):
    for step, truth in enumerate(forecasts.truth[i]):
      numbers = (truth, means[i, step], *levels[:, i, step])
      writer.writerow([i, name, step + 1, *(f'{float(number):.6g}' for number in numbers)])
  return buffer.getvalue()
