"""Classical forecasts as the baselines of a table: one model for each window, fitted to its past.

A baseline takes all values of a series before the horizon, however long the windows are.

Naive forecasts and exponential smoothing are here (common/evaluation/forecasts/classical.py); ETS,
Theta and ARIMA are those of `statsforecast` (the extra `forecasts`).
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from common.config import ConfigError
from common.data.pipeline import Data
from common.data.sources import Source
from common.data.spec import DataSpec
from common.domains.forecasts.draws import Forecasts, to_forecasts
from common.evaluation.forecasts import classical
from common.reporting.progress import reported

LEVEL = 80  # per cent: the interval from which the spread of a forecast follows
BLOCK, READ = 50, 4096  # windows that are forecast, and read, at a time
SHORTEST = 3  # values that a model is fitted to; a shorter past is continued by its last value


class Normal(NamedTuple):
  """A forecast: a normal distribution for each step.

  Attributes:
    mean: the point forecasts.
    deviation: the standard deviations; 0 for a forecast without a distribution.
  """

  mean: Float[np.ndarray, 'horizon']
  deviation: Float[np.ndarray, 'horizon']

  def draws(self, number: int) -> Float[np.ndarray, 'number horizon']:
    """Quantiles at the middles of equal parts: draws without noise, whose median is the mean."""
    levels = (np.arange(number) + 0.5) / number
    quantiles = np.array([*map(NormalDist().inv_cdf, levels)])
    return self.mean + quantiles[:, None] * self.deviation


# (past, horizon, season) -> the forecast
Forecaster = Callable[[Float[np.ndarray, 'length'], int, int], Normal]


def _certain(
  forecast: Callable[..., Float[np.ndarray, 'horizon']],
  past: Float[np.ndarray, 'length'],
  horizon: int,
  season: int,
) -> Normal:
  """A forecast without a distribution."""
  return Normal(forecast(past, horizon, season), np.zeros(horizon))


def _seasonal_naive(
  past: Float[np.ndarray, 'length'], horizon: int, season: int
) -> Float[np.ndarray, 'horizon']:
  return classical.seasonal_naive(past[None], horizon, season)[0]


def _fitted(name: str, past: Float[np.ndarray, 'length'], horizon: int, season: int) -> Normal:
  """A forecast of `statsforecast`, with the spread of its interval."""
  model = statsforecast_models()[name](season_length=season)
  made = model.forecast(y=np.ascontiguousarray(past, np.float64), h=horizon, level=[LEVEL])
  # AutoARIMA returns columns of pandas.
  mean, low, high = (np.asarray(made[key]) for key in ('mean', f'lo-{LEVEL}', f'hi-{LEVEL}'))
  return Normal(mean, (high - low) / (2 * NormalDist().inv_cdf(0.5 + LEVEL / 200)))


def statsforecast_models() -> Mapping[str, Any]:
  """The constructors of its models. Raises ConfigError if it is not installed."""
  try:
    from statsforecast import models
  except ImportError:
    raise ConfigError(
      'the baselines ets, theta and auto_arima need statsforecast: install twofold[forecasts]'
    ) from None
  return {'ets': models.AutoETS, 'theta': models.Theta, 'auto_arima': models.AutoARIMA}


FITTED = ('ets', 'theta', 'auto_arima')  # by statsforecast


def check_installed(name: str) -> None:
  """Raises ConfigError if a baseline needs a package that is not installed."""
  if name in FITTED:
    statsforecast_models()


BASELINES: Mapping[str, Forecaster] = {
  'naive': functools.partial(_certain, classical.naive),
  'seasonal_naive': functools.partial(_certain, _seasonal_naive),
  'naive2': functools.partial(_certain, classical.naive2),
  'ses': functools.partial(_certain, classical.simple_exponential_smoothing),
  **{name: functools.partial(_fitted, name) for name in FITTED},
}


def forecasts(name: str, data: Data, split: str, draws: int) -> Iterator[Forecasts]:
  """The forecasts of a baseline for every window of a split, some windows at a time.

  Args:
    name: a key of `BASELINES`.
    data: time series.
    split: the split of the windows.
    draws: number of draws of each forecast.

  Raises:
    ConfigError: if the baseline needs a package that is not installed.
  """
  forecaster, spec, source = BASELINES[name], data.spec, data.splits[split]
  horizon, season = spec.series.horizon, spec.series.season
  series, context = histories(data), spec.shape[0] - horizon
  total = -(-len(source) // BLOCK)
  for block in reported(range(total), total, f'baseline {name}'):
    batch = source.gather(np.arange(block * BLOCK, min((block + 1) * BLOCK, len(source))))
    made = to_forecasts(spec, batch, np.zeros((len(batch['x']), 1, horizon)))
    drawn = [
      _forecast(forecaster, series[label][: start + context], horizon, season).draws(draws)
      for label, start in zip(made.label.tolist(), batch['start'].tolist(), strict=True)
    ]
    yield made._replace(draws=np.stack(drawn))


def _forecast(
  forecaster: Forecaster, past: Float[np.ndarray, 'length'], horizon: int, season: int
) -> Normal:
  """A forecast from a past with missing values; of one that is too short, its last value."""
  known = np.flatnonzero(np.isfinite(past))
  if not len(known):
    return Normal(np.full(horizon, np.nan), np.zeros(horizon))
  steps = np.arange(known[0], len(past))
  filled = np.interp(steps, known, past[known])
  if len(filled) < SHORTEST:
    return _certain(classical.naive, filled, horizon, season)
  return forecaster(filled, horizon, season)


def histories(data: Data) -> list[Float[np.ndarray, 'length']]:
  """The values of each series, from the windows of all splits; NaN where none has a value."""
  return _histories(data.spec, tuple(data.splits.values()))


# Several baselines of the same data, and OWA, need them: reading all windows takes a while.
@functools.lru_cache(maxsize=1)
def _histories(spec: DataSpec, sources: tuple[Source, ...]) -> list[Float[np.ndarray, 'length']]:
  pieces = [[] for _ in range(spec.num_classes)]
  for source in sources:
    for first in range(0, len(source), READ):
      batch = source.gather(np.arange(first, min(first + READ, len(source))))
      values = spec.series.raw(batch['x'][..., 0], batch['label'])
      labels, starts = batch['label'].tolist(), batch['start'].tolist()
      for label, start, value in zip(labels, starts, values, strict=True):
        # Steps before 0 are padding.
        pieces[label].append((max(start, 0), value[max(-start, 0) :]))
  return [_joined(each, spec.shape[0]) for each in pieces]


def _joined(
  pieces: Sequence[tuple[int, Float[np.ndarray, '_']]], length: int
) -> Float[np.ndarray, 'steps']:
  """One array from pieces, each with its first step. They overlap, and agree where they do."""
  whole = np.full(max((start for start, _ in pieces), default=0) + length, np.nan)
  for start, piece in pieces:
    part = whole[start : start + len(piece)]
    part[:] = np.where(np.isfinite(piece), piece, part)
  return whole
