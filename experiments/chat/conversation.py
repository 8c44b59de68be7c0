"""A conversation: turns in the form of a chat template, and replies piece by piece."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from autoregressive.decoding.stepwise import Session
from common.config import ConfigError
from common.data.tokenizers import Tokenizer, chat_template
from common.data.tokenizers.chat_template import ChatTemplate
from common.text.stops import Stops
from common.text.streaming import TextStream

SEAM = 32  # tokens before a reply that its first words are decoded with
RESERVE = 4  # a new turn leaves 1/4 of the context for the reply, if old turns can be forgotten
MARK = 'MARK'  # a reply whose end is looked for in the template


class Format(NamedTuple):
  """How turns become tokens.

  Attributes:
    template: the chat template of the model.
    tokenizer: its tokenizer.
  """

  template: ChatTemplate
  tokenizer: Tokenizer

  def encode(self, messages: list[dict[str, str]]) -> list[int]:
    """The tokens of some turns, and of the beginning of a reply."""
    return chat_template.encode(self.template, self.tokenizer, messages).tolist()

  def stops(self) -> Stops:
    """The texts that end a reply: what the template writes after one, and tokens that end texts."""
    asked = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': MARK}]
    after = chat_template.render(self.template, asked, False).rpartition(MARK)[2]
    ends = (self.tokenizer.decode([token]) for token in self.tokenizer.end_tokens)
    return Stops(tuple(filter(None, (after.strip() or after, *ends))))


class Conversation:
  """Turns of a user and replies of a model, whose cache is kept from turn to turn.

  Attributes:
    messages: the turns so far, as chat templates take them.
    session: the tokens of these turns in the cache of the model.
  """

  def __init__(self, form: Format, session: Session, system: str = ''):
    """Starts with nothing but a system message, if there is one."""
    self.session, self.messages = session, []
    self._form, self._system, self._stops = form, system, form.stops()
    self._prompt: list[int] = []  # the tokens up to the last reply
    self.reset()

  def reset(self) -> None:
    """Forgets all turns but the system message."""
    system = [{'role': 'system', 'content': self._system}] if self._system else []
    self.messages = list(system)

  def ask(self, text: str) -> int:
    """Adds a turn of the user; returns the number of old turns that were forgotten for it.

    Raises:
      ConfigError: for a turn that does not fit the context by itself, or that the template refuses;
        the conversation is then as it was.
    """
    before = list(self.messages)
    self.messages.append({'role': 'user', 'content': text})
    try:
      return self._take_in()
    except ConfigError:
      self.messages = before
      raise

  def _take_in(self) -> int:
    """Brings the cache up to the turns; returns the number of turns that were forgotten."""
    context, first = self.session.context, int(bool(self._system))
    tokens, forgotten = self._form.encode(self.messages), 0
    while len(tokens) > context - context // RESERVE and len(self.messages) > first + 2:
      del self.messages[first : first + 2]  # a turn and its reply
      tokens, forgotten = self._form.encode(self.messages), forgotten + 2
    if len(tokens) >= context:
      raise ConfigError(
        f'this turn has {len(tokens)} tokens with its template, and the model takes {context}: '
        'write a shorter one'
      )
    self._extend(tokens)
    self._prompt = tokens
    return forgotten

  def _extend(self, tokens: list[int]) -> None:
    """Makes the session hold these tokens, and takes in only those that are new."""
    known, start = self.session.tokens, len(self._prompt)
    marks = set(self._form.tokenizer.special_tokens.values())
    after = [i for i in range(start, len(tokens)) if tokens[i] in marks]
    if known and start and tokens[:start] == self._prompt and after and len(known) > start:
      # The reply stays as it was drawn: encoded again, its text may have other tokens.
      rest = tokens[after[0] :]
      self.session.append(rest[1:] if known[-1] == rest[0] else rest)
      return
    pairs = zip(known, tokens, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), len(known))
    # The last token is taken in again, if need be, because the next one is drawn after it.
    shared = min(shared, len(tokens) - 1)
    if shared:
      self.session.keep(shared)
    else:
      self.session.clear()
    self.session.append(tokens[shared:])

  def reply(self, length: int, interrupted: Callable[[], bool], number: int = 1) -> Iterator[str]:
    """Draws a reply; yields each new piece of its text, and adds it to the turns at its end.

    Args:
      length: the most tokens.
      interrupted: asked after each piece whether to end the reply here.
      number: tokens that are drawn at once.
    """
    session, start = self.session, len(self.session.tokens)
    given = np.array(session.tokens[-SEAM:], np.int32)
    stream = TextStream(self._form.tokenizer, given, '', self._stops)
    finished = False
    while not (stream.ended or finished):
      drawn = session.draw(min(number, length - len(session.tokens) + start))
      count = len(session.tokens) - start
      finished = not drawn or count >= length or interrupted()
      yield stream.take(session.tokens[start:], finished)
    if number > 1 and stream.ended:
      session.keep(start + self._tokens_to_stop(given, session.tokens[start:]))
    self.messages.append({'role': 'assistant', 'content': stream.text})

  def _tokens_to_stop(self, given: np.ndarray, drawn: list[int]) -> int:
    """The fewest drawn tokens that contain the stop."""
    decode = self._form.tokenizer.continuation
    return next(
      n
      for n in range(1, len(drawn) + 1)
      if self._stops.end('', decode(given, drawn[:n])) is not None
    )
