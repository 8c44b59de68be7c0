"""Times of series as text: every spelling that is read, and the same spelling written again.

A time is written as one of
  2001 Q3                               a quarter
  2001 Mar, 2001-03, 200103             a month
  2001-03-31, 2001/03/31, 20010331      a date
  2001-03-31T13:30:00, 2001-03-31 13:30 a moment, with or without a zone: Z, UTC, +01:00, +0100, +01
  1700000000, 1700000000000             a moment in seconds or milliseconds since 1970 (Unix)
  7, 2001                               a whole number: a step of a series without dates

A column is of one kind, with a zone in all rows or in none. Times are taken as they are written, in
local time; hours across a change to summer time need a zone, and count in standard time.

A style is a pattern of `datetime.strftime`, with %q for the quarter, which writes a time again as
it was read; 'unix' and 'unix_ms' count seconds and milliseconds.
"""

import calendar
import datetime
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from common.config import ConfigError
from common.data.series.calendars import Timestamps

MONTHS = ('jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec')
QUARTER = re.compile(r'(\d{4})([ -]?)Q([1-4])')
NAMED_MONTH = re.compile(r'(\d{4})([ -])([A-Za-z]{3})[a-z]*')
NUMBERED_MONTH = re.compile(r'(\d{4})-(\d\d)')
# pandas writes whole numbers as 7.0 if its column once had gaps.
WHOLE = re.compile(r'(-?\d{1,15})(\.0+)?')
MOMENT = re.compile(
  r'(?P<date>\d{4}([-/])\d\d\2\d\d|\d{8}(?=T|$))'
  r'((?P<mark>[T ])(?P<clock>\d\d(:?\d\d(:?\d\d(\.\d+)?)?)?))?'
  r' ?(?P<zone>Z|z|UTC|GMT|[+-]\d\d(:?\d\d)?)?'
)
FORMATS = "a date such as 2001-03-31, a month such as '2001 Mar', '2001 Q3', or a whole number"
EPOCH = datetime.datetime(1970, 1, 1)
COMPACT_YEARS = range(1800, 2200)  # years of dates that are written as eight or six digits


class TimeError(ConfigError):
  """A text that is not a time, or not one like the others of its column.

  Attributes:
    text: the text.
  """

  def __init__(self, message: str, text: str):
    super().__init__(f'{message}; got {text!r}')
    self.text = text


class _Time(NamedTuple):
  """One time: its unit, its value, its style, and its offset from UTC in seconds, or None."""

  unit: str
  value: int
  style: str = ''
  zone: int | None = None


def parse_times(texts: Sequence[str]) -> Timestamps:
  """Times from text, in the order given.

  Raises:
    TimeError: for a text that is not a time, or if dates, months and steps are mixed.
  """
  # Series share their times: each different text is parsed once.
  distinct, inverse = np.unique([text.strip() for text in texts], return_inverse=True)
  written = list(map(str, distinct))
  parsed = _compact_times(written) or [_parse_time(text) for text in written]
  for kind, wanted in (
    ([time.unit for time in parsed], 'of one kind (moments, months or whole numbers)'),
    ([time.zone is None for time in parsed], 'written with a time zone, or none of them'),
  ):
    other = next((i for i, each in enumerate(kind) if each != kind[0]), None)
    if other is not None:
      raise TimeError(f'all times must be {wanted}, like {written[0]!r}', written[other])
  # Spreadsheets leave out a time of midnight: the longest text shows how times are written.
  style = parsed[max(range(len(written)), key=lambda i: len(written[i]))].style
  values = np.array([time.value for time in parsed], np.int64)
  zones = np.array([time.zone or 0 for time in parsed], np.int64)
  changing = zones[inverse] if (zones != zones[0]).any() else None
  return Timestamps(parsed[0].unit, values[inverse], style, changing)


