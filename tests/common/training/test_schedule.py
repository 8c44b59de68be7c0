"""A plan's calls cover a run exactly, and meet every mark, wherever the run went on from."""

import pytest

from common.config import ConfigError
from common.training.schedule import make_plan
from configs.base import get_base


def plan(**changes):
  return make_plan(get_base().train.to_dict() | changes, epoch=10)


def test_lengths_and_intervals_in_every_unit():
  made = plan(
    steps='10 epochs', steps_per_call=4, log_every='7', evaluate_every='25%', sample_every='0'
  )
  assert made.total == 100
  assert (made.log, made.evaluate, made.sample) == (8, 28, 0)


@pytest.mark.parametrize(('total', 'per_call'), [('100', 8), ('7', 20), ('60', 20), ('1', 1)])
def test_calls_cover_the_run_once_and_meet_every_mark(total, per_call):
  made = plan(steps=total, steps_per_call=per_call, log_every='10', checkpoint_every='16')
  calls = list(made.calls(0))
  assert [first for first, _ in calls] == [0, *(f + n for f, n in calls[:-1])]
  assert sum(n for _, n in calls) == made.total
  ends = {f + n for f, n in calls}
  marks = {
    s for s in range(1, made.total + 1) for i in (made.log, made.checkpoint) if made.due(s, i)
  }
  assert marks <= ends and made.total in marks
  for start in ends:
    assert list(made.calls(start)) == [c for c in calls if c[0] >= start]


def test_a_run_without_steps_is_refused():
  with pytest.raises(ConfigError, match='at least 1'):
    plan(steps='0')
  with pytest.raises(ConfigError, match='at least 1'):
    plan(steps_per_call=0)
