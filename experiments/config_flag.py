"""The flag --config=FILE.py[:variant], and --config.a.b=value for its settings, in any order.

The file contains only the settings that differ from their defaults; `families.complete` adds the
others. Then the flags are applied. Flags that name a component (--config.process.name=edm) come
first: the new component starts with its own defaults. All other flags follow, such as
--config.process.sigma_max=10. Each value must have the type of its setting's default, and lie in
the setting's range.
"""

import dataclasses
import functools
import itertools
import operator
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from common import config_files
from common.config import (
  ConfigError,
  as_tuple,
  check_setting,
  flatten,
  nearby_settings,
  plain_dict,
)
from experiments import cli, families
from experiments.startup import sources

flags.disclaim_key_flags()  # --help lists these flags under the command that defines them

SETTING = re.compile(r'--?(?P<no>no)?config\.(?P<key>[^=]+)(?P<value>=.*)?$', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class ConfigFlag:
  """A config on the command line.

  Attributes:
    file: FILE.py[:variant], or None.
    settings: {dotted key: its values, in the order of the command line}. A tuple may be given as
      several flags.
  """

  file: flags.FlagHolder
  settings: dict[str, flags.FlagHolder]

  @property
  def given(self) -> bool:
    """Whether there is a config on the command line."""
    return self.file.value is not None

  @property
  def texts(self) -> dict[str, list[str]]:
    """{dotted key: values as text} of the settings on the command line."""
    return {key: holder.value for key, holder in self.settings.items() if holder.value}

  def load(self, default: str = '') -> dict[str, Any]:
    """The complete config, with the settings of the command line.

    Args:
      default: the file to take if there is no --config; empty: --config must be given.

    Raises:
      ConfigError: --config is missing, the file or a setting does not exist, or a value has the
        wrong type.
    """
    file = self.file.value or default
    if not file:
      raise ConfigError(
        '--config is missing; give a file such as configs/diffusion/images.py:digits'
      )
    return load(file, self.texts)


def define(
  help_text: str,
  flag_values: flags.FlagValues = flags.FLAGS,
  argv: Sequence[str] | None = None,
) -> ConfigFlag:
  """Defines --config, and one flag for each --config.a.b on the command line.

  The settings are known only once the file is read, but absl needs all flags before it parses any.

  Args:
    help_text: the help of --config.
    flag_values: the object in which to define the flags.
    argv: the command line; None: the one of this process.
  """
  file = flags.DEFINE(
    cli.PathParser(),
    'config',
    None,
    help_text,
    flag_values=flag_values,
    serializer=flags.ArgumentSerializer(),
  )
  settings = _settings(sys.argv[1:] if argv is None else argv)
  holders = {key: _define_setting(key, alone, flag_values) for key, alone in settings.items()}
  return ConfigFlag(file, holders)


def _settings(argv: Sequence[str]) -> dict[str, bool]:
  """{key: whether its flag stands alone, without a value: --config.a or --noconfig.a}.

  In '--config.a b', b is the value of the flag unless it starts with '-'.
  """
  found = {}
  for arg, following in itertools.pairwise([*argv, '-']):
    if match := SETTING.match(arg):
      alone = match['value'] is None and (match['no'] or following.startswith('-'))
      found[match['key']] = found.get(match['key'], False) or bool(alone)
  return found


def _define_setting(key: str, alone: bool, flag_values: flags.FlagValues) -> flags.FlagHolder:
  flag = flags.MultiFlag(
    flags.ArgumentParser(),
    flags.ArgumentSerializer(),
    f'config.{key}',
    None,
    f'Replaces the setting {key} of the config.',
    boolean=alone,  # absl then reads --config.a as true, and --noconfig.a as false
  )
  return flags.DEFINE_flag(flag, flag_values)


def load(
  file: str, settings: Mapping[str, list[str]], flag: Mapping[str, str] | None = None
) -> dict[str, Any]:
  """The complete config of a file, with settings replaced.

  Args:
    file: 'FILE.py' or 'FILE.py:variant'.
    settings: {dotted key: values as text}; several values make a tuple.
    flag: {dotted key: the flag that sets it, for messages}, where it is not --config.KEY.

  Raises:
    ConfigError: the file or a setting does not exist, or a value has the wrong type or is out of
      its range. The message names the flag.
  """
  config = families.load_config(file, {})
  named = {key: f'--config.{key}' for key in settings} | dict(flag or {})
  names = {f'{path}.name' for path in families.components(config)} & settings.keys()
  for key in sorted(names):  # in any order: components do not contain each other
    config = _with_component(config, key.removesuffix('.name'), settings[key][-1], named[key])
  for key, texts in settings.items():
    if key not in names:
      config = _with_setting(config, key, texts, named[key])
  if not config.get('finetune', {}).get('source'):
    return config
  # Only what the file or a flag states; all else comes from the source.
  written = config_files.call(file, 'get_config', (dict, ConfigDict))
  return _completed(sources.with_source(config, flatten(written).keys() | settings.keys()), file)


def _with_component(config: dict[str, Any], path: str, name: str, flag: str) -> dict[str, Any]:
  """The config with the component `name` at `path`, with its default settings."""
  section = _at(config, path.split('.'))
  if section['name'] == name:
    return config  # the same component keeps the settings from the file
  return _completed(_replaced(config, path, {'name': name}), f'{flag}={name}')


def _with_setting(config: dict[str, Any], key: str, texts: list[str], flag: str) -> dict[str, Any]:
  """The config with one setting replaced by a value of the same type."""
  if key not in set(_keys(config)):
    raise ConfigError(f'{flag}: there is no such setting{nearby_settings(key, config)}')
  if isinstance(_at(config, key.split('.')), dict):
    # Completed at once, because the section may name another component.
    return _completed(_replaced(config, key, _parse_section(key, texts[-1])), flag)
  setting = families.declared_settings(config)[key]
  value = _parse(texts, setting.default)
  check_setting(flag, value, setting)
  if isinstance(setting.default, float):
    value = float(value)  # 1 and 1.0 are the same number, but not the same text in config.json
  return _completed(_replaced(config, key, value), flag)


def _completed(config: dict[str, Any], flag: str) -> dict[str, Any]:
  """The config with a value for every setting; an error names the flag."""
  try:
    return families.complete(config, strict=True)
  except ConfigError as error:
    raise ConfigError(f'{flag}: {error}') from error


def _at(config: dict[str, Any], path: Iterable[str]) -> Any:
  """The section or setting at a path."""
  return functools.reduce(operator.getitem, path, config)


def _replaced(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
  """A copy of the config with another section or setting at a dotted path."""
  result = plain_dict(config)
  *parents, last = path.split('.')
  _at(result, parents)[last] = value
  return result


def _parse_section(key: str, text: str) -> dict[str, Any]:
  """A section, written as a dict."""
  value = cli.parse_value(text)
  if not isinstance(value, dict):
    example = f'--config.{key}.name={text}'
    raise ConfigError(
      f'--config.{key}={text}: {key} is a section; write one of its settings, such as {example}'
    )
  return value


def _parse(texts: list[str], default: Any) -> Any:
  """The value of a setting, of the type of its default if the texts can be read as that type."""
  if isinstance(default, tuple):
    values = [cli.parse_value(text) for text in texts]
    parts = [value if isinstance(value, tuple | list) else (value,) for value in values]
    return as_tuple(list(itertools.chain(*parts)))
  # Text stays as it is: 5 is a valid name.
  return texts[-1] if isinstance(default, str) else cli.parse_value(texts[-1])


def _keys(config: dict[str, Any], prefix: str = '') -> Iterator[str]:
  """Dotted keys of all settings and all sections."""
  for key, value in config.items():
    yield prefix + key
    if isinstance(value, dict):
      yield from _keys(value, f'{prefix}{key}.')
