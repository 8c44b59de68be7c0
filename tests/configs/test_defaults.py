"""Every default is in one place: the signature of a constructor, or the base of a family."""

import inspect

import pytest

from common.config import NAMED_SECTIONS, plain_defaults
from experiments import families
from experiments.families import FAMILIES

COMPONENTS = [
  (family, path, name)
  for family, entry in FAMILIES.items()
  for path, table in entry.tables.components.items()
  for name in table
]
GIVEN = {  # by the code, from the data or another component
  *('parent', 'name', 'out_channels', 'num_classes', 'spec', 'length', 'grid', 'values'),
  *('vocabulary', 'network', 'head', 'rows', 'features'),
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
  expected = settings(FAMILIES[family].tables.components[path][name], GIVEN)
  assert found == expected
  assert inspect.Parameter.empty not in found.values()


@pytest.mark.parametrize('path', FAMILIES['autoregressive'].tables.sections)
def test_a_section_of_one_constructor_has_all_its_settings(path):
  found = families.defaults('autoregressive')[path]
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
