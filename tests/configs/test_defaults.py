"""Every default is in one place: the signature of a constructor, or the base of a family."""

import inspect
import math
import re

import pytest

from common.config import NAMED_SECTIONS, ConfigError, check_setting, plain_defaults
from common.ranges import settings_of
from diffusion.sampling.program import THRESHOLDS
from experiments import families
from experiments.families import FAMILIES

COMPONENTS = [
  (family, path, name)
  for family, entry in FAMILIES.items()
  for path, table in entry.tables.components.items()
  for name in table
]
GIVEN = {  # by the code, from the data or another component
  *('centred', 'relative', 'horizon', 'outputs'),
  *('parent', 'name', 'out_channels', 'num_classes', 'spec', 'length', 'grid', 'values'),
  *('vocabulary', 'network', 'head', 'rows', 'features', 'categories', 'dtype'),
}


def settings(constructor, given):
  """Arguments of a constructor with their defaults."""
  parameters = inspect.signature(constructor).parameters
  return {name: p.default for name, p in parameters.items() if name not in given}


def at(config, path):
  """The section at a path, given as text or in parts."""
  for part in path.split('.') if isinstance(path, str) else path:
    config = config[part]
  return config


@pytest.mark.parametrize(('family', 'path', 'name'), COMPONENTS)
def test_a_component_given_only_by_name_has_all_its_settings(family, path, name):
  config = families.defaults(family)
  *parents, last = path.split('.')
  at(config, parents)[last] = {'name': name}
  found = dict(at(families.complete(config), path))
  assert found.pop('name') == name
  if path == 'sampling.grid':
    assert found.pop('end') == 'clean'  # of every grid
  tables = FAMILIES[family].tables
  expected = settings(tables.components[path][name], GIVEN.union(tables.given.get(path, ())))
  assert found == expected
  assert inspect.Parameter.empty not in found.values()


@pytest.mark.parametrize('path', FAMILIES['autoregressive'].tables.sections)
def test_a_section_of_one_constructor_has_all_its_settings(path):
  found = at(families.defaults('autoregressive'), path)
  given = GIVEN if path == 'model' else ()
  expected = settings(FAMILIES['autoregressive'].tables.sections[path], given)
  own = {'class_dropout': 0.0} if path == 'model' else {}  # the method's
  assert found == expected | own


@pytest.mark.parametrize('family', FAMILIES)
def test_a_section_with_a_name_is_a_component_or_a_known_exception(family):
  """The sections that `merge` replaces are those that `complete` completes."""

  def named(config, path=''):
    for key, value in config.items():
      if isinstance(value, dict):
        inside = f'{path}{key}'
        yield from [inside] if 'name' in value and key not in NAMED_SECTIONS else []
        yield from named(value, f'{inside}.')

  assert set(named(families.defaults(family))) == set(FAMILIES[family].tables.components)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_base_repeats_no_default_of_a_constructor(family):
  base, tables = plain_defaults(FAMILIES[family].settings), FAMILIES[family].tables
  for path, table in tables.components.items():
    written = dict(at(base, path))
    defaults = settings(table[written.pop('name')], ())
    assert not {k: v for k, v in written.items() if defaults.get(k) == v}
  for path, constructor in tables.sections.items():
    assert not at(base, path).keys() & settings(constructor, ()).keys()


@pytest.mark.parametrize('family', FAMILIES)
def test_every_number_has_a_range_that_its_default_lies_in(family):
  """A new number needs one: Annotated[float, AT_LEAST_ZERO], or Setting(0.1, AT_LEAST_ZERO)."""
  config = families.defaults(family)
  declared = families.declared_settings(config)
  for path, table in FAMILIES[family].tables.components.items():
    given = FAMILIES[family].tables.given.get(path, ())
    for name, constructor in table.items():
      found = settings_of(constructor).items()
      declared |= {f'{path}={name}.{key}': entry for key, entry in found if key not in given}
  numbers = {k: entry for k, entry in declared.items() if type(entry.default) in (int, float)}
  assert not [name for name, entry in numbers.items() if entry.range is None]
  for name, entry in declared.items():
    check_setting(name, entry.default, entry)


def test_the_thresholds_of_the_config_are_those_of_the_sampler():
  threshold = FAMILIES['diffusion'].settings['sampling']['threshold']['name']
  assert set(threshold.range.names) == set(THRESHOLDS)


@pytest.mark.parametrize(
  ('setting', 'value', 'message'),
  [
    ('seed', -1, r'in \[0, 4294967296\)'),
    ('data.batch_size', 0, r'in \[1, 1000000\]'),
    ('optimizer.clip', -1, r'at least 0 \(0: off\)'),
    ('optimizer.learning_rate', -1e-3, 'above 0'),
    ('optimizer.frozen', '(', 'a regular expression'),
    ('ema.decay', 1.0, r'in \[0, 1\)'),
    ('ema.ramp_up', -1.0, r'in \[0, 1\] \(0: no limit\)'),
    ('ema.keep', 0, 'at least 1'),
    ('train.micro_batches', 0, 'at least 1'),
    ('train.max_bad_steps', 0, 'at least 1'),
    ('evaluation.num_samples', -1, r'in \[1, 10000000\]'),
    ('label_dropout', 1.0, r'in \[0, 1\)'),
    ('prediction.sigma_data', 0.0, 'above 0'),
    ('augmentation.probability', 1.5, r'in \[0, 1\]'),
    ('augmentation.scale', -1.0, 'at least 0'),
    ('sampling.steps', 10**8, r'in \[1, 100000\]'),
    ('sampling.guidance.weight', math.inf, 'a finite number'),
    ('sampling.threshold.percentile', 0.0, r'in \(0, 1\]'),
    ('network.depth', -1, 'at least 1'),
    ('network.dropout', 1e9, r'in \[0, 1\)'),
    ('data.source', 'gs://bucket', 'a path on this machine, not a URL'),
  ],
)
def test_a_value_out_of_its_range_is_refused(setting, value, message):
  config = families.defaults('diffusion')
  *parents, last = setting.split('.')
  at(config, parents)[last] = value
  with pytest.raises(ConfigError, match=f'^{re.escape(setting)}=.* must be {message}'):
    families.complete(config, strict=True)
