"""Python files that hold data: configs and studies."""

import importlib.util
import pathlib
import types
import zlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from common.config import ConfigError, as_tuple, flatten, suggestion


def module(file: str) -> types.ModuleType:
  """Runs a file. Raises ConfigError where there is none."""
  path = pathlib.Path(file)
  if not path.is_file():
    raise ConfigError(f'there is no file {file}')
  name = f'_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}'
  source = importlib.util.spec_from_file_location(name, path)
  found = importlib.util.module_from_spec(source)
  source.loader.exec_module(found)
  return found


def call(spec: str, function: str) -> Any:
  """Runs a file and calls one of its functions: 'FILE.py' or 'FILE.py:argument'.

  Raises:
    ConfigError: where there is no such file, or no such function in it.
  """
  file, _, argument = spec.partition(':')
  found = module(file)
  if not hasattr(found, function):
    raise ConfigError(f'{file} has no function {function}()')
  return getattr(found, function)(*([argument] if argument else []))


def load_config(spec: str, overrides: Mapping[str, Any]) -> ConfigDict:
  """The config of a file, with settings replaced.

  Args:
    spec: 'FILE.py' or 'FILE.py:variant'.
    overrides: values by dotted key. A dict replaces a whole component, its name and all settings.

  Raises:
    ConfigError: for an unknown key, or a value of another type.
  """
  config = call(spec, 'get_config')
  for key, value in overrides.items():
    _replace(config, key, value, spec)
  return config.lock()


def _replace(config: ConfigDict, key: str, value: Any, spec: str) -> None:
  *parents, last = key.split('.')
  node = config
  for parent in parents:
    node = node.get(parent) if isinstance(node, ConfigDict) else None
  if not isinstance(node, ConfigDict) or last not in node:
    raise ConfigError(f'{spec} has no setting {key!r};{suggestion(key, flatten(config))}')
  old = node[last]
  if isinstance(old, ConfigDict) != isinstance(value, Mapping):
    kind = 'a component: give a dict' if isinstance(old, ConfigDict) else 'no component'
    raise ConfigError(f'{key}={value!r}: {key} of {spec} is {kind}')
  try:
    if isinstance(value, Mapping):
      with node.ignore_type():
        node[last] = ConfigDict(dict(value))
    else:
      node[last] = as_tuple(value)
  except (TypeError, ValueError) as error:
    expected = type(old).__name__
    raise ConfigError(f'{key}={value!r}: {spec} has {old!r}, of type {expected}') from error
