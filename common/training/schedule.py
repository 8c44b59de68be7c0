"""The schedule of a run in steps, and the compiled calls that it consists of."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from common.config import ConfigError
from common.ranges import MAX_INT

IMAGES = {'images': 1, 'kimg': 10**3, 'Mimg': 10**6}  # units of lengths in examples


class Schedule(NamedTuple):
  """When a run logs, evaluates, samples and saves, in optimiser steps.

  Every interval is a multiple of `per_call`, so that compiled calls end at the same steps in runs
  with and without interruptions. An interval of 0 means never.

  Attributes:
    total: steps in the run.
    per_call: steps in one compiled call.
    log, evaluate, sample, checkpoint, snapshot: the interval between two of each.
    profile: (first step, step after the last) to trace, or None.
  """

  total: int
  per_call: int
  log: int
  evaluate: int
  sample: int
  checkpoint: int
  profile: tuple[int, int] | None
  snapshot: int = 0

  def calls(self, start: int) -> Iterator[tuple[int, int]]:
    """(first step, number of steps) of each compiled call from `start` to the end."""
    while start < self.total:
      # Calls end at multiples of `per_call`, even if the run resumes between two of them.
      steps = min(self.per_call - start % self.per_call, self.total - start)
      yield start, steps
      start += steps

  def due(self, step: int, interval: int) -> bool:
    """Whether `step` is a multiple of `interval` or the last step; False if `interval` is 0."""
    return interval > 0 and (step % interval == 0 or step == self.total)

  def anything_due(self, step: int) -> bool:
    """Whether the run has to log, evaluate, sample or save at `step`."""
    intervals = (self.log, self.evaluate, self.sample, self.checkpoint, self.snapshot)
    return step == self.total or any(self.due(step, interval) for interval in intervals)


def parse_steps(
  text: str | int,
  what: str,
  epoch: int | None = None,
  total: int | None = None,
  batch_size: int | None = None,
) -> int:
  """A number of steps, from '500', '500 steps', '3 epochs', '10 Mimg' or '10%'.

  Epochs and examples are rounded up to whole steps: no example is seen less often than requested.
  Percentages are rounded to the nearest step, but not to none.

  Args:
    text: the value in the config. Lengths in examples, of which a step sees a batch, have the unit
      'images', 'kimg' (thousands) or 'Mimg' (millions), whatever the kind of data.
    what: the name of the setting, for messages.
    epoch: steps in an epoch; None: epochs are not allowed.
    total: steps in the whole run, for percentages; None: percentages are not allowed.
    batch_size: examples in a step; None: lengths in examples are not allowed.

  Raises:
    ConfigError: the text has no number, too large a one, or a unit that is not allowed.
  """
  units = {
    '500': True,
    '3 epochs': bool(epoch),
    '10 kimg': bool(batch_size),
    '10%': total is not None,
  }
  *others, last = (repr(example) for example, is_allowed in units.items() if is_allowed)
  examples = f'{", ".join(others)} or {last}' if others else last
  refusal = f'{what}={text!r} must be a number such as {examples}'
  number, unit = _split_number_and_unit(text, refusal)
  if unit in ('', 'step', 'steps'):
    if number != int(number):
      raise ConfigError(f'{what}={text!r} must be a whole number of steps')
    steps = int(number)
  elif unit in ('epoch', 'epochs') and epoch:
    steps = math.ceil(number * epoch)
  elif unit in IMAGES and batch_size:
    # Whole images first: 0.07 Mimg is 70,000 images, but 0.07 * 1e6 is more than that.
    steps = -(-round(number * IMAGES[unit]) // batch_size)
  elif unit in ('%', 'percent') and total is not None:
    steps = max(round(number / 100 * total), 1 if number else 0)
  else:
    raise ConfigError(f'{refusal}; got the unit {unit!r}')
  if steps > MAX_INT:
    raise ConfigError(f'{what}={text!r} must be at most {MAX_INT:,} steps')
  return steps


def _split_number_and_unit(text: str | int, refusal: str) -> tuple[float, str]:
  """The number and the unit in a text; raises ConfigError with the message `refusal`."""
  digits = str(text).strip()
  unit = digits.lstrip('0123456789.eE+-_').strip()
  if unit in ('poch', 'pochs'):  # '3epochs': this e belongs to the unit and is not an exponent
    unit = 'e' + unit
  number = digits[: len(digits) - len(unit)].strip()
  try:
    value = float(number)
  except ValueError:
    value = -1.0
  if value < 0 or not math.isfinite(value):
    raise ConfigError(refusal)
  return value, unit


def total_steps(config: Mapping, num_train: int) -> int:
  """The steps of a config's training on so many examples.

  Raises:
    ConfigError: as `make_schedule`.
  """
  size = config['data']['batch_size']
  return make_schedule(config['train'], max(num_train // size, 1), batch_size=size).total


def make_schedule(
  settings: Mapping, epoch: int, snapshot_every: str | int = 0, batch_size: int | None = None
) -> Schedule:
  """The schedule of the `train` section of a config.

  Args:
    settings: the section.
    epoch: steps in an epoch.
    snapshot_every: the interval between two snapshots of the power-function averages.
    batch_size: examples in a step, for lengths in examples.

  Raises:
    ConfigError: for an invalid number of steps, or a run without steps.
  """
  total = parse_steps(settings['steps'], 'train.steps', epoch, batch_size=batch_size)
  if total < 1:
    raise ConfigError(f'train.steps={settings["steps"]!r} must be at least 1 step')
  # A run shorter than one call compiles only the steps that it has.
  per_call = min(settings['steps_per_call'], total)

  def interval(text: str | int, name: str) -> int:
    # Rounded up: nothing is due in the middle of a compiled call.
    return math.ceil(parse_steps(text, name, epoch, total, batch_size) / per_call) * per_call

  names = ('log_every', 'evaluate_every', 'sample_every', 'checkpoint_every')
  intervals = (interval(settings[name], f'train.{name}') for name in names)
  snapshot = interval(snapshot_every, 'ema.snapshot_every')
  profile = _steps_to_profile(settings['profile'], total)
  return Schedule(total, per_call, *intervals, profile, snapshot)


def _steps_to_profile(text: str, total: int) -> tuple[int, int] | None:
  first, _, last = text.partition(':')
  if not text:
    return None
  if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
    raise ConfigError(
      f"train.profile must be 'first:last', two steps such as '40:60', or '', got {text!r}"
    )
  if int(first) >= total:
    raise ConfigError(f'train.profile={text!r} must begin before the last step, {total}')
  return int(first), int(last)
