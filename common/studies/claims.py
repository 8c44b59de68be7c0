"""Claims about the cells of a table, and the verdicts that follow from the measurements.

A claim is data: a cell, a relation, and another cell or a number. It *holds* if the 95 % interval
of the difference lies entirely on the claimed side, *fails* if it lies entirely on the other side,
and is *undecided* otherwise.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from common.config import ConfigError
from common.reporting.report import Verdict
from common.studies.estimates import (
  Estimate,
  difference,
  format_estimate,
  is_paired,
  quantile,
  scaled,
  unit,
)

# From worst to best.
VERDICTS = ('fails', 'undecided', 'holds')
MANY = 1000  # seeds

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
    same_examples: whether the other side is of the same examples, with nothing random: then the
      values alone decide, and what other examples would give does not matter.
  """

  text: str
  cell: Cells
  above: Cells | Number | None = None
  below: Cells | Number | None = None
  near: Cells | Number | None = None
  times: Number = 1.0
  within: Number = 0.0
  same_examples: bool = False

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
    one = estimates.get((row, metric))
    worst = min(
      (_compare(claim, row, one, *other) for other in _others(claim, estimates)),
      key=lambda found: VERDICTS.index(found[0]),
    )
    if best is None or VERDICTS.index(worst[0]) > VERDICTS.index(best[0]):
      best = worst
  return Verdict(claim.text, *best)


def _others(claim: Claim, estimates) -> list[tuple[str, Estimate | None]]:
  """(name, estimate) of each side that the cell is compared with; a number has no name."""
  if isinstance(claim.other, (int, float)):
    return [('', Estimate(float(claim.other), 0.0))]
  rows, metric = claim.other
  return [(row, estimates.get((row, metric))) for row in _each(rows)]


def _compare(
  claim: Claim, row: str, one: Estimate | None, name: str, other: Estimate | None
) -> tuple[str, str]:
  """(verdict, detail) of one cell against one other."""
  # Without a value or an error there is no interval, and nothing to decide.
  if one is None or other is None:
    return 'undecided', f'{row if one is None else name} was not measured'
  detail = _detail(claim, row, one, name, other)
  if claim.same_examples:
    one, other = (side._replace(error=0.0, interval=None, seeds={}) for side in (one, other))
  if one.error is None or other.error is None:
    return 'undecided', f'{detail}; the error is unknown'
  gap = difference(one, other, float(claim.times))
  # "near" holds inside ± within · |other|, and fails where the interval lies entirely outside.
  room = claim.within * abs(claim.times * other.value) if claim.relation == 'near' else 0.0
  verdict = _verdict_of(claim.relation, gap, room)
  about = _about_difference(claim, gap, one, other)
  if about and verdict == 'undecided':
    seeds = min(len(side.seeds) for side in (one, other) if side.seeds)
    about += f'; {seeds_to_decide(gap, seeds, room)} would decide it if the means stay'
  return verdict, detail + about


def _about_difference(claim: Claim, gap: Estimate, one: Estimate, other: Estimate) -> str:
  """The difference with its test, and its size in standard deviations of the seeds.

  Nothing where a part of the error is of the measurement alone, which more seeds do not reduce.
  """
  sides = [(side, times) for side, times in ((one, 1.0), (other, claim.times)) if side.error]
  if not (sides and gap.error and math.isfinite(gap.value) and all(s.seeds for s, _ in sides)):
    return ''
  if is_paired(one, other):
    deviation = gap.error * math.sqrt(len(one.seeds))  # of the differences
  else:  # the root of the mean variance of the sides
    variances = [(times * side.error) ** 2 * len(side.seeds) for side, times in sides]
    deviation = math.sqrt(sum(variances) / len(variances))
  _, factor = unit(claim.cell[1], (one.value, other.value))
  shown = format_estimate(scaled(gap, factor))
  return f'; difference {shown} ({_test(one, other)}, effect size {gap.value / deviation:.2g})'


def _test(one: Estimate, other: Estimate) -> str:
  """The name of the test of a difference."""
  if is_paired(one, other):
    return f'paired t-test over {len(one.seeds)} seeds'
  if one.seeds and other.seeds:
    return f"Welch's t-test over {len(one.seeds)} and {len(other.seeds)} seeds"
  return f't-test over {len(one.seeds or other.seeds)} seeds'


def seeds_to_decide(gap: Estimate, seeds: int, room: float = 0.0) -> str:
  """How many seeds would decide a claim, such as 'about 12 seeds', if its means stay as they are.

  With n seeds of the present spread s, the half-width t(n - 1) · s / √n must be below the distance
  of the gap from the bounds of the claim. Half of such repetitions decide it.

  Args:
    gap: the difference, with its error.
    seeds: the number of seeds that it comes from.
    room: the largest difference at which the claim still holds; 0 for 'above' and 'below'.
  """
  distance = abs(abs(gap.value) - room)
  spread = gap.error * math.sqrt(seeds)
  numbers, widths = _widths()
  decided = numbers[(numbers > seeds) & (widths * spread < distance)]
  return f'about {decided[0]} seeds' if len(decided) else f'more than {MANY:,} seeds'


@functools.cache
def _widths() -> tuple[Int[np.ndarray, 'n'], Float[np.ndarray, 'n']]:
  """Numbers of seeds up to MANY, and half the width of the t-interval of each, for spread 1."""
  numbers = np.arange(2, MANY + 1)
  return numbers, quantile(numbers - 1.0) / np.sqrt(numbers)


def _verdict_of(relation: str, gap: Estimate, room: float) -> str:
  """The verdict on a difference, from its interval."""
  low, high = gap.ends
  if relation == 'near':
    return _verdict(low >= -room and high <= room, low > room or high < -room)
  if relation == 'below':
    low, high = -high, -low  # "below" is "above" of the negated difference
  # Two exact values that are equal: neither is above the other.
  return _verdict(low > 0, high < 0 or low == high == 0)


def _detail(claim: Claim, row: str, one: Estimate, name: str, other: Estimate) -> str:
  """'class agreement: 0.957 ± 0.013 (pixels) against 2 × 0.9 (patches)'."""
  metric, factor = unit(claim.cell[1], (one.value, other.value))
  ours, theirs = (format_estimate(scaled(found, factor)) for found in (one, other))
  times = f'{claim.times:g} × ' if claim.times != 1 else ''
  theirs = f'({theirs})' if times and '±' in theirs else theirs
  named = f' ({name})' if name else ''
  return f'{metric}: {ours} ({row}) against {times}{theirs}{named}'


def _verdict(holds: bool, fails: bool) -> str:
  return 'holds' if holds else 'fails' if fails else 'undecided'


def _each(rows: str | tuple[str, ...]) -> tuple[str, ...]:
  return rows if isinstance(rows, tuple) else (rows,)
