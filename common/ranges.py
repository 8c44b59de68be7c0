"""The values that a setting may have, written next to its default.

In the signature of a constructor the range annotates the type, and in a base config it follows the
default:

    eta: Annotated[float, AT_LEAST_ZERO] = 0.0
    clip=Setting(1.0, ZERO_IS_OFF),  # global norm of the gradient

`common.config.check_setting` is the one place that checks settings against their ranges.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import re
import typing
from collections.abc import Callable, Collection
from typing import Any

from common.files import local_path, to_path

MAX_INT = 2**31 - 1  # JAX counts in int32
MAX_FLOAT = 3.4e38  # and computes in float32: larger numbers become infinite there


class Range:
  """Values that a setting may have."""

  def allows(self, value: Any) -> bool:
    """Whether the setting may have the value, whose type has been checked."""
    raise NotImplementedError

  def explain(self, value: Any) -> str:
    """The end of the message about a value that is not allowed, such as 'must be at least 0'."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Interval(Range):
  """Numbers between two ends. NaN is in no interval.

  Attributes:
    low, high: the ends.
    above, below: whether the number must be above `low`, and below `high`.
    note: what a special value means, for messages: '0: off'.
    infinite: whether infinity is allowed.
  """

  low: int | float = -math.inf
  high: int | float = math.inf
  above: bool = False
  below: bool = False
  note: str = ''
  infinite: bool = False

  def allows(self, value: Any) -> bool:
    if math.isnan(value) or (math.isinf(value) and not self.infinite):
      return False
    if math.isfinite(value) and not self._bounded and abs(value) > _largest(value):
      return False
    enough = value > self.low if self.above else value >= self.low
    return enough and (value < self.high if self.below else value <= self.high)

  @property
  def _bounded(self) -> bool:
    return math.isfinite(self.high)

  def explain(self, value: Any) -> str:
    wanted, unbounded, finite = str(self), not self._bounded, math.isfinite(value)
    if unbounded and not (finite or self.infinite) and math.isfinite(self.low):
      wanted = f'finite and {wanted}'
    if unbounded and finite and abs(value) > _largest(value):
      wanted += f' and at most {_largest(value):,}'
    return f'must be {wanted}' + (f' ({self.note})' if self.note else '')

  def __str__(self) -> str:
    """'at least 0', 'above 0', 'in [0, 1)' or 'a finite number'."""
    if not self._bounded:
      at_least = f'{"above" if self.above else "at least"} {self.low:g}'
      return at_least if math.isfinite(self.low) else 'a finite number'
    left, right = '(' if self.above else '[', ')' if self.below else ']'
    return f'in {left}{_number(self.low)}, {_number(self.high)}{right}'


def _largest(value: int | float) -> int | float:
  """The largest number of the type of `value`."""
  return MAX_INT if isinstance(value, int) else MAX_FLOAT


def _number(end: int | float) -> str:
  return str(end) if isinstance(end, int) else f'{end:g}'


FINITE = Interval()
ABOVE_ZERO = Interval(0, above=True)
AT_LEAST_ZERO = Interval(0)
AT_LEAST_ONE = Interval(1)
ZERO_IS_OFF = Interval(0, note='0: off')
PROBABILITY = Interval(0, 1)
BELOW_ONE = Interval(0, 1, below=True)
SEED = Interval(0, 2**32, below=True)  # the seeds that `jax.random.key` tells apart


@dataclasses.dataclass(frozen=True)
class Each(Range):
  """Tuples whose items all lie in one range.

  Attributes:
    item: the range of an item.
    kind: the type of an item: int or float.
    least: the smallest number of items.
  """

  item: Range
  kind: type
  least: int = 0

  def allows(self, value: Any) -> bool:
    kinds = (int, float) if self.kind is float else self.kind
    numbers = all(isinstance(one, kinds) and not isinstance(one, bool) for one in value)
    return numbers and len(value) >= self.least and all(map(self.item.allows, value))

  def explain(self, value: Any) -> str:
    kind = {int: 'whole numbers', float: 'numbers'}[self.kind]
    least = f'{self.least} or more ' if self.least else ''
    return f'must be a tuple of {least}{kind}, each {self.item}'


class OneOf(Range):
  """One of some names, such as the keys of a table: `OneOf(*TABLE)`."""

  def __init__(self, *names: str):
    self.names = names

  def allows(self, value: Any) -> bool:
    return value in self.names

  def explain(self, value: Any) -> str:
    return f'is unknown;{suggestion(value, self.names)}'


class Pattern(Range):
  """Regular expressions."""

  def allows(self, value: Any) -> bool:
    return not self._error(value)

  def explain(self, value: Any) -> str:
    return f'must be a regular expression: {self._error(value)}'

  def _error(self, value: str) -> str:
    try:
      re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
      return str(error)
    return ''


@dataclasses.dataclass(frozen=True)
class Path(Range):
  """Paths on this machine; `~` stands for the home folder, and '' for no path.

  Attributes:
    bucket: whether a path may also be in a bucket: gs://BUCKET/FOLDER.
  """

  bucket: bool = False

  def allows(self, value: Any) -> bool:
    return not self._error(value)

  def explain(self, value: Any) -> str:
    return self._error(value)

  def expanded(self, value: str) -> str:
    """The path that a value stands for. Raises ValueError for one that is not allowed."""
    return str(to_path(value)) if self.bucket and value else local_path(value)

  def _error(self, value: str) -> str:
    try:
      self.expanded(value)
    except ValueError as error:
      return str(error)
    return ''


PATTERN, PATH, FOLDER = Pattern(), Path(), Path(bucket=True)
PRECISION = OneOf('float32', 'bfloat16', 'float16')


@dataclasses.dataclass(frozen=True)
class Setting:
  """A setting: its default, and the values that it may have.

  Attributes:
    default: the default, or `inspect.Parameter.empty`.
    range: None: any value of the default's type, if it is finite.
  """

  default: Any
  range: Range | None = None


@functools.cache
def settings_of(constructor: Callable) -> dict[str, Setting]:
  """The settings that a component's constructor takes, by name, in the order of its signature."""
  hidden = {'parent', 'name', 'self'}  # every flax.linen module takes the first two
  # Not the signature's own annotations: those of a flax module may be unevaluated text.
  types = typing.get_type_hints(constructor, include_extras=True)
  return {
    name: Setting(parameter.default, _range_of(types.get(name)))
    for name, parameter in inspect.signature(constructor).parameters.items()
    if name not in hidden
  }


def _range_of(annotation: Any) -> Range | None:
  """The range in Annotated[type, range], or None."""
  if typing.get_origin(annotation) is not typing.Annotated:
    return None
  return next((note for note in annotation.__metadata__ if isinstance(note, Range)), None)


def suggestion(name: str, known: Collection[str]) -> str:
  """' did you mean X? known: ...' for an unknown name."""
  known = sorted(map(str, known))
  return f'{did_you_mean(name, known)} known: {", ".join(known)}'


def did_you_mean(name: str, known: Collection[str]) -> str:
  """' did you mean X?' if a known name is like the unknown one, in upper or lower case."""
  spelled = {each.casefold(): each for each in known}
  close = difflib.get_close_matches(str(name).casefold(), spelled, n=1)
  return f' did you mean {spelled[close[0]]!r}?' if close else ''
