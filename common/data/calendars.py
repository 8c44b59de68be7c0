"""Times of regular series: how they are written, how far apart they stand, what recurs with them.

A time is one of
  2001 Q3                               a quarter
  2001 Mar, 2001-03                     a month
  2001-03-31, 2001-03-31T13:30:00       a date, a moment (as written: zones are not converted)
  7, 2001                               a whole number: the steps of a series that has no dates
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

DAY, WEEK = 86_400, 7 * 86_400  # seconds
YEAR = 365.2425 * DAY
MONTHS = ('jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec')
QUARTER = re.compile(r'(\d{4})[ -]?Q([1-4])')
NAMED_MONTH = re.compile(r'(\d{4})[ -]([A-Za-z]{3})[a-z]*')
WRITTEN = "a date such as 2001-03-31, a month such as '2001 Mar', '2001 Q3', or a whole number"


class Times(NamedTuple):
  """Times as whole numbers of a unit: 'month' and 'second' since 1970, or 'step'."""

  unit: str
  values: Int[np.ndarray, 'n']


class Spacing(NamedTuple):
  """How far apart regular times stand.

  Attributes:
    unit: 'month', 'second' or 'step'.
    step: units from one time to the next.
  """

  unit: str
  step: int

  @property
  def season(self) -> int:
    """Steps after which a series tends to repeat: a year of months, a week of days, a day of less
    than days; 1 where there is no whole number of them."""
    if self.unit == 'month':
      return 12 // self.step if 12 % self.step == 0 else 1
    if self.unit == 'second':
      if self.step == WEEK:
        return 52
      whole = WEEK if self.step == DAY else DAY
      return whole // self.step if whole % self.step == 0 else 1
    return 1

  @property
  def cycles(self) -> tuple[str, ...]:
    """What recurs: those of day, week and year that are longer than two steps."""
    seconds = {'month': self.step * YEAR / 12, 'second': self.step}.get(self.unit, YEAR)
    lengths = {'day': DAY, 'week': WEEK, 'year': YEAR}
    return tuple(name for name, length in lengths.items() if length > 2 * seconds)


class Uneven(Exception):
  """Times are not evenly spaced. `index`: the first that stands wrong after the one before it."""

  def __init__(self, index: int):
    super().__init__(index)
    self.index = index


def parse(texts: Sequence[str]) -> Times:
  """Times from how they are written.

  Raises:
    ValueError: for a text that is no time, and for different kinds of them.
  """
  distinct, place = np.unique(np.array(texts, str), return_inverse=True)
  found = [_parse(str(text)) for text in distinct]
  other = next((i for i, (unit, _) in enumerate(found) if unit != found[0][0]), None)
  if other is not None:
    raise ValueError(f'{distinct[0]!r} and {distinct[other]!r} are times of different kinds')
  return Times(found[0][0], np.array([value for _, value in found], np.int64)[place])


def _parse(text: str) -> tuple[str, int]:
  text = text.strip()
  if found := QUARTER.fullmatch(text):
    return 'month', 12 * (int(found[1]) - 1970) + 3 * (int(found[2]) - 1)
  if (found := NAMED_MONTH.fullmatch(text)) and found[2].lower() in MONTHS:
    return 'month', 12 * (int(found[1]) - 1970) + MONTHS.index(found[2].lower())
  if re.fullmatch(r'-?\d+', text):
    return 'step', int(text)
  unit = 'month' if re.fullmatch(r'\d{4}-\d\d', text) else 'second'
  written = re.sub(r'(Z|[+-]\d\d:?\d\d)$', '', text) if 'T' in text or ':' in text else text
  try:
    moment = np.datetime64(written, 'M' if unit == 'month' else 's')
  except ValueError:
    moment = np.datetime64('NaT')
  if np.isnat(moment):
    raise ValueError(f'{text!r} is no time; write {WRITTEN}')
  return unit, int(moment.astype(np.int64))


def spacing(times: Times, begins: Bool[np.ndarray, 'n']) -> tuple[Spacing, Times]:
  """The spacing of several series one after the other, and their times in its unit.

  Dates may stand a month, a quarter or a year apart: on the same day, or at the ends of months.

  Args:
    times: in order within each series.
    begins: where a series begins.

  Raises:
    Uneven: a step is missing, or comes twice.
  """
  best = None
  for reading in _readings(times):
    gaps = np.where(begins[1:], 0, np.diff(reading.values))
    inner = gaps[~begins[1:]]
    kinds, number = np.unique(inner[inner > 0], return_counts=True)
    step = int(kinds[number.argmax()]) if len(kinds) else 1
    wrong = np.flatnonzero(~begins[1:] & (gaps != step))
    if not len(wrong):
      return Spacing(reading.unit, step), reading
    if best is None or len(wrong) < len(best):
      best = wrong
  raise Uneven(int(best[0]) + 1)


def _readings(times: Times):
  """Times in their own unit, and dates as months where that is what they may be."""
  yield times
  if times.unit == 'second':
    moments = times.values.astype('datetime64[s]')
    months = moments.astype('datetime64[M]')
    into, last = moments - months, (moments + np.timedelta64(DAY, 's')).astype('datetime64[M]')
    if (into == into[0]).all() or (last > months).all():
      yield Times('month', months.astype(np.int64))


def covariates(
  times: Times, spacing: Spacing, age: Int[np.ndarray, 'n']
) -> tuple[tuple[str, ...], Float[np.ndarray, 'n columns']]:
  """What is known of times in advance: the phase of each cycle on a circle, and the age.

  Args:
    times: in the unit of the spacing.
    spacing: see there.
    age: steps since a series began; log10(2 + age) goes in.

  Returns:
    Names of the columns, and the columns.
  """
  columns = {'age': np.log10(2.0 + age)}
  for cycle in spacing.cycles:
    angle = 2 * np.pi * _phase(times, cycle)
    columns |= {f'{cycle}_sin': np.sin(angle), f'{cycle}_cos': np.cos(angle)}
  return tuple(columns), np.stack(list(columns.values()), -1)


def _phase(times: Times, cycle: str) -> Float[np.ndarray, 'n']:
  """How much of a cycle has passed, in [0, 1); weeks begin on Monday."""
  if times.unit == 'month':
    return times.values % 12 / 12
  if cycle == 'day':
    return times.values % DAY / DAY
  if cycle == 'week':
    return (times.values + 3 * DAY) % WEEK / WEEK  # 1970 began on a Thursday
  moments = times.values.astype('datetime64[s]')
  return (moments - moments.astype('datetime64[Y]')).astype(np.int64) / (366 * DAY)
