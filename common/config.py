"""Configs: choose components by name, fill in defaults, check, compare.

A component of a config is a dict with a `name` and settings. A table, one literal dict in one file,
maps the name to a constructor, and the settings are that constructor's keyword arguments. A config
contains only the settings that differ from their defaults. The defaults and their ranges stand in
the constructor's signature and nowhere else; `complete` fills them in and checks them.
"""

import copy
import inspect
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from ml_collections import ConfigDict

from common import ranges
from common.files import Path, check_regular
from common.ranges import FINITE, Setting, did_you_mean, settings_of, suggestion

T = TypeVar('T')
Config = Mapping | ConfigDict  # below the commands, configs are plain nested dicts


# Sections with a `name` that are not components: the name is an ordinary setting, and does not
# decide which other settings the section has.
NAMED_SECTIONS = ('data', 'optimizer', 'task', 'threshold')


class ConfigError(ValueError):
  """A config that cannot be used: what is wrong, where, and what would be right, in one line."""


class Tables(NamedTuple):
  """The constructors behind a family's configs.

  Attributes:
    components: {dotted path of a section with a `name`: {name: constructor}}.
    sections: {dotted path of a section without a `name`: its one constructor}.
    given: {dotted path of either: arguments of its constructors that are never settings}. The code
      passes them, because they come from the data or from another component.
  """

  components: Mapping[str, Mapping[str, Callable]]
  sections: Mapping[str, Callable] = {}
  given: Mapping[str, Collection[str]] = {}


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
    **given: arguments that the code passes; a constructor gets only those that it accepts.

  Raises:
    ConfigError: for an unknown name, an unknown setting, a value whose type differs from that of
      the default, or a value out of its range.
  """
  constructor = checked_constructor(table, settings, what, given)
  arguments = settings_of(constructor)
  chosen = {key: as_tuple(value) for key, value in settings.items() if key != 'name'}
  return constructor(**chosen, **{k: v for k, v in given.items() if k in arguments})


def checked_constructor(
  table: Mapping[str, Callable[..., T]],
  settings: Mapping,
  what: str,
  given: Collection[str] = (),
  shared: Mapping[str, Setting] | None = None,
) -> Callable[..., T]:
  """Checks the settings of a component, and returns the constructor that its `name` selects.

  Args:
    table: constructors by name.
    settings: the component: its `name` and settings.
    what: what the component is, for messages.
    given: names of arguments that the code passes, which are not settings.
    shared: settings that every component of the table has, in addition to the arguments of its
      constructor.

  Raises:
    ConfigError: see `component`.
  """
  if 'name' not in settings:
    raise ConfigError(f'{what} needs a name; known: {", ".join(sorted(table))}')
  constructor = pick(table, settings['name'], what)
  known = {k: v for k, v in settings_of(constructor).items() if k not in given} | dict(shared or {})
  check_settings(what, {k: v for k, v in settings.items() if k != 'name'}, known, settings['name'])
  return constructor


def check_settings(
  what: str, values: Mapping[str, Any], known: Mapping[str, Setting], owner: str = ''
) -> None:
  """Checks the settings of a section or component.

  Args:
    what: the section, for messages.
    values: the settings.
    known: all settings that there are.
    owner: the name of the component whose settings they are, for messages.

  Raises:
    ConfigError: for an unknown setting, a value of another type than the default, or a value out of
      its range.
  """
  for key, value in values.items():
    if key not in known:
      of = f' of {owner!r}' if owner else ''
      raise ConfigError(f'unknown setting {what}.{key}{of};{suggestion(key, known)}')
    check_setting(f'{what}.{key}', value, known[key])


# {type of a default: (types that its values may have, how messages describe them)}
SETTING_TYPES = {
  bool: (bool, 'True or False'),
  int: (int, 'a whole number'),
  float: ((int, float), 'a number'),
  str: (str, 'text'),
  tuple: ((tuple, list), 'a tuple'),  # JSON has lists
}


def check_type(what: str, value: Any, default: Any) -> None:
  """Checks that a value has the type of its setting's default, if SETTING_TYPES has that type.

  Raises:
    ConfigError: names the setting, and gives a valid value as an example.
  """
  types, description = SETTING_TYPES.get(type(default), (object, ''))
  # Python counts True and False as ints, but a config must not use them as numbers.
  if not isinstance(value, types) or (isinstance(value, bool) and type(default) in (int, float)):
    raise ConfigError(f'{what}={value!r} must be {description}, such as {default!r}')


def check_setting(what: str, value: Any, setting: Setting) -> None:
  """Checks that a value has the type of its setting's default, and lies in its range.

  Every number must be finite, unless the range says otherwise.

  Raises:
    ConfigError: names the setting, and says which values are valid.
  """
  check_type(what, value, setting.default)
  allowed = setting.range or (FINITE if type(setting.default) in (int, float) else None)
  if allowed is not None and not allowed.allows(value):
    raise ConfigError(f'{what}={value!r} {allowed.explain(value)}')


def as_tuple(value: Any) -> Any:
  """Lists (from JSON) as tuples, so that they can be hashed."""
  return tuple(map(as_tuple, value)) if isinstance(value, (list, tuple)) else value


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
  """A nested config with changes applied in order.

  A dict changes the section under its key setting by setting. If its `name` differs from that of
  the component there, it replaces the component: settings of the old name do not apply to the new.
  """
  result = plain_dict(config)
  for change in map(plain_dict, changes):
    for key, value in change.items():
      old = result.get(key)
      both_dicts = isinstance(value, dict) and isinstance(old, dict)
      if both_dicts and (key in NAMED_SECTIONS or not _renames(value, old)):
        result[key] = merge(old, value)
      else:
        result[key] = value
  return result


def _renames(change: Mapping, section: Mapping) -> bool:
  """Whether a change gives a section another name."""
  return 'name' in change and change['name'] != section.get('name')


def complete(
  config: Config, base: Mapping, tables: Tables, strict: bool = False, path: str = ''
) -> dict[str, Any]:
  """A config with a value for every setting.

  A setting that a component leaves out takes the default of the component's constructor. It never
  takes a value from the base, whose component may have another name or other settings. A setting
  that another section leaves out takes the value in the base, or else the default of the section's
  constructor, if there is one. Configs from before a setting existed are completed in the same way.

  Args:
    config: the settings that differ from their defaults.
    base: the sections of the family: a `Setting` or a default for each setting. Settings of a
      component in the base that no constructor takes belong to every component at that path.
    tables: the family's constructors.
    strict: whether to raise an error for a key that a section of the base lacks, or for a value of
      another type or out of its range, and to replace `~` in paths. Otherwise all are kept, because
      an older run may have them. A section that is empty in the base accepts any key; the sections
      inside it have settings of the section around it (`optimizer.groups`).
    path: the dotted path of the section `config`; '' for a complete config.

  Raises:
    ConfigError: for a component or setting that is unknown, a setting of another type, or a value
      out of its range.
  """
  known = plain_dict(config)
  declared = _declared(known, base, tables, path)
  result = plain_defaults(declared) | known
  for key, value in result.items():
    inside, entry = f'{path}.{key}' if path else key, declared.get(key)
    if strict and declared and entry is None:
      raise ConfigError(f'{inside}: there is no such setting;{suggestion(key, declared)}')
    section = isinstance(entry, dict)
    if section and not isinstance(value, dict):
      raise ConfigError(f'{inside}={value!r} must be a section: a dict of settings')
    if section or inside in tables.components:
      result[key] = complete(value, entry if section else {}, tables, strict, inside)
    elif strict and entry is not None:
      check_setting(inside, value, entry)
      result[key] = entry.range.expanded(value) if isinstance(entry.range, ranges.Path) else value
    if strict and entry == {}:
      _check_groups(inside, value, declared)
  return result


def _declared(
  settings: Mapping, base: Mapping, tables: Tables, path: str
) -> dict[str, Setting | dict]:
  """What a section of the config `settings` may hold: a `Setting` or a section for each key."""
  entries = {k: v if isinstance(v, dict | Setting) else Setting(v) for k, v in base.items()}
  given = tables.given.get(path, ())
  if path in tables.components:
    table = tables.components[path]
    own = set().union(*map(settings_of, table.values())) | {'name'}  # of any constructor
    shared = {key: entry for key, entry in entries.items() if key not in own}
    constructor = checked_constructor(table, settings, path, given, shared)
    entries = {'name': Setting(settings['name'])} | shared
  elif path in tables.sections:
    constructor = tables.sections[path]
  else:
    return entries
  own = settings_of(constructor).items()
  return entries | {k: v for k, v in own if k not in given and k not in entries}


def plain_defaults(declared: Mapping) -> dict[str, Any]:
  """The defaults of nested settings, as nested dicts."""
  sections = {k: plain_defaults(v) for k, v in declared.items() if isinstance(v, dict)}
  settings = {k: v for k, v in declared.items() if not isinstance(v, dict)}
  values = {k: v if not isinstance(v, Setting) else v.default for k, v in settings.items()}
  whole = copy.deepcopy(values) | sections
  return {k: whole[k] for k in declared if whole[k] is not inspect.Parameter.empty}


def _check_groups(what: str, groups: Mapping, declared: Mapping[str, Setting | dict]) -> None:
  """Checks the sections of `groups`, which have the settings in `declared`, and others."""
  known = {k: entry for k, entry in declared.items() if isinstance(entry, Setting)}
  for name, group in groups.items():
    if isinstance(group, dict):
      check_settings(f'{what}.{name}', {k: v for k, v in group.items() if k in known}, known)


def declared_settings(
  config: Config, base: Mapping, tables: Tables, path: str = ''
) -> dict[str, Setting]:
  """{dotted name: setting} for all settings of a complete config; see `complete`."""
  found, declared = {}, _declared(config, base, tables, path)
  for key, entry in declared.items():
    inside = f'{path}.{key}' if path else key
    if entry == {} and inside not in {**tables.components, **tables.sections}:
      # Groups: the sections inside have settings of the section around them, and others.
      for leaf, value in flatten(config[key], f'{inside}.').items():
        found[leaf] = declared.get(leaf.rpartition('.')[2], Setting(value))
    elif isinstance(entry, dict) or inside in tables.components:
      section = entry if isinstance(entry, dict) else {}
      found |= declared_settings(config[key], section, tables, inside)
    else:
      found[inside] = entry
  return found


def nearby_settings(key: str, config: Config) -> str:
  """The end of an error message about an unknown setting: '; did you mean X? known: ...'.

  Args:
    key: the unknown dotted key, such as 'train.stepz'.
    config: a complete config.
  """
  flat = flatten(config)
  section, _, _ = key.rpartition('.')
  inside = [name for name in flat if section and name.startswith(f'{section}.')]
  name = flat.get(f'{section}.name')
  where = f' of {name!r}' if name else ''
  # Show other settings of the same section; if there is no such section, the same setting in other
  # sections. If only one section has the setting, it is that one.
  leaf = [name for name in flat if name.rpartition('.')[2] == key.rpartition('.')[2]]
  known = inside or leaf or config
  # 'sampler.name' is the end of sampling.sampler.name, whatever else is like it.
  ends = [name for name in flat if name.endswith(f'.{key}')]
  one = ends if len(ends) == 1 else leaf
  hint = f' did you mean {one[0]!r}?' if len(one) == 1 else did_you_mean(key, known)
  return f'{where};{hint} known: {", ".join(sorted(known))}'


def to_json(config: Config) -> str:
  """The config as JSON: the text of `config.json` in a workdir."""
  return json.dumps(plain_dict(config), indent=2, sort_keys=True)


def read_json(path: Path) -> dict[str, Any]:
  """The JSON object in a file. Raises ConfigError if it cannot be read, or holds something else."""
  try:
    check_regular(path)
    found = json.loads(path.read_bytes().decode())
  # Deeply nested JSON exceeds Python's recursion limit.
  except (OSError, ValueError, RecursionError) as error:
    raise ConfigError(f'{path} cannot be read as JSON: {error}') from error
  if not isinstance(found, dict):
    raise ConfigError(f'{path} must hold a JSON object, got a {type(found).__name__}')
  return found


def plain_dict(config: Config) -> dict[str, Any]:
  """A deep copy as plain nested dicts: later changes of the original do not affect it."""
  return {
    key: plain_dict(value) if isinstance(value, Mapping | ConfigDict) else copy.deepcopy(value)
    for key, value in config.items()
  }
