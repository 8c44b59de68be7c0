"""Metrics of text as functions of the subject of an evaluation."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from common.data.pipeline import Data, evaluation_batches
from common.data.sources import GivenSource, Source
from common.data.windows import cut
from common.evaluation.likelihood import BitsPerDim, bits_per_dim, hits_of
from common.evaluation.measures import Measure, proportion
from common.evaluation.subject import Subject
from common.evaluation.texts import ngrams
from common.method import Batch, Method

BATCH = 1024  # windows whose tokens are decoded at once


class Size(NamedTuple):
  """The size of the text that a likelihood counts."""

  tokens: int
  characters: int
  bytes: int


def counted_batches(source: Source, size: int) -> Iterator[Batch]:
  """The batches of a split, with 'counted'; no first token of a window counts."""
  for batch in evaluation_batches(source, size):
    counted = batch.get('counted', np.ones(batch['x'].shape, bool)).copy()
    # Some models predict it and others do not.
    counted[:, 0] = False
    yield dict(batch) | {'counted': counted}


def counted_size(subject: Subject) -> Size:
  """The size of the counted tokens of the evaluated split; a separator has no text."""
  tokenizer, tokens, given = subject.data.spec.tokenizer, [], None
  for batch in counted_batches(subject.split, BATCH):
    x = batch['x'].astype(np.int32)
    given = x[:1, 0] if given is None else given
    tokens.append(x[batch['counted'] & (batch['weight'] > 0)[:, None]])
  joined = np.concatenate(tokens)
  separator = -1 if tokenizer.separator is None else tokenizer.separator
  text = tokenizer.continuation(given, joined[joined != separator])
  return Size(len(joined), len(text), len(text.encode()))


def perplexity(subject: Subject) -> Measure:
  """exp(nats per token)."""
  bits = _likelihood(subject)
  return _perplexity(bits, f'{_about(subject, bits)}; depends on the tokenizer')


def _perplexity(bits: BitsPerDim, note: str) -> Measure:
  value = 2**bits.value
  error = None if bits.standard_error is None else value * math.log(2) * bits.standard_error
  return Measure(value, error, note)


def bits_per_byte(subject: Subject) -> Measure:
  """Bits per byte of UTF-8, comparable between tokenizers."""
  return _per(subject, 'bytes')


def bits_per_character(subject: Subject) -> Measure:
  """Bits per character, comparable between tokenizers."""
  return _per(subject, 'characters')


def _per(subject: Subject, unit: str) -> Measure:
  bits, size = _likelihood(subject), counted_size(subject)
  number = size._asdict()[unit]
  if not number:
    return Measure(None, note='the evaluated split has no text')
  factor = size.tokens / number
  error = None if bits.standard_error is None else factor * bits.standard_error
  return Measure(bits.value * factor, error, f'{_about(subject, bits)}, {number:,} {unit}')


def no_predictions(method: Method, data: Data) -> str:
  """The reason why nothing is predicted; '' if something is."""
  del data
  return '' if method.predicts else 'the model has no most probable token'


def accuracy(subject: Subject) -> Measure:
  """Share of the tokens that count which are the most probable one, given those before."""
  if reason := no_predictions(subject.method, subject.data):
    return Measure(None, note=reason)
  batches = _batches(subject.split, subject)
  found = [hits_of(subject.method, subject.params, batch) for batch in batches]
  right, total = (np.concatenate(part) for part in zip(*found, strict=True))
  if not total.sum():
    return Measure(None, note='no token of the evaluated split counts')
  note = f'{subject.settings["split"]} split, {int(total.sum()):,} tokens'
  if total.max() == 1:  # such as the class of an image: independent of each other
    value, error, interval = proportion(int(right.sum()), int(total.sum()))
    return Measure(value, error, note, interval=interval)
  value = right.sum() / total.sum()
  # The error of a ratio of means over windows, whose tokens depend on each other, to first order.
  spread = np.std(right - value * total, ddof=1) if len(total) > 1 else math.nan
  error = float(spread / total.mean() / math.sqrt(len(total)))
  return Measure(float(value), None if math.isnan(error) else error, note)


def _likelihood(subject: Subject, source: Source | None = None) -> BitsPerDim:
  """Bits per token of the evaluated split, or of another source."""
  batches = _batches(subject.split if source is None else source, subject)
  return bits_per_dim(
    subject.method, subject.params, batches, subject.data.spec.num_dims, subject.key
  )


def _batches(source: Source, subject: Subject) -> Iterator[Batch]:
  # A short text has fewer windows than a batch.
  return counted_batches(source, min(subject.settings['batch_size'], len(source)))


def _about(subject: Subject, bits: BitsPerDim) -> str:
  return f'{subject.settings["split"]} split, {bits.num} windows'


# Samples.


def words_reader(subject: Subject) -> Callable[[np.ndarray], np.ndarray]:
  """Reads the words of texts."""
  del subject
  return _words


def _words(texts: np.ndarray) -> np.ndarray:
  made = np.empty(len(texts), object)
  made[:] = [ngrams.words_of(text) for text in texts]
  return made


def distinct(subject: Subject) -> Measure:
  """Distinct-2 of all samples."""
  texts = list(subject.samples.read['distinct'])
  others = ', '.join(f'distinct-{n} {ngrams.distinct(texts, n):.3f}' for n in (1, 3, 4))
  number = sum(map(len, texts))
  note = f'of word pairs; {others}; falls with the number of words, here {number:,}'
  return _finite(ngrams.distinct(texts, 2), note)


def self_bleu(subject: Subject) -> Measure:
  """Mean BLEU-4 of each sample against the others."""
  texts = list(subject.samples.read['self_bleu'])
  if len(texts) < 2:
    return Measure(None, note='needs at least two samples')
  return _mean(ngrams.self_bleu(texts), 'BLEU-4 of each sample against all others')


def zipf(subject: Subject) -> Measure:
  """Zipf coefficient of the words of all samples."""
  texts = list(subject.samples.read['zipf'])
  value = ngrams.zipf_coefficient(texts)
  return _finite(value, f'of {sum(map(len, texts)):,} words')


def repetition(subject: Subject) -> Measure:
  """Mean rep-4 of the samples."""
  texts = list(subject.samples.read['repetition'])
  shares = [share for words in texts if not math.isnan(share := ngrams.repetition(words))]
  if not shares:
    return Measure(None, note='no sample has four words')
  looping = sum(map(ngrams.loops, texts)) / len(texts)
  return _mean(shares, f'of 4-grams of words; {looping:.1%} of the samples end in a loop')


def looping(subject: Subject) -> Measure:
  """Share of the samples that end in a loop: a phrase repeated three times or more."""
  texts = list(subject.samples.read['looping'])
  return _mean([float(ngrams.loops(words)) for words in texts], 'of the samples')


def texts_reader(subject: Subject) -> Callable[[np.ndarray], np.ndarray]:
  """Reads texts as they are."""
  del subject
  return np.asarray


def sample_perplexity(subject: Subject) -> Measure:
  """Perplexity of the samples under the model itself, from their second token on."""
  spec = subject.data.spec
  texts = subject.samples.read['sample_perplexity']
  tokens = [spec.tokenizer.encode(text).astype(spec.dtype) for text in texts]
  width = spec.shape[0]
  parts = [cut(row, width, max(width // 2, 1), 1) for row in tokens if len(row) > 1]
  if not parts:
    return Measure(None, note='no sample has two tokens')
  x, counted = (np.concatenate(part) for part in zip(*parts, strict=True))
  bits = _likelihood(subject, GivenSource({'x': x, 'counted': counted}))
  return _perplexity(bits, f'of {len(parts)} samples; depends on the tokenizer')


def _finite(value: float, note: str) -> Measure:
  if math.isnan(value):
    return Measure(None, note='the samples have too few words')
  return Measure(value, None, note)


def _mean(values: Sequence[float], note: str) -> Measure:
  error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
  return Measure(float(np.mean(values)), error, f'{note}, n={len(values)}')
