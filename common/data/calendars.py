"""Calendars of regular time series: parsing times, their frequency, seasons and time features.

A time is written as one of
  2001 Q3                               a quarter
  2001 Mar, 2001-03                     a month
  2001-03-31, 2001-03-31T13:30:00       a date or a moment (local: time zones are not converted)
  7, 2001                               a whole number: a step of a series without dates
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from common.config import ConfigError

DAY, WEEK = 86_400, 7 * 86_400  # seconds
YEAR = 365.2425 * DAY  # the mean year of the Gregorian calendar
MONTHS = ('jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec')
QUARTER = re.compile(r'(\d{4})[ -]?Q([1-4])')
NAMED_MONTH = re.compile(r'(\d{4})[ -]([A-Za-z]{3})[a-z]*')
FORMATS = "a date such as 2001-03-31, a month such as '2001 Mar', '2001 Q3', or a whole number"


class Timestamps(NamedTuple):
  """Times as integers.

  Attributes:
    unit: 'month' or 'second', counted from the beginning of 1970, or 'step'.
    values: the times in this unit.
  """

  unit: str
  values: Int[np.ndarray, 'n']


class Frequency(NamedTuple):
  """The distance between consecutive times of a regular series.

  Attributes:
    unit: 'month', 'second' or 'step'.
    step: number of units from one time to the next.
  """

  unit: str
  step: int

  @property
  def season(self) -> int:
    """Number of steps after which a series tends to repeat.

    A year for months and weeks, a week for days, a day for anything shorter; 1 if that is not a
    whole number of steps.
    """
    if self.unit == 'month':
      return 12 // self.step if 12 % self.step == 0 else 1
    if self.unit == 'second':
      if self.step == WEEK:
        return 52
      period = WEEK if self.step == DAY else DAY
      return period // self.step if period % self.step == 0 else 1
    return 1

  @property
  def cycles(self) -> tuple[str, ...]:
    """The cycles that the series can resolve, out of 'day', 'week' and 'year'."""
    # Steps without dates count as a year each, which resolves no cycle.
    seconds = {'month': self.step * YEAR / 12, 'second': self.step}.get(self.unit, YEAR)
    lengths = {'day': DAY, 'week': WEEK, 'year': YEAR}
    # Nyquist: a cycle of two steps or fewer is not determined by samples.
    return tuple(name for name, length in lengths.items() if length > 2 * seconds)


class UnevenTimesError(Exception):
  """Times are not evenly spaced.

  Attributes:
    index: index of the first time at a wrong distance from the one before it.
  """

  def __init__(self, index: int):
    super().__init__(index)
    self.index = index


def parse_times(texts: Sequence[str]) -> Timestamps:
  """Times from text, in the order given.

  Raises:
    ConfigError: for a text that is not a time, or if dates, months and steps are mixed.
  """
  # Series share their times: each different text is parsed once.
  distinct, inverse = np.unique(np.array(texts, str), return_inverse=True)
  parsed = [_parse_time(str(text)) for text in distinct]
  other = next((i for i, (unit, _) in enumerate(parsed) if unit != parsed[0][0]), None)
  if other is not None:
    raise ConfigError(
      'all times must be of one kind (moments, months or whole numbers), got '
      f'{str(distinct[0])!r} and {str(distinct[other])!r}'
    )
  return Timestamps(parsed[0][0], np.array([value for _, value in parsed], np.int64)[inverse])


def _parse_time(text: str) -> tuple[str, int]:
  """The unit and the value of one time."""
  text = text.strip()
  if found := QUARTER.fullmatch(text):
    return 'month', 12 * (int(found[1]) - 1970) + 3 * (int(found[2]) - 1)
  if (found := NAMED_MONTH.fullmatch(text)) and found[2].lower() in MONTHS:
    return 'month', 12 * (int(found[1]) - 1970) + MONTHS.index(found[2].lower())
  # Before dates, because NumPy reads '2001' as a year: a bare number is a step.
  if re.fullmatch(r'-?\d+', text):
    return 'step', int(text)
  unit = 'month' if re.fullmatch(r'\d{4}-\d\d', text) else 'second'
  # The time zone is dropped: days and weeks of a series follow its local time.
  local = re.sub(r'(Z|[+-]\d\d:?\d\d)$', '', text) if 'T' in text or ':' in text else text
  try:
    moment = np.datetime64(local, 'M' if unit == 'month' else 's')
  except ValueError:
    moment = np.datetime64('NaT')
  if np.isnat(moment):
    raise ConfigError(f'a time must be {FORMATS}; got {text!r}')
  return unit, int(moment.astype(np.int64))


def infer_frequency(
  times: Timestamps, starts: Bool[np.ndarray, 'n']
) -> tuple[Frequency, Timestamps]:
  """The frequency that several series have in common, and their times in its unit.

  Dates may be a month, a quarter or a year apart: on the same day of the month, or on its last.

  Args:
    times: one series after the other, each in the order of time.
    starts: whether a time is the first of its series.

  Raises:
    UnevenTimesError: if a step is missing, or occurs twice.
  """
  fewest_errors = None
  for candidate in _interpretations(times):
    # The gap between two series is not a step of either.
    gaps = np.where(starts[1:], 0, np.diff(candidate.values))
    inner = gaps[~starts[1:]]
    steps, counts = np.unique(inner[inner > 0], return_counts=True)
    step = int(steps[counts.argmax()]) if len(steps) else 1  # the most frequent gap
    errors = np.flatnonzero(~starts[1:] & (gaps != step))
    if not len(errors):
      return Frequency(candidate.unit, step), candidate
    if fewest_errors is None or len(errors) < len(fewest_errors):
      fewest_errors = errors
  # errors[i] is the gap before time i + 1.
  raise UnevenTimesError(int(fewest_errors[0]) + 1)


def _interpretations(times: Timestamps) -> Iterator[Timestamps]:
  """The times in their own unit, then, for dates that may stand for months, in months."""
  yield times
  if times.unit == 'second':
    moments = times.values.astype('datetime64[s]')
    months = moments.astype('datetime64[M]')
    since_first = moments - months
    next_day = (moments + np.timedelta64(DAY, 's')).astype('datetime64[M]')
    # Always the same day and time of the month, or always the last day of one.
    if (since_first == since_first[0]).all() or (next_day > months).all():
      yield Timestamps('month', months.astype(np.int64))


def time_features(
  times: Timestamps, frequency: Frequency, age: Int[np.ndarray, 'n']
) -> tuple[tuple[str, ...], Float[np.ndarray, 'n columns']]:
  """Covariates that depend only on the time: the phase of each cycle, and the age.

  Args:
    times: the times, in the unit of the frequency.
    frequency: the frequency of the series.
    age: number of steps since the start of the series; the feature is log10(2 + age).

  Returns:
    Names of the columns, and the columns.
  """
  columns = {'age': np.log10(2.0 + age)}
  for cycle in frequency.cycles:
    # As a point on the circle, so that the end of a cycle is next to its beginning.
    angle = 2 * np.pi * _phase(times, cycle)
    columns |= {f'{cycle}_sin': np.sin(angle), f'{cycle}_cos': np.cos(angle)}
  return tuple(columns), np.stack(list(columns.values()), -1)


def _phase(times: Timestamps, cycle: str) -> Float[np.ndarray, 'n']:
  """The fraction of a cycle that has passed, in [0, 1). Weeks begin on Monday."""
  if times.unit == 'month':
    return times.values % 12 / 12
  if cycle == 'day':
    return times.values % DAY / DAY
  if cycle == 'week':
    return (times.values + 3 * DAY) % WEEK / WEEK  # 1 January 1970 was a Thursday
  moments = times.values.astype('datetime64[s]')
  # Divided by the length of a leap year, so that the phase stays below 1 in every year.
  return (moments - moments.astype('datetime64[Y]')).astype(np.int64) / (366 * DAY)
