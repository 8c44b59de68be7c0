"""Tokenizers without a library: bytes and characters."""

import dataclasses
import functools

import numpy as np

from common.config import ConfigError
from common.data.tokenizers.base import SEPARATOR, Tokenizer, Tokens


@dataclasses.dataclass(frozen=True)
class Bytes(Tokenizer):
  """The bytes of UTF-8. NUL, which does not occur in text, separates documents."""

  kind = 'bytes'
  vocabulary = 256
  separator = 0

  def encode(self, text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)

  def decode(self, tokens: Tokens) -> str:
    """The text of token ids; invalid UTF-8 becomes '\N{REPLACEMENT CHARACTER}'."""
    # A sample may stop in the middle of a character, so invalid UTF-8 is no error.
    return bytes(np.asarray(tokens, np.uint8)).decode(errors='replace')


@dataclasses.dataclass(frozen=True)
class Characters(Tokenizer):
  """One token for each character.

  Attributes:
    characters: the known characters, in the order of their ids.
  """

  characters: str

  kind = 'characters'

  @property
  def vocabulary(self) -> int:
    return len(self.characters)

  @functools.cached_property
  def ids(self) -> dict[str, int]:
    """The token id of each character."""
    return {character: i for i, character in enumerate(self.characters)}

  @property
  def separator(self) -> int | None:
    return self.ids.get(SEPARATOR)

  @property
  def line_break(self) -> int | None:
    return self.ids.get('\n')

  def encode(self, text: str) -> np.ndarray:
    """The token ids of a text. Raises ConfigError for a character outside the vocabulary."""
    try:
      return np.array([self.ids[character] for character in text], np.int32)
    except KeyError as error:
      known = ''.join(c for c in self.characters if c != SEPARATOR)
      raise ConfigError(
        f'character {error.args[0]!r} is not in the vocabulary of {self.vocabulary} characters: '
        f'{known!r}'
      ) from None

  def decode(self, tokens: Tokens) -> str:
    return ''.join(self.characters[i] for i in np.asarray(tokens).tolist())
