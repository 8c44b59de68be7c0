"""When a run does what: every length of a config in steps, and the calls that cover them."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from common.config import ConfigError, length


class Plan(NamedTuple):
  """Lengths in optimiser steps; an interval of 0 means never. `profile`: first and last step.

  Every interval is a multiple of `per_call`, so that a run's compiled calls cut it at the same
  steps however often it was interrupted.
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
      steps = min(self.per_call - start % self.per_call, self.total - start)
      yield start, steps
      start += steps

  def due(self, step: int, interval: int) -> bool:
    """Whether something that happens every `interval` steps, and at the end, happens at `step`."""
    return interval > 0 and (step % interval == 0 or step == self.total)

  def is_mark(self, step: int) -> bool:
    """Whether anything is due at `step`."""
    intervals = (self.log, self.evaluate, self.sample, self.checkpoint, self.snapshot)
    return step == self.total or any(self.due(step, interval) for interval in intervals)


def make_plan(settings: Mapping, epoch: int, snapshot_every: str | int = 0) -> Plan:
  """The plan of the `train` section of a config.

  Args:
    settings: the section.
    epoch: steps in an epoch.
    snapshot_every: how often averages are stored.

  Raises:
    ConfigError: for a length that is none, or a run without steps.
  """
  total = length(settings['steps'], 'train.steps', epoch)
  per_call = min(settings['steps_per_call'], total)
  if total < 1 or per_call < 1:
    raise ConfigError(f'train.steps={total}, train.steps_per_call={per_call}: both are at least 1')

  def interval(text: str | int, name: str) -> int:
    return math.ceil(length(text, name, epoch, total) / per_call) * per_call

  names = ('log_every', 'evaluate_every', 'sample_every', 'checkpoint_every')
  intervals = (interval(settings[name], f'train.{name}') for name in names)
  snapshot = interval(snapshot_every, 'ema.snapshot_every')
  return Plan(total, per_call, *intervals, _steps_to_profile(settings['profile']), snapshot)


def _steps_to_profile(text: str) -> tuple[int, int] | None:
  first, _, last = text.partition(':')
  if not text:
    return None
  if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
    raise ConfigError(f"train.profile={text!r}: write 'first:last', two steps, such as '40:60'")
  return int(first), int(last)
