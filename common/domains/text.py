"""Text: continuations of a prompt, which may become longer than the model's context."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from common.config import ConfigError
from common.data import tokenizers
from common.data.sources import Source
from common.data.spec import DataSpec
from common.domains.base import Domain, SampleFlags, SampleSettings, TrainedModel
from common.domains.display import Display
from common.files import atomic_write
from common.method import Request

TEXTS = 8  # texts on a page of training or evaluation
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
  usage = 'which --prompt=TEXT continues'
  flags: Mapping[str, str] = {
    'num': 'number of texts (4)',
    'prompt': 'a text that each sample continues',
    'length': 'tokens to draw (500)',
    'slide': 'take the end of a prompt that is longer than the context',
    'stop': 'a text before which each sample ends, besides the separator of documents',
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
    return (
      f'{printable(made)}\n'
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
    marks = (*tokenizer.end_tokens, *tokenizer.first_tokens, tokenizer.line_break)
    begins = int(row[0] in marks)
    texts.append(tokenizer.decode(until_end(tokenizer, row[begins:])))
  return tuple(texts)


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
  """Draws texts, each up to its separator.

  If a text becomes longer than the model's context, the window slides: see `sampling.slide`.

  Args:
    trained: a model of text.
    settings: the flags `num`, `prompt` (None: nothing is given), `length`, `slide` (take the end of
      a prompt that is longer than the context, which is refused otherwise) and `stop`.

  Raises:
    ConfigError: for a prompt that is empty, too long, or has a character outside the vocabulary.
  """
  flags, spec = settings.flags, trained.data.spec
  tokenizer, request = spec.tokenizer, continuation(trained, settings)
  num, past = request.num, request.past
  samples, seconds = trained.draw(request, settings.seed)
  x = np.asarray(samples.x)
  # Values after a stop only fill the array.
  lengths = [x.shape[1]] * num if samples.lengths is None else np.asarray(samples.lengths)
  rows = [row[:length] for row, length in zip(x, lengths, strict=True)]
  if flags.prompt is None:
    texts = [text for row in rows for text in decode(spec, row[None])]
  else:
    given = past[0]  # the same for all
    drawn = [until_end(tokenizer, row[past.shape[1] :]) for row in rows]
    texts = [flags.prompt + tokenizer.continuation(given, tokens) for tokens in drawn]
  if flags.stop:
    given = len(flags.prompt or '')
    texts = [text[:given] + text[given:].partition(flags.stop)[0] for text in texts]
  log_probs = np.asarray(samples.log_prob).sum(1).tolist()
  return Continued(texts, log_probs, seconds)


def continuation(trained: TrainedModel, settings: SampleSettings) -> Request:
  """The request of `continue_prompt`."""
  flags, spec = settings.flags, trained.data.spec
  num = flags.num or TextDomain.num
  past = prompts(trained, flags, num)
  total = past.shape[1] + (flags.length or 500)
  stop = (flags.stop,) if flags.stop else ()
  stop += tuple((token,) for token in spec.tokenizer.end_tokens)
  options = {'length': total, 'slide': total > trained.context} | ({'stop': stop} if stop else {})
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
