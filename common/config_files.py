"""Python files that hold data: configs and studies."""

import contextlib
import difflib
import importlib.util
import itertools
import pathlib
import types
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from common.config import (
  Config,
  ConfigError,
  as_tuple,
  check_type,
  nearby_settings,
  plain_dict,
)

MOST_FILES = 1000  # in which a misspelt path is looked for
SHIPPED = pathlib.Path(__file__).parents[1] / 'configs'  # installed next to this package


def shipped_files(function: str) -> dict[str, pathlib.Path]:
  """{'configs/FAMILY/FILE.py': path} of the shipped files that define a function."""
  paths = sorted(path for path in SHIPPED.rglob('*.py') if path.name != 'base.py')
  return {
    f'{SHIPPED.name}/{path.relative_to(SHIPPED)}': path
    for path in paths
    if f'def {function}(' in path.read_text('utf-8')
  }


def find_file(file: str) -> pathlib.Path:
  """The path of a config or study: a file of the user, or else a shipped one.

  'configs/diffusion/images.py' and 'diffusion/images' name the same shipped file from any folder.

  Raises:
    ConfigError: there is no such file (names the nearest one), or it is a folder.
  """
  path = pathlib.Path(file)
  if path.is_file():
    return path
  if path.is_dir():
    raise ConfigError(f'{file} is a folder: write the path of a Python file')
  shipped = shipped_files('get_config') | shipped_files('get_study')
  name = f'{SHIPPED.name}/' + file.removeprefix(f'{SHIPPED.name}/').removesuffix('.py') + '.py'
  if name not in shipped:
    raise ConfigError(
      f'there is no file {file} (`twofold list configs` and `twofold list studies` show the '
      f'shipped ones){_similar_file(path, shipped)}'
    )
  return shipped[name]


def load_module(file: str) -> types.ModuleType:
  """Runs a file; see `find_file`. Raises ConfigError if it is no Python, or raises an error."""
  path = find_file(file)
  if path.suffix != '.py':
    raise ConfigError(f'{file} must be a Python file, which ends in .py')
  # The module's name includes a hash of the path, so that two files of the same name do not clash.
  name = f'_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}'
  source = importlib.util.spec_from_file_location(name, path)
  found = importlib.util.module_from_spec(source)
  with _as_config_error(file):
    source.loader.exec_module(found)
  return found


def _similar_file(path: pathlib.Path, shipped: Iterable[str]) -> str:
  """'; did you mean FILE?' for a misspelt path: shipped, or below the folder that exists."""
  folder = next((parent for parent in path.parents if parent.is_dir()), pathlib.Path())
  below = map(str, itertools.islice(folder.rglob('[!_]*.py'), MOST_FILES))
  # Shipped files first: below a clone there are many other files.
  whole = path if path.parts[:1] == (SHIPPED.name,) else SHIPPED.name / path
  close = difflib.get_close_matches(str(whole), shipped, n=1, cutoff=0.85)
  close = close or difflib.get_close_matches(str(path), below, n=1)
  return f'; did you mean {close[0]}?' if close else ''


def call(spec: str, function: str, kind: type | tuple[type, ...]) -> Any:
  """Runs a file and calls one of its functions: 'FILE.py' or 'FILE.py:argument'.

  Args:
    spec: the file, and the argument of the function if it has one.
    function: the name of the function.
    kind: the type or types that it may return.

  Raises:
    ConfigError: the file does not exist, has no function of that name, raises an error, or returns
      something else.
  """
  file, colon, argument = spec.partition(':')
  if colon and not argument:
    raise ConfigError(f'{spec} ends in a colon: write what follows it, or leave it out')
  found = vars(load_module(file)).get(function)
  if not callable(found):
    raise ConfigError(f'{file} must define a function {function}()')
  with _as_config_error(f'{function}() of {file}'):
    made = found(*([argument] if argument else []))
  if not isinstance(made, kind):
    wanted = ' or '.join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
    raise ConfigError(f'{function}() of {file} must return a {wanted}, got {made!r:.80}')
  return made


@contextlib.contextmanager
def _as_config_error(what: str) -> Iterator[None]:
  """Turns any error that the code of a file raises into a ConfigError that names the file."""
  try:
    yield
  except ConfigError:
    raise
  except (Exception, SystemExit) as error:
    raise ConfigError(f'{what} failed: {type(error).__name__}: {error}') from error


def load_config(
  spec: str,
  overrides: Mapping[str, Any],
  complete: Callable[[Config], dict[str, Any]] = plain_dict,
) -> dict[str, Any]:
  """The complete config of a file, with settings replaced.

  Args:
    spec: 'FILE.py' or 'FILE.py:variant'.
    overrides: values by dotted key. A dict replaces a whole component: it has the name of the new
      component, and the settings that differ from its defaults.
    complete: fills in the settings that a config leaves out (`experiments.families.complete`).

  Raises:
    ConfigError: for an unknown key, or a value of another type.
  """
  config = complete(call(spec, 'get_config', (dict, ConfigDict)))
  for key, value in overrides.items():
    _replace(config, key, value, spec)
  return complete(config)


def _replace(config: dict[str, Any], key: str, value: Any, spec: str) -> None:
  """Sets one dotted key of a complete config; `spec` names the file in messages."""
  *parents, last = key.split('.')
  node = config
  for parent in parents:
    node = node.get(parent) if isinstance(node, dict) else None
  if not isinstance(node, dict) or last not in node:
    raise ConfigError(f'{spec} has no setting {key!r}{nearby_settings(key, config)}')
  old = node[last]
  if isinstance(old, dict) != isinstance(value, Mapping):
    wanted = 'a dict, because it is a section' if isinstance(old, dict) else 'a value, not a dict'
    raise ConfigError(f'{key} of {spec} must be {wanted}, got {value!r}')
  if not isinstance(old, dict):
    check_type(key, value, old)
  node[last] = as_tuple(plain_dict(value) if isinstance(value, Mapping) else value)
