"""Decoding compiles few programs, and rounding array shapes changes no sample.

Programs are counted by traces of the functions under `jit`, and samples are compared with full
passes of the model: a position draws the largest of its transformed logits plus its own noise.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.decoding import decoder
from autoregressive.decoding.runner import (
  Runner,
  bucketed_length,
  bucketed_prefix,
  part_sizes,
  prefill_calls,
)
from autoregressive.decoding.search import beam_search
from autoregressive.decoding.sequences import Limits, Prompt
from autoregressive.decoding.settings import DecodingSettings
from autoregressive.decoding.transforms import transform
from autoregressive.method import build, build_draft, build_model
from common.data.spec import DataSpec
from common.method import Request, example_keys
from tests.autoregressive.common import outputs_of, perturbed, small_config
from tests.cases import slow

TEXT = DataSpec('text', 'text', (64,), 7, 2)
NUM = 2


@functools.cache
def text_model(network='transformer', width=16):
  """(config, model, parameters) over sequences of 64 tokens of 7, of two classes."""
  settings = dict(network__width=width, network__layers=1, network__heads=2)
  if network != 'transformer':
    settings = dict(network=dict(name=network, width=width, layers=1))
  config = small_config(ordering=dict(name='tokens'), model__class_dropout=0.5, **settings)
  _, model = build_model(config, TEXT)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 1), jnp.int32))['params']
  return config, model, perturbed(params, 0.3)


@pytest.fixture
def programs(monkeypatch):
  """Number of traces of each kind of decoding, from empty program caches: {name: traces}."""
  counts = {}
  for program in decoder.PROGRAMS:
    program.clear_cache()

  def counted(name):
    real = vars(decoder)[name]

    def traced(*args, **settings):
      counts[name] = counts.get(name, 0) + 1
      return real(*args, **settings)

    monkeypatch.setattr(decoder, name, traced)

  for name in ('generate', 'beam_search', 'speculate'):
    counted(name)
  return counts


def prompts(size):
  return np.asarray(jax.random.randint(jax.random.key(size), (NUM, size), 0, 7), np.int32)


def sample(made, params, size, length, **options):
  request = Request(NUM, jnp.arange(2), past=prompts(size), options=dict(length=length) | options)
  return made.sample(params, jax.random.key(3), request)


@jax.jit
def noise():
  """The noise of each sample at each position, [samples, positions, 1, values]."""
  _, key = jax.random.split(jax.random.key(3))
  each = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
  keys = each(example_keys(key, jnp.arange(NUM)), jnp.arange(64))
  return jax.vmap(jax.vmap(lambda key: jax.random.gumbel(key, (1, 7))))(keys)


def check(model, params, samples, size, length, **settings):
  """Draws and log-probabilities agree with a full pass and the noise of each position."""
  options = DecodingSettings(**settings)
  x = np.asarray(samples.x)
  assert x.shape == samples.log_prob.shape == (NUM, length)
  np.testing.assert_array_equal(x[:, :size], prompts(size))
  padded = jnp.pad(jnp.asarray(x), ((0, 0), (0, 64 - length)))[..., None]
  outputs = outputs_of(model, params, padded, np.arange(2))
  logits = model.head.logits(outputs)
  if options.guidance != 1:
    free = model.head.logits(outputs_of(model, params, padded, np.full(2, 2)))
    logits = free + options.guidance * (logits - free)
  seen = np.cumsum(np.eye(7, dtype=np.int32)[np.asarray(padded)], 1)
  before = jnp.asarray(np.pad(seen, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1])
  drawn = (transform(logits, options.active_transforms(), before) + noise()).argmax(-1)
  np.testing.assert_array_equal(x[:, size:], drawn[:, size:length, 0])
  each = model.head.log_prob(outputs, padded)
  np.testing.assert_allclose(samples.log_prob[:, size:], each[:, size:length], atol=1e-4)
  assert not np.asarray(samples.log_prob)[:, :size].any()


@pytest.mark.slow
def test_one_program_serves_prompts_lengths_and_values(programs):
  config, model, params = text_model()
  made = build(config, TEXT)
  steps = [  # one program each
    [
      (5, 20, {}),
      (6, 31, dict(temperature=0.7)),
      (7, 32, dict(temperature=1.3, min_p=0.1)),
      (11, 24, dict(min_p=0.3)),
    ],
    [
      (6, 30, dict(top_k=3)),
      (5, 25, dict(top_p=0.6)),
      (11, 32, dict(top_k=5, top_p=0.9, temperature=0.9)),
    ],
    [(7, 28, dict(repetition_penalty=1.5)), (5, 27, dict(frequency_penalty=0.7, min_p=0.1))],
    [(6, 20, dict(guidance=2.0)), (11, 29, dict(guidance=0.5, temperature=0.8))],
    [(5, 15, {}), (11, 16, dict(temperature=2.0))],  # shorter: of 16
    [(17, 40, {}), (30, 63, dict(min_p=0.2))],  # longer: of 64, prompts of up to 32
  ]
  for number, cases in enumerate(steps, 1):
    for size, length, options in cases:
      check(model, params, sample(made, params, size, length, **options), size, length, **options)
    assert programs == {'generate': number}


@pytest.mark.slow
def test_methods_of_the_same_config_share_programs(programs):
  config, _, params = text_model()
  one, other = build(config, TEXT), build(config, TEXT)
  x = [sample(made, params, 5, 20).x for made in (one, other)]
  np.testing.assert_array_equal(*x)
  assert programs == {'generate': 1}


def test_the_number_of_stops_compiles_no_other_program(programs):
  config, _, params = text_model()
  made = build(config, TEXT)
  free = np.asarray(sample(made, params, 5, 32).x)
  for stop in (((2, 4), (0,), (1, 1, 3)), ((2, 4, 1), (3, 0), (6,), (5, 5))):
    cut = sample(made, params, 7, 30, stop=stop)
    assert programs == {'generate': 2}
    assert (cut.lengths <= 30).all()
  ends = sample(made, params, 5, 32, stop=((int(free[0, 9]),),)).lengths
  assert ends[0] <= 10


@pytest.mark.parametrize('network', [*slow(['lstm']), 'tcn'])
def test_prompts_of_any_length_are_one_program_without_rewinding(network, programs):
  config, model, params = text_model(network)
  made = build(config, TEXT)
  for size, length in ((5, 40), (33, 41), (35, 64)):
    check(model, params, sample(made, params, size, length), size, length)
  assert programs == {'generate': 1}


def test_beams_are_one_program(programs):
  config, model, params = text_model()
  made = build(config, TEXT)
  found = {size: sample(made, params, size, 20 + size, beams=3) for size in (5, 7, 11)}
  assert programs == {'beam_search': 1}
  given = jnp.pad(jnp.asarray(prompts(7)), ((0, 0), (0, 20)))[..., None]
  prompt = Prompt(given, jnp.full(NUM, 7), jnp.arange(2))
  exact = jax.jit(beam_search, static_argnames=('beams',))
  best = exact(Runner(model, params), prompt, beams=3, limits=Limits(prefix=7))
  np.testing.assert_array_equal(found[7].x, best.emissions[:, 0])
  np.testing.assert_allclose(found[7].log_prob, best.log_prob[:, 0], atol=1e-5)


@pytest.mark.slow
def test_drafting_is_one_program(programs):
  config, _, params = text_model()
  made = build(config, TEXT)
  small = text_model(width=8)
  fast = build(config, TEXT, build_draft(small[0], TEXT, small[2]))
  for size, length in ((5, 20), (7, 32), (11, 25)):
    quick = sample(fast, params, size, length, greedy=True)
    slow = sample(made, params, size, length, greedy=True)
    np.testing.assert_array_equal(quick.x, slow.x)
    np.testing.assert_allclose(quick.log_prob, slow.log_prob, atol=1e-4)
  assert programs == {'generate': 1, 'speculate': 1}


def test_rounding_doubles_lengths_at_most():
  network = text_model()[1].network
  for length in range(1, 300):
    room = bucketed_length(length, 65)
    assert length <= room <= max(2 * length, 31)
  assert len({bucketed_length(length, 65) for length in range(1, 66)}) == 3
  assert bucketed_length(65, 65) == 65
  for shortest in range(1, 65):
    assert shortest <= bucketed_prefix(network, shortest, 64) <= max(2 * shortest, 16)
  assert bucketed_prefix(network, 0, 64) == 0
  assert bucketed_prefix(network, 40, 50) == 50


def test_calls_of_prefill():
  transformer, tcn, lstm = (text_model(name)[1].network for name in ('transformer', 'tcn', 'lstm'))
  assert [prefill_calls(transformer, n) for n in (0, 1, 40)] == [0, 1, 1]
  assert [prefill_calls(transformer, n, 16) for n in (0, 16, 40)] == [0, 1, 3]
  assert [prefill_calls(tcn, n) for n in (0, 5, 32, 70)] == [0, 5, 1, 2 + 6]
  assert [prefill_calls(lstm, n) for n in (0, 5, 70)] == [0, 5, 70]
  assert part_sizes(tcn, 20) == (1,)
