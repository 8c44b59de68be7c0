"""A schedule's calls cover a run exactly, and end where something is due, also after a resume."""

import pytest

from common.config import ConfigError
from common.training.schedule import make_schedule
from configs.base import get_base


def schedule(**changes):
  return make_schedule(get_base().train.to_dict() | changes, epoch=10)


def test_lengths_and_intervals_in_every_unit():
  made = schedule(
    steps='10 epochs', steps_per_call=4, log_every='7', evaluate_every='25%', sample_every='0'
  )
  assert made.total == 100
  assert (made.log, made.evaluate, made.sample) == (8, 28, 0)


@pytest.mark.parametrize(('total', 'per_call'), [('100', 8), ('7', 20), ('60', 20), ('1', 1)])
def test_calls_cover_the_run_once_and_end_where_something_is_due(total, per_call):
  made = schedule(steps=total, steps_per_call=per_call, log_every='10', checkpoint_every='16')
  calls = list(made.calls(0))
  assert [first for first, _ in calls] == [0, *(f + n for f, n in calls[:-1])]
  assert sum(n for _, n in calls) == made.total
  ends = {f + n for f, n in calls}
  due = {s for s in range(1, made.total + 1) for i in (made.log, made.checkpoint) if made.due(s, i)}
  assert due <= ends and made.total in due
  for start in ends:
    assert list(made.calls(start)) == [c for c in calls if c[0] >= start]
  # A run that resumes within a call ends it where it would have ended.
  assert list(made.calls(made.total - 1)) == [(made.total - 1, 1)]
  if per_call < made.total:
    assert next(made.calls(3)) == (3, per_call - 3)


def test_the_steps_to_profile():
  assert schedule(profile='40:60').profile == (40, 60) and schedule(profile='').profile is None
  for text in ('40', '60:40', '40:40', '-1:5', 'a:b'):
    with pytest.raises(ConfigError, match=r"train\.profile must be 'first:last'"):
      schedule(profile=text)


def test_a_run_without_steps_is_refused():
  with pytest.raises(ConfigError, match='at least 1'):
    schedule(steps='0')
