"""Requests through `Method.sample`: prompts, stops, contexts, beams and drafts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.method import build, build_draft, build_model
from common.config import ConfigError
from common.data.palettes import Palette
from common.data.spec import DataSpec
from common.method import Request
from tests.autoregressive.common import outputs_of, perturbed, small_config

TEXT = DataSpec('text', 'text', (8,), 5)


class Letters:
  """A tokenizer of the letters a to e."""

  def encode(self, text):
    return np.array([ord(letter) - ord('a') for letter in text])


@functools.cache
def text_model(start='learned', network='transformer', width=32):
  """(config, its method, parameters) of a model of texts, eight tokens long."""
  settings = {} if network == 'transformer' else dict(network=dict(name=network, width=width))
  if network == 'transformer':
    settings = dict(network__width=width)
  config = small_config(ordering=dict(name='tokens'), model__start=start, **settings)
  _, model = build_model(config, TEXT)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 1), jnp.int32))['params']
  return config, build(config, TEXT), perturbed(params, 0.3)


def ragged(*prompts):
  """(past, mask) of prompts of several lengths."""
  width = max(map(len, prompts))
  past = np.zeros((len(prompts), width), np.int32)
  mask = np.zeros(past.shape, bool)
  for row, prompt in enumerate(prompts):
    past[row, : len(prompt)], mask[row, : len(prompt)] = prompt, True
  return past, mask


def sample(made, params, *prompts, key=0, num=1, **options):
  """Samples that continue prompts, or start from nothing."""
  past, mask = ragged(*prompts) if prompts else (None, None)
  request = Request(len(prompts) or num, past=past, mask=mask, options=options)
  return made.sample(params, jax.random.key(key), request)


def test_samples_from_parameters_that_are_not_finite_are_refused():
  _, made, params = text_model()
  broken = jax.tree.map(lambda x: jnp.nan * x, params)
  assert sample(made, params, num=2).num_not_finite() == 0
  with pytest.raises(ValueError, match='2 of 2 samples are not finite'):
    made.draw(broken, jax.random.key(0), Request(2))


SHORT, LONG = (1, 4, 2), (3, 0, 0, 2, 4, 1, 1, 3, 2, 0, 4)


def begins(i):
  """Where the window begins in which position i is drawn; half of the context is 4."""
  return max(0, 4 * -(-(i - 7) // 4))


def test_sliding_draws_from_windows_of_the_last_half():
  config, made, params = text_model()
  _, model = build_model(config, TEXT)
  samples = sample(made, params, SHORT, LONG, length=19, slide=True)
  x = np.asarray(samples.x)
  assert x.shape == (2, 19)
  padded = np.pad(x, ((0, 0), (0, 8)))
  starts = [begins(i) for i in range(19)]
  windows = jnp.asarray([[row[s : s + 8] for s in starts] for row in padded]).reshape(38, 8, 1)
  each = model.head.log_prob(outputs_of(model, params, windows), windows).reshape(2, 19, 8)
  for row, prompt in enumerate((SHORT, LONG)):
    assert tuple(x[row, : len(prompt)]) == prompt
    expected = [each[row, i, i - starts[i]] for i in range(len(prompt), 19)]
    np.testing.assert_allclose(samples.log_prob[row, len(prompt) :], expected, atol=1e-4)
    assert not np.asarray(samples.log_prob)[row, : len(prompt)].any()


def test_greedy_sliding_of_a_batch_equals_that_of_each_row_alone():
  _, made, params = text_model()
  together = sample(made, params, SHORT, LONG, length=19, slide=True, greedy=True)
  for row, prompt in enumerate((SHORT, LONG)):
    alone = sample(made, params, prompt, length=19, slide=True, greedy=True)
    np.testing.assert_array_equal(together.x[row], alone.x[0])
  inside = sample(made, params, SHORT, length=8, slide=True, greedy=True)
  np.testing.assert_array_equal(inside.x[0], together.x[0, :8])


def test_sliding_stops_across_windows():
  """A stop is found if its tokens lie in two windows: position 8 is the first of the second."""
  _, made, params = text_model()
  free = np.asarray(sample(made, params, SHORT, length=19, slide=True).x)[0].tolist()
  stop = tuple(free[7:9])
  end = next(i + 2 for i in range(3, 18) if tuple(free[i : i + 2]) == stop)
  cut = sample(made, params, SHORT, length=19, slide=True, stop=(stop,))
  assert cut.lengths.tolist() == [end]
  assert np.asarray(cut.x)[0].tolist() == free[:end] + [0] * (19 - end)


def test_stops_are_tokens_or_texts():
  config, _, params = text_model()
  spec = DataSpec('text', 'text', (8,), 5)
  object.__setattr__(spec, 'tokenizer', Letters())
  made = build(config, spec)
  free = np.asarray(sample(made, params, num=16).x)
  for stop in ('c', ('c',), 2, ((2,),)):
    cut = sample(made, params, num=16, stop=stop)
    ends = [(*row.tolist(), 2).index(2) + 1 for row in free]
    assert cut.lengths.tolist() == np.minimum(ends, 8).tolist()
  two = sample(made, params, num=16, stop=('bc', 'e'))
  rows = [''.join(chr(ord('a') + i) for i in row) for row in free]
  ends = [min([i for i in range(9) if row[:i].endswith(('bc', 'e'))], default=8) for row in rows]
  assert two.lengths.tolist() == ends
  assert sample(made, params, num=16).lengths is None


def test_evaluations_end_with_the_last_sample():
  _, made, params = text_model()
  samples = sample(made, params, num=3, stop=tuple((i,) for i in range(5)))
  assert samples.evaluations == 1
  assert samples.lengths.tolist() == [1, 1, 1]


def test_beams_by_the_method():
  _, made, params = text_model()
  prompts = ((0,), (1, 4))  # from the first of them, greedy decoding misses the best sequence
  greedy = sample(made, params, *prompts, greedy=True)
  beams = sample(made, params, *prompts, beams=25)
  assert beams.evaluations == 25 * (8 - 1 + 1)
  assert (beams.log_prob.sum(1) >= greedy.log_prob.sum(1) - 1e-5).all()
  assert (beams.log_prob.sum(1) > greedy.log_prob.sum(1) + 1e-3).any()


@pytest.mark.slow
def test_a_draft_by_the_method():
  """Greedy speculation is greedy decoding, with ragged prompts and stops, in fewer passes."""
  config, made, params = text_model('none')
  small = text_model('none', width=16)
  fast = build(config, TEXT, build_draft(small[0], TEXT, small[2]))
  stops = dict(stop=((2, 4), (0,)), greedy=True)
  for settings in (dict(greedy=True), stops):
    slow = sample(made, params, SHORT, LONG[:5], **settings)
    quick = sample(fast, params, SHORT, LONG[:5], **settings, draft_ahead=3)
    np.testing.assert_array_equal(slow.x, quick.x)
    np.testing.assert_allclose(slow.log_prob, quick.log_prob, atol=1e-4)
  same = build(config, TEXT, build_draft(config, TEXT, params))
  assert sample(same, params, SHORT, draft_ahead=4).evaluations == 1 + 1
  assert sample(made, params, SHORT).evaluations == 1 + 5


SIX = DataSpec('six', 'text', (8,), 6)


@pytest.mark.parametrize(
  'network, spec, options, message',
  [
    ('transformer', SIX, {}, 'the draft has a vocabulary of 6, the model one of 5'),
    ('lstm', TEXT, {}, 'networks whose cache can be rewound'),
    ('transformer', TEXT, dict(beams=2), 'allows neither beams nor guidance'),
    ('transformer', TEXT, dict(slide=True), 'allows neither beams nor a draft'),
    ('transformer', TEXT, dict(frequency_penalty=1.0), 'allows no repetition or frequency penalty'),
  ],
)
def test_drafts_refuse(network, spec, options, message):
  config, _, params = text_model(network=network, width=16)
  large = text_model()
  with pytest.raises(ConfigError, match=message) as error:
    made = build(large[0], TEXT, build_draft(config, spec, params))
    sample(made, large[2], SHORT, **options)
  assert '\n' not in str(error.value)


def test_a_context_of_one_token_cannot_slide():
  made = build(text_model()[0], dataclasses.replace(TEXT, shape=(1,)))
  with pytest.raises(ConfigError, match=r'slide.* context holds 2 tokens .*, got 1: set data.con'):
    sample(made, {}, SHORT, length=4, slide=True)


@pytest.mark.parametrize(
  'prompts, options, message',
  [
    ([LONG], {}, 'a past of 11 emissions does not fit a length of 8; .*sampling.slide=True'),
    (
      [LONG],
      dict(length=12),
      r'length=12 is beyond the 8 positions.* sampling.slide=True continues',
    ),
    ([(1, 5)], {}, r'values outside \[0, 5\): 1 to 5'),
    ([(1, -1)], {}, r'values outside \[0, 5\): -1 to 1'),
    ([()], {}, 'the past is empty'),
    ([SHORT], dict(beams=0), r'sampling.beams=0 must be in \[1, 1000\]'),
    ([SHORT], dict(top_p=1.1), r'sampling.top_p=1.1 must be in \(0, 1\]'),
    ([SHORT], dict(stop='the'), "sampling.stop='the' is a text, but text has no tokenizer"),
    ([SHORT], dict(stop=7), r'sampling.stop must hold tokens in \[0, 5\), got 7'),
    ([SHORT], dict(slide=True, beams=3), 'sampling.slide allows neither beams'),
  ],
)
def test_requests_refused(prompts, options, message):
  _, made, params = text_model()
  with pytest.raises(ConfigError, match=message) as error:
    sample(made, params, *prompts, **options)
  assert '\n' not in str(error.value)


def test_a_model_without_a_start_needs_every_prompt():
  _, made, params = text_model('none')
  with pytest.raises(ConfigError, match='each sample needs a past of at least one; sample 1 has'):
    sample(made, params, SHORT, ())
  assert sample(made, params, SHORT, length=8).x.shape == (1, 8)


def test_a_draft_with_another_palette_is_refused():
  one, other = (Palette(((0, 0, 0), (9, 9, last))) for last in (9, 10))
  spec = DataSpec('small', 'image', (2, 2, 1), 2, palette=one)
  draft = build_draft(small_config(), dataclasses.replace(spec, palette=other), None)
  with pytest.raises(ConfigError, match='the draft has another palette than the model'):
    build(small_config(), spec, draft=draft)


@pytest.mark.parametrize(
  ('spec', 'options', 'message'),
  [
    ('text', dict(draft_ahead=3), 'option draft_ahead needs a draft: add --draft'),
    ('text', dict(length_penalty=2.0), 'option length_penalty ranks beams: add beams=2'),
    ('text', dict(greedy=True, top_p=0.9), 'option top_p has no effect with greedy=True'),
    ('image', dict(stop=5), 'sampling.stop is for text and music; this data has a fixed length'),
    ('image', dict(slide=True), 'sampling.slide is for text and music'),
  ],
)
def test_options_without_an_effect_are_refused_without_parameters(spec, options, message):
  image = DataSpec('small', 'image', (2, 2, 1), 2)
  made = text_model()[1] if spec == 'text' else build(small_config(), image)
  with pytest.raises(ConfigError, match=message):
    made.check_request(None, Request(1, options=options))
  made.check_request(None, Request(1, options=dict(temperature=0.5)))
