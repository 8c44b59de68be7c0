"""The flag --config=FILE.py[:variant], and --config.a.b=value for its settings, in any order.

The file says only what differs. Its settings are filled in (`families.complete`), then the flags
take effect: first those that name a component (--config.process.name=edm), which takes that one's
own defaults, then all others (--config.process.sigma_max=10). Values are parsed and checked by
`ml_collections`, by the type of what they replace.
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

flags.disclaim_key_flags()  # the flags defined here are those of the command that asks for them

SETTING = re.compile(r'--?(?P<no>no)?config\.(?P<key>[^=]+)(?P<value>=.*)?$', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class ConfigFlag:
  """A config on the command line.

  Attributes:
    file: FILE.py[:variant], or None.
    settings: the values given for each dotted key, in the order of the command line; a tuple may be
      given as several.
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
      ConfigError: --config is missing, there is no such file or setting, or a value has another
        type.
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
  """Defines --config, and a flag for each of its settings that the command line has.

  Only the file tells which settings there are, and flags must be defined before they are parsed.

  Args:
    help_text: of --config.
    flag_values: where the flags are defined.
    argv: the command line; None: this process's.
  """
  file = flags.DEFINE_string('config', None, help_text, flag_values=flag_values)
  settings = _settings(sys.argv[1:] if argv is None else argv)
  holders = {key: _define_setting(key, alone, flag_values) for key, alone in settings.items()}
  return ConfigFlag(file, holders)


def _settings(argv: Sequence[str]) -> dict[str, bool]:
  """The keys that a command line sets, and whether each stands alone: --config.a or --noconfig.a.

  --config.a value is a flag and its value, unless what follows is a flag.
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
    settings: values as text, by dotted key. Several values are those of a tuple.

  Raises:
    ConfigError: there is no such file or setting, or a value of another type; names the flag.
  """
  config = families.load_config(file, {})
  names = {f'{path}.name' for path in families.components(config)} & settings.keys()
  for key in sorted(names):  # 'classifier.network.name' needs nothing of 'network.name'
    config = _with_component(config, key.removesuffix('.name'), settings[key][-1])
  for key, texts in settings.items():
    if key not in names:
      config = _with_setting(config, key, texts)
  # Again, because a value may itself be a section: --config.process="{'name': 'edm'}".
  return families.complete(config)


def _with_component(config: dict[str, Any], path: str, name: str) -> dict[str, Any]:
  """The config with the component of that name at a path, and all settings at its defaults."""
  *parents, last = path.split('.')
  section = config
  for parent in parents:
    section = section[parent]
  if section[last]['name'] == name:
    return config  # it keeps the settings that the file gives it
  section[last] = {'name': name}
  try:
    return families.complete(config)
  except ConfigError as error:
    raise ConfigError(f'--config.{path}.name={name}: {error}') from error


def _with_setting(config: dict[str, Any], key: str, texts: list[str]) -> dict[str, Any]:
  """The config with one setting replaced, parsed by the type of its old value."""
  if key not in set(_keys(config)):
    raise ConfigError(f'--config.{key}: there is no such setting{nearby_settings(key, config)}')
  values = flags.FlagValues()  # apart from the command's own flags
  arguments = [f'--config.{key}={text}' for text in texts]
  try:
    holder = config_flags.DEFINE_config_dict(
      'config', ConfigDict(config), flag_values=values, sys_argv=arguments
    )
    values(['', *arguments])
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise ConfigError(f'{arguments[-1]}: {_in_short(error)}') from error
  return holder.value.to_dict()


def _keys(config: dict[str, Any], prefix: str = '') -> Iterator[str]:
  """Dotted keys of all settings and all sections."""
  for key, value in config.items():
    yield prefix + key
    if isinstance(value, dict):
      yield from _keys(value, f'{prefix}{key}.')


def _in_short(error: Exception) -> str:
  """The message of an error, without the flag that it repeats and without a traceback."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  text = lines[-1] if lines else type(error).__name__
  return re.sub(r'^flag --config\.[^=]*=[^:]*: ', '', text)
