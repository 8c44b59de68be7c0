"""The schedule of a run in steps, and the compiled calls that it consists of."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from common.config import ConfigError, parse_steps


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


def make_schedule(settings: Mapping, epoch: int, snapshot_every: str | int = 0) -> Schedule:
  """The schedule of the `train` section of a config.

  Args:
    settings: the section.
    epoch: steps in an epoch.
    snapshot_every: the interval between two snapshots of the power-function averages.

  Raises:
    ConfigError: for an invalid number of steps, or a run without steps.
  """
  total = parse_steps(settings['steps'], 'train.steps', epoch)
  if total < 1:
    raise ConfigError(f'train.steps={settings["steps"]!r} must be at least 1 step')
  # A run shorter than one call compiles only the steps that it has.
  per_call = min(settings['steps_per_call'], total)

  def interval(text: str | int, name: str) -> int:
    # Rounded up: nothing is due in the middle of a compiled call.
    return math.ceil(parse_steps(text, name, epoch, total) / per_call) * per_call

  names = ('log_every', 'evaluate_every', 'sample_every', 'checkpoint_every')
  intervals = (interval(settings[name], f'train.{name}') for name in names)
  snapshot = interval(snapshot_every, 'ema.snapshot_every')
  return Schedule(total, per_call, *intervals, _steps_to_profile(settings['profile']), snapshot)


def _steps_to_profile(text: str) -> tuple[int, int] | None:
  first, _, last = text.partition(':')
  if not text:
    return None
  if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
    raise ConfigError(
      f"train.profile must be 'first:last', two steps such as '40:60', or '', got {text!r}"
    )
  return int(first), int(last)
