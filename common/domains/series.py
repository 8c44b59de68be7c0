"""Time series: forecasts of windows, drawn as samples and shown as plots or tables."""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from common.data.series import times
from common.data.sources import Source
from common.data.spec import DataSpec, SeriesSpec
from common.domains.base import Domain, SampleSettings, TrainedModel
from common.domains.display import Display
from common.domains.labels import parse_label
from common.files import atomic_write
from common.method import Method, PyTree, Request
from common.reporting import pictures, plots

QUANTILE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # the median and the 50 % and 90 % intervals
QUANTILE_NAMES = tuple(f'q{level:g}' for level in QUANTILE_LEVELS)
WINDOWS, DRAWS = 6, 100  # windows that a plot shows, and draws of each
MAX_PANELS = 100  # windows in one picture
BATCH_SIZE = 500  # draws in one call of the sampler


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

  def part(self, start: int, end: int) -> 'Windows':
    """The windows from number `start` to number `end` - 1."""
    return self._replace(indices=self.indices[start:end])

  def forecasts(self, drawn: Float[np.ndarray, 'windows draws horizon']) -> Forecasts:
    """Forecasts from the stored values that were drawn for each window."""
    return to_forecasts(self.spec, self.source.gather(self.indices), drawn)


class SeriesDomain(Domain):
  """Windows, float32 [context + horizon, 1 + covariates]: the value, then its covariates.

  A covariate is known in advance, so it is given over the horizon too. A class is a series.
  """

  noun = 'time series'
  usage = 'whose windows are forecast'
  metrics = Domain.metrics | {
    *('crps', 'normalised_crps', 'quantile_loss', 'crps_sum', 'coverage'),
    *('normalised_deviation', 'smape', 'mape', 'mase', 'owa'),
  }
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
      atomic_write(out, table(blocks))
    elif out.suffix == '.npy':
      pictures.save_array(out, joined(blocks).draws)
    else:
      pictures.save_png(out, picture(joined(blocks)))
    return (
      f'{len(windows.indices)} × {windows.spec.series.horizon} steps of the test split, '
      f'{settings.flags.draws or DRAWS} draws from step {trained.step}, in {out}'
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


def drawn_values(
  spec: DataSpec, x: Float[np.ndarray, 'rows length columns']
) -> Float[np.ndarray, 'rows horizon']:
  """The values of samples of `forecast_request` that were drawn, not given; as they are stored."""
  return x[:, -spec.series.horizon :, 0]


def to_forecasts(
  spec: DataSpec, batch: Mapping[str, Any], drawn: Float[np.ndarray, 'windows draws horizon']
) -> Forecasts:
  """Forecasts of the windows of a batch, from stored values that were drawn."""
  series, length = spec.series, spec.shape[0]
  context = length - series.horizon
  stored, label, start = (np.asarray(batch[key]) for key in ('x', 'label', 'start'))
  values = series.raw(stored[..., 0], label)
  return Forecasts(
    series,
    label,
    tuple(spec.class_names[i] for i in label),
    series.times(start, label, length),
    values[:, :context],
    values[:, context:],
    series.raw(drawn, label),
  )


def joined(blocks: Iterable[Forecasts]) -> Forecasts:
  """Forecasts of the windows of all blocks, of which there is at least one."""
  series, label, names, *arrays = zip(*blocks, strict=True)
  return Forecasts(
    series[0],
    np.concatenate(label),
    tuple(itertools.chain(*names)),
    *(np.concatenate(parts) for parts in arrays),
  )


def forecast(
  method: Method,
  params: PyTree,
  key: Key[Array, ''],
  windows: Windows,
  draws: int,
  batch_size: int = BATCH_SIZE,
  options: Mapping[str, Any] | None = None,
) -> Iterator[Forecasts]:
  """Draws forecasts of windows of a split, and yields them for some windows at a time, in order.

  A block of windows has about `batch_size` draws, and at least one window: the memory does not grow
  with the number of windows.

  Args:
    method, params: the model.
    key: determines all random numbers.
    windows: what to forecast.
    draws: number of draws of each window.
    batch_size: draws in one call of the sampler: more are faster but need more memory.
    options: sampler settings that replace those of the config.
  """
  total = draws * len(windows.indices)
  batch_size = min(batch_size, total)
  waiting, first = [], 0  # values drawn for the windows from number `first` on
  for call, start in enumerate(range(0, total, batch_size)):
    # Row i is a draw of window i // draws. The last call repeats its last row: all calls have one
    # shape, so the sampler compiles once.
    rows = np.minimum(start + np.arange(batch_size), total - 1)
    batch = windows.source.gather(windows.indices[rows // draws])
    request = forecast_request(windows.spec, batch, options)
    x = np.asarray(method.draw(params, jax.random.fold_in(key, call), request).x)
    waiting.append(drawn_values(windows.spec, x)[: total - start])
    complete = sum(map(len, waiting)) // draws
    if complete:
      values = np.concatenate(waiting)
      used, waiting = complete * draws, [values[complete * draws :]]
      block = windows.part(first, first + complete)
      yield block.forecasts(values[:used].reshape(complete, draws, -1))
      first += complete


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


def table(blocks: Iterable[Forecasts]) -> str:
  """Quantiles as CSV: a row for each step of each window of the blocks, of which there is one.

  Times are written as in the data. A number has the fewest digits that tell it from its neighbours
  in float32 of the stored values.
  """
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  before, after = ('window', 'series', 'step'), ('truth', 'mean', *QUANTILE_NAMES)
  window = 0
  for forecasts in blocks:
    if not window:
      # The user's name of the column, unless another column has it.
      time = forecasts.series.time
      writer.writerow([*before, 'time' if time in (*before, *after) else time, *after])
    for rows in _table_rows(forecasts):
      writer.writerows([window, *row] for row in rows)
      window += 1
  return buffer.getvalue()


def _table_rows(forecasts: Forecasts) -> Iterator[list[list[Any]]]:
  """The rows of each window, without its number."""
  series, horizon = forecasts.series, forecasts.truth.shape[1]
  columns = np.stack([forecasts.truth, forecasts.draws.mean(1), *forecasts.quantiles()], -1)
  tolerance = _resolution(series, columns, forecasts.label)
  for i, name in enumerate(forecasts.names):
    moments = times.format_times(
      series.clock.unit, series.clock.style, forecasts.times[i, -horizon:]
    )
    texts = [
      map(shortest, numbers, near)
      for numbers, near in zip(columns[i].tolist(), tolerance[i].tolist(), strict=True)
    ]
    yield [[name, step + 1, moments[step], *texts[step]] for step in range(horizon)]


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
