"""Tokens to text while they are drawn: each piece is printed once, and is final.

Tokens are not pieces of text: a character may take several of them, and the space before a word may
depend on the token before it. So the whole text is decoded each time, and only what is new is
passed on.
"""

import numpy as np
from jaxtyping import Integer

from common.data.tokenizers import Tokenizer, Tokens
from common.text.stops import Stops

UNFINISHED = '\N{REPLACEMENT CHARACTER}'  # stands for the bytes of an unfinished character


def drawn_text(tokenizer: Tokenizer, given: Integer[np.ndarray, 'given'], drawn: Tokens) -> str:
  """The text that drawn tokens add to given ones."""
  before = tokenizer.decode(given) if len(given) else ''
  whole = tokenizer.decode(np.concatenate([given, np.asarray(drawn, np.int64)]).astype(np.int64))
  # Decoded alone, drawn tokens may lose the space that separates them from the given ones.
  return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(drawn)


class TextStream:
  """The text of tokens that arrive one after the other, up to its first stop.

  Attributes:
    text: the final part of the text so far.
    ended: whether a stop was found.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    given: Integer[np.ndarray, 'given'],
    given_text: str,
    stops: Stops = Stops(),
  ):
    """Starts after given tokens.

    Args:
      tokenizer: decodes the tokens.
      given: the tokens before the first drawn one.
      given_text: their text, which stops may depend on.
      stops: where the drawn text ends.
    """
    self.text, self.ended = '', False
    self._tokenizer, self._given, self._given_text = tokenizer, given, given_text
    self._stops = stops

  def take(self, drawn: Tokens, finished: bool = False) -> str:
    """The new part of the text.

    Args:
      drawn: all tokens drawn so far.
      finished: whether no token will follow.
    """
    whole = drawn_text(self._tokenizer, self._given, drawn)
    end = self._stops.end(self._given_text, whole)
    self.ended = end is not None
    if self.ended:
      whole = whole[:end]
    elif not finished:
      whole = self._stops.settled(whole.rstrip(UNFINISHED))
    new = whole[len(self.text) :]
    self.text += new
    return new
