"""Draws of the values that follow the given part of windows of time series."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from common.config import ConfigError
from common.data.sources import Source
from common.data.spec import DataSpec, SeriesSpec
from common.method import Method, PyTree, Request

QUANTILE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # the median and the 50 % and 90 % intervals
BATCH_SIZE = 500  # draws in one call of the sampler


class Forecasts(NamedTuple):
  """Draws of the values that follow the given part of each window, as raw values in float64.

  Attributes:
    series: the description of the windows.
    label: the series of each window, as a class.
    names: their names.
    times: the times of all steps of each window.
    past: the given values; NaN where they are missing or padding.
    truth: the values that followed; NaN where they are missing or not known yet.
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

  @property
  def is_future(self) -> bool:
    """Whether no true value is known: the horizons begin after the end of the data."""
    return bool(np.isnan(self.truth).all())

  def first(self, number: int) -> 'Forecasts':
    """The forecasts of the first `number` windows."""
    return Forecasts(self.series, *(part[:number] for part in self[1:]))


class Windows(NamedTuple):
  """Windows that are to be forecast.

  Attributes:
    spec: the data.
    source: a split, or other windows. If it has 'series', these are the series of windows, and
      'label' their classes for the model, which may be none.
    indices: indices of the windows in the source.
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
  # A window of a series that the model does not know has no class, but a number among the names.
  label = np.asarray(batch.get('series', label))
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


def pooled(members: Sequence[Iterable[Forecasts]]) -> Iterator[Forecasts]:
  """Forecasts with the draws of all members of an ensemble, each with the same weight.

  If the members give point forecasts, the median of the draws is the median of the members, as in
  the ensembles of N-BEATS (Oreshkin et al. 2020, section 3.4). Otherwise the draws are those of the
  mixture of the members' distributions.

  Args:
    members: by member, the same windows in blocks of the same sizes. The contexts may differ in
      length: the first member's are kept.

  Raises:
    ConfigError: for members that do not forecast the same windows.
  """
  for blocks in itertools.zip_longest(*members):
    first = blocks[0]
    for block in blocks[1:]:
      if first is None or block is None or not _are_of_the_same(first, block):
        raise ConfigError(
          'the members of an ensemble must forecast the same windows: give them the same data, '
          'horizon and splits (data.context and data.dir may differ)'
        )
    yield first._replace(draws=np.concatenate([block.draws for block in blocks], 1))


def _are_of_the_same(one: Forecasts, other: Forecasts) -> bool:
  """Whether two blocks are of the same series, times and true values."""
  if one.names != other.names or one.truth.shape != other.truth.shape:
    return False
  horizon = one.truth.shape[1]
  # Values are stored in float32, relative to an origin that depends on the windows.
  size = np.nanmax(np.abs(one.past), axis=1, keepdims=True, initial=0)
  return np.array_equal(one.times[:, -horizon:], other.times[:, -horizon:]) and np.allclose(
    one.truth, other.truth, rtol=1e-4, atol=1e-4 * size, equal_nan=True
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
