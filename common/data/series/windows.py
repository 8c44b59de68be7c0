"""Windows of time series: how long they are, and where those of each split begin.

A window has `context` given steps and `horizon` steps to forecast. Splits are by time, within each
series: its last steps are for testing, the steps before them for validation, and training windows
end before these. The steps that one split forecasts belong to no earlier split; a later split may
contain them as context.

Every series with a value before its test part is tested. If it has fewer values than a context, the
missing steps before them are padding. A series that is too short for that has no validation windows
either, and no training windows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from common.config import ConfigError
from common.data.series.table import Table

DEFAULT_HORIZON = 12
FUTURE = 'future'  # the split of forecasts beyond the end of the data
# Where training ends: before the steps for validation, before those for testing, or nowhere.
TRAIN_TO = ('validation', 'test', 'end')
LEAST = dict(
  context=1, horizon=1, stride=1, min_context=0, rolling=0, roll_by=0, rolling_multiple=1
)
LEAST_TRAINING = 2  # steps of a series that validation leaves for training: one given, one to learn


class WindowSizes(NamedTuple):
  """The settings of windows in a config's `data` section, in steps.

  Attributes:
    context: steps of a window that are given.
    horizon: steps of a window that are to be forecast.
    stride: steps from one training window to the next.
    min_context: the fewest values before the horizon of a training window, whose other given steps
      are padding; 0: all, unless the series is shorter.
    rolling: windows of a series in validation, and again in test; 0: one, or as many as the
      published test part has room for.
    roll_by: steps from one of these windows to the next; 0: the horizon.
    rolling_multiple: the number of these windows is a multiple of this; the last are left out.
    train_to: see TRAIN_TO.
  """

  context: int
  horizon: int
  stride: int = 1
  min_context: int = 0
  rolling: int = 0
  roll_by: int = 0
  rolling_multiple: int = 1
  train_to: str = 'validation'

  @property
  def length(self) -> int:
    """Number of steps in a window."""
    return self.context + self.horizon

  @property
  def shift(self) -> int:
    """Steps from one window of validation or test to the next."""
    return self.roll_by or self.horizon

  def span(self, number: int) -> int:
    """Number of steps that `number` windows of validation or test forecast."""
    return (number - 1) * self.shift + self.horizon


def window_sizes(settings: Mapping[str, Any], horizon: int = DEFAULT_HORIZON) -> WindowSizes:
  """The sizes in a config's `data` section; `horizon` replaces a horizon of 0.

  Raises:
    ConfigError: a size is too small, or `min_context` is larger than the context.
  """
  sizes = WindowSizes(context=settings.get('context', 1), horizon=settings.get('horizon', 0))
  given = {name: settings[name] for name in sizes._fields if name in settings}
  sizes = sizes._replace(**given)
  sizes = sizes._replace(horizon=sizes.horizon or horizon)
  for name, least in LEAST.items():
    if (value := sizes._asdict()[name]) < least:
      raise ConfigError(f'data.{name} must be at least {least}, got {value}')
  if sizes.min_context > sizes.context:
    raise ConfigError(
      f'data.min_context={sizes.min_context} must be at most data.context={sizes.context}'
    )
  if 0 < sizes.rolling < sizes.rolling_multiple:
    raise ConfigError(
      f'data.rolling={sizes.rolling} leaves no window: their number must be a multiple of '
      f'data.rolling_multiple={sizes.rolling_multiple}; raise data.rolling, or set it to 0 for all'
    )
  if sizes.train_to not in TRAIN_TO:
    raise ConfigError(f'data.train_to must be one of {", ".join(TRAIN_TO)}, got {sizes.train_to!r}')
  return sizes


class Parts(NamedTuple):
  """The parts of a series, as numbers of steps from its beginning.

  Attributes:
    train: the end of the part that is trained on.
    validation: the first step that validation forecasts.
    test: the first step that testing forecasts, and the end of validation.
    end: the end of the series.
  """

  train: int
  validation: int
  test: int
  end: int


def series_parts(table: Table, sizes: WindowSizes) -> list[Parts]:
  """The parts of each series; all are empty for a series that is too short to be tested.

  Raises:
    ConfigError: the horizon is longer than the published test part.
  """
  tests = _published(table.test, table, sizes, 'test')
  validations = _published(table.validation, table, sizes, 'validation')
  parts = []
  for end, test, validation in zip(table.ends.tolist(), tests, validations, strict=True):
    test_start = end - _held_out(test, end - 1, sizes)
    if test_start == end:
      parts.append(Parts(0, end, end, end))
      continue
    before = _held_out(validation, test_start - LEAST_TRAINING, sizes)
    starts = {'validation': test_start - before, 'test': test_start, 'end': end}
    parts.append(Parts(starts[sizes.train_to], starts['validation'], test_start, end))
  return parts


def _published(
  steps: Int[np.ndarray, 'series'] | None, table: Table, sizes: WindowSizes, part: str
) -> list[int]:
  """The number of steps of a published part of each series; 0 if it is not published."""
  if steps is None:
    return [0] * len(table.names)
  if (shortest := int(steps.min())) < sizes.horizon:
    raise ConfigError(
      f'data.horizon={sizes.horizon} is longer than the published {part} part of {shortest} steps'
    )
  return steps.tolist()


def _held_out(published: int, room: int, sizes: WindowSizes) -> int:
  """Number of steps to hold out: the published ones, or those of `rolling` windows.

  Without room for the published ones it is 0; of our own windows there are as many as fit.
  """
  if published:
    return published if published <= room else 0
  number = min(max(sizes.rolling, 1), (room - sizes.horizon) // sizes.shift + 1)
  return sizes.span(number) if number > 0 else 0


def window_offsets(parts: Parts, sizes: WindowSizes) -> dict[str, Sequence[int]]:
  """The first steps of the windows of a series, by split; a negative one begins with padding."""
  context, horizon = sizes.context, sizes.horizon
  held_out = {
    'validation': range(parts.validation, parts.test - horizon + 1, sizes.shift),
    'test': range(parts.test, parts.end - horizon + 1, sizes.shift),
  }
  # The last `rolling` windows, if a published part has room for more.
  kept = {split: origins[-sizes.rolling :] for split, origins in held_out.items()}
  # Published tables of long horizons leave out what fills no batch of their loaders.
  kept = {
    split: origins[: len(origins) // sizes.rolling_multiple * sizes.rolling_multiple]
    for split, origins in kept.items()
  }
  return {
    'train': _training_offsets(parts.train, sizes),
    **{split: [origin - context for origin in origins] for split, origins in kept.items()},
    FUTURE: [parts.end - context],
  }


def _training_offsets(end: int, sizes: WindowSizes) -> Sequence[int]:
  """The first steps of training windows, for a training part of `end` steps."""
  least = sizes.min_context or sizes.context
  # Backwards from the last window whose horizon ends with the training part: with a stride, the
  # newest steps are always used.
  offsets = range(end - sizes.length, least - sizes.context - 1, -sizes.stride)
  if offsets or end < LEAST_TRAINING:
    return offsets
  # A single window: padded on the left, and if need be with fewer steps to forecast.
  given = min(sizes.context, max(end - sizes.horizon, 1))
  return [given - sizes.context]


def useful_offsets(
  offsets: Sequence[int], known: Bool[np.ndarray, 'steps'], sizes: WindowSizes, split: str
) -> list[int]:
  """The offsets of windows with a value to forecast and, for training, also a given one.

  Args:
    offsets: the first steps of windows of a split.
    known: whether the value of each step of the series is known.
    sizes: the sizes of windows.
    split: the split; windows of 'future' have nothing to forecast yet.
  """
  if split == FUTURE:
    return list(offsets)
  start, total = np.array(offsets, int), np.append(0, np.cumsum(known))
  # Numbers of values before the window, before its horizon and before its end.
  before, given, after = (
    total[np.clip(start + steps, 0, len(known))] for steps in (0, sizes.context, sizes.length)
  )
  useful = (after > given) & ((given > before) | (split != 'train'))
  return start[useful].tolist()
