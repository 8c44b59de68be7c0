"""Lengths in every unit; calls cover a run exactly, and end where something is due."""

import pytest

from common.config import ConfigError
from common.training.schedule import make_schedule, parse_steps
from configs.base import get_base


@pytest.mark.parametrize(
  ('text', 'steps'),
  [
    ('500', 500),
    (500, 500),
    ('500 steps', 500),
    ('1 step', 1),
    ('1e3', 1000),
    ('3 epochs', 33),
    ('3epochs', 33),
    ('0.5 epoch', 6),  # rounded up
    ('10%', 200),
    ('0', 0),
    ('2.5 percent', 50),
    ('64 images', 1),
    ('65 images', 2),  # rounded up
    ('10 kimg', 157),  # 156.25
    ('0.07Mimg', 1094),  # 70,000 images, not 70,000.00000000001
    ('3200 Mimg', 50_000_000),
  ],
)
def test_parse_steps(text, steps):
  assert parse_steps(text, 'train.steps', epoch=11, total=2000, batch_size=64) == steps


@pytest.mark.parametrize(
  'text',
  ['', 'x', '-5', '1.5', '1.5 steps', '3 weeks', 'nan', 'inf', '5%%', '1e99', '1 mimg', '1e9 Mimg'],
)
def test_an_invalid_number_of_steps_names_its_setting(text):
  with pytest.raises(ConfigError, match=r'train\.steps'):
    parse_steps(text, 'train.steps', epoch=11, total=2000, batch_size=64)


def test_percentages_need_a_total_epochs_their_steps_and_images_a_batch():
  with pytest.raises(ConfigError, match="such as '500' or '3 epochs'; got the unit '%'"):
    parse_steps('5%', 'train.steps', epoch=10)
  with pytest.raises(ConfigError, match="such as '500'; got the unit 'epochs'"):
    parse_steps('5 epochs', 'train.steps')
  with pytest.raises(ConfigError, match="such as '500'; got the unit 'Mimg'"):
    parse_steps('5 Mimg', 'train.steps')


def schedule(**changes):
  return make_schedule(get_base().train.to_dict() | changes, epoch=10, batch_size=32)


def test_lengths_and_intervals_in_every_unit():
  made = schedule(
    steps='10 epochs', steps_per_call=4, log_every='7', evaluate_every='25%', sample_every='0'
  )
  assert made.total == 100
  assert (made.log, made.evaluate, made.sample) == (8, 28, 0)
  made = schedule(steps='32 kimg', steps_per_call=4, log_every='160 images')
  assert (made.total, made.log) == (1000, 8)


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
  with pytest.raises(ConfigError, match='must begin before the last step, 40'):
    schedule(steps='40', profile='40:60')


def test_a_share_of_a_short_run_is_at_least_a_step():
  made = schedule(steps='10', steps_per_call=1, log_every='1%', evaluate_every='0%')
  assert (made.log, made.evaluate) == (1, 0)


def test_a_run_without_steps_is_refused():
  with pytest.raises(ConfigError, match='at least 1'):
    schedule(steps='0')
