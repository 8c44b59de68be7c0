"""Text: continuations of a prompt, which may become longer than the model's context."""

import bisect
import functools
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from common.config import ConfigError
from common.data import tokenizers
from common.data.sources import Source
from common.data.spec import DataSpec
from common.domains.base import Domain, SampleFlags, SampleSettings, TrainedModel
from common.domains.display import Display
from common.files import atomic_write
from common.method import Request, Watch
from common.text.stops import Stops
from common.text.streaming import TextStream

TEXTS = 8  # texts on a page of training or evaluation
LOOK_EVERY = 16  # tokens after which stops are looked for
SEARCHED_WINDOWS = 1024  # in which a token must occur to begin a text
CONTROLS = ('Cc', 'Cs', 'Zl', 'Zp')  # Unicode's categories of controls, surrogates, separators
# Characters that change the direction of the text around them.
DIRECTIONS = frozenset('\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069')
RULE = '\n' + '-' * 72 + '\n'


class Continued(NamedTuple):
  """Texts, and the log-probability in nats of the drawn part of each, under the model itself."""

  texts: list[str]
  log_probs: list[float]
  seconds: float


class TextDomain(Domain):
  """Windows of token ids [context + 1]; the first token is only given, never predicted."""

  noun = 'text'
  metrics = Domain.metrics | {
    *('perplexity', 'bits_per_byte', 'bits_per_character', 'nats_per_position', 'accuracy'),
    *('distinct', 'self_bleu', 'zipf', 'repetition', 'looping', 'sample_perplexity'),
  }
  usage = 'which --prompt=TEXT continues'
  flags: Mapping[str, str] = {
    'num': 'number of texts (4)',
    'prompt': 'a text that each sample continues',
    'length': 'tokens to draw (500)',
    'slide': 'take the end of a prompt that is longer than the context',
    'stop': 'a text before which each sample ends, besides the separator of documents; repeatable',
    'stop_at': 'a rule for where each sample ends: dedent, the end of a block of Python code',
    'stream': 'print one text while it is drawn',
  }
  suffixes = ('.txt',)
  default_out = ''
  unit = 'tokens'
  num = 4
  preview_num = TEXTS

  def preview_request(self, spec, labelled, source):
    past = first_tokens(spec, source, np.arange(self.preview_num))
    return Request(self.preview_num, past=past)

  def evaluation_request(self, spec, indices, label, source, options):
    past = first_tokens(spec, source, indices)
    return Request(len(indices), past=past, options=options)

  def first_request(self, trained, settings):
    return continuation(trained, settings)

  def readable(self, spec, x):
    return np.array(decode(spec, x), object)

  def preview_display(self, data, x, request):
    return Display(text=page(decode(data.spec, x)))

  def evaluation_display(self, spec, drawn):
    return Display() if drawn.x is None else Display(text=page(decode(spec, drawn.x[:TEXTS])))

  def units(self, spec):
    return spec.shape[0] - 1  # the first of them is only given

  def describe(self, spec):
    return f'windows of {spec.shape[0] - 1} + 1 tokens'

  def draw(self, trained, settings):
    """A list of texts."""
    return continue_prompt(trained, settings).texts

  def sample(self, trained, settings, out):
    texts, log_probs, seconds = continue_prompt(trained, settings)
    made = page(texts)
    if out is not None:
      atomic_write(out, made)
    numbers = ', '.join(f'{nats:.4g}' for nats in log_probs)
    written = '' if out is None else f' in {out}'
    shown = '' if settings.flags.stream else printable(made)  # a stream has been printed already
    return (
      f'{shown}\n'
      f'log-probability of the drawn part, in nats: {numbers}\n'
      f'{len(texts)} texts from step {trained.step}{written}, {seconds:.1f} s with compilation'
    )


