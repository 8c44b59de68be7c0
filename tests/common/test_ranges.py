"""Ranges of settings: next to their defaults, whatever kind of constructor they belong to."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
import pytest

from common import config
from common.ranges import (
  ABOVE_ZERO,
  AT_LEAST_ONE,
  AT_LEAST_ZERO,
  BELOW_ONE,
  PATH,
  PATTERN,
  SEED,
  ZERO_IS_OFF,
  Each,
  Interval,
  OneOf,
  Setting,
  settings_of,
)


class Module(nn.Module):
  """Annotations are text here: this module imports them from the future."""

  width: Annotated[int, AT_LEAST_ONE] = 8

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.width)(x)


@dataclasses.dataclass(frozen=True)
class Frozen:
  rate: Annotated[float, BELOW_ONE] = 0.5
  name: str = 'a'


@dataclasses.dataclass(frozen=True)
class Derived(Frozen):
  kind: Annotated[str, OneOf('min', 'max')] = 'min'


def function(size, sizes: Annotated[tuple, Each(AT_LEAST_ONE, int, least=1)] = (1, 2)):
  return sizes


TABLE = {'module': Module, 'frozen': Frozen, 'derived': Derived, 'function': function}


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'module', 'width': 0}, 'thing.width=0 must be at least 1'),
    ({'name': 'module', 'width': 2**31}, 'width=2147483648 must be at least 1 and at most 2,147'),
    ({'name': 'frozen', 'rate': 1}, r'thing.rate=1 must be in \[0, 1\)'),
    ({'name': 'derived', 'rate': math.nan}, r'thing.rate=nan must be in \[0, 1\)'),
    ({'name': 'derived', 'kind': 'mix'}, "kind='mix' is unknown; did you mean 'min'. known: max"),
    ({'name': 'function', 'sizes': ()}, 'tuple of 1 or more whole numbers, each at least 1'),
    ({'name': 'function', 'sizes': (1, 0)}, r'sizes=\(1, 0\) must be a tuple'),
    ({'name': 'function', 'sizes': (1, True)}, r'sizes=\(1, True\) must be a tuple'),
    ({'name': 'function', 'sizes': ('a',)}, r"sizes=\('a',\) must be a tuple"),
  ],
)
def test_a_component_refuses_a_value_out_of_its_range(settings, message):
  with pytest.raises(config.ConfigError, match=message):
    config.component(TABLE, settings, 'thing', size=1)


def test_a_component_takes_a_value_in_its_range():
  module = config.component(TABLE, {'name': 'module', 'width': 3}, 'thing')
  assert module.init_with_output({'params': jnp.zeros(2, jnp.uint32)}, jnp.ones(2))[0].shape == (3,)
  assert config.component(TABLE, {'name': 'derived', 'kind': 'max'}, 'thing').kind == 'max'
  assert config.component(TABLE, {'name': 'function', 'sizes': [3]}, 'thing', size=1) == (3,)
  assert settings_of(Derived)['rate'] == Setting(0.5, BELOW_ONE)


@pytest.mark.parametrize(
  ('setting', 'good', 'bad'),
  [
    (Setting(1.0), (-1e30, 0, 3), (math.nan, math.inf, -math.inf, 2**40, -1e39)),
    (Setting(1.0, ABOVE_ZERO), (1e-30, 5), (0, -1.0, math.inf)),
    (Setting(1.0, ZERO_IS_OFF), (0, 0.5), (-1e-9,)),
    (Setting(1.0, Interval(0, infinite=True)), (math.inf, 0), (math.nan, -math.inf)),
    (Setting(0, SEED), (0, 2**32 - 1), (-1, 2**32, True, 0.5)),
    (Setting('', PATTERN), ('', '^a/(b|c)$'), ('(', '*', '[z-a]')),
    (Setting('', PATH), ('', 'a:b', '~/c', '/d'), ('gs://b', 'gs:', 'S3:/b', 'https://x', '~no/x')),
    (Setting((), Each(AT_LEAST_ZERO, float)), ((), (0, 0.5)), ((-1,), (math.nan,), ('1',))),
  ],
)
def test_one_place_checks_types_and_ranges(setting, good, bad):
  for value in good:
    config.check_setting('x', value, setting)
  for value in bad:
    with pytest.raises(config.ConfigError, match=r'^x='):
      config.check_setting('x', value, setting)


def test_a_new_config_is_checked_and_an_old_one_is_kept():
  base = {
    'optimizer': {'clip': Setting(1.0, ZERO_IS_OFF), 'rate': 0.1, 'groups': {}},
    'data': {'source': Setting('', PATH)},
  }
  tables = config.Tables({})
  wrong = {'optimizer': {'clip': -1}}
  assert config.complete(wrong, base, tables)['optimizer']['clip'] == -1
  with pytest.raises(
    config.ConfigError, match=r'^optimizer.clip=-1 must be at least 0 \(0: off\)$'
  ):
    config.complete(wrong, base, tables, strict=True)
  with pytest.raises(config.ConfigError, match=r'^optimizer.rate=inf must be a finite number$'):
    config.complete({'optimizer': {'rate': math.inf}}, base, tables, strict=True)
  # The sections inside an empty section have the settings around it.
  groups = {'optimizer': {'groups': {'head': {'clip': -1, 'paths': 'x'}}}}
  with pytest.raises(config.ConfigError, match=r'^optimizer.groups.head.clip=-1 must'):
    config.complete(groups, base, tables, strict=True)


def test_a_path_is_expanded(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  base = {'data': {'source': Setting('', PATH)}}
  found = config.complete({'data': {'source': '~/x'}}, base, config.Tables({}), strict=True)
  assert found == {'data': {'source': '/home/me/x'}}


def test_the_settings_of_a_config_are_declared_by_dotted_name():
  base = {'a': {'b': Setting(1, AT_LEAST_ONE)}, 'thing': {'name': 'frozen', 'shared': 2}}
  tables = config.Tables({'thing': TABLE})
  whole = config.complete({}, base, tables)
  assert config.declared_settings(whole, base, tables) == {
    'a.b': Setting(1, AT_LEAST_ONE),
    'thing.name': Setting('frozen'),
    'thing.shared': Setting(2),
    'thing.rate': Setting(0.5, BELOW_ONE),
  }
