"""Windows in which every element of a sequence counts once, after as much context as possible."""

import numpy as np
from jaxtyping import Bool, Integer

from common.config import ConfigError


def cut(
  stream: Integer[np.ndarray, 'length *values'], width: int, stride: int, given: int
) -> tuple[Integer[np.ndarray, 'windows width *values'], Bool[np.ndarray, 'windows width']]:
  """Windows, and which of their elements count: each in one window, except the given ones.

  A window begins `stride` elements after the one before it, and counts what that one did not hold.
  So every counted element is predicted from at least `width` − `stride` elements, except near the
  beginning of the sequence.

  Args:
    stream: a sequence, such as the tokens of a text or frames of music.
    width: elements in a window; a shorter sequence is padded with zeros, which do not count.
    stride: elements from one window to the next, at most width − 1.
    given: number of first elements that are not counted.

  Raises:
    ConfigError: for a stride that leaves no context, or a sequence without a counted element.
  """
  if not 1 <= stride < width:
    raise ConfigError(f'the stride must be in [1, {width - 1}], got {stride}')
  length = len(stream)
  if length <= given:
    raise ConfigError('the text is too short: no token of it can be predicted')
  number = 1 + -(-max(length - width, 0) // stride)
  padding = [(0, max(width - length, 0))] + [(0, 0)] * (stream.ndim - 1)
  padded = np.pad(stream, padding)
  # The last window is moved back to the end of the sequence.
  starts = np.minimum(np.arange(number) * stride, len(padded) - width)
  positions = starts[:, None] + np.arange(width)
  ends = starts + width
  counted = positions >= np.concatenate([[given], ends[:-1]])[:, None]
  return padded[positions], counted & (positions < length)
