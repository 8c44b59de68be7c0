"""Lengths, components and comparisons of configs."""

import pytest
from ml_collections import ConfigDict

from common import config


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
  ],
)
def test_length(text, steps):
  assert config.length(text, 'train.steps', epoch=11, total=2000) == steps


@pytest.mark.parametrize(
  'text', ['', 'x', '-5', '1.5', '1.5 steps', '3 weeks', 'nan', 'inf', '5%%']
)
def test_a_length_that_is_none_names_its_place(text):
  with pytest.raises(config.ConfigError, match=r'train\.steps'):
    config.length(text, 'train.steps', epoch=11, total=2000)


def test_a_percentage_of_nothing_and_an_epoch_of_nothing_are_refused():
  with pytest.raises(config.ConfigError, match='no meaning here'):
    config.length('5%', 'train.steps', epoch=10)
  with pytest.raises(config.ConfigError, match='no meaning here'):
    config.length('5 epochs', 'train.steps')


def table():
  return {'one': lambda a=1, b=2: (a, b), 'two': lambda shape: shape}


def test_component_builds_by_name_and_makes_lists_hashable():
  assert config.component(table(), {'name': 'one', 'b': 5}, 'thing') == (1, 5)
  assert config.component(table(), {'name': 'two', 'shape': [1, [2]]}, 'thing') == (1, (2,))


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'tow'}, "unknown thing 'tow'; did you mean 'two'. known: one, two"),
    ({'a': 1}, 'thing has no name; known: one, two'),
    ({'name': 'one', 'c': 1}, "unknown setting thing.c of 'one';.* known: a, b"),
    ({'name': 'one', 'b': 0.5}, 'thing.b=0.5 must be a whole number, such as 2'),
    ({'name': 'one', 'b': True}, 'thing.b=True must be a whole number'),
  ],
)
def test_component_refuses_with_what_is_known(settings, message):
  with pytest.raises(config.ConfigError, match=message):
    config.component(table(), settings, 'thing')


def test_differences_see_through_nesting_types_and_missing_keys():
  one = ConfigDict({'a': {'b': 1, 'c': (1, 2)}, 'd': 0})
  other = {'a': {'b': 2, 'c': [1, 2]}, 'e': 1}
  assert config.differences(other, one) == {'a.b': (1, 2), 'd': (0, None), 'e': (None, 1)}
  assert config.differences(one, one) == {}


def test_an_older_config_is_completed_but_its_components_are_not_mixed():
  base = {
    'data': {'name': 'digits', 'broken': 'refuse'},
    'process': {'name': 'cosine', 's': 0.008},
    'ema': {'decay': 0.9, 'widths': ()},
    'sampling': {'steps': 5, 'task': {'name': 'generate'}, 'sampler': {'name': 'ddim', 'eta': 0}},
  }
  old = {
    'data': {'name': 'npz'},
    'process': {'name': 'edm'},
    'sampling': {'steps': 7, 'sampler': {'name': 'ddim'}},
    'gone': 1,
  }
  found, added = config.completed(old, base, flat=('data', 'ema'))
  assert found == {
    'data': {'name': 'npz', 'broken': 'refuse'},
    'process': {'name': 'edm'},
    'ema': base['ema'],
    'sampling': base['sampling'] | {'steps': 7},
    'gone': 1,
  }
  assert added == ['data.broken', 'ema', 'sampling.task', 'sampling.sampler.eta']
  assert config.completed(base, base) == (base, [])


def test_another_name_takes_none_of_the_old_component_s_settings():
  before = {
    'process': {'name': 'edm', 'sigma_min': 0.1, 'sigma_max': 80.0},
    'a': {'b': {'name': 'c'}},
  }
  changed = {**before, 'process': {'name': 've', 'sigma_min': 0.1, 'sigma_max': 50.0}}
  found = config.switched(changed, before)
  assert found == {'process': {'name': 've', 'sigma_max': 50.0}, 'a': {'b': {'name': 'c'}}}
  assert config.switched(before, before) == before
  assert config.switched(changed, before, flat=('process',)) == changed
