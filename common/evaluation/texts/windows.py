"""Any text as windows, in which every token counts once."""

import dataclasses

import numpy as np

from common.data.pipeline import Data
from common.data.sources import GivenSource
from common.data.windows import cut
from common.domains.text import first_tokens

WIDEST = 1025  # tokens in a window: the work of attention grows with the square


def text_data(data: Data, name: str, text: str, stride: int | None = None) -> Data:
  """Data of the same tokenizer and context whose splits are all windows of one text.

  Args:
    data: the data of a model of text; windows are as long as its own, or WIDEST.
    name: what the text is called.
    text: the text.
    stride: see `common.data.windows.cut`; None: half of a window.

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
