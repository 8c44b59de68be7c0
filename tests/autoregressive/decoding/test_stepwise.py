"""Decoding in steps draws what one call draws; sequences can be continued, rewound and extended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.decoding import stepwise
from autoregressive.decoding.runner import Runner
from autoregressive.decoding.settings import DecodingSettings
from autoregressive.decoding.stepwise import Session
from autoregressive.method import build, build_model
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import Request, Watch, example_keys
from tests.autoregressive.common import outputs_of, perturbed, small_config
from tests.cases import slow

TEXT = DataSpec('text', 'text', (33,), 7)
NETWORKS = ('transformer', *slow(['lstm', 'tcn']))
PAST = np.array([[1, 2, 3], [4, 5, 6]], np.int32)


def text_model(network='transformer', **overrides):
  """(config, ordering, model, parameters) over windows of 33 tokens of 7, the first given."""
  settings = dict(network__width=16, network__layers=1, network__heads=2)
  if network != 'transformer':
    settings = dict(network=dict(name=network, width=16, layers=1))
  rotary = {'network__positions': 'rotary'} if network == 'transformer' else {}
  settings |= rotary | dict(ordering=dict(name='tokens'), model__start='none') | overrides
  config = small_config(**settings)
  ordering, model = build_model(config, TEXT)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 33, 1), jnp.int32))['params']
  return config, ordering, model, perturbed(params, 0.3)


@pytest.mark.parametrize('network', NETWORKS)
def test_a_watched_sample_is_that_of_one_call(network):
  config, _, _, params = text_model(network)
  made, options, seen = build(config, TEXT), dict(length=40, slide=True, repetition_penalty=1.1), []
  whole = made.sample(params, jax.random.key(1), Request(2, past=PAST, options=options))

  def look(rows):
    seen.append(rows)
    return np.zeros(2, bool)

  request = Request(2, past=PAST, options=options, watch=Watch(look, 3))
  stepped = made.sample(params, jax.random.key(1), request)
  np.testing.assert_array_equal(stepped.x, whole.x)
  np.testing.assert_allclose(stepped.log_prob, whole.log_prob, atol=1e-5)
  assert stepped.lengths.tolist() == [40, 40]
  for rows in seen:
    np.testing.assert_array_equal(rows, np.asarray(whole.x)[:, : rows.shape[1]])
  assert seen[0].shape[1] == 6 and seen[-1].shape[1] == 40


@pytest.mark.slow
def test_a_watcher_ends_the_drawing():
  config, _, _, params = text_model()
  made = build(config, TEXT)
  for length, slide in ((33, False), (60, True)):
    for end in (7, length - 3):
      watch = Watch(lambda rows, end=end: np.full(2, rows.shape[1] >= end), 2)
      options = dict(length=length, slide=slide)
      request = Request(2, past=PAST, options=options, watch=watch)
      found = made.sample(params, jax.random.key(1), request)
      reached = 3 + 2 * -(-(end - 3) // 2) if not slide or end < 33 else int(found.lengths[0])
      assert found.lengths.tolist() == [reached] * 2 and end <= reached < length
      assert not np.asarray(found.x)[:, reached:].any()
      assert found.evaluations < length + 20


def session(network='transformer', greedy=True, **settings):
  """(a session, its model and parameters)."""
  _, ordering, model, params = text_model(network)
  chosen = DecodingSettings(greedy=greedy, **settings)
  made = Session(model, ordering.length, params, chosen, jax.random.key(2), least_room=16)
  return made, model, params


def check_greedy(made, model, params, given):
  """Every token that was not given is the most probable one after those before it."""
  tokens = np.asarray(made.tokens)
  outputs = outputs_of(model, params, tokens[None, :, None])
  best = np.asarray(outputs[0, :, :7].argmax(-1))
  drawn = np.setdiff1d(np.arange(1, len(tokens)), given)
  np.testing.assert_array_equal(tokens[drawn], best[drawn - 1])


@pytest.mark.parametrize('network', NETWORKS)
def test_a_session_extends_a_sequence_by_turns_and_takes_in_only_what_is_new(network):
  made, model, params = session(network)
  made.append([1, 2, 3])
  drawn = made.draw(4) + made.draw(2)
  assert made.tokens == [1, 2, 3, *drawn] and len(drawn) == 6
  made.append([5, 6])
  made.draw(3)
  made.append([4])
  made.draw(5)
  check_greedy(made, model, params, [0, 1, 2, 9, 10, 14])
  assert made.prefilled == 6


def test_a_session_rewinds_and_its_cache_grows():
  made, model, params = session()
  made.append([1, 2, 3])
  first = made.draw(5)
  made.keep(5)
  assert made.tokens == [1, 2, 3, *first[:2]]
  assert made.draw(3) == first[2:]
  made.keep(4)
  made.append([6, 6, 6])
  # Beyond the room of the first arrays, 17 positions.
  assert made.room == 17
  made.draw(12)
  assert made.room > 17 and len(made.tokens) == 19
  made.append([2] * 10)
  made.draw(4)
  check_greedy(made, model, params, [0, 1, 2, 4, 5, 6, *range(19, 29)])
  assert made.left == 0 and made.draw(3) == []
  with pytest.raises(ConfigError, match=r'33 tokens.*has 33 and 1 more'):
    made.append([1])


@pytest.mark.slow
def test_a_session_draws_what_a_request_draws():
  config, _, _, params = text_model()
  request = Request(1, past=PAST[:1], options=dict(temperature=0.7, frequency_penalty=0.2))
  whole = build(config, TEXT).sample(params, jax.random.key(5), request)
  _, key = jax.random.split(jax.random.key(5))
  settings = dict(temperature=0.7, frequency_penalty=0.2)
  made, _, _ = session(greedy=False, **settings)
  made.keys = example_keys(key, jnp.arange(1))
  made.append([1])
  made.draw(2)
  made.keep(1)
  made.append(PAST[0, 1:])
  while made.draw(7):
    pass
  assert made.tokens == np.asarray(whole.x)[0].tolist()


@pytest.mark.slow
def test_a_session_compiles_few_programs():
  stepwise.advance_program.clear_cache()
  made, _, _ = session()
  made.append([1, 2])
  for _ in range(4):
    made.draw(1)
    made.append([1] * 2)
  assert stepwise.advance_program._cache_size() == 1


def test_matrices_are_cast_once_and_change_nothing():
  _, _, model, params = text_model(precision='bfloat16')
  tokens = jnp.asarray(PAST[..., None])
  cast = stepwise.prepare(Runner(model, params)).params
  assert {x.dtype.name for x in jax.tree.leaves(cast) if x.ndim > 1} == {'bfloat16'}
  np.testing.assert_array_equal(outputs_of(model, cast, tokens), outputs_of(model, params, tokens))
  _, _, model, params = text_model()
  same = jax.tree.map(lambda a, b: a is b, stepwise.prepare(Runner(model, params)).params, params)
  assert all(jax.tree.leaves(same))  # not copied
