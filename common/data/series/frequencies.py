"""The frequency of series, from their times: the distance of a step, and steps that are missing.

A frequency is clear if at least half of the distances between neighbouring times are one step and
all others are several whole steps, which then are gaps.
"""

import datetime
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from common.data.series.calendars import DAY, Frequency, Timestamps, frequency_named

ZONE = re.compile(r' ?(Z|z|UTC|GMT|[+-]\d\d(:?\d\d)?)$')  # at the end of a style
MAX_FILLED = 10  # missing steps for each time


class UnevenTimesError(Exception):
  """Times are not evenly spaced, or occur twice.

  Attributes:
    index: index of the first time at a wrong distance from the one before it.
  """

  def __init__(self, index: int):
    super().__init__(index)
    self.index = index


class FrequencyError(Exception):
  """The series have several frequencies, or not the one that was chosen.

  Attributes:
    found: the number of series of each frequency, by its name.
  """

  def __init__(self, found: dict[str, int]):
    super().__init__(found)
    self.found = found


class Regular(NamedTuple):
  """Times of series with a common frequency.

  Attributes:
    frequency: the frequency.
    times: the times of the series that are kept, in its unit.
    kept: whether a series has this frequency; the others were not chosen.
  """

  frequency: Frequency
  times: Timestamps
  kept: Bool[np.ndarray, 'series']


class _Reading(NamedTuple):
  """One way to read the times: their distances, and the step of each series.

  Attributes:
    times: the times in one unit.
    gaps: the distances within series.
    owner: the series of each distance.
    before: the index of the time before each distance.
    own: the step of each series: its most frequent distance, if all of its distances are multiples
      of it and there are at least two; otherwise 0.
  """

  times: Timestamps
  gaps: Int[np.ndarray, 'gaps']
  owner: Int[np.ndarray, 'gaps']
  before: Int[np.ndarray, 'gaps']
  own: Int[np.ndarray, 'series']

  def common(self) -> int:
    """The step of all series; 0 if there is no clear one."""
    steps = np.unique(self.own[self.own > 0])
    if len(steps) > 1:
      return 0
    step = int(steps[0]) if len(steps) else _mode(self.gaps)
    even = (self.gaps > 0) & (self.gaps % step == 0)
    enough = 2 * (self.gaps == step).sum() >= len(self.gaps)
    few = (self.gaps // step - 1).sum() <= MAX_FILLED * (len(self.gaps) + 1)
    return step if even.all() and enough and few else 0


def infer_frequency(times: Timestamps, starts: Bool[np.ndarray, 'n'], chosen: str = '') -> Regular:
  """The frequency that several series have in common, and their times in its unit.

  Dates may be a month, a quarter or a year apart: on the same day of the month, or on its last.

  Args:
    times: one series after the other, each in the order of time.
    starts: whether a time is the first of its series.
    chosen: the name of a frequency; series with another one are not kept.

  Raises:
    UnevenTimesError: times are not a whole number of steps apart, or occur twice.
    FrequencyError: series have several frequencies, or none has the chosen one.
  """
  regular = _regular(times, starts)
  if regular is not None and chosen in ('', regular.frequency.name):
    return regular
  if chosen and (regular := _as_chosen(times, starts, chosen)) is not None:
    return regular
  names = _names(times, starts)
  found = {name: names.count(name) for name in dict.fromkeys(names) if name}
  if chosen in found:
    kept = np.array([name == chosen for name in names])
    rows = np.flatnonzero(kept[np.cumsum(starts) - 1])
    return _regular(times.take(rows), starts[rows])._replace(kept=kept)
  if found and (chosen or len(found) > 1):
    raise FrequencyError(found)
  readings = [_read(candidate, starts) for candidate in _interpretations(times)]
  if not len(readings[0].gaps):  # nothing shows a frequency, and the chosen one does not suit
    raise FrequencyError({'none': len(names)})
  raise UnevenTimesError(min(map(_first_error, readings))[1])


def _regular(times: Timestamps, starts: Bool[np.ndarray, 'n']) -> Regular | None:
  """The times of series with one clear frequency; None if there is none."""
  readings = [_read(candidate, starts) for candidate in _interpretations(times)]
  clear = [(reading, step) for reading in readings if (step := reading.common())]
  if not clear:
    return None
  # With the fewest gaps: the same moments may be days with gaps, or months without.
  reading, step = min(clear, key=_number_missing)
  kept = np.ones(int(starts.sum()), bool)
  return Regular(Frequency(reading.times.unit, step), reading.times, kept)


def _as_chosen(times: Timestamps, starts: Bool[np.ndarray, 'n'], chosen: str) -> Regular | None:
  """The times in the chosen frequency, if no series is long enough to show another one."""
  wanted = frequency_named(chosen)
  for reading in (_read(candidate, starts) for candidate in _interpretations(times)):
    if wanted is None or wanted.unit != reading.times.unit or reading.own.any():
      continue
    if ((reading.gaps > 0) & (reading.gaps % wanted.step == 0)).all():
      return Regular(wanted, reading.times, np.ones(int(starts.sum()), bool))
  return None


def _names(times: Timestamps, starts: Bool[np.ndarray, 'n']) -> list[str]:
  """The name of the frequency of each series by itself; '' if it is not clear."""
  names = []
  for rows in np.split(np.arange(len(starts)), np.flatnonzero(starts)[1:]):
    found = _regular(times.take(rows), starts[rows]) if len(rows) > 2 else None
    names.append(found.frequency.name if found else '')
  return names


def _number_missing(clear: tuple[_Reading, int]) -> int:
  reading, step = clear
  return int((reading.gaps // step - 1).sum())


def _first_error(reading: _Reading) -> tuple[int, int]:
  """(number of uneven distances, index of the first time after one)."""
  gaps = reading.gaps
  step = _mode(gaps)
  twice = np.flatnonzero(gaps == 0)
  # A time that occurs twice is the plainer error.
  wrong = twice if len(twice) else np.flatnonzero(gaps % step != 0)
  wrong = wrong if len(wrong) else np.flatnonzero(gaps != step)
  return len(wrong), int(reading.before[wrong[0]]) + 1


def _read(times: Timestamps, starts: Bool[np.ndarray, 'n']) -> _Reading:
  """The distances between the times of each series."""
  before = np.flatnonzero(~starts[1:])
  gaps, owner = np.diff(times.values)[before], (np.cumsum(starts) - 1)[before]
  own = np.zeros(int(starts.sum()), np.int64)
  # Runs of equal (series, distance), of which the longest of each series is its step.
  order = np.lexsort((gaps, owner))
  pairs = np.stack([owner[order], gaps[order]])
  first = np.flatnonzero(np.diff(pairs, prepend=-1).any(0))
  counts = np.diff(np.append(first, len(gaps)))
  # In ascending order of counts, the last one written stays; of equal counts the smaller distance.
  ranked = np.lexsort((-pairs[1][first], counts))
  own[pairs[0][first][ranked]] = pairs[1][first][ranked]
  odd = owner[gaps % np.maximum(own, 1)[owner] != 0]
  own[odd] = 0
  own[np.bincount(owner, minlength=len(own)) < 2] = 0
  return _Reading(times, gaps, owner, before, own)


def _mode(gaps: Int[np.ndarray, 'n']) -> int:
  """The most frequent positive distance; 1 if there is none."""
  steps, counts = np.unique(gaps[gaps > 0], return_counts=True)
  return int(steps[counts.argmax()]) if len(steps) else 1


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