def first_tokens(
  spec: DataSpec, source: Source, indices: Integer[np.ndarray, 'num']
) -> Integer[np.ndarray, 'num length']:
  """The given first tokens of texts without a prompt: tokens that the model has seen.

  Those that the tokenizer puts before every text; or else the separator, if documents are
  separated; or else the line break, if the text has lines; or else the first tokens of windows of
  the data.

  Args:
    spec: the data.
    source: a split.
    indices: the numbers of the texts, counted from 0.
  """
  tokenizer = spec.tokenizer  # None where only the size of the vocabulary is known
  if tokenizer and (tokenizer.first_tokens or not len(source)):
    # What the model saw before every text in training; without data, what else begins one.
    first = tokenizer.first_tokens or tokenizer.end_tokens[:1]
    if not first:
      raise ConfigError('this model has no token that begins a text: give --prompt=TEXT')
    return np.repeat(np.array(first, np.int32)[None], len(indices), 0)
  windows = source.gather(np.arange(min(len(source), SEARCHED_WINDOWS)))['x'].astype(np.int32)
  for token in (tokenizer.separator, tokenizer.line_break) if tokenizer else ():
    if token is not None and (windows == token).any():
      return np.full((len(indices), 1), token, np.int32)
  return windows[indices % len(windows), :1]


def decode(spec: DataSpec, x: Integer[np.ndarray, 'num tokens']) -> tuple[str, ...]:
  """Samples as texts, up to their ends. A mark of the beginning or line break is left out."""
  tokenizer, texts = spec.tokenizer, []
  for row in np.asarray(x):
    # The first token was given: it is part of the text unless it only marks a beginning.
    begins = int(row[0] in marks(tokenizer))
    texts.append(tokenizer.decode(until_end(tokenizer, row[begins:])))
  return tuple(texts)


def marks(tokenizer: tokenizers.Tokenizer) -> tuple[int | None, ...]:
  """The tokens that only mark the beginning of a text or of a line."""
  return (*tokenizer.end_tokens, *tokenizer.first_tokens, tokenizer.line_break)


def until_end(
  tokenizer: tokenizers.Tokenizer, tokens: Integer[np.ndarray, 'length']
) -> Integer[np.ndarray, 'shorter']:
  """The tokens before the first one that ends a text, such as a separator: it is not text."""
  ends = np.flatnonzero(np.isin(tokens, tokenizer.end_tokens))
  return tokens[: ends[0]] if ends.size else tokens


def printable(text: str) -> str:
  """A text for a terminal: characters that would act on it are escaped, as in Python.

  Line breaks and tabs stay.
  """
  acts = {
    character
    for character in set(text) - {'\n', '\t'}
    if character in DIRECTIONS or unicodedata.category(character) in CONTROLS
  }
  escapes = {ord(character): character.encode('unicode_escape').decode() for character in acts}
  return text.translate(escapes)


def page(texts: Sequence[str]) -> str:
  """Texts below each other, with a rule between them."""
  return RULE.join(text.strip('\n') for text in texts) + '\n'


def continue_prompt(trained: TrainedModel, settings: SampleSettings) -> Continued:
  """Draws texts, each up to its separator or its first stop.

  If a text becomes longer than the model's context, the window slides: see `sampling.slide`.

  Args:
    trained: a model of text.
    settings: the flags `num`, `prompt` (None: nothing is given), `length`, `slide` (take the end of
      a prompt that is longer than the context, which is refused otherwise), `stop`, `stop_at`
      (common/text/stops.py) and `stream` (print the text while it is drawn).

  Raises:
    ConfigError: for a prompt that is empty, too long, or has a character outside the vocabulary.
  """
  flags, spec = settings.flags, trained.data.spec
  request = continuation(trained, settings)
  num_given = request.past.shape[1]
  ending = Ending(spec.tokenizer, flags.prompt, stops_of(flags), num_given)
  printer = Printer(ending)
  if flags.stream:
    request = request._replace(watch=Watch(printer.look, 1))
  elif ending.stops:
    request = request._replace(watch=Watch(ending.reached, LOOK_EVERY))
  samples, seconds = trained.draw(request, settings.seed)
  x, texts, log_probs = np.asarray(samples.x), [], []
  # Values after a stop only fill the array.
  lengths = [x.shape[1]] * request.num if samples.lengths is None else np.asarray(samples.lengths)
  for row, length, nats in zip(x, lengths, np.asarray(samples.log_prob), strict=True):
    text, number = ending.cut(row[:length])
    texts.append(text)
    log_probs.append(float(nats[:number].sum()))
  if flags.stream:
    printer.print(texts[0])
  return Continued(texts, log_probs, seconds)


def stops_of(flags: SampleFlags) -> Stops:
  """The stops that flags ask for."""
  texts = (flags.stop,) if isinstance(flags.stop, str) else tuple(flags.stop or ())
  return Stops(texts, flags.stop_at or '')


