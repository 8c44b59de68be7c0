"""Scores of the forecasts of a split: sums over its windows, and metrics as ratios of these."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from common.domains.forecasts.draws import Forecasts, joined
from common.domains.series import WINDOWS
from common.evaluation.forecasts import competitions
from common.evaluation.forecasts.classical import seasonal_naive
from common.evaluation.measures import Measure

# The intervals whose coverage is counted, and the levels of their ends.
INTERVALS = {50: (0.25, 0.75), 80: (0.1, 0.9), 90: (0.05, 0.95)}
LEVELS = competitions.PUBLISHED_LEVELS


def crps(
  draws: Float[np.ndarray, '*batch draws'], truth: Float[np.ndarray, '*batch']
) -> Float[np.ndarray, '*batch']:
  """The CRPS of a forecast of a number y, from draws X, X' of it: E|X - y| - ½·E|X - X'|.

  It has the unit of the values. Its mean is smallest for draws from the true distribution (Gneiting
  & Raftery 2007, section 4.2). With a single draw it is the absolute error. The second
  expectation is over pairs of different draws, so that a few draws estimate the score of infinitely
  many without bias (Ferro 2014).

  Args:
    draws: draws of the forecast.
    truth: the value that followed.
  """
  num = draws.shape[-1]
  error = np.abs(draws - truth[..., None]).mean(-1)
  if num == 1:
    return error
  # ½·E|X - X'| in O(n log n): among the n (n - 1) / 2 pairs, the sorted draw k (from 0) is the
  # greater of k pairs and the lesser of n - 1 - k, so its coefficient is k - (n - 1 - k).
  weights = (2 * np.arange(num) - num + 1) / (num * (num - 1))
  return error - (np.sort(draws, -1) * weights).sum(-1)


class Parts(NamedTuple):
  """What a metric is the ratio of, for each window: Σ above / Σ below."""

  above: Float[np.ndarray, 'windows']
  below: Num[np.ndarray, 'windows']

  def ratio(self) -> tuple[float, float | None]:
    """Σ above / Σ below, and its standard error over windows, which is None for a single one."""
    above, below = self
    value = float(above.sum() / below.sum())
    if len(above) == 1:
      return value, None
    # To first order: the error of the mean of (above - value·below) / mean below.
    residual = (above - value * below) / below.mean()
    return value, float(residual.std(ddof=1) / len(above) ** 0.5)


class Scores(NamedTuple):
  """Scores of the forecasts of a split; each step with a known value has the same weight.

  Attributes:
    parts: by name of score, what it is the ratio of.
    note: which split, and the number of windows, steps and draws.
    shown: the forecasts of the first windows, to look at.
  """

  parts: Mapping[str, Parts]
  note: str
  shown: Forecasts

  def value(self, name: str) -> float:
    """The value of a score; NaN if there is nothing to divide by."""
    above, below = self.parts[name]
    return float(above.sum() / below.sum()) if below.sum() else float('nan')


def score(blocks: Iterable[Forecasts], season: int, split: str) -> Scores:
  """The scores of forecasts, of which only the first are kept; `split` is named in the note."""
  scored, shown, totals = [], [], {}
  for block in blocks:
    scored.append(score_windows(block, season))
    _add_totals(totals, block)
    if len(shown) < WINDOWS:
      shown.append(block.first(WINDOWS))
  parts = {
    name: Parts(
      *(np.concatenate(each) for each in zip(*(one[name] for one in scored), strict=True))
    )
    for name in scored[0]
  }
  if total := _sum_parts(totals):
    parts['crps_sum'] = total
  first = joined(shown).first(WINDOWS)
  _, draws, horizon = first.draws.shape
  windows = len(parts['crps'].above)
  note = f'{split} split, {windows} windows of {horizon} steps, {draws} draws of each'
  return Scores(parts, note, first)


def score_windows(forecasts: Forecasts, season: int) -> dict[str, Parts]:
  """The parts of every score of some windows, summed over the steps whose true value is known."""
  truth = forecasts.truth.astype(np.float64)
  draws = forecasts.draws.astype(np.float64)
  steps = np.isfinite(truth).sum(1)
  # A missing true value is NaN, and so are its scores.
  magnitude = np.nansum(np.abs(truth), 1)
  naive = np.nansum(np.abs(seasonal_naive(forecasts.past, truth.shape[1], season) - truth), 1)
  crps_of = np.nansum(crps(draws.swapaxes(1, 2), truth), 1)
  point = np.median(draws, 1)
  quantiles = np.quantile(draws, LEVELS, axis=1)
  losses = np.nansum(competitions.quantile_loss(quantiles, truth, LEVELS), -1).mean(0)
  parts = {
    'crps': Parts(crps_of, steps),
    'normalised_crps': Parts(crps_of, magnitude),
    'naive': Parts(naive, steps),
    'normalised_naive': Parts(naive, magnitude),
    'normalised_deviation': Parts(np.nansum(np.abs(point - truth), 1), magnitude),
    'quantile_loss': Parts(losses, magnitude),
    'smape': _mean_over(competitions.smape(point, truth), steps),
    'mape': _mean_over(competitions.mape(point, truth), np.sum(np.abs(truth) > 0, 1)),
  }
  if scales := forecasts.series.naive_scales:
    scaled = competitions.mase(point, truth, np.array(scales)[forecasts.label])
    # The competitions average over series, and so over windows, not over steps.
    parts['mase'] = _mean_over(scaled, np.isfinite(scaled).astype(int))
  if spreads := forecasts.series.spreads:
    # The mean of a series cancels in its errors; one that is constant in training does not count.
    spread = np.array(spreads)[forecasts.label]
    varies = spread > 0
    divisor, counted = np.where(varies, spread, np.inf), np.where(varies, steps, 0)
    squares = np.nansum((draws.mean(1) - truth) ** 2, 1) / divisor**2
    parts['standardised_mse'] = Parts(squares, counted)
    parts['standardised_mae'] = Parts(np.nansum(np.abs(point - truth), 1) / divisor, counted)
  for share, ends in INTERVALS.items():
    inside = competitions.is_inside(*np.quantile(draws, ends, axis=1), truth)
    parts[f'inside_{share}'] = Parts(inside.sum(1).astype(np.float64), steps)
  return parts


def _mean_over(mean: Float[np.ndarray, 'windows'], count: Num[np.ndarray, 'windows']) -> Parts:
  """The parts of a mean over all counted values, from that of each window; NaN counts nothing."""
  count = np.where(np.isfinite(mean), count, 0)
  return Parts(np.where(count > 0, mean, 0) * count, count)


class Total(NamedTuple):
  """The sum over series of windows at one time: draws [draws, horizon], truth, number of series."""

  draws: np.ndarray | float = 0.0
  truth: np.ndarray | float = 0.0
  series: frozenset[int] = frozenset()


def _add_totals(totals: dict[int, Total], forecasts: Forecasts) -> None:
  """Adds the windows to the sums at their times."""
  for start, label, draws, truth in zip(
    forecasts.times[:, 0].tolist(),
    forecasts.label.tolist(),
    forecasts.draws,
    forecasts.truth,
    strict=True,
  ):
    total = totals.get(start, Total())
    totals[start] = Total(total.draws + draws, total.truth + truth, total.series | {label})


def _sum_parts(totals: Mapping[int, Total]) -> Parts | None:
  """The parts of CRPS-sum; None unless there are several series, with windows at the same times."""
  groups = {total.series for total in totals.values()}
  if len(groups) != 1 or len(next(iter(groups))) < 2:
    return None
  draws, truth = (np.stack(each) for each in list(zip(*totals.values(), strict=True))[:2])
  losses = competitions.quantile_loss(np.quantile(draws, LEVELS, axis=1), truth, LEVELS)
  return Parts(np.nansum(losses, -1).mean(0), np.nansum(np.abs(truth), 1))


def measure(scores: Scores, name: str) -> Measure:
  """The measure of a score; empty, with the reason, if it has none."""
  if name not in scores.parts:
    return Measure(None, note=f'{WITHOUT[name]}; {scores.note}')
  if not scores.parts[name].below.sum():
    return Measure(None, note=f'{NOTHING[name]}; {scores.note}')
  beside = ''
  if name in NAIVE:
    beside = f'seasonal naive {scores.value(NAIVE[name]):.4g}; '
  if name == 'crps':
    shares = ', '.join(f'{scores.value(f"inside_{share}"):.0%}' for share in INTERVALS)
    beside += f'intervals of 50, 80 and 90 % hold {shares}; '
  return Measure(*scores.parts[name].ratio(), f'{beside}{scores.note}')


def owa(ours: Scores, naive2: Scores) -> Measure:
  """Overall weighted average: sMAPE and MASE relative to those of Naive2 (M4)."""
  measured = [measure(found, name) for found in (ours, naive2) for name in ('smape', 'mase')]
  for one in measured:
    if not one.value:  # nothing to divide by, or no error at all
      return Measure(None, note=one.note)
  values = [one.value for one in measured]
  note = 'Naive2 has sMAPE {:.4g} and MASE {:.4g}; '.format(*values[2:])
  return Measure(competitions.owa(*values), note=note + ours.note)


# The scores of the seasonal naive forecast from the context, which stand next to these.
NAIVE = {'crps': 'naive', 'normalised_crps': 'normalised_naive'}
# Why a score may be missing, and why it may have nothing to divide by.
WITHOUT = {
  'crps_sum': 'needs several series with windows at the same times',
  **dict.fromkeys(
    ('standardised_mse', 'standardised_mae'),
    'the prepared data has no deviations of the series; prepare it again',
  ),
  'mase': 'the prepared data has no errors of the naive forecast; prepare it again',
}
NOTHING = dict.fromkeys(
  ('normalised_crps', 'normalised_deviation', 'quantile_loss', 'crps_sum', 'mape'),
  'all true values are 0',
) | dict.fromkeys(('crps', 'smape', 'inside_80'), 'no true value is known')
NOTHING |= dict.fromkeys(
  ('standardised_mse', 'standardised_mae'), 'every series is constant in training'
)
NOTHING['mase'] = 'the naive forecast of every series has no error'
