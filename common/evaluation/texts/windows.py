"""Any text as windows in which every token counts once, and windows longer than in training."""

import dataclasses

import numpy as np

from common.config import ConfigError
from common.data.pipeline import Data
from common.data.sources import GivenSource, Source
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


@dataclasses.dataclass(frozen=True, eq=False)
class LongerWindows(Source):
  """Windows of a text, several joined into one; the last ones are left out if they are fewer.

  Attributes:
    source: windows, each beginning with the last token of the one before it.
    number: how many form one.
  """

  source: Source
  number: int

  def __len__(self) -> int:
    return len(self.source) // self.number

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    parts = self.number * np.asarray(indices)[:, None] + np.arange(self.number)
    x = self.source.gather(parts.reshape(-1))['x'].reshape(*parts.shape, -1)
    return {'x': np.concatenate([x[:, 0, :1], x[:, :, 1:].reshape(len(x), -1)], 1)}


def joined(data: Data, context: int) -> Data:
  """Data of a text whose windows predict `context` tokens, a multiple of those of the data.

  Every token is predicted that the data's own windows predict, from more tokens before it.

  Raises:
    ConfigError: for data that are not windows of a text, or another number.
  """
  spec = data.spec
  if spec.tokenizer is None or spec.counted:
    raise ConfigError(
      f'evaluation.context={context} is for windows of a text, and {spec.name!r} has none; set '
      'evaluation.context=0'
    )
  number, rest = divmod(context, spec.shape[0] - 1)
  if rest or not number:
    raise ConfigError(
      f'evaluation.context={context} must be a multiple of data.context={spec.shape[0] - 1}'
    )
  splits = {name: LongerWindows(source, number) for name, source in data.splits.items()}
  return data._replace(spec=dataclasses.replace(spec, shape=(context + 1,)), splits=splits)
