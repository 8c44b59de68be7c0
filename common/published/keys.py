"""The one reader of `config.json` of published weights: no key is silently ignored.

A key is known, can be ignored because it does not change the outputs, or is refused by its name. A
key whose value is null counts as absent, as it does for `transformers` and `diffusers`.
"""

import sys
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from common.config import ConfigError, suggestion

# {type of a key: (types that its JSON value may have, how messages describe them)}
JSON_TYPES = {
  int: (int, 'a whole number from 1 to 2,147,483,647'),
  float: ((int, float), 'a finite number above 0'),
  bool: (bool, 'true or false'),
  str: (str, 'a text'),
  dict: (dict, 'an object'),
  list: (list, 'a list'),
}
# {type of a key: the largest value}: of an array's axis, and of a float.
LARGEST = {int: 2**31 - 1, float: sys.float_info.max}
SMALLEST = {int: 1, float: sys.float_info.min}


class Keys(NamedTuple):
  """The keys of an object in `config.json`.

  Attributes:
    required: the type of each key that must be given.
    optional: (type, default) of each key that may be left out.
    fixed: the only value that a key may have, because the network here computes nothing else.
    ignored: keys that do not change the outputs.
    signed: keys of numbers that may also be 0 or negative.
  """

  required: Mapping[str, type]
  optional: Mapping[str, tuple[type, Any]] = {}
  fixed: Mapping[str, Any] = {}
  ignored: Collection[str] = ()
  signed: Collection[str] = ()

  def read(self, found: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of the required and the optional keys.

    Args:
      found: the object.
      where: its file, for messages.

    Raises:
      ConfigError: for the first key that is missing, unknown, or has a value of another type, out
        of range, or not supported.
    """
    found = {key: value for key, value in found.items() if value is not None}
    known = {*self.required, *self.optional, *self.fixed, *self.ignored}
    for key, value in found.items():
      if key not in known:
        raise ConfigError(
          f'{where} has an unknown key {key!r} ({value!s:.60}), which may change the outputs; '
          f'remove it if it does not.{suggestion(key, {*self.required, *self.optional})}'
        )
      if key in self.fixed and value != self.fixed[key]:
        raise ConfigError(
          f'{where} has {key}={value!r}, which is not supported; only {self.fixed[key]!r} is'
        )
    types = dict(self.required) | {key: kind for key, (kind, _) in self.optional.items()}
    values = {key: default for key, (_, default) in self.optional.items()}
    for key, kind in types.items():
      if key in found:
        values[key] = _checked(key, found[key], kind, where, key in self.signed)
      elif key in self.required:
        raise ConfigError(f'{where} lacks {key!r}, which must be {JSON_TYPES[kind][1]}')
    return values


def _checked(key: str, value: Any, kind: type, where: str, signed: bool) -> Any:
  """The value as its type. Raises ConfigError for another type, or a number out of range."""
  types, description = JSON_TYPES[kind]
  # Python counts true and false as whole numbers.
  fits = isinstance(value, types) and (kind is bool or not isinstance(value, bool))
  if fits and kind in LARGEST:
    smallest = -LARGEST[kind] if signed else SMALLEST[kind]
    fits = smallest <= value <= LARGEST[kind]
  if not fits:
    wanted = 'a finite number' if signed else description
    raise ConfigError(f'{where} has {key}={value!s:.60}; it must be {wanted}')
  return kind(value)
