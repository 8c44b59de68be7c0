"""Time series: forecasts of windows, drawn as samples and shown as plots or tables."""

from collections.abc import Iterator, Mapping

import jax
import numpy as np

from common.data.spec import DataSpec
from common.domains.base import Domain, SampleFlags, SampleSettings, TrainedModel
from common.domains.display import Display
from common.domains.forecasts.draws import (
  BATCH_SIZE,
  Forecasts,
  Windows,
  drawn_values,
  forecast,
  forecast_request,
  joined,
)
from common.domains.forecasts.future import future_windows
from common.domains.forecasts.pictures import picture
from common.domains.forecasts.tables import table
from common.domains.labels import parse_label
from common.files import atomic_write
from common.reporting import pictures

WINDOWS, DRAWS = 6, 100  # windows that a plot shows, and draws of each
MAX_PANELS = 100  # windows in one picture


class SeriesDomain(Domain):
  """Windows, float32 [context + horizon, 1 + covariates]: the value, then its covariates.

  A class is a series. Forecasts are of the test split, or beyond the end of the series.
  """

  noun = 'time series'
  usage = 'whose windows are forecast'
  metrics = Domain.metrics | {
    *('crps', 'normalised_crps', 'quantile_loss', 'crps_sum', 'coverage'),
    *('normalised_deviation', 'smape', 'mape', 'mase', 'owa'),
    *('standardised_mse', 'standardised_mae'),
  }
  flags: Mapping[str, str] = {
    'num': 'number of windows (6; all for a .csv)',
    'label': 'the series to forecast, by name or number (default: all)',
    'draws': 'number of draws of each forecast (100)',
    'horizon': 'number of steps to forecast beyond the end of the data (default: the test split)',
    'on': 'another file with the same columns, to forecast beyond its end',
    'future': 'file with the covariates that are known in advance, for forecasts beyond the end',
    'all_draws': 'whether a .csv has a column for each draw',
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
    drawn = drawn_values(data.spec, x).reshape(len(windows.indices), DRAWS, -1)
    return Display(plot=picture(windows.forecasts(drawn)))

  def evaluation_display(self, spec, drawn):
    if drawn.forecasts is None:
      return Display()
    return Display(plot=picture(drawn.forecasts))

  def describe(self, spec):
    return f'windows of {spec.shape[0] - spec.series.horizon} + {spec.series.horizon} steps'

  def check_flags(self, spec, flags, out):
    super().check_flags(spec, flags, out)
    if out is not None and out.suffix == '.png' and (flags.num or 1) > MAX_PANELS:
      raise ValueError(
        f'--num={flags.num}: a picture has at most {MAX_PANELS} windows; write a .csv or a .npy'
      )
    if flags.all_draws and out is not None and out.suffix != '.csv':
      raise ValueError(f'--all_draws is for a .csv, got --out={out}: remove the flag')

  def first_request(self, trained, settings):
    windows = self._windows(trained, settings, BATCH_SIZE)
    return forecast_request(windows.spec, windows.repeated(1), settings.options)

  def draw(self, trained, settings):
    """`Forecasts` of the windows."""
    return joined(self._blocks(trained, settings, self._windows(trained, settings, WINDOWS)))

  def sample(self, trained, settings, out):
    # A table holds all windows, a picture or an array only a few, unless --num says otherwise.
    windows = self._windows(trained, settings, None if out.suffix == '.csv' else WINDOWS)
    blocks = self._blocks(trained, settings, windows)
    if out.suffix == '.csv':
      atomic_write(out, table(blocks, bool(settings.flags.all_draws)))
    elif out.suffix == '.npy':
      pictures.save_array(out, joined(blocks).draws)
    else:
      pictures.save_png(out, picture(joined(blocks)))
    horizon, flags = windows.spec.series.horizon, settings.flags
    place = 'beyond the end of the data' if _is_beyond(flags) else 'of the test split'
    return (
      f'{len(windows.indices)} × {horizon} steps {place}, {flags.draws or DRAWS} draws from step '
      f'{trained.step}, in {out}{_remarks(trained.data.spec, windows)}'
    )

  def _blocks(
    self, trained: TrainedModel, settings: SampleSettings, windows: Windows
  ) -> Iterator[Forecasts]:
    """Forecasts of the windows, some at a time."""
    return forecast(
      trained.method,
      trained.params,
      jax.random.key(settings.seed),
      windows,
      settings.flags.draws or DRAWS,
      options=settings.options,
    )

  def _windows(
    self, trained: TrainedModel, settings: SampleSettings, default_num: int | None
  ) -> Windows:
    """The windows that the flags select; without --num, `default_num` or all."""
    flags, data = settings.flags, trained.data
    if _is_beyond(flags):
      windows = future_windows(data, flags.horizon, flags.on, flags.future)
    else:
      source = data.splits['test']
      windows = Windows(data.spec, source, np.arange(len(source)))
    spec, source, indices = windows
    chosen = source.gather(indices)
    series = chosen.get('series', chosen['label'])
    label = None if flags.label is None else parse_label(flags.label, 1, spec)
    if label is not None:
      indices = indices[series == int(label[0])]
    # A split is stored in random order; those that are shown are in the order of series and time.
    indices = indices[: flags.num or default_num]
    order = np.lexsort((chosen['start'][indices], series[indices]))
    return Windows(spec, source, indices[order])


def _is_beyond(flags: SampleFlags) -> bool:
  """Whether the flags ask for a forecast beyond the end of the data."""
  return any(value is not None for value in (flags.horizon, flags.on, flags.future))


def _remarks(spec: DataSpec, windows: Windows) -> str:
  """What a user should know about the forecasts of these windows."""
  horizon, trained = windows.spec.series.horizon, spec.series.horizon
  remarks = ''
  if horizon > trained:
    remarks += (
      f'; steps {trained + 1} to {horizon} extrapolate: the model was trained on {trained}, and '
      'continues step by step from its own draws'
    )
  new = int((windows.source.gather(windows.indices)['label'] >= spec.num_classes).sum())
  if new:
    remarks += f'; {new} series are not in the training data: forecast without a class'
  return remarks