def _compact_times(texts: Sequence[str]) -> list[_Time]:
  """Times of a column of digits only that are not steps; empty for other columns."""
  if not all(text.isdecimal() and text.isascii() for text in texts):
    return []
  lengths = {len(text) for text in texts}
  if lengths == {10}:
    return [_Time('second', int(text), 'unix') for text in texts]
  if lengths == {13} and all(text.endswith('000') for text in texts):
    return [_Time('second', int(text) // 1000, 'unix_ms') for text in texts]
  if lengths == {13}:
    broken = next(text for text in texts if not text.endswith('000'))
    raise TimeError('times in milliseconds must be whole seconds: round them', broken)
  if lengths not in ({8}, {6}) or any(int(text[:4]) not in COMPACT_YEARS for text in texts):
    return []
  if lengths == {6}:
    months = [int(text[4:]) for text in texts]
    if not all(1 <= month <= 12 for month in months):
      return []
    return [
      _Time('month', _month(int(text[:4]), month), '%Y%m')
      for text, month in zip(texts, months, strict=True)
    ]
  try:
    moments = [datetime.datetime.fromisoformat(text) for text in texts]
  except ValueError:
    return []
  return [_Time('second', _seconds(moment), '%Y%m%d') for moment in moments]


def _month(year: int, month: int) -> int:
  return 12 * (year - 1970) + month - 1


def _seconds(moment: datetime.datetime) -> int:
  return (moment - EPOCH) // datetime.timedelta(seconds=1)


def _parse_time(text: str) -> _Time:
  """One time."""
  if found := QUARTER.fullmatch(text):
    return _Time('month', _month(int(found[1]), 3 * int(found[3]) - 2), f'%Y{found[2]}Q%q')
  if (found := NAMED_MONTH.fullmatch(text)) and found[3].lower() in MONTHS:
    month = MONTHS.index(found[3].lower()) + 1
    return _Time('month', _month(int(found[1]), month), f'%Y{found[2]}%b')
  if (found := NUMBERED_MONTH.fullmatch(text)) and 1 <= int(found[2]) <= 12:
    return _Time('month', _month(int(found[1]), int(found[2])), '%Y-%m')
  if found := WHOLE.fullmatch(text):
    return _Time('step', int(found[1]))
  if found := MOMENT.fullmatch(text):
    return _parse_moment(text, found)
  if re.match(r'\d{1,2}[./-]\d{1,2}[./-]\d', text):
    raise TimeError(
      'a date must begin with its year, such as 2001-03-31, because 3/4 is read in two ways', text
    )
  if re.match(r'\d{4}-\d\d-\d\d.*[A-Za-z]{3}', text):
    raise TimeError(
      'a time zone must be UTC or a distance from it, such as +01:00, not a name', text
    )
  raise TimeError(f'a time must be {FORMATS}', text)


def _parse_moment(text: str, found: re.Match) -> _Time:
  """A date or a moment, from the parts of MOMENT."""
  zone, clock = found['zone'] or '', found['clock'] or ''
  offset = '+00:00' if zone in ('Z', 'z', 'UTC', 'GMT') else zone
  try:
    mark = 'T' if clock else ''
    moment = datetime.datetime.fromisoformat(found['date'].replace('/', '-') + mark + clock)
    away = datetime.datetime.fromisoformat(f'2000-01-01T00:00:00{offset}').utcoffset()
  except ValueError:
    raise TimeError(f'a time must be {FORMATS}', text) from None
  if moment.microsecond:
    raise TimeError('times must be whole seconds: round them, or use steps', text)
  date = found['date'][4] if len(found['date']) > 8 else ''
  colon, parts = (':' if ':' in clock else ''), len(re.findall(r'\d\d', clock.split('.')[0]))
  hours = colon.join(('%H', '%M', '%S')[:parts])
  # What stands between the moment and its zone: nothing, or a space.
  space = ' ' if zone and text[: -len(zone)].endswith(' ') else ''
  style = date.join(('%Y', '%m', '%d')) + (found['mark'] or '') + hours + space + zone
  return _Time('second', _seconds(moment), style, int(away.total_seconds()) if zone else None)


def format_times(unit: str, style: str, values: Int[np.ndarray, 'n']) -> list[str]:
  """Times as text, in the style in which they were read.

  Args:
    unit, style: see `Timestamps`.
    values: the times in this unit.
  """
  if unit == 'step':
    return [str(int(value)) for value in values]
  if style in ('unix', 'unix_ms'):
    return [str(int(value)) + ('000' if style == 'unix_ms' else '') for value in values]
  moments = moments_of(unit, values)
  if unit == 'month' and '%d' in style:
    moments = [_last_day(moment) for moment in moments]
  return [_format(style, moment) for moment in moments]


def moments_of(unit: str, values: Int[np.ndarray, 'n']) -> list[datetime.datetime]:
  """Times in months or seconds as moments; a month is its first day."""
  if unit == 'second':
    return [EPOCH + datetime.timedelta(seconds=int(value)) for value in values]
  return [datetime.datetime(1970 + int(v) // 12, int(v) % 12 + 1, 1) for v in values]


def _last_day(moment: datetime.datetime) -> datetime.datetime:
  return moment.replace(day=calendar.monthrange(moment.year, moment.month)[1])


def _format(style: str, moment: datetime.datetime) -> str:
  # Names of months in English, whatever the language of the machine.
  style = style.replace('%b', MONTHS[moment.month - 1].title())
  return moment.strftime(style.replace('%q', str((moment.month + 2) // 3)))
