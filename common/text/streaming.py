"""Tokens to text while they are drawn: each piece is printed once, and is final.

Tokens are not pieces of text: a character may take several of them, and the space before a word may
depend on the token before it. So the whole text is decoded each time, and only what is new is
passed on.
"""

import numpy as np
from jaxtyping import Integer

from common.data.tokenizers.base import Tokenizer, Tokens
from common.text.stops import Stops

UNFINISHED = '\N{REPLACEMENT CHARACTER}'  # stands for the bytes of an unfinished character


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
    stops: Stops | None = None,
  ):
    """Starts after given tokens.

    Args:
      tokenizer: decodes the tokens.
      given: the tokens before the first drawn one.
      given_text: their text, which stops may depend on.
      stops: where the drawn text ends; None: nowhere.
    """
    self.text, self.ended = '', False
    self._tokenizer, self._given, self._given_text = tokenizer, given, given_text
    self._stops = stops or Stops()

  def take(self, drawn: Tokens, finished: bool = False) -> str:
    """The new part of the text.

    Args:
      drawn: all tokens drawn so far.
      finished: whether no token will follow.
    """
    whole = self._tokenizer.continuation(self._given, drawn)
    end = self._stops.end(self._given_text, whole)
    self.ended = end is not None
    if self.ended:
      whole = whole[:end]
    elif not finished:
      whole = self._stops.settled(whole.rstrip(UNFINISHED))
    new = whole[len(self.text) :]
    self.text += new
    return new
