"""The continuous ranked probability score of forecasts, and a simple forecast as the baseline."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

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
  """Repeats the last season; repeats the last value if the past is shorter than a season."""
  season = season if season <= past.shape[1] else 1
  # Step h of the forecast is step h mod season of the last season.
  return past[:, -season:][:, np.arange(horizon) % season]


class WindowScores(NamedTuple):
  """Scores of the forecasts of some windows.

  Attributes:
    crps: CRPS of each window, in units of the values.
    naive: CRPS of the seasonal naive forecast.
    magnitude: mean |truth| of each window.
    inside: shares of the true values of each window inside the 50 % and 90 % intervals.
  """

  crps: Float[np.ndarray, 'windows']
  naive: Float[np.ndarray, 'windows']
  magnitude: Float[np.ndarray, 'windows']
  inside: Float[np.ndarray, 'windows 2']


class Scores(NamedTuple):
  """Scores of the forecasts of a split; each window and each step has the same weight.

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
  return WindowScores(
    crps(forecasts.draws.astype(np.float64).swapaxes(1, 2), truth).mean(1),
    np.abs(naive - truth).mean(1),
    np.abs(truth).mean(1),
    np.mean(inside, -1).T,
  )


def mean_crps(scores: Scores) -> Measure:
  """The mean CRPS, in units of the values."""
  windows = scores.windows
  coverage = '{:.0%} and {:.0%}'.format(*windows.inside.mean(0))
  note = (
    f'seasonal naive {windows.naive.mean():.4g}; intervals of 50 and 90 % hold {coverage}; '
    f'{scores.note}'
  )
  return Measure(float(windows.crps.mean()), _error(windows.crps), note)


def normalised_crps(scores: Scores) -> Measure:
  """Σ CRPS / Σ |truth|, empty if all are 0; for a forecast of one value it is the normalised
  deviation (ND).
  """
  windows = scores.windows
  magnitude = windows.magnitude.mean()
  if not magnitude:
    return Measure(None, note=f'all true values are 0; {scores.note}')
  ratio = windows.crps.mean() / magnitude
  note = f'seasonal naive {windows.naive.mean() / magnitude:.4g}; {scores.note}'
  # The error of a ratio a/b of means, to first order: the error of the mean of (a - (a/b)·b) / b.
  error = _error(windows.crps - ratio * windows.magnitude)
  return Measure(float(ratio), None if error is None else error / magnitude, note)


def _error(values: Float[np.ndarray, 'windows']) -> float | None:
  """The standard error of the mean over windows; None for a single window."""
  return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
