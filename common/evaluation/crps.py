"""The continuous ranked probability score of forecasts, and a simple forecast as the baseline."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from common.domains.series import WINDOWS, Forecasts, joined
from common.evaluation.measures import Measure


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


def seasonal_naive(
  past: Float[np.ndarray, 'windows context'], horizon: int, season: int
) -> Float[np.ndarray, 'windows horizon']:
  """Repeats the last season; repeats the last value if the past is shorter than a season.

  For a missing value, that of the season before, and without any the last known value. NaN for a
  past without values.
  """
  season = season if season <= past.shape[1] else 1
  past, last = _filled(past, season), _filled(past, 1)[:, -1:]
  past = np.where(np.isnan(past), last, past)
  # Step h of the forecast is step h mod season of the last season.
  return past[:, -season:][:, np.arange(horizon) % season]


def _filled(
  past: Float[np.ndarray, 'windows context'], season: int
) -> Float[np.ndarray, 'windows context']:
  """The past with each missing value replaced by the one a season before, if that is known."""
  past = past.copy()
  for step in range(season, past.shape[1]):
    past[:, step] = np.where(np.isnan(past[:, step]), past[:, step - season], past[:, step])
  return past


class WindowScores(NamedTuple):
  """Scores of the forecasts of some windows: sums over the steps whose true values are known.

  Attributes:
    crps: CRPS of each window, in units of the values.
    naive: CRPS of the seasonal naive forecast.
    magnitude: |truth| of each window.
    inside: numbers of true values of each window inside the 50 % and 90 % intervals.
    steps: number of known true values of each window.
  """

  crps: Float[np.ndarray, 'windows']
  naive: Float[np.ndarray, 'windows']
  magnitude: Float[np.ndarray, 'windows']
  inside: Float[np.ndarray, 'windows 2']
  steps: Int[np.ndarray, 'windows']


class Scores(NamedTuple):
  """Scores of the forecasts of a split; each step with a known value has the same weight.

  Attributes:
    windows: the scores of all windows.
    note: which split, and the number of windows, steps and draws.
    shown: the forecasts of the first windows, to look at.
  """

  windows: WindowScores
  note: str
  shown: Forecasts


def score(blocks: Iterable[Forecasts], season: int, split: str) -> Scores:
  """The scores of forecasts, of which only the first are kept; `split` is named in the note."""
  scored, shown = [], []
  for block in blocks:
    scored.append(_score_windows(block, season))
    if len(shown) < WINDOWS:
      shown.append(block.first(WINDOWS))
  windows = WindowScores(*map(np.concatenate, zip(*scored, strict=True)))
  first = joined(shown).first(WINDOWS)
  _, draws, horizon = first.draws.shape
  note = f'{split} split, {len(windows.crps)} windows of {horizon} steps, {draws} draws of each'
  return Scores(windows, note, first)


def _score_windows(forecasts: Forecasts, season: int) -> WindowScores:
  truth = forecasts.truth.astype(np.float64)
  # The CRPS of a forecast of a single value is its absolute error.
  naive = seasonal_naive(forecasts.past, truth.shape[1], season)
  low, lower, _, upper, high = forecasts.quantiles()
  inside = [(a <= truth) & (truth <= b) for a, b in ((lower, upper), (low, high))]
  # A missing true value is NaN, and so are its scores.
  return WindowScores(
    np.nansum(crps(forecasts.draws.astype(np.float64).swapaxes(1, 2), truth), 1),
    np.nansum(np.abs(naive - truth), 1),
    np.nansum(np.abs(truth), 1),
    np.sum(inside, -1).T,
    (~np.isnan(truth)).sum(1),
  )


def mean_crps(scores: Scores) -> Measure:
  """The mean CRPS, in units of the values."""
  windows, steps = scores.windows, scores.windows.steps
  coverage = '{:.0%} and {:.0%}'.format(*windows.inside.sum(0) / steps.sum())
  note = (
    f'seasonal naive {windows.naive.sum() / steps.sum():.4g}; intervals of 50 and 90 % hold '
    f'{coverage}; {scores.note}'
  )
  return Measure(*_ratio(windows.crps, steps), note)


def normalised_crps(scores: Scores) -> Measure:
  """Σ CRPS / Σ |truth|, empty if all are 0; for a forecast of one value it is the normalised
  deviation (ND).
  """
  windows = scores.windows
  magnitude = windows.magnitude.sum()
  if not magnitude:
    return Measure(None, note=f'all true values are 0; {scores.note}')
  note = f'seasonal naive {windows.naive.sum() / magnitude:.4g}; {scores.note}'
  return Measure(*_ratio(windows.crps, windows.magnitude), note)


def _ratio(
  a: Float[np.ndarray, 'windows'], b: Num[np.ndarray, 'windows']
) -> tuple[float, float | None]:
  """Σ a / Σ b, and its standard error over windows, which is None for a single window."""
  ratio = float(a.sum() / b.sum())
  if len(a) == 1:
    return ratio, None
  # To first order: the error of the mean of (a - ratio·b) / mean b.
  residual = (a - ratio * b) / b.mean()
  return ratio, float(residual.std(ddof=1) / len(a) ** 0.5)
