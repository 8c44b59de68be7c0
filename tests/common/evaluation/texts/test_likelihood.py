"""Likelihoods of texts in units that tokenizers share, and windows that count every token once."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from autoregressive.method import build
from common.config import ConfigError
from common.data.pipeline import Data
from common.data.spec import DataSpec
from common.data.tokenizers import Bytes, Characters
from common.data.windows import cut
from common.evaluation.evaluate import evaluate, evaluate_baseline
from common.evaluation.texts import ngrams, windows
from tests.autoregressive.common import outputs_of, perturbed
from tests.autoregressive.texts import text_config
from tests.cases import evaluation_settings, slow
from tests.common.domains.toy import Split

TEXT = 'naïve: añb\nab, naïve bañ!\n' * 2
SETTINGS = evaluation_settings(batch_size=4, num_samples=4)
ON_TEXT = ('perplexity', 'bits_per_byte', 'bits_per_character')


@pytest.mark.parametrize('length', [5, 8, 9, 23, 24])
@pytest.mark.parametrize('stride', [1, 3, 7])
def test_every_token_counts_once_after_as_much_context_as_possible(length, stride):
  tokens = np.arange(length)
  x, counted = cut(tokens, 8, stride, 1)
  assert sorted(x[counted].tolist()) == tokens[1:].tolist()
  at = np.broadcast_to(np.arange(8), x.shape)
  # Of each counted token, the number of tokens before it in its window.
  context = dict(zip(x[counted].tolist(), at[counted].tolist(), strict=True))
  assert all(context[i] >= min(i, 8 - stride) for i in range(1, length))


def test_bad_windows_are_refused():
  for stride in (0, 8):
    with pytest.raises(ConfigError, match=rf'stride must be in \[1, 7\], got {stride}'):
      cut(np.arange(9), 8, stride, 1)
  with pytest.raises(ConfigError, match='too short'):
    cut(np.arange(1), 8, 2, 1)


def model(tokenizer, context=12):
  """(method, parameters, data) of a model of texts that knows separators where there are any."""
  spec = DataSpec('t', 'text', (context + 1,), tokenizer.vocabulary, tokenizer=tokenizer)
  method = build(text_config(), spec)
  params = jax.jit(method.init)(jax.random.key(0), {'x': np.zeros((1, *spec.shape), np.int32)})[0]
  separated = np.full((2, *spec.shape), tokenizer.separator or 0, spec.dtype)
  data = Data(spec, dict.fromkeys(('train', 'validation', 'test'), Split(x=separated)))
  return method, perturbed(params), data


def nats_of(method, params, tokens):
  """Nats of all tokens but the first, in one pass."""
  outputs = outputs_of(method.model, params, tokens[None, :, None])
  log_probs = jax.nn.log_softmax(outputs[0, :, : method.spec.levels])
  return -np.asarray(log_probs)[np.arange(len(tokens) - 1), tokens[1:]]


@pytest.mark.parametrize(
  'tokenizer', [Bytes(), *slow([Characters(''.join(sorted(set(TEXT))))])], ids=lambda x: x.kind
)
def test_bits_per_byte_are_the_nats_of_all_tokens_over_the_bytes_of_the_text(tokenizer):
  """In windows of 12 tokens, 12 of which are new: the nats of each window add up."""
  method, params, data = model(tokenizer)
  on = windows.text_data(data, 'text', TEXT, stride=12)
  found = evaluate(method, params, on, SETTINGS, jax.random.key(0), ON_TEXT).measures
  tokens = tokenizer.encode(TEXT).astype(np.int32)
  given = tokenizer.separator is None
  if not given:
    tokens = np.concatenate([[tokenizer.separator], tokens])
  starts = [*range(0, len(tokens) - 13, 12), len(tokens) - 13]
  nats = [nats_of(method, params, tokens[s : s + 13]) for s in starts]
  last = len(tokens) - 1 - 12 * (len(starts) - 1)
  total = sum(x.sum() for x in nats[:-1]) + nats[-1][-last:].sum()
  counted = TEXT[1:] if given else TEXT
  bits = total / math.log(2)
  assert found['bits_per_byte'].value == pytest.approx(bits / len(counted.encode()), rel=1e-5)
  assert found['bits_per_character'].value == pytest.approx(bits / len(counted), rel=1e-5)
  assert found['perplexity'].value == pytest.approx(np.exp(total / (len(tokens) - 1)), rel=1e-5)
  assert f'{len(counted.encode())} bytes' in found['bits_per_byte'].note


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary():
  method, params, data = model(Bytes())
  flat = jax.tree.map(np.zeros_like, params)
  on = windows.text_data(data, 'text', TEXT)
  names = (*ON_TEXT, 'nats_per_position')
  found = evaluate(method, flat, on, SETTINGS, jax.random.key(0), names).measures
  assert found['perplexity'].value == pytest.approx(256, rel=1e-5)
  assert found['nats_per_position'].value == pytest.approx(np.log(256), rel=1e-5)
  assert found['bits_per_byte'].value == pytest.approx(8, rel=1e-5)


def test_the_perplexity_of_samples_of_a_uniform_model_is_its_vocabulary():
  method, params, data = model(Bytes())
  flat = jax.tree.map(np.zeros_like, params)
  names = ('sample_perplexity', 'looping')
  found = evaluate(method, flat, data, SETTINGS, jax.random.key(0), names).measures
  assert found['sample_perplexity'].value == pytest.approx(256, rel=1e-4)
  assert found['looping'].value == 0 and 'n=4' in found['looping'].note


def test_real_texts_in_place_of_samples():
  tokenizer = Bytes()
  _, _, data = model(tokenizer, context=6)
  rows = ['ababab ', 'a b a b', 'xxxxxx ', 'one two']
  x = np.stack([tokenizer.encode(row) for row in rows])
  data = data._replace(splits=dict.fromkeys(data.splits, Split(x=x)))
  names = ('looping', 'distinct', 'self_bleu', 'perplexity')
  found = evaluate_baseline('real', data, SETTINGS, names).measures
  words = [ngrams.words_of(row) for row in rows]
  assert found['distinct'].value == pytest.approx(ngrams.distinct(words, 2))
  assert found['self_bleu'].value == pytest.approx(np.mean(ngrams.self_bleu(words)))
  assert found['looping'].value == 0
  assert found['perplexity'].value is None and found['perplexity'].note == 'a baseline is no model'
  digits = dataclasses.replace(data.spec, domain='image', num_classes=2)
  with pytest.raises(ConfigError, match="baseline 'real' is for texts"):
    evaluate_baseline('real', data._replace(spec=digits), SETTINGS, names)


@pytest.mark.slow
def test_samples_of_text_are_measured_and_other_data_refused():
  method, params, data = model(Bytes(), context=30)
  names = ('distinct', 'self_bleu', 'zipf', 'repetition')
  found = evaluate(method, params, data, SETTINGS, jax.random.key(0), names).measures
  assert 0 < found['distinct'].value <= 1 and 0 <= found['self_bleu'].value <= 1
  assert found['zipf'].value >= 0 and 'n=4' in found['self_bleu'].note
  spec = dataclasses.replace(data.spec, domain='image')
  other = evaluate(method, params, data._replace(spec=spec), SETTINGS, jax.random.key(0), ['zipf'])
  assert other.measures['zipf'].note == 'applies only to text'
