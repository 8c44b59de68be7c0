"""Configs: choose components by name, fill in defaults, check, compare.

A component of a config is a dict with a `name` and settings of that name: keyword arguments of the
constructor that one literal dict in one file maps the name to. A config says only what differs; the
constructor's signature is the one place where a default stands, and `complete` fills it in.
"""

import copy
import difflib
import inspect
import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from ml_collections import ConfigDict

T = TypeVar('T')
Config = Mapping | ConfigDict  # below the commands, configs are plain nested dicts


# Sections with a `name` that are not components: the name is one setting among others, and does not
# decide which others there are.
NAMED_SECTIONS = ('data', 'optimizer', 'task', 'threshold')


class ConfigError(ValueError):
  """A config that cannot be used: what is wrong, where, and what would be right, in one line."""


class Tables(NamedTuple):
  """The constructors behind a family's configs.

  Attributes:
    components: by the dotted path of a section with a `name`, its constructors by name.
    sections: by the dotted path of a section without a name, the one constructor that takes it.
    given: by path of either, arguments of its constructors which the code passes, because they come
      from the data or from another component: never settings.
  """

  components: Mapping[str, Mapping[str, Callable]]
  sections: Mapping[str, Callable] = {}
  given: Mapping[str, Collection[str]] = {}


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


def component(table: Mapping[str, Callable[..., T]], settings: Mapping, what: str, **given) -> T:
  """Builds the component that `settings` describe.

  Args:
    table: constructors by name.
    settings: `name`, and keyword arguments of the constructor of that name; others keep their
      defaults.
    what: what the component is, for messages ('network', 'process').
    **given: arguments that the code passes; a constructor gets those which it takes.

  Raises:
    ConfigError: for an unknown name, an unknown setting, or a value of another type than its
      default.
  """
  constructor = checked_constructor(table, settings, what, given)
  arguments = inspect.signature(constructor).parameters
  chosen = {key: as_tuple(value) for key, value in settings.items() if key != 'name'}
  return constructor(**chosen, **{k: v for k, v in given.items() if k in arguments})


def checked_constructor(
  table: Mapping[str, Callable[..., T]],
  settings: Mapping,
  what: str,
  given: Collection[str] = (),
  shared: Mapping[str, Any] | None = None,
) -> Callable[..., T]:
  """The constructor that a component names, its settings checked.

  Args:
    table: constructors by name.
    settings: the component: its `name` and settings.
    what: what the component is, for messages.
    given: arguments that are not settings.
    shared: settings that all components of the table have besides their constructor's, with their
      defaults.

  Raises:
    ConfigError: see `component`.
  """
  if 'name' not in settings:
    raise ConfigError(f'{what} has no name; known: {", ".join(sorted(table))}')
  name = settings['name']
  constructor = pick(table, name, what)
  defaults = dict.fromkeys(settings_of(constructor) - set(given), inspect.Parameter.empty)
  defaults |= defaults_of(constructor, given) | dict(shared or {})
  for key, value in settings.items():
    if key == 'name':
      continue
    if key not in defaults:
      raise ConfigError(f'unknown setting {what}.{key} of {name!r};{suggestion(key, defaults)}')
    check_type(f'{what}.{key}', value, defaults[key])
  return constructor


KINDS = {  # by type of a default: the types of its values, and what to call them
  bool: (bool, 'True or False'),
  int: (int, 'a whole number'),
  float: ((int, float), 'a number'),
  str: (str, 'text'),
  tuple: ((tuple, list), 'a tuple'),  # JSON has lists
}


def check_type(what: str, value: Any, default: Any) -> None:
  """Refuses a value of another type than its setting's default, if that is a plain one.

  Raises:
    ConfigError: names the setting, and gives a value that would be right.
  """
  kinds, called = KINDS.get(type(default), (object, ''))
  # A bool is an int to Python, but no number to a reader of a config.
  if not isinstance(value, kinds) or (isinstance(value, bool) and type(default) in (int, float)):
    raise ConfigError(f'{what}={value!r} must be {called}, such as {default!r}')


def settings_of(constructor: Callable) -> set[str]:
  """Names of the keyword arguments that a component's constructor takes."""
  hidden = {'parent', 'name', 'self'}  # every flax.linen module takes the first two
  return set(inspect.signature(constructor).parameters) - hidden


def defaults_of(constructor: Callable, given: Collection[str] = ()) -> dict[str, Any]:
  """The settings of a constructor which have a default, but for arguments that are `given`."""
  parameters = inspect.signature(constructor).parameters
  defaults = {key: parameters[key].default for key in settings_of(constructor) - set(given)}
  return {k: v for k, v in defaults.items() if v is not inspect.Parameter.empty}


def as_tuple(value: Any) -> Any:
  """Lists (from JSON) as tuples, so that they can be hashed."""
  return tuple(map(as_tuple, value)) if isinstance(value, (list, tuple)) else value


