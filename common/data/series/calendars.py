"""Calendars of regular time series: times and their frequency, seasons and time features.

All times of a column are written in one way (common/data/series/times.py reads and writes them).
Moments are counted in seconds of local time, because days and weeks of a series follow it.
"""

import datetime
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

DAY, WEEK = 86_400, 7 * 86_400  # seconds
YEAR = 365.2425 * DAY  # the mean year of the Gregorian calendar
ZONE = re.compile(r' ?(Z|z|UTC|GMT|[+-]\d\d(:?\d\d)?)$')  # at the end of a style


class Timestamps(NamedTuple):
  """Times as integers.

  Attributes:
    unit: 'month' or 'second', counted from the beginning of 1970, or 'step'.
    values: the times in this unit.
    style: how they were written (common/data/series/times.py).
    zones: the distance of each local time from UTC in seconds, if it changes with summer time.
  """

  unit: str
  values: Int[np.ndarray, 'n']
  style: str = ''
  zones: Int[np.ndarray, 'n'] | None = None

  @property
  def instants(self) -> Int[np.ndarray, 'n']:
    """Numbers in the order of time: in UTC where the offset from UTC changes."""
    return self.values if self.zones is None else self.values - self.zones

  def take(self, order: Int[np.ndarray, 'n']) -> 'Timestamps':
    """The times at these positions."""
    zones = None if self.zones is None else self.zones[order]
    return self._replace(values=self.values[order], zones=zones)


class Clock(NamedTuple):
  """How the times of a dataset are counted and written.

  Attributes:
    unit: see `Timestamps`.
    step: number of units from one step of a series to the next.
    style: see `Timestamps`.
  """

  unit: str
  step: int
  style: str = ''


STEPS = Clock('step', 1)  # of series without times


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
  """The times in their own unit, then, for dates that may stand for months, in months.

  If their offset from UTC changes, they may be even as they are written (days), or in standard
  time (hours), which is the smaller distance.
  """
  if times.zones is not None:
    zone = int(times.zones.min())
    sign, minutes = '-' if zone < 0 else '+', abs(zone) // 60
    plain = ZONE.sub('', times.style)
    standard = f'{plain}{sign}{minutes // 60:02d}:{minutes % 60:02d}'
    yield Timestamps(times.unit, times.instants + zone, standard)
    times = Timestamps(times.unit, times.values, plain)
  yield times
  if times.unit == 'second':
    moments = times.values.astype('datetime64[s]')
    months = moments.astype('datetime64[M]')
    since_first = moments - months
    next_day = (moments + np.timedelta64(DAY, 's')).astype('datetime64[M]')
    # Always the same day and time of the month, or always the last day of one.
    if (since_first == since_first[0]).all():
      # A month has no day, so the style keeps it.
      yield Timestamps('month', months.astype(np.int64), _fixed_day(times.style, moments[0].item()))
    elif (next_day > months).all():
      yield Timestamps('month', months.astype(np.int64), times.style)


def _fixed_day(style: str, moment: datetime.datetime) -> str:
  """The style of dates a month apart, with the day and time of `moment`, which all share."""
  style = '%Y-%m-%d' if style.startswith('unix') else style
  for part in ('%d', '%H', '%M', '%S'):
    style = style.replace(part, moment.strftime(part))
  return style


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
