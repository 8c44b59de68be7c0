"""Any text as windows in which every token is counted once, after as much context as possible."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Integer

from common.config import ConfigError
from common.data.pipeline import Data
from common.data.sources import GivenSource
from common.domains.text import first_tokens

WIDEST = 1025  # tokens in a window: the work of attention grows with the square


def cut(
  tokens: Integer[np.ndarray, 'length'], width: int, stride: int, given: int
) -> tuple[Integer[np.ndarray, 'windows width'], Bool[np.ndarray, 'windows width']]:
  """Windows, and which of their tokens count: each token in one window, except the given ones.

  A window begins `stride` tokens after the one before it, and counts what that one did not hold.
  So every counted token is predicted from at least `width` − `stride` tokens, except near the
  beginning of the text.

  Args:
    tokens: the text.
    width: tokens in a window.
    stride: tokens from one window to the next, at most width − 1.
    given: number of first tokens that are not counted.

  Raises:
    ConfigError: for a stride that leaves no context, or a text without a counted token.
  """
  if not 1 <= stride < width:
    raise ConfigError(f'the stride must be in [1, {width - 1}], got {stride}')
  length = len(tokens)
  if length <= given:
    raise ConfigError('the text is too short: no token of it can be predicted')
  number = 1 + -(-max(length - width, 0) // stride)
  padded = np.pad(tokens, (0, max(width - length, 0)))
  # The last window is moved back to the end of the text.
  starts = np.minimum(np.arange(number) * stride, len(padded) - width)
  positions = starts[:, None] + np.arange(width)
  ends = starts + width
  counted = positions >= np.concatenate([[given], ends[:-1]])[:, None]
  return padded[positions], counted & (positions < length)


def text_data(data: Data, name: str, text: str, stride: int | None = None) -> Data:
  """Data of the same tokenizer and context whose splits are all windows of one text.

  Args:
    data: the data of a model of text; windows are as long as its own, or WIDEST.
    name: what the text is called.
    text: the text.
    stride: see `cut`; None: half of a window.

  Raises:
    ConfigError: for an empty text, or one that the tokenizer cannot encode.
  """
  spec = data.spec
  width, encoded = min(spec.shape[0], WIDEST), spec.tokenizer.encode(text).astype(np.int32)
  # A separator in front, if the model has seen any, so that the first token counts too.
  first = first_tokens(spec, data.splits['train'], np.zeros(1, np.int64))[0]
  marks = (*spec.tokenizer.first_tokens, *spec.tokenizer.end_tokens)
  first = first[np.isin(first, marks)]
  tokens = np.concatenate([first, encoded])
  stride = max(width // 2, 1) if stride is None else stride
  x, counted = cut(tokens, width, stride, max(len(first), 1))
  source = GivenSource({'x': x.astype(spec.dtype), 'counted': counted})
  spec = dataclasses.replace(spec, name=name, shape=(width,), counted=True)
  return data._replace(spec=spec, splits=dict.fromkeys(data.splits, source))
