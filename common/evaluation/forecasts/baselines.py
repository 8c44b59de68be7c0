"""Classical forecasts as the baselines of a table: one model for each series, fitted to its past.

Naive forecasts and exponential smoothing are here (common/evaluation/forecasts/classical.py); ETS,
Theta and ARIMA are those of `statsforecast` (the extra `forecasts`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from common.config import ConfigError
from common.evaluation.forecasts import classical

LEVEL = 80  # per cent: the interval from which the spread of a forecast follows
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
    return self.mean + stats.norm.ppf(levels)[:, None] * self.deviation


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


def _fitted(name: str, past: Float[np.ndarray, 'length'], horizon: int, season: int) -> Normal:
  """A forecast of `statsforecast`, with the spread of its interval."""
  model = statsforecast_models()[name](season_length=season)
  made = model.forecast(y=np.ascontiguousarray(past, np.float64), h=horizon, level=[LEVEL])
  width = made[f'hi-{LEVEL}'] - made[f'lo-{LEVEL}']
  return Normal(made['mean'], width / (2 * stats.norm.ppf(0.5 + LEVEL / 200)))


def statsforecast_models() -> Mapping[str, Any]:
  """The constructors of its models. Raises ConfigError if it is not installed."""
  try:
    from statsforecast import models
  except ImportError:
    raise ConfigError(
      'the baselines ets, theta and auto_arima need statsforecast: install twofold[forecasts]'
    ) from None
  return {'ets': models.AutoETS, 'theta': models.Theta, 'auto_arima': models.AutoARIMA}


BASELINES: Mapping[str, Forecaster] = {
  'naive': functools.partial(_certain, classical.naive),
  'seasonal_naive': functools.partial(_certain, classical.seasonal_naive),
  'naive2': functools.partial(_certain, classical.naive2),
  'ses': functools.partial(_certain, classical.simple_exponential_smoothing),
  'ets': functools.partial(_fitted, 'ets'),
  'theta': functools.partial(_fitted, 'theta'),
  'auto_arima': functools.partial(_fitted, 'auto_arima'),
}
