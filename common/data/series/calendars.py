"""Calendars of regular time series: times and their frequency, seasons and time features.

All times of a column are written in one way (common/data/series/times.py reads and writes them).
Moments are counted in seconds of local time, because days and weeks of a series follow it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DAY, WEEK = 86_400, 7 * 86_400  # seconds
YEAR = 365.2425 * DAY  # the mean year of the Gregorian calendar
FREQUENCY_NAMES = {
  ('month', 12): 'yearly',
  ('month', 3): 'quarterly',
  ('month', 1): 'monthly',
  ('second', WEEK): 'weekly',
  ('second', DAY): 'daily',
  ('second', 3600): 'hourly',
}
UNITS = {'month': ((1, 'months'),), 'step': ((1, 'steps'),)}
UNITS['second'] = ((DAY, 'days'), (3600, 'hours'), (60, 'minutes'), (1, 'seconds'))


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
  def name(self) -> str:
    """'monthly', or the distance: '30 minutes'."""
    if (self.unit, self.step) in FREQUENCY_NAMES:
      return FREQUENCY_NAMES[self.unit, self.step]
    size, unit = next(each for each in UNITS[self.unit] if self.step % each[0] == 0)
    return f'{self.step // size} {unit}'

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


def frequency_named(name: str) -> Frequency | None:
  """The frequency with a name that `Frequency.name` gives; None for any other text."""
  for (unit, step), known in FREQUENCY_NAMES.items():
    if name == known:
      return Frequency(unit, step)
  number, _, word = name.partition(' ')
  for unit, sizes in UNITS.items():
    for size, known in sizes:
      if word == known and number.isdecimal() and int(number):
        return Frequency(unit, int(number) * size)
  return None


def feature_names(frequency: Frequency) -> tuple[str, ...]:
  """Names of the columns of `time_features`."""
  return ('age', *(f'{cycle}_{part}' for cycle in frequency.cycles for part in ('sin', 'cos')))


def time_features(
  times: Timestamps, frequency: Frequency, age: Int[np.ndarray, 'n']
) -> Float[np.ndarray, 'n columns']:
  """Covariates that depend only on the time: the age, and the phase of each cycle.

  Args:
    times: the times, in the unit of the frequency.
    frequency: the frequency of the series.
    age: number of steps since the start of the series; the feature is log10(2 + age).
  """
  columns = [np.log10(2.0 + age)]
  for cycle in frequency.cycles:
    # As a point on the circle, so that the end of a cycle is next to its beginning.
    angle = 2 * np.pi * _phase(times, cycle)
    columns += [np.sin(angle), np.cos(angle)]
  return np.stack(columns, -1)


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
