"""Text: continuations of a prompt, which may become longer than the model's context."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.data import tokenizers
from common.data.spec import DataSpec
from common.domains.base import Display, Domain, SampleSettings, TrainedModel
from common.files import atomic_write
from common.method import Request

TEXTS = 8  # texts on a page of training or evaluation
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
    'stop': 'a text before which each sample ends',
  }
  suffixes = ('.txt',)
  default_out = ''
  num = 4
  preview_num = TEXTS

  def request(self, spec, num, label=None, options=None):
    # The first token is given, never predicted: a separator, or else a line break.
    past = np.full((num, 1), spec.tokenizer.start_token, np.int32)
    return Request(num, label, past=past, options=options or {})

  def preview_display(self, data, x, request):
    return Display(text=page(decode(data.spec, x)))

  def evaluation_display(self, spec, drawn):
    return Display() if drawn.x is None else Display(text=page(decode(spec, drawn.x[:TEXTS])))

  def describe(self, spec):
    return f'windows of {spec.shape[0] - 1} + 1 tokens, of {spec.levels:,}'

  def sample(self, trained, settings, out):
    texts, log_probs, seconds = continue_prompt(trained, settings)
    printed = page(texts)
    if out is not None:
      atomic_write(out, printed)
    numbers = ', '.join(f'{nats:.4g}' for nats in log_probs)
    written = '' if out is None else f' in {out}'
    return (
      f'{printed}\n'
      f'log-probability of the drawn part, in nats: {numbers}\n'
      f'{len(texts)} texts from step {trained.step}{written}, {seconds:.1f} s with compilation'
    )


def decode(spec: DataSpec, x: np.ndarray) -> tuple[str, ...]:
  """Samples [num, tokens] as texts, without their first token, which was given."""
  return tuple(spec.tokenizer.decode(row[1:]) for row in np.asarray(x))


def page(texts: Sequence[str]) -> str:
  """Texts below each other, with a rule between them."""
  return RULE.join(text.strip('\n') for text in texts) + '\n'


def continue_prompt(trained: TrainedModel, settings: SampleSettings) -> Continued:
  """Draws texts.

  If a text becomes longer than the model's context, the window slides: see `sampling.slide`.

  Args:
    trained: a model of text.
    settings: the flags `num`, `prompt` (None: nothing is given), `length`, `slide` (take the end of
      a prompt that is longer than the context, which is refused otherwise) and `stop`.

  Raises:
    ConfigError: for a prompt that is empty, too long, or has a character outside the vocabulary.
  """
  flags, spec = settings.flags, trained.data.spec
  tokenizer, context = spec.tokenizer, spec.shape[0]
  num, prompt = flags.num or TextDomain.num, flags.prompt
  if prompt is None:
    given = np.array([tokenizer.start_token], np.int32)
  elif flags.slide and prompt:
    given = tokenizer.encode(prompt).astype(np.int32)
  else:
    given = tokenizers.prompt_tokens(tokenizer, prompt, context)
  total = len(given) + (flags.length or 500)
  stop = (flags.stop,) if flags.stop else ()
  # The user's options come last, so that --options=slide=... has the final word.
  options = {'length': total, 'slide': total > context, 'stop': stop, **settings.options}
  request = Request(num, past=np.repeat(given[None], num, 0), options=options)
  samples, seconds = trained.draw(request, settings.seed)
  texts = [tokenizer.decode(row[len(given) :]) for row in np.asarray(samples.x)]
  if flags.stop:
    texts = [text.partition(flags.stop)[0] for text in texts]
  log_probs = np.asarray(samples.log_prob).sum(1).tolist()
  return Continued([(prompt or '') + text for text in texts], log_probs, seconds)
