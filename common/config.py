"""Configs: pick components by name, check, compare, freeze.

A component of a config is a dict with a `name` and the settings of that name. One literal dict in
one file maps names to constructors; a wrong name or setting is refused with the known ones.
"""

import copy
import difflib
import inspect
import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

T = TypeVar('T')
Config = Mapping | ConfigDict  # below the commands, configs are plain nested dicts


class ConfigError(ValueError):
  """A config that cannot be used: what is wrong, where, and what would be right, in one line."""


def suggestion(name: str, known) -> str:
  """' did you mean X? known: ...' for an unknown name."""
  known = sorted(map(str, known))
  close = difflib.get_close_matches(str(name), known, n=1)
  return (f' did you mean {close[0]!r}?' if close else '') + ' known: ' + ', '.join(known)


def pick(table: Mapping[str, T], name: str, what: str) -> T:
  """The entry of `table` under `name`. Raises ConfigError that lists the known names."""
  if name not in table:
    raise ConfigError(f'unknown {what} {name!r};{suggestion(name, table)}')
  return table[name]


def component(
  table: Mapping[str, Callable[..., T]],
  settings: Mapping,
  what: str,
  offer: Mapping[str, Any] | None = None,
  **given,
) -> T:
  """Builds `table[settings['name']](**settings, **given)`.

  Args:
    table: constructors by name.
    settings: a component of a config: `name` and the constructor's keyword arguments.
    what: what the component is, for messages ('network', 'process').
    offer: arguments that come from elsewhere than the config, for constructors that take them.
    **given: the same, for all constructors.

  Raises:
    ConfigError: for an unknown name, an unknown setting, one that is missing, or a value of
      another type than its default.
  """
  settings = dict(settings)
  if 'name' not in settings:
    raise ConfigError(f'{what} has no name; known: {", ".join(sorted(table))}')
  name = settings.pop('name')
  constructor = pick(table, name, what)
  accepted = settings_of(constructor) | given.keys()
  given |= {key: value for key, value in (offer or {}).items() if key in accepted}
  for key in settings:
    if key not in accepted:
      raise ConfigError(f'unknown setting {what}.{key} of {name!r};{suggestion(key, accepted)}')
  defaults = inspect.signature(constructor).parameters
  for key, value in settings.items():
    check_type(f'{what}.{key}', value, defaults[key].default)
  return constructor(**{k: as_tuple(v) for k, v in settings.items()}, **given)


KINDS = {  # of a default: what may stand in its place, and what to call it; bool is an int too
  bool: (bool, 'True or False'),
  int: (int, 'a whole number'),
  float: ((int, float), 'a number'),
  str: (str, 'text'),
  tuple: ((tuple, list), 'a tuple'),
}


def check_type(what: str, value: Any, default: Any) -> None:
  """Refuses a value of another kind than the default of its setting, where that is a plain one.

  Raises:
    ConfigError: what it is of, and what would be right.
  """
  kinds, called = KINDS.get(type(default), (object, ''))
  if not isinstance(value, kinds) or (isinstance(value, bool) and type(default) in (int, float)):
    raise ConfigError(f'{what}={value!r} must be {called}, such as {default!r}')


def settings_of(constructor: Callable) -> set[str]:
  """Names of the keyword settings that a component's constructor takes."""
  hidden = {'parent', 'name', 'self'}  # flax.linen's own
  return set(inspect.signature(constructor).parameters) - hidden


def as_tuple(value: Any) -> Any:
  """Lists (from JSON) as tuples, so that they can be hashed."""
  return tuple(map(as_tuple, value)) if isinstance(value, (list, tuple)) else value


def length(text: str | int, what: str, epoch: int | None = None, total: int | None = None) -> int:
  """A length in steps, from '500', '500 steps', '3 epochs' or '10%'.

  Args:
    text: the length.
    what: where it stands in the config, for messages.
    epoch: steps in an epoch.
    total: steps in the whole run, which a percentage is of.

  Raises:
    ConfigError: when the text is no length, or its unit means nothing here.
  """
  number, unit = _split_length(text, what)
  if unit in ('', 'step', 'steps'):
    if number != int(number):
      raise ConfigError(f'{what}={text!r}: a number of steps must be whole')
    return int(number)
  if unit in ('epoch', 'epochs') and epoch:
    return math.ceil(number * epoch)
  if unit in ('%', 'percent') and total is not None:
    return round(number / 100 * total)
  raise ConfigError(f'{what}={text!r}: the unit {unit!r} has no meaning here')


def _split_length(text: str | int, what: str) -> tuple[float, str]:
  digits = str(text).strip()
  unit = digits.lstrip('0123456789.eE+-_').strip()
  if unit in ('poch', 'pochs'):  # '3epochs': the e belongs to the unit
    unit = 'e' + unit
  number = digits[: len(digits) - len(unit)].strip()
  try:
    value = float(number)
  except ValueError:
    value = -1.0
  if value < 0 or not math.isfinite(value):
    raise ConfigError(f"{what}={text!r} is no length; write '500', '3 epochs' or '10%'")
  return value, unit


def flatten(config: Config, prefix: str = '') -> dict[str, Any]:
  """{'a.b': value} for every leaf of a nested config."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping | ConfigDict):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat


def differences(config: Config, base: Config) -> dict[str, tuple[Any, Any]]:
  """{'a.b': (value in base, value in config)} where they differ; None where one has no such key."""
  new, old = flatten(config), flatten(base)
  keys = sorted(new.keys() | old.keys())
  return {k: (old.get(k), new.get(k)) for k in keys if as_tuple(old.get(k)) != as_tuple(new.get(k))}


def completed(
  config: Mapping, base: Mapping, flat: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
  """A config with what it lacks taken from `base`, and the paths of that.

  Args:
    config: written when there were fewer settings.
    base: every setting with its default.
    flat: sections whose settings do not depend on their `name`. Any other dict with a name is a
      component, and completed only by one of the same name.
  """
  result, added = dict(config), []
  for key, value in base.items():
    if key not in result:
      result[key] = copy.deepcopy(value)
      added.append(key)
    elif _alike(value, result[key], key in flat):
      result[key], inner = completed(result[key], value)
      added += [f'{key}.{name}' for name in inner]
  return result, added


def switched(config: Mapping, before: Mapping, flat: Collection[str] = ()) -> dict[str, Any]:
  """A config in which a component of another name than before has none of the old one's settings.

  What was replaced together with the name stays; the rest takes the new constructor's defaults.

  Args:
    config: the config.
    before: the same, before names were replaced.
    flat: sections whose settings do not depend on their `name`.
  """
  result = dict(config)
  for key, value in config.items():
    old = before.get(key)
    if key in flat or not isinstance(value, Mapping) or not isinstance(old, Mapping):
      continue
    if value.get('name') == old.get('name'):
      result[key] = switched(value, old)
    else:
      result[key] = {k: v for k, v in value.items() if k == 'name' or v != old.get(k)}
  return result


def _alike(one: Any, other: Any, flat: bool) -> bool:
  """Whether both are sections, and flat or of the same name."""
  sections = isinstance(one, Mapping) and isinstance(other, Mapping)
  return sections and (flat or one.get('name') == other.get('name'))


def to_json(config: Config) -> str:
  """The config as JSON: what `config.json` in a workdir holds."""
  return json.dumps(freeze(config), indent=2, sort_keys=True)


def freeze(config: Config) -> dict[str, Any]:
  """A copy as plain nested dicts, which nothing that is done to the original changes."""
  return config.to_dict() if isinstance(config, ConfigDict) else copy.deepcopy(dict(config))