def length(text: str | int, what: str, epoch: int | None = None, total: int | None = None) -> int:
  """A number of steps, from '500', '500 steps', '3 epochs' or '10%'.

  Args:
    text: the length, as a config writes it.
    what: the setting that it is of, for messages.
    epoch: steps in an epoch; None: epochs are not allowed.
    total: steps in the whole run, of which '10%' is a part; None: percentages are not allowed.

  Raises:
    ConfigError: the text is not a length, or has a unit that is not allowed.
  """
  number, unit = _split_length(text, what)
  if unit in ('', 'step', 'steps'):
    if number != int(number):
      raise ConfigError(f'{what}={text!r}: the number of steps must be whole')
    return int(number)
  if unit in ('epoch', 'epochs') and epoch:
    return math.ceil(number * epoch)  # up: each example is seen as often as asked for
  if unit in ('%', 'percent') and total is not None:
    return round(number / 100 * total)
  raise ConfigError(f'{what}={text!r}: the unit {unit!r} has no meaning here')


def _split_length(text: str | int, what: str) -> tuple[float, str]:
  digits = str(text).strip()
  unit = digits.lstrip('0123456789.eE+-_').strip()
  if unit in ('poch', 'pochs'):  # '3epochs': the e is not an exponent, it belongs to the unit
    unit = 'e' + unit
  number = digits[: len(digits) - len(unit)].strip()
  try:
    value = float(number)
  except ValueError:
    value = -1.0
  if value < 0 or not math.isfinite(value):
    raise ConfigError(f"{what}={text!r} is not a length; write '500', '3 epochs' or '10%'")
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


def merge(config: Config, *changes: Config) -> dict[str, Any]:
  """A nested config with changes put over it; later ones win.

  A dict changes the section of its key setting by setting, but one with another `name` replaces the
  component there: the settings of the old name mean nothing to the new one.
  """
  result = freeze(config)
  for change in map(freeze, changes):
    for key, value in change.items():
      old = result.get(key)
      sections = isinstance(value, dict) and isinstance(old, dict)
      if sections and (key in NAMED_SECTIONS or not _renames(value, old)):
        result[key] = merge(old, value)
      else:
        result[key] = value
  return result


def _renames(change: Mapping, section: Mapping) -> bool:
  """Whether a change gives a section another name."""
  return 'name' in change and change['name'] != section.get('name')


def complete(
  config: Config, base: Config, tables: Tables, strict: bool = False, path: str = ''
) -> dict[str, Any]:
  """A config with a value for every setting.

  A component takes what it leaves out from its constructor's defaults, never from the base, which
  may have a component of another name there, or another size of it. Other sections take it from
  the base, and then from the defaults of their constructor, if they have one. So it does not matter
  whether a setting is left out for brevity or because the config is older than it.

  Args:
    config: what differs.
    base: the sections of the family; of a component, settings that no constructor has are those of
      all components there.
    tables: the family's constructors.
    strict: whether to refuse a key that a section of the base lacks, or a value of another type;
      else it stays, as in the config of an older run. A section that is empty in the base takes
      any key.
    path: of the section that `config` is.

  Raises:
    ConfigError: for a component or setting that is unknown, or a setting of another type.
  """
  base, known = freeze(base), freeze(config)
  if path in tables.components:
    base = _component_defaults(known, base, tables, path)
  elif path in tables.sections:
    base = defaults_of(tables.sections[path], tables.given.get(path, ())) | base
  result = base | known
  for key, value in result.items():
    inside = f'{path}.{key}' if path else key
    if strict and base and key not in base:
      raise ConfigError(f'{inside}: there is no such setting;{suggestion(key, base)}')
    if strict and key in base:
      check_type(inside, value, base[key])
    section = isinstance(base.get(key), dict)
    if section and not isinstance(value, dict):
      raise ConfigError(f'{inside}={value!r} must be a section: a dict of settings')
    if section or inside in tables.components:
      result[key] = complete(value, base.get(key, {}), tables, strict, inside)
  return result


def _component_defaults(settings: dict, base: dict, tables: Tables, path: str) -> dict[str, Any]:
  """The name of a component and every setting that it may have, with its default."""
  table = tables.components[path]
  of_some = set().union(*map(settings_of, table.values())) | {'name'}
  shared = {key: value for key, value in base.items() if key not in of_some}
  given = tables.given.get(path, ())
  constructor = checked_constructor(table, settings, path, given, shared)
  return {'name': settings['name']} | shared | defaults_of(constructor, given)


def nearby_settings(key: str, config: Config) -> str:
  """The rest of a message about a dotted key that a config lacks: '; did you mean X? known: ...'.

  Args:
    key: such as 'train.stepz'.
    config: a complete one.
  """
  flat = flatten(config)
  section, _, _ = key.rpartition('.')
  inside = [name for name in flat if section and name.startswith(f'{section}.')]
  name = flat.get(f'{section}.name')
  where = f' of {name!r}' if name else ''
  # The section may be right and the setting wrong, or the setting right and the section wrong.
  leaf = [name for name in flat if name.rpartition('.')[2] == key.rpartition('.')[2]]
  return f'{where};{suggestion(key, inside or leaf or config)}'


def to_json(config: Config) -> str:
  """The config as JSON: the text of `config.json` in a workdir."""
  return json.dumps(freeze(config), indent=2, sort_keys=True)


def freeze(config: Config) -> dict[str, Any]:
  """A copy as plain nested dicts, which does not change with the original."""
  return {
    key: freeze(value) if isinstance(value, Mapping | ConfigDict) else copy.deepcopy(value)
    for key, value in config.items()
  }
