"""Dialogues as windows of tokens in which only the answers count."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from common.config import ConfigError
from common.data.dialogues.reading import Dialogue
from common.data.tokenizers import Tokenizer, chat_template
from common.data.tokenizers.chat_template import ChatTemplate

OPEN_WINDOWS = 64  # the last windows that a short dialogue may still fill


class Encoded(NamedTuple):
  """The tokens of a dialogue, and which of them count: those of answers and of their ends."""

  tokens: Integer[np.ndarray, 'length']
  counted: Bool[np.ndarray, 'length']


class Packed(NamedTuple):
  """Windows of dialogues.

  Attributes:
    x: the tokens.
    counted: which of them count.
    cut: number of dialogues that were too long and lost their end.
    dropped: number of dialogues that were left out, because no answer fits.
  """

  x: Integer[np.ndarray, 'windows width']
  counted: Bool[np.ndarray, 'windows width']
  cut: int
  dropped: int


def encode(template: ChatTemplate, tokenizer: Tokenizer, dialogue: Dialogue) -> Encoded:
  """A dialogue as a model reads it.

  Raises:
    ConfigError: for messages that the template refuses, or a template that writes an answer
      differently once it has been given.
  """
  try:
    return _encode(template, tokenizer, [dict(message) for message in dialogue.messages])
  except ConfigError as error:
    raise ConfigError(f'{dialogue.where}: {error}') from error


def _encode(template: ChatTemplate, tokenizer: Tokenizer, messages: list[dict]) -> Encoded:
  whole = chat_template.encode(template, tokenizer, messages, False)
  counted = np.zeros(len(whole), bool)
  marks = list(tokenizer.special_tokens.values())
  for number, message in enumerate(messages):
    if message['role'] == 'assistant':
      # The answer is what a dialogue with it has more than the prompt that asks for it.
      before = chat_template.encode(template, tokenizer, messages[:number])
      after = chat_template.encode(template, tokenizer, messages[: number + 1], False)
      for part in (before, after):
        if (whole[: len(part)] != part).any() if len(part) <= len(whole) else True:
          raise ConfigError(
            f'{template.where} writes message {number + 1} differently once others follow it, so '
            'its tokens cannot be told'
          )
      # Up to the token that ends the turn: what the template writes after it is never drawn.
      ends = np.flatnonzero(np.isin(after[len(before) :], marks))
      counted[len(before) : len(before) + ends[0] + 1 if ends.size else len(after)] = True
  return Encoded(whole, counted)


def pack(dialogues: Sequence[Encoded], width: int, separator: int) -> Packed:
  """Puts several short dialogues into a window, with a separator before each and to its end.

  Dialogues stay whole; one that is longer than a window loses its end.

  Args:
    dialogues: the dialogues.
    width: tokens in a window.
    separator: the token between dialogues, by which attention tells them apart.

  Raises:
    ConfigError: if no answer fits, or the separator stands within a dialogue.
  """
  windows: list[list[Encoded]] = []
  room: list[int] = []
  cut = dropped = 0
  for tokens, counted in dialogues:
    if (tokens[:-1] == separator).any():
      raise ConfigError(
        'the chat template writes the token that separates documents between turns, so attention '
        'could not tell where a dialogue ends; use a tokenizer with another separator'
      )
    kept = Encoded(tokens[: width - 1], counted[: width - 1])
    if not kept.counted.any():
      dropped += 1
      continue
    cut += len(tokens) > len(kept.tokens)
    first = max(len(room) - OPEN_WINDOWS, 0)
    needed = len(kept.tokens) + 1
    at = next((i for i in range(first, len(room)) if room[i] >= needed), len(room))
    if at == len(room):
      windows.append([])
      room.append(width)
    windows[at].append(kept)
    room[at] -= needed
  if not windows:
    raise ConfigError(
      f'no answer fits the {width - 1} tokens of data.context: raise it, or shorten the prompts'
    )
  x = np.full((len(windows), width), separator, np.int32)
  counts = np.zeros(x.shape, bool)
  for row, window in enumerate(windows):
    at = 0
    for tokens, counted in window:
      part = slice(at + 1, at + 1 + len(tokens))
      x[row, part], counts[row, part] = tokens, counted
      at = part.stop
  return Packed(x, counts, cut, dropped)