class Ending(NamedTuple):
  """Where continuations of a prompt end.

  Attributes:
    tokenizer: decodes the tokens.
    prompt: the given text; None: a first token, which need not be text.
    stops: the stops of the drawn text.
    num_given: number of given tokens.
  """

  tokenizer: tokenizers.Tokenizer
  prompt: str | None
  stops: Stops
  num_given: int

  def given_text(self, row: Integer[np.ndarray, 'length']) -> str:
    """The text before what is drawn."""
    if self.prompt is not None:
      return self.prompt
    given = row[: self.num_given]
    return '' if all(x in marks(self.tokenizer) for x in given) else self.tokenizer.decode(given)

  def drawn(self, row: Integer[np.ndarray, 'length']) -> Integer[np.ndarray, 'drawn']:
    """The drawn tokens, up to a separator."""
    return until_end(self.tokenizer, row[self.num_given :])

  def cut(self, row: Integer[np.ndarray, 'length']) -> tuple[str, int]:
    """The text up to its end, and the number of tokens that show where it is."""
    given, drawn = row[: self.num_given], self.drawn(row)
    before, text = self.given_text(row), self.tokenizer.continuation(given, drawn)
    end = self.stops.end(before, text)
    if end is None:
      return before + text, len(row)
    # The fewest tokens whose text contains the stop.
    lengths = range(self.num_given, self.num_given + len(drawn))
    is_end = functools.partial(self._is_end, row)
    return before + text[:end], self.num_given + bisect.bisect_left(lengths, True, key=is_end)

  def _is_end(self, row: Integer[np.ndarray, 'length'], length: int) -> bool:
    """Whether the first `length` tokens contain a stop."""
    text = self.tokenizer.continuation(row[: self.num_given], self.drawn(row[:length]))
    return self.stops.end(self.given_text(row), text) is not None

  def reached(self, rows: Integer[np.ndarray, 'num length']) -> Bool[np.ndarray, 'num']:
    """Which texts contain a stop."""
    return np.array([self._is_end(row, len(row)) for row in rows])


class Printer:
  """Prints a continuation while it is drawn."""

  def __init__(self, ending: Ending):
    self._ending = ending
    self._stream: TextStream | None = None
    self._printed = ''

  def look(self, rows: Integer[np.ndarray, '1 length']) -> Bool[np.ndarray, '1']:
    """Prints what is new and final; whether the text has met a stop."""
    row, ending = rows[0], self._ending
    before = ending.given_text(row)
    if self._stream is None:
      given = row[: ending.num_given]
      self._stream = TextStream(ending.tokenizer, given, before, ending.stops)
    self._stream.take(ending.drawn(row))
    self.print(before + self._stream.text)
    return np.array([self._stream.ended])

  def print(self, text: str) -> None:
    """Prints the part of a text that is not printed yet."""
    print(printable(text[len(self._printed) :]), end='', flush=True)
    self._printed = text


def continuation(trained: TrainedModel, settings: SampleSettings) -> Request:
  """The request of `continue_prompt`."""
  flags, spec = settings.flags, trained.data.spec
  stops_of(flags)  # raises for stops that are none
  num = flags.num or (1 if flags.stream else TextDomain.num)
  if flags.stream and num > 1:
    raise ConfigError(f'--stream prints one text while it is drawn, got --num={num}: remove one')
  past = prompts(trained, flags, num)
  total = past.shape[1] + (flags.length or 500)
  options = {'length': total, 'slide': total > trained.context}
  if ends := spec.tokenizer.end_tokens:
    options['stop'] = tuple((token,) for token in ends)
  # The user's options come last, so that --options=slide=... has the final word.
  return Request(num, past=past, options=options | dict(settings.options))


def prompts(
  trained: TrainedModel, flags: SampleFlags, num: int
) -> Integer[np.ndarray, 'num length']:
  """The given tokens of each text: those of the prompt, or a first token."""
  spec = trained.data.spec
  if flags.prompt is None:
    return first_tokens(spec, trained.data.splits['train'], np.arange(num))
  if flags.slide and flags.prompt:
    given = spec.tokenizer.encode_prompt(flags.prompt)
  else:
    given = tokenizers.prompt_tokens(spec.tokenizer, flags.prompt, trained.context)
  return np.repeat(given[None], num, 0)
