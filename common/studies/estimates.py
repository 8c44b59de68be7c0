"""Means with their 95 % intervals, and how they are written.

In everything that is printed or drawn, ± is half of a 95 % interval. A share lies in [0, 1]: where
value ± half would leave it, the two ends of its interval are printed instead, as in
'1.00 (0.72 to 1.00)'.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from common.evaluation.measures import Measure
from common.evaluation.metrics import METRICS

CONFIDENCE = 0.95
TITLES = {name: metric.title for name, metric in METRICS.items()} | {
  'training_seconds': 'seconds of training',
  'training_flops': 'training FLOPs',
  'examples_seen': 'examples seen',
  'paper_share': "share of the paper's training FLOPs",
  'stable_runs': 'share of stable runs',
}
PREFIXES = (('P', 1e15), ('T', 1e12), ('G', 1e9), ('M', 1e6))


class Estimate(NamedTuple):
  """A mean with its error.

  Attributes:
    value: the mean.
    error: its standard error; None if it is unknown.
    dof: the degrees of freedom of the error.
    seeds: with several seeds, the value of each.
    interval: the 95 % interval of a share, in [0, 1]; None: value ± half of the t-interval.
    word: what is printed for a value that is not finite.
  """

  value: float
  error: float | None
  dof: float = math.inf
  seeds: Mapping[int, float] = {}
  interval: tuple[float, float] | None = None
  word: str = 'not finite'

  @property
  def half_width(self) -> float | None:
    """Half the width of the 95 % interval."""
    if self.interval is not None:
      return (self.interval[1] - self.interval[0]) / 2
    return None if self.error is None else float(quantile(self.dof) * self.error)

  @property
  def ends(self) -> tuple[float, float]:
    """The ends of the 95 % interval; the error must be known."""
    return self.interval or (self.value - self.half_width, self.value + self.half_width)


def estimate(measures: Mapping[int, Measure]) -> Estimate | None:
  """The estimate from the measurements of each seed; None if there is no value.

  Several values give their mean and the standard error of the mean, for a t-interval. A single
  value gives its own standard error.
  """
  known = {seed: measure for seed, measure in measures.items() if measure.value is not None}
  if not known:
    return None
  # A single seed says nothing about the spread of training: only the measurement has an error.
  if len(known) == 1:
    (measure,) = known.values()
    dof = math.inf if measure.dof is None else float(measure.dof)
    return Estimate(float(measure.value), measure.standard_error, dof, interval=measure.interval)
  # The spread of the seeds; the measurement's own error is part of it.
  mean = _mean({seed: float(measure.value) for seed, measure in known.items()})
  if any(measure.interval is None for measure in known.values()):
    return mean
  # A mean of shares lies in [0, 1], so the rest of its t-interval can be cut off.
  low, high = mean.ends
  return mean._replace(interval=(max(low, 0.0), min(high, 1.0)))


def difference(one: Estimate, other: Estimate, times: float = 1.0) -> Estimate:
  """one − times · other, with its error; both errors must be known.

  If both sides have the same seeds, they are compared seed by seed: what a seed does to both of
  them (the order of the data, the first weights, the noise) then cancels. Otherwise the errors of
  both sides are independent (Welch 1947). The interval of a difference from a share combines the
  ends of both sides (Newcombe 1998, method 10).
  """
  if is_paired(one, other):
    return _mean({seed: value - times * other.seeds[seed] for seed, value in one.seeds.items()})
  gap = one.value - times * other.value
  parts = [(one.error**2, one.dof), ((times * other.error) ** 2, other.dof)]
  variance = sum(part for part, _ in parts)
  spread = sum(part**2 / dof for part, dof in parts)
  # Welch–Satterthwaite: ν = (Σ sᵢ²)² / Σ (sᵢ⁴ / νᵢ); exact parts do not reduce it.
  dof = variance**2 / spread if spread > 0 else math.inf
  if one.interval is None and other.interval is None:
    return Estimate(gap, math.sqrt(variance), dof)
  # The low end of the gap is where `one` is low and `other` is high: gap − √((a − l)² + (h − b)²).
  (low, high), (other_low, other_high) = one.ends, other.ends
  below = math.hypot(one.value - low, times * (other_high - other.value))
  above = math.hypot(high - one.value, times * (other.value - other_low))
  return Estimate(gap, math.sqrt(variance), dof, interval=(gap - below, gap + above))


def is_paired(one: Estimate, other: Estimate) -> bool:
  """Whether both sides have values of the same seeds."""
  return len(one.seeds) > 1 and one.seeds.keys() == other.seeds.keys()


def _mean(values: Mapping[int, float]) -> Estimate:
  """The mean over seeds."""
  array = np.array(list(values.values()))
  # Of equal values the mean may be rounded, which is no spread.
  error = array.std(ddof=1) / math.sqrt(len(array)) if np.ptp(array) else 0.0
  return Estimate(float(array.mean()), float(error), len(array) - 1.0, dict(values))


def quantile(dof: float | Float[np.ndarray, 'n']) -> float | Float[np.ndarray, 'n']:
  """The factor from a standard error to half a t-interval: 1.96 for infinite `dof`."""
  from scipy import special

  return special.stdtrit(dof, 0.5 + CONFIDENCE / 2)  # much faster than `scipy.stats`


def title(metric: str) -> str:
  """A metric's name for readers."""
  return TITLES.get(metric, metric.replace('_', ' '))


def unit(metric: str, values: Iterable[float]) -> tuple[str, float]:
  """(the metric's name with the unit that suits all values, the factor from its own unit).

  Times below a second are in milliseconds, and FLOPs in MFLOP to PFLOP.
  """
  name = title(metric)
  largest = max((abs(value) for value in values if math.isfinite(value)), default=1.0)
  if name.startswith('seconds') and largest < 1.0:
    return f'milli{name}', 1000.0
  if name.endswith('FLOPs'):
    for prefix, factor in PREFIXES:
      if largest >= factor:
        return f'{name.removesuffix("FLOPs")}{prefix}FLOP', 1 / factor
  return name, 1.0


def scaled(found: Estimate, factor: float) -> Estimate:
  """The estimate in another unit."""
  error = None if found.error is None else factor * found.error
  interval = found.interval and tuple(factor * end for end in found.interval)
  return Estimate(factor * found.value, error, found.dof, interval=interval, word=found.word)


def format_estimate(found: Estimate | None) -> str:
  """'0.957 ± 0.013': two digits of half the 95 % interval, and the value to the same decimals."""
  return '' if found is None else ' '.join(part for part in format_parts(found) if part)


def format_parts(found: Estimate) -> tuple[str, str]:
  """The two parts of `format_estimate`; the second is empty without an error."""
  if not math.isfinite(found.value):
    return found.word, ''
  if not found.half_width or not math.isfinite(found.half_width):
    whole = found.value.is_integer() and abs(found.value) < 1e15
    return (f'{found.value:,.0f}' if whole else f'{found.value:.4g}'), ''
  # Two significant digits of the half-width h: 1 − ⌊log₁₀ h⌋ decimals.
  decimals = max(1 - math.floor(math.log10(found.half_width)), 0)
  low, high = found.value - found.half_width, found.value + found.half_width
  if found.interval is not None and not 0 <= low <= high <= 1:
    low, high = found.interval
    return f'{found.value:.{decimals}f}', f'({low:.{decimals}f} to {high:.{decimals}f})'
  if abs(found.value) < 1e-3:
    return f'{found.value:.3g}', f'± {found.half_width:.2g}'
  return f'{found.value:,.{decimals}f}', f'± {found.half_width:,.{decimals}f}'
