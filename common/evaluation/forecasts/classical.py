"""Classical forecasts of one series from all of its past: the baselines of competitions."""

import numpy as np
from jaxtyping import Float

CRITICAL = 1.645  # of M4's test for a season: 90 % of a normal distribution, two-sided
SMOOTHING = (1e-4, 0.9999)  # bounds of α


def naive(
  past: Float[np.ndarray, 'length'], horizon: int, season: int = 1
) -> Float[np.ndarray, 'horizon']:
  """Repeats the last value."""
  del season
  return np.full(horizon, past[-1])


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


def naive2(
  past: Float[np.ndarray, 'length'], horizon: int, season: int
) -> Float[np.ndarray, 'horizon']:
  """M4's benchmark: the last value after removing the season, if `is_seasonal`; times its season.

  Multiplicative classical decomposition (Makridakis et al. 2020; Benchmarks and Evaluation.R of the
  organisers).
  """
  factors = seasonal_factors(past, season) if is_seasonal(past, season) else np.ones(1)
  steps = len(past) + np.arange(-1, horizon)
  now, *later = factors[steps % len(factors)]
  return past[-1] / now * np.array(later)


def is_seasonal(past: Float[np.ndarray, 'length'], season: int) -> bool:
  """M4's test: is the autocorrelation at the season beyond its 90 % limit?

  The limit is that of a moving average whose order is below the season (Bartlett's formula). A
  series of less than three seasons is not tested.
  """
  if season == 1 or len(past) < 3 * season:
    return False
  centred = past - past.mean()
  power = centred @ centred
  if not power:
    return False
  r = np.array([centred[lag:] @ centred[:-lag] / power for lag in range(1, season + 1)])
  limit = CRITICAL * np.sqrt((1 + 2 * (r[:-1] ** 2).sum()) / len(past))
  return bool(abs(r[-1]) > limit)


def seasonal_factors(past: Float[np.ndarray, 'length'], season: int) -> Float[np.ndarray, 'season']:
  """The factor of each phase, from the first step on, with a mean of 1.

  The mean ratio to a centred moving average over one season. Factors of 1 if any is not positive.
  """
  weights = np.ones(season) / season
  if season % 2 == 0:  # centred on a step: half of each end of season + 1 steps
    weights = np.r_[0.5, np.ones(season - 1), 0.5] / season
  trend = np.convolve(past, weights, 'valid')
  first = len(weights) // 2
  with np.errstate(divide='ignore', invalid='ignore'):
    ratio = past[first : first + len(trend)] / trend
  phase = (first + np.arange(len(trend))) % season
  factors = np.array([ratio[phase == k].mean() for k in range(season)])
  usable = np.isfinite(factors).all() and (factors > 0).all()
  return factors / factors.mean() if usable else np.ones(season)


def simple_exponential_smoothing(
  past: Float[np.ndarray, 'length'], horizon: int, season: int = 1
) -> Float[np.ndarray, 'horizon']:
  """SES: the level l_t = l_(t-1) + α·(x_t - l_(t-1)), with α and l_0 by least squares."""
  from scipy import optimize  # imported here: it loads slowly, and every command loads this module

  del season
  grid = np.linspace(*SMOOTHING, 21)
  errors = [_smoothing(alpha, past)[0] for alpha in grid]
  best = int(np.argmin(errors))
  low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
  found = optimize.minimize_scalar(_squared_error, bounds=(low, high), args=(past,))
  alpha = found.x if found.fun < errors[best] else grid[best]
  return np.full(horizon, _smoothing(alpha, past)[1])


def _squared_error(alpha: float, past: Float[np.ndarray, 'length']) -> float:
  return _smoothing(alpha, past)[0]


def _smoothing(alpha: float, past: Float[np.ndarray, 'length']) -> tuple[float, float]:
  """The sum of squared errors of one step, and the last level, with the best first level."""
  from scipy import signal

  # Levels are linear in the first one: those from 0, and (1 - α)^t times the first level.
  levels = signal.lfilter([alpha], [1, alpha - 1], past)
  decay = (1 - alpha) ** np.arange(len(past))
  errors = past - np.r_[0, levels[:-1]]
  start = errors @ decay / (decay @ decay)
  rest = errors - start * decay
  return float(rest @ rest), float(levels[-1] + start * decay[-1] * (1 - alpha))
