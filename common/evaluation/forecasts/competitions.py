"""Metrics of forecasts by the definitions of the competitions and papers that publish them.

All are pure functions of arrays. NaN in `truth` is a value that was not observed: it counts
nowhere. Functions of a series average over its horizon; the competitions then average over series.
A table over several frequencies weights each by the number of its values, series × horizon
(`average`), because M3 and Tourism average over all of these.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

# Levels of the CRPS that GluonTS and the papers after it report, as a mean of quantile losses.
PUBLISHED_LEVELS = tuple(step / 20 for step in range(1, 20))


def smape(
  forecast: Float[np.ndarray, '*series horizon'], truth: Float[np.ndarray, '*series horizon']
) -> Float[np.ndarray, '*series']:
  """Symmetric mean absolute percentage error, 200/H · Σ |y - f| / (|y| + |f|), from 0 to 200.

  M4's definition (Makridakis et al. 2020, section 2.2). M3 prints y + f, which is the same for
  positive values. Where both are 0 the error is 0.
  """
  size = np.abs(truth) + np.abs(forecast)
  return 200 * mean_observed(np.abs(truth - forecast) / np.where(size == 0, 1, size))


def mape(
  forecast: Float[np.ndarray, '*series horizon'], truth: Float[np.ndarray, '*series horizon']
) -> Float[np.ndarray, '*series']:
  """Mean absolute percentage error, 100/H · Σ |y - f| / |y| (Tourism: Athanasopoulos et al. 2011).

  A true value of 0 has no percentage, and does not count.
  """
  truth = np.where(truth == 0, np.nan, truth)
  return 100 * mean_observed(np.abs(truth - forecast) / np.abs(truth))


def mase(
  forecast: Float[np.ndarray, '*series horizon'],
  truth: Float[np.ndarray, '*series horizon'],
  scale: Float[np.ndarray, '*series'],
) -> Float[np.ndarray, '*series']:
  """Mean absolute scaled error, 1/H · Σ |y - f| / scale (Hyndman & Koehler 2006).

  Args:
    forecast: the forecasts.
    truth: the values that followed.
    scale: the mean error of the naive forecast within the part of each series that is not forecast
      (common/data/series/encoding.py); where it is 0, there is no score (NaN).
  """
  scale = np.where(scale == 0, np.nan, scale)
  return mean_observed(np.abs(truth - forecast)) / scale


def owa(smape: float, mase: float, naive2_smape: float, naive2_mase: float) -> float:
  """Overall weighted average of M4: the mean of sMAPE and MASE, each relative to Naive2's.

  Of the averages over all series, not of each series (Makridakis et al. 2020, section 2.2).
  """
  return (smape / naive2_smape + mase / naive2_mase) / 2


def normalised_deviation(
  forecast: Float[np.ndarray, '*all'], truth: Float[np.ndarray, '*all']
) -> float:
  """ND, Σ |y - f| / Σ |y| over all series and steps (Salinas et al. 2020, section 4)."""
  return float(np.nansum(np.abs(truth - forecast)) / np.nansum(np.abs(truth)))


def quantile_loss(
  quantiles: Float[np.ndarray, 'levels *all'],
  truth: Float[np.ndarray, '*all'],
  levels: Sequence[float],
) -> Float[np.ndarray, 'levels *all']:
  """2·ρ_τ(y - q_τ) with ρ_τ(u) = u·(τ - [u < 0]): at the median it is the absolute error."""
  over = truth - quantiles
  tau = np.reshape(levels, (-1,) + (1,) * truth.ndim)
  return 2 * np.maximum(tau * over, (tau - 1) * over)


def weighted_quantile_loss(
  quantiles: Float[np.ndarray, 'levels *all'],
  truth: Float[np.ndarray, '*all'],
  levels: Sequence[float],
) -> Float[np.ndarray, 'levels']:
  """wQL, 2·Σ ρ_τ(y - q_τ) / Σ |y| at each level, over all series and steps.

  At 0.5 it is ND. Its mean over `PUBLISHED_LEVELS` is what GluonTS and the papers after it call
  CRPS (Salinas et al. 2019, High-dimensional multivariate forecasting, section 5).
  """
  losses = quantile_loss(quantiles, truth, levels).reshape(len(levels), -1)
  return np.nansum(losses, 1) / np.nansum(np.abs(truth))


def crps_sum(
  draws: Float[np.ndarray, 'windows draws series horizon'],
  truth: Float[np.ndarray, 'windows series horizon'],
  levels: Sequence[float] = PUBLISHED_LEVELS,
) -> float:
  """CRPS-sum: the mean weighted quantile loss of the sum over all series.

  The draws must be joint ones, because their sum is scored: independent draws of each series have a
  sum that is too narrow if the series go together (Salinas et al. 2019, section 5). A step at which
  a series was not observed does not count.
  """
  total = draws.sum(2)
  quantiles = np.quantile(total, levels, axis=1)
  return float(weighted_quantile_loss(quantiles, truth.sum(1), levels).mean())


def is_inside(
  low: Float[np.ndarray, '*all'], high: Float[np.ndarray, '*all'], truth: Float[np.ndarray, '*all']
) -> Bool[np.ndarray, '*all']:
  """Whether a true value lies in its interval; false where it was not observed."""
  return (low <= truth) & (truth <= high)


def coverage(
  low: Float[np.ndarray, '*all'], high: Float[np.ndarray, '*all'], truth: Float[np.ndarray, '*all']
) -> float:
  """The share of the observed values that lie in their intervals."""
  return float(is_inside(low, high, truth).sum() / np.isfinite(truth).sum())


def average(
  values: Sequence[float],
  series: Sequence[int] | Int[np.ndarray, 'groups'],
  horizons: Sequence[int] | Int[np.ndarray, 'groups'],
) -> float:
  """The average of the scores of several groups of series over all of their forecast values."""
  return float(np.average(values, weights=np.multiply(series, horizons)))


def mean_observed(values: Float[np.ndarray, '*series steps']) -> Float[np.ndarray, '*series']:
  """The mean over the last axis of the values that are not NaN; NaN if there are none."""
  observed = np.isfinite(values)
  number = observed.sum(-1)
  total = np.where(observed, values, 0).sum(-1)
  return np.where(number > 0, total / np.maximum(number, 1), np.nan)
