"""The flag --config=FILE.py[:variant], and --config.a.b=value for its settings, in any order.

The file contains only the settings that differ from their defaults; `families.complete` adds the
others. Then the flags are applied. Flags that name a component (--config.process.name=edm) come
first: the new component starts with its own defaults. All other flags follow, such as
--config.process.sigma_max=10. `ml_collections` parses each value and checks that it has the type of
the value that it replaces.
"""

import dataclasses
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from common.config import ConfigError, nearby_settings
from experiments import families

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

  def load(self) -> dict[str, Any]:
    """The complete config, with the settings of the command line.

    Raises:
      ConfigError: --config is missing, the file or a setting does not exist, or a value has the
        wrong type.
    """
    if not self.given:
      raise ConfigError(
        '--config is missing; give a file such as configs/diffusion/images.py:digits'
      )
    settings = {key: holder.value for key, holder in self.settings.items() if holder.value}
    return load(self.file.value, settings)


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
  file = flags.DEFINE_string('config', None, help_text, flag_values=flag_values)
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


def load(file: str, settings: dict[str, list[str]]) -> dict[str, Any]:
  """The complete config of a file, with settings replaced.

  Args:
    file: 'FILE.py' or 'FILE.py:variant'.
    settings: {dotted key: values as text}; several values make a tuple.

  Raises:
    ConfigError: the file or a setting does not exist, or a value has the wrong type. The message
      names the flag.
  """
  config = families.load_config(file, {})
  names = {f'{path}.name' for path in families.components(config)} & settings.keys()
  for key in sorted(names):  # in any order: components do not contain each other
    config = _with_component(config, key.removesuffix('.name'), settings[key][-1])
  for key, texts in settings.items():
    if key not in names:
      config = _with_setting(config, key, texts)
  # Completed again, because a value may be a section: --config.process="{'name': 'edm'}".
  return families.complete(config)


def _with_component(config: dict[str, Any], path: str, name: str) -> dict[str, Any]:
  """The config with the component `name` at `path`, with its default settings."""
  *parents, last = path.split('.')
  section = config
  for parent in parents:
    section = section[parent]
  if section[last]['name'] == name:
    return config  # the same component keeps the settings from the file
  section[last] = {'name': name}
  try:
    return families.complete(config)
  except ConfigError as error:
    raise ConfigError(f'--config.{path}.name={name}: {error}') from error


def _with_setting(config: dict[str, Any], key: str, texts: list[str]) -> dict[str, Any]:
  """The config with one setting replaced by a value of the same type."""
  if key not in set(_keys(config)):
    raise ConfigError(f'--config.{key}: there is no such setting{nearby_settings(key, config)}')
  values = flags.FlagValues()  # separate from the command's own flags
  arguments = [f'--config.{key}={text}' for text in texts]
  try:
    holder = config_flags.DEFINE_config_dict(
      'config', ConfigDict(config), flag_values=values, sys_argv=arguments
    )
    values(['', *arguments])
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise ConfigError(f'{arguments[-1]}: {_short_message(error)}') from error
  return holder.value.to_dict()


def _keys(config: dict[str, Any], prefix: str = '') -> Iterator[str]:
  """Dotted keys of all settings and all sections."""
  for key, value in config.items():
    yield prefix + key
    if isinstance(value, dict):
      yield from _keys(value, f'{prefix}{key}.')


def _short_message(error: Exception) -> str:
  """The message of an error, without its traceback and without the name of the flag."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  text = lines[-1] if lines else type(error).__name__
  return re.sub(r'^flag --config\.[^=]*=[^:]*: ', '', text)
