"""Copies from memory: ten symbols, a long pause, and the same symbols again.

The task of Hochreiter & Schmidhuber 1997 and Arjovsky, Shah & Bengio 2016, as Bai, Kolter & Koltun
2018 (TCN, section 4) score it. There, a network reads symbols, blanks and markers, and its T + 20
outputs, T + 10 blanks and ten copies, are scored. Here one sequence is input and target:

  ...........31415926..........:31415926   (with eight symbols and ten blanks)

Eleven blanks, of which the first is given; the symbols; T blanks; a marker; the copies. Symbols and
marker do not count where they first occur: T + 20 tokens do. A copy is T + 10 tokens away from its
symbol when it is predicted, as in the paper. It is predicted from the copies before it, where the
paper repeats the marker. A guess, which knows all but the copies, costs 10·ln 8 / (T + 20).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from common.data import tokenizers
from common.data.builders import base

SIZES = {'train': 10_000, 'validation': 1_000, 'test': 1_000}
COPIED = 10  # symbols
TOKENIZER = tokenizers.Characters('.12345678:')
BLANK, MARKER = 0, 9


class CopyMemory(base.Builder, skip_registration=True):
  """12,000 sequences with `data.blanks` blanks between symbols and copies, drawn with a fixed seed.

  Only the tokens that the paper scores count ('counted').
  """

  name = 'copy_memory'
  domain = 'text'
  flags = ('blanks',)

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    return f'blanks-{settings["blanks"]}'

  @classmethod
  def expected(cls, settings):
    return dict(
      shape=(length(settings['blanks']),),
      levels=TOKENIZER.vocabulary,
      num_classes=0,
      num_train=SIZES['train'],
      tokenizer=TOKENIZER,
      counted=True,
    )

  def read(self) -> base.Contents:
    blanks = self.settings['blanks']
    x = sequences(sum(SIZES.values()), blanks, np.random.default_rng(0))
    ends = np.cumsum(list(SIZES.values()))[:-1]
    windows = dict(zip(SIZES, np.split(x, ends), strict=True))
    marks = {split: np.broadcast_to(counts(blanks), part.shape) for split, part in windows.items()}
    return base.Contents(
      shape=x.shape[1:],
      levels=TOKENIZER.vocabulary,
      class_names=(),
      splits=base.window_splits(windows, marks),
      tokenizer=tokenizers.to_json(TOKENIZER),
      counted=True,
    )


def length(blanks: int) -> int:
  """Tokens in a sequence: with the blank that is given, and the marker."""
  return 1 + COPIED + COPIED + blanks + 1 + COPIED


def sequences(
  number: int, blanks: int, rng: np.random.Generator
) -> UInt8[np.ndarray, 'number length']:
  """Random sequences."""
  symbols = rng.integers(1, MARKER, (number, COPIED))
  x = np.full((number, length(blanks)), BLANK, np.uint8)
  x[:, 1 + COPIED : 1 + 2 * COPIED] = x[:, -COPIED:] = symbols
  x[:, -COPIED - 1] = MARKER
  return x


def counts(blanks: int) -> Bool[np.ndarray, 'length']:
  """Which tokens of a sequence count: the blanks except the first, and the copies."""
  counted = np.ones(length(blanks), bool)
  counted[0] = counted[-COPIED - 1] = False
  counted[1 + COPIED : 1 + 2 * COPIED] = False
  return counted
