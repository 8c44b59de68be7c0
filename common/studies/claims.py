"""Claims about the cells of a table, and the verdicts that follow from the measurements.

A claim is data: a cell, a relation, and another cell or a number. It *holds* if the 95 % interval
of the difference lies entirely on the claimed side, *fails* if it lies entirely on the other side,
and is *undecided* otherwise.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.config import ConfigError
from common.evaluation.measures import Measure
from common.reporting.report import Verdict

CONFIDENCE = 0.95
# From worst to best.
VERDICTS = ('fails', 'undecided', 'holds')

Cells = tuple[str | tuple[str, ...], str]  # (row or rows, metric)
Number = int | float


@dataclasses.dataclass(frozen=True)
class Claim:
  """One claim; exactly one of `above`, `below` and `near` is given.

    Claim('a few steps suffice', ('20 steps', 'agreement'), above=0.9)
    Claim('regression is worst', ('regression', 'agreement'), below=(('20', '100'), 'agreement'))
    Claim('equal size', ('pixels', 'parameters'), near=('20 steps', 'parameters'), within=0.05)

  Attributes:
    text: the claim, for a reader.
    cell: (row, metric). With several rows, the claim is about at least one of them.
    above, below, near: the other side: a number, or (row, metric). With several rows, the claim is
      about each of them.
    times: a factor that multiplies the other side.
    within: for `near`: the largest difference allowed, as a fraction of the other side.
  """

  text: str
  cell: Cells
  above: Cells | Number | None = None
  below: Cells | Number | None = None
  near: Cells | Number | None = None
  times: Number = 1.0
  within: Number = 0.0

  def __post_init__(self):
    given = list(self._sides())
    if len(given) != 1:
      raise ConfigError(
        f'claim {self.text!r} needs exactly one of above, below and near, got {given}'
      )
    if (given == ['near']) != (self.within > 0):
      raise ConfigError(
        f'claim {self.text!r}: near needs within > 0, and above and below take none, '
        f'got {given[0]} and within={self.within}'
      )

  def _sides(self) -> dict[str, Cells | Number]:
    """The relations that are given, with their other sides."""
    sides = {'above': self.above, 'below': self.below, 'near': self.near}
    return {relation: side for relation, side in sides.items() if side is not None}

  @property
  def relation(self) -> str:
    """'above', 'below' or 'near'."""
    return next(iter(self._sides()))

  @property
  def other(self) -> Cells | Number:
    """The side that the cell is compared with."""
    return self._sides()[self.relation]

  def cells(self) -> list[tuple[str, str]]:
    """Every (row, metric) that the claim mentions."""
    sides = [self.cell] + ([] if isinstance(self.other, (int, float)) else [self.other])
    return [(row, metric) for rows, metric in sides for row in _each(rows)]


class Estimate(NamedTuple):
  """A mean, its standard error (None: unknown), and the degrees of freedom of the error."""

  value: float
  error: float | None
  dof: float = math.inf

  @property
  def half_width(self) -> float | None:
    """Half the width of the 95 % interval."""
    return None if self.error is None else _quantile(self.dof) * self.error


def estimate(measures: Sequence[Measure]) -> Estimate | None:
  """The estimate from measurements with several seeds; None if there is no value.

  Several values give their mean and the standard error of the mean, for a t-interval. A single
  value gives its own standard error.
  """
  known = [measure for measure in measures if measure.value is not None]
  if not known:
    return None
  # A single seed says nothing about the spread of training: only the measurement has an error.
  if len(known) == 1:
    return Estimate(float(known[0].value), known[0].standard_error)
  values = np.array([measure.value for measure in known])
  # The spread of the seeds; the measurement's own error is part of it.
  error = values.std(ddof=1) / math.sqrt(len(values))
  return Estimate(float(values.mean()), float(error), len(values) - 1.0)


def judge(claim: Claim, estimates: Mapping[tuple[str, str], Estimate | None]) -> Verdict:
  """The verdict on a claim.

  Args:
    claim: the claim.
    estimates: by (row, metric); None, or no entry, where nothing was measured.
  """
  rows, metric = claim.cell
  best = None
  # The best of the claim's rows, each by the worst of its comparisons: "one of these beats all of
  # those".
  for row in _each(rows):
    worst = min(
      (
        _compare(claim, estimates.get((row, metric)), *other) for other in _others(claim, estimates)
      ),
      key=lambda found: VERDICTS.index(found[0]),
    )
    worst = (worst[0], f'{row}: {worst[1]}' if isinstance(rows, tuple) else worst[1])
    if best is None or VERDICTS.index(worst[0]) > VERDICTS.index(best[0]):
      best = worst
  return Verdict(claim.text, *best)


def _others(claim: Claim, estimates) -> list[tuple[str, Estimate | None]]:
  """(name, estimate) of each side that the cell is compared with."""
  if isinstance(claim.other, (int, float)):
    return [('', Estimate(float(claim.other), 0.0))]
  rows, metric = claim.other
  return [(row, estimates.get((row, metric))) for row in _each(rows)]


def _compare(
  claim: Claim, one: Estimate | None, name: str, other: Estimate | None
) -> tuple[str, str]:
  """(verdict, detail) of one cell against one other."""
  # Without a value or an error there is no interval, and nothing to decide.
  if one is None or other is None:
    return 'undecided', 'not measured' if one is None else f'{name}: not measured'
  factor = f'{claim.times:g} × ' if claim.times != 1 else ''
  named = f' ({name})' if name else ''
  detail = f'{format_estimate(one)} against {factor}{format_estimate(other)}{named}'
  if one.error is None or other.error is None:
    return 'undecided', f'{detail}; the error is unknown'
  gap = one.value - claim.times * other.value
  half_width = _gap_half_width(one, other, float(claim.times))
  low, high = gap - half_width, gap + half_width
  # "near" holds inside ± within · |other|, and fails where the interval lies entirely outside.
  if claim.relation == 'near':
    room = claim.within * abs(claim.times * other.value)
    return _verdict(low >= -room and high <= room, low > room or high < -room), detail
  if claim.relation == 'below':
    low, high = -high, -low  # "below" is "above" of the negated difference
  # Two exact values that are equal: neither is above the other.
  return _verdict(low > 0, high < 0 or low == high == 0), detail


def _verdict(holds: bool, fails: bool) -> str:
  return 'holds' if holds else 'fails' if fails else 'undecided'


def _gap_half_width(one: Estimate, other: Estimate, times: float) -> float:
  """Half the width of the interval of one − times · other (Welch 1947)."""
  parts = [(one.error**2, one.dof), ((times * other.error) ** 2, other.dof)]
  variance = sum(part for part, _ in parts)
  if variance == 0:
    return 0.0
  spread = sum(part**2 / dof for part, dof in parts)
  # Welch–Satterthwaite: ν = (Σ sᵢ²)² / Σ (sᵢ⁴ / νᵢ); exact parts do not reduce it.
  dof = variance**2 / spread if spread > 0 else math.inf
  return _quantile(dof) * math.sqrt(variance)


def _quantile(dof: float) -> float:
  """The factor from a standard error to half a t-interval: 1.96 for infinite `dof`."""
  from scipy import stats

  return float(stats.t.ppf(0.5 + CONFIDENCE / 2, dof))


def _each(rows: str | tuple[str, ...]) -> tuple[str, ...]:
  return rows if isinstance(rows, tuple) else (rows,)


def format_estimate(found: Estimate | None) -> str:
  """'0.957 ± 0.013': two digits of half the 95 % interval, and the value to the same decimals."""
  return '' if found is None else ' ± '.join(part for part in format_parts(found) if part)


def format_parts(found: Estimate) -> tuple[str, str]:
  """The two numbers of `format_estimate`; the second is empty without an error."""
  if not found.half_width or not math.isfinite(found.half_width):
    whole = found.value.is_integer() and abs(found.value) < 1e15
    return (f'{found.value:,.0f}' if whole else f'{found.value:.4g}'), ''
  if abs(found.value) < 1e-3:
    return f'{found.value:.3g}', f'{found.half_width:.2g}'
  # Two significant digits of the half-width h: 1 − ⌊log₁₀ h⌋ decimals.
  decimals = max(1 - math.floor(math.log10(found.half_width)), 0)
  return f'{found.value:,.{decimals}f}', f'{found.half_width:,.{decimals}f}'
