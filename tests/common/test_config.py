"""Components and comparisons of configs."""

import pytest
from ml_collections import ConfigDict

from common import config


def table():
  return {'one': lambda a=1, b=2: (a, b), 'two': lambda shape: shape}


def test_component_builds_by_name_and_makes_lists_hashable():
  assert config.component(table(), {'name': 'one', 'b': 5}, 'thing') == (1, 5)
  assert config.component(table(), {'name': 'two', 'shape': [1, [2]]}, 'thing') == (1, (2,))


def test_a_constructor_gets_the_given_arguments_that_it_takes():
  assert config.component(table(), {'name': 'one', 'b': 5}, 'thing', a=3, shape=()) == (3, 5)
  with pytest.raises(config.ConfigError, match=r"unknown setting thing.a of 'one'; known: b"):
    config.component(table(), {'name': 'one', 'a': 5}, 'thing', a=3)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'tow'}, "unknown thing 'tow'; did you mean 'two'. known: one, two"),
    ({'a': 1}, 'thing needs a name; known: one, two'),
    ({'name': 'one', 'c': 1}, "unknown setting thing.c of 'one';.* known: a, b"),
    ({'name': 'one', 'b': 0.5}, 'thing.b=0.5 must be a whole number, such as 2'),
    ({'name': 'one', 'b': True}, 'thing.b=True must be a whole number'),
  ],
)
def test_component_refuses_unknown_names_and_settings_and_wrong_types(settings, message):
  with pytest.raises(config.ConfigError, match=message):
    config.component(table(), settings, 'thing')


def test_differences_see_through_nesting_types_and_missing_keys():
  one = ConfigDict({'a': {'b': 1, 'c': (1, 2)}, 'd': 0})
  other = {'a': {'b': 2, 'c': [1, 2]}, 'e': 1}
  assert config.differences(other, one) == {'a.b': (1, 2), 'd': (0, None), 'e': (None, 1)}
  assert config.differences(one, one) == {}


BASE = {
  'data': {'name': 'digits', 'broken': 'refuse'},
  'thing': {'name': 'one', 'b': 7},
  'ema': {'decay': 0.9, 'widths': ()},
  'sampling': {'steps': 5, 'task': {'name': 'generate'}, 'grid': {'name': 'one', 'end': 'clean'}},
  'extra': {'own': 0},
}


def extra(size, own=1, other=2):
  """A constructor of a section; `size` comes from the data."""


TABLES = config.Tables(
  {'thing': table(), 'sampling.grid': table()}, {'extra': extra}, {'thing': ('a',)}
)


def test_a_config_from_before_some_settings_is_completed():
  old = {
    'data': {'name': 'npz'},
    'sampling': {'steps': 7, 'grid': {'name': 'one', 'b': 0}},
    'ema': {'decay': 0.5},
    'gone': 1,
  }
  found = config.complete(old, BASE, TABLES)
  assert found == {
    'data': {'name': 'npz', 'broken': 'refuse'},
    'thing': {'name': 'one', 'b': 7},
    'ema': {'decay': 0.5, 'widths': ()},
    'sampling': {
      'steps': 7,
      'task': {'name': 'generate'},
      'grid': {'name': 'one', 'a': 1, 'b': 0, 'end': 'clean'},
    },
    'extra': {'own': 0, 'other': 2},
    'gone': 1,
  }
  assert config.complete(found, BASE, TABLES) == found


def test_a_new_config_may_have_only_known_settings():
  with pytest.raises(config.ConfigError, match=r"ema.decy: there .* did you mean 'decay'\? known"):
    config.complete({'ema': {'decy': 0.5}}, BASE, TABLES, strict=True)
  groups = {'ema': {'groups': {}}}
  found = config.complete({'ema': {'groups': {'any': {'x': 1}}}}, groups, TABLES, strict=True)
  assert found['ema']['groups'] == {'any': {'x': 1}}


def test_a_component_takes_only_the_defaults_of_its_constructor():
  """It takes no value from the base, even if the base has a component of the same name."""
  found = config.complete({'thing': {'name': 'one'}}, BASE, TABLES)
  assert found['thing'] == {'name': 'one', 'b': 2}  # `a` is given
  other = config.complete({'sampling': {'grid': {'name': 'two'}}}, BASE, TABLES)
  assert other['sampling']['grid'] == {'name': 'two', 'end': 'clean'}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'thing': {'name': 'too'}}, "unknown thing 'too'; did you mean 'two'"),
    ({'thing': {'name': 'one', 'end': 1}}, "unknown setting thing.end of 'one'; known: b"),
    ({'thing': {'name': 'one', 'a': 1}}, "unknown setting thing.a of 'one'; known: b"),
    ({'thing': {'name': 'one', 'b': 'x'}}, "thing.b='x' must be a whole number"),
    ({'thing': 'one'}, "thing='one' must be a section"),
    ({'thing': {'b': 1}}, 'thing needs a name'),
    ({'sampling': {'grid': {'name': 'no'}}}, "unknown sampling.grid 'no'"),
  ],
)
def test_complete_refuses(changes, message):
  with pytest.raises(config.ConfigError, match=message):
    config.complete(changes, BASE, TABLES)


def test_merge_changes_sections_and_replaces_components():
  found = config.merge(
    BASE,
    {'data': {'name': 'npz'}, 'ema': {'decay': 0.5}, 'thing': {'b': 8}},
    {'sampling': {'grid': {'name': 'two', 'shape': 3}, 'task': {'name': 'inpaint'}}},
    {'thing': {'name': 'one'}, 'new': {'a': 1}},
  )
  assert found == {
    'data': {'name': 'npz', 'broken': 'refuse'},  # no component: its name is one setting of many
    'thing': {'name': 'one', 'b': 8},
    'ema': {'decay': 0.5, 'widths': ()},
    'sampling': {'steps': 5, 'task': {'name': 'inpaint'}, 'grid': {'name': 'two', 'shape': 3}},
    'extra': {'own': 0},
    'new': {'a': 1},
  }
  assert BASE['ema'] == {'decay': 0.9, 'widths': ()}


@pytest.mark.parametrize(
  ('key', 'message'),
  [
    ('ema.decy', "; did you mean 'ema.decay'? known: ema.decay, ema.widths"),
    ('thing.c', " of 'one'; did you mean 'thing.b'? known: thing.b, thing.name"),
    ('decay', "; did you mean 'ema.decay'? known: ema.decay"),
    ('thing.decay', " of 'one'; did you mean 'ema.decay'? known: thing.b, thing.name"),
    ('what.ever', '; known: data, ema, extra, sampling, thing'),
  ],
)
def test_an_unknown_setting_gets_suggestions(key, message):
  assert message in config.nearby_settings(key, BASE)
