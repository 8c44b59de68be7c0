"""The interface of tokenizers."""

import abc
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Integer

from common.config import ConfigError

Tokens = Integer[np.ndarray, '_'] | Sequence[int]
SEPARATOR = '\0'  # stands between documents; the builder refuses texts that contain it
END_OF_TEXT = '<|endoftext|>'  # the separator of GPT-2, and of the BPE trained here


class Tokenizer(abc.ABC):
  """Turns text into token ids and back. Subclasses are frozen dataclasses.

  Attributes:
    kind: the name of the subclass in JSON.
    vocabulary: number of tokens.
    separator: the token that stands between documents; None if there is none.
  """

  kind: ClassVar[str]
  vocabulary: int
  separator: int | None = None

  @abc.abstractmethod
  def encode(self, text: str) -> Integer[np.ndarray, 'length']:
    """The token ids of a text."""

  @abc.abstractmethod
  def decode(self, tokens: Tokens) -> str:
    """The text of token ids: for the output of `encode`, exactly its input."""

  def encode_prompt(self, text: str) -> Integer[np.ndarray, 'length']:
    """The token ids of a text to be continued, after `first_tokens`."""
    return np.concatenate([self.first_tokens, self.encode(text)]).astype(np.int32)

  def encode_marked(self, text: str) -> Integer[np.ndarray, 'length']:
    """The token ids of a text in which spelled-out special tokens are those tokens."""
    return self.encode(text)

  @property
  def line_break(self) -> int | None:
    """The token of a line break; None if it is not one token."""
    tokens = self.encode('\n')
    return int(tokens[0]) if len(tokens) == 1 else None

  @property
  def end_tokens(self) -> tuple[int, ...]:
    """The tokens that end a text: the separator, and others that the model was trained with."""
    return () if self.separator is None else (self.separator,)

  @property
  def first_tokens(self) -> tuple[int, ...]:
    """The tokens that the model expects before every text, such as '<s>'."""
    return ()

  @property
  def special_tokens(self) -> Mapping[str, int]:
    """Special tokens by name; spelled out in a text, they are text (but see `encode_marked`)."""
    return {}

  def continuation(self, given: Iterable[Any], drawn: Iterable[Any]) -> str:
    """The text of the token ids `drawn` after `given`.

    The whole is decoded and the given part cut off: by itself, the first drawn token of some
    tokenizers would lose its space.
    """
    given, drawn = ([int(token) for token in tokens] for tokens in (given, drawn))
    before, whole = self.decode(given), self.decode(given + drawn)
    # A character that `given` breaks off is complete in `whole`: from there on, they differ.
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False))
    return whole[sum(1 for _ in same) :]


def check_vocabulary(size: int, what: str, largest: int) -> int:
  """The size of a vocabulary. Raises ConfigError if it is 0, or larger than tables should be."""
  if not 0 < size <= largest:
    raise ConfigError(
      f'a vocabulary must have 1 to {largest:,} tokens, but that of {what} has {size:,}; '
      "set data.tokenizer='bytes', or 'bpe' with a smaller data.vocabulary"
    )
  return size
