"""Beam search against brute force, and speculative decoding against its target."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.decoding.generate import generate
from autoregressive.decoding.search import beam_search
from autoregressive.decoding.speculative import speculate
from autoregressive.decoding.transforms import Options, transform
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import example_keys
from tests.autoregressive.common import chi_square, outputs_of, small_model

FOUR = DataSpec('four', 'image', (1, 4, 1), 3, 2)  # four emissions of three values
LABEL = jnp.array([0, 1])
POWERS = [27, 9, 3, 1]  # a sequence as a number


@functools.cache
def four():
  """A model, and the log-probability of each emission of all 81 sequences, by class."""
  _, model, params = small_model(FOUR, 0.2)
  every = np.array(list(itertools.product(range(3), repeat=4)))
  tables = []
  for label in (0, 1):
    outputs = outputs_of(model, params, every[..., None], np.full(81, label))
    tables.append(np.asarray(model.head.log_prob(outputs, jnp.asarray(every)[..., None])))
  return model, params, every, tables


def search(beams, lengths=(0, 0), given=None, **settings):
  model, params, *_ = four()
  given = jnp.zeros((2, 4, 1), jnp.int32) if given is None else given
  run = jax.jit(functools.partial(beam_search, model, beams=beams), static_argnames=('prefix',))
  return run(params, given, jnp.array(lengths), LABEL, **settings)


def test_wide_beams_are_brute_force():
  *_, every, tables = four()
  found = search(beams=27)
  for row, table in enumerate(tables):
    order = np.argsort(-table.sum(1))[:27]
    np.testing.assert_array_equal(found.emissions[row], every[order])
    np.testing.assert_allclose(found.scores[row], table.sum(1)[order] / 4, atol=1e-5)


@pytest.mark.parametrize('stop', [((1,),), ((2, 0), (1, 1, 0))], ids=str)
@pytest.mark.parametrize('penalty', [0.0, 1.0, 2.0])
def test_wide_beams_with_stops_are_brute_force(penalty, stop):
  """Sequences end at their first stop, or at full length; all are ranked by the length penalty."""
  *_, every, tables = four()
  found = search(beams=81, length_penalty=penalty, stop=Options(stop=stop).stops())

  def length(tokens):
    ends = [i for i in range(5) for part in stop if tuple(tokens[:i][-len(part) :]) == part]
    return min(ends, default=4)

  for row, table in enumerate(tables):
    scores, each = {}, {}
    for tokens, log_probs in zip(every.tolist(), table, strict=True):
      end = length(tokens)
      cut = (*tokens[:end], *[0] * (4 - end))
      scores[cut, end] = log_probs[:end].sum() / end**penalty
      each[cut, end] = np.where(np.arange(4) < end, log_probs, 0)
    best = sorted(scores, key=scores.get, reverse=True)[:5]
    made = map(tuple, np.asarray(found.emissions)[row, :5].tolist())
    assert list(zip(made, found.lengths[row, :5].tolist(), strict=True)) == best
    np.testing.assert_allclose(found.scores[row, :5], [scores[x] for x in best], atol=1e-5)
    np.testing.assert_allclose(found.log_prob[row, :5], [each[x] for x in best], atol=1e-5)


def greedy(given, lengths):
  model, params, *_ = four()
  keys = example_keys(jax.random.key(0), jnp.arange(2))
  run = jax.jit(functools.partial(generate, model, greedy=True))
  return run(params, keys, given, jnp.array(lengths), LABEL, {})


def test_one_beam_is_greedy_and_more_are_no_worse():
  given = jnp.zeros((2, 4, 1), jnp.int32)
  made = greedy(given, (0, 0))
  one, three = search(beams=1), search(beams=3)
  np.testing.assert_array_equal(one.emissions[:, 0], made.emissions[..., 0])
  np.testing.assert_allclose(one.scores[:, 0], made.log_prob.sum(1) / 4, atol=1e-5)
  assert (three.scores[:, 0] >= one.scores[:, 0] - 1e-6).all()


@pytest.mark.parametrize('prefix', [0, 1])
def test_beams_go_on_from_ragged_beginnings(prefix):
  *_, every, tables = four()
  given = jnp.array([[1, 0, 0, 0], [2, 1, 2, 0]])[..., None]
  found = search(beams=9, lengths=(1, 3), given=given, prefix=prefix)
  for row, length in enumerate((1, 3)):
    begun = (every[:, :length] == np.asarray(given)[row, :length, 0]).all(1)
    scores = np.where(begun, tables[row][:, length:].sum(1) / (4 - length), -np.inf)
    best = np.argsort(-scores)[:3]
    np.testing.assert_array_equal(found.emissions[row, :3], every[best])
    np.testing.assert_allclose(found.scores[row, :3], scores[best], atol=1e-5)


def test_beam_search_needs_single_values():
  ordering, model, params = small_model(DataSpec('pairs', 'image', (2, 2, 1), 3), ordering__size=2)
  given = jnp.zeros((1, ordering.length, ordering.values), jnp.int32)
  with pytest.raises(ConfigError, match='emissions of one value each'):
    beam_search(model, params, given[..., :1], jnp.zeros(1, jnp.int32), None, 2)


@functools.cache
def draft():
  """Another model than `four`, of the same vocabulary."""
  _, model, params = small_model(FOUR, 0.3, network__width=16, network__heads=2)
  return model, params


def speculated(draws, batch, options, ahead=2, prefix=0, small=None, lengths=None):
  model, params, *_ = four()
  small, small_params = small or draft()
  given, label = jnp.full((batch, 4, 1), 2), jnp.ones(batch, jnp.int32)
  lengths = jnp.full(batch, prefix) if lengths is None else jnp.array(lengths)
  settings = dict(greedy=options.greedy, prefix=prefix, stop=options.stops(), ahead=ahead)

  def call(key):
    keys = example_keys(key, jnp.arange(batch))
    numbers = options.transforms()
    return speculate(
      model, params, small, small_params, keys, given, lengths, label, numbers, **settings
    )

  return jax.jit(jax.vmap(call))(jax.random.split(jax.random.key(5), draws))


@pytest.mark.parametrize(
  'batch, settings',
  [(1, {}), (4, {}), (1, dict(temperature=0.6, top_k=2)), (4, dict(top_p=0.7))],
  ids=str,
)
def test_speculative_frequencies_are_those_of_the_target(batch, settings):
  """A chi-square test over all 81 sequences; the draft alone would fail it."""
  model, params, every, _ = four()
  options = Options(**settings)
  expected = {}
  for name, (net, p) in {'target': (model, params), 'draft': draft()}.items():
    outputs = outputs_of(net, p, every[..., None], np.ones(81, int))
    logits = transform(net.head.logits(outputs)[:, :, 0], options.transforms())
    table = np.asarray(jax.nn.log_softmax(logits), np.float64)
    chances = np.exp(np.take_along_axis(table, every[..., None], -1)[..., 0].sum(1))
    expected[name] = chances / chances.sum()
  made = speculated(8000 // batch, batch, options).made
  counts = np.bincount(np.asarray(made.emissions).reshape(-1, 4) @ POWERS, minlength=81)
  assert counts.sum() == 8000
  common = expected['target'] * 8000 > 5  # the rest are counted together
  observed = np.append(counts[common], counts[~common].sum())
  chances = np.append(expected['target'][common], expected['target'][~common].sum())
  observed, chances = observed[chances > 0], chances[chances > 0]
  assert chi_square(observed, chances * 8000) > 1e-3
  assert counts[expected['target'] == 0].sum() == 0
  wrong = expected['draft'] + 1e-9
  assert chi_square(counts, wrong / wrong.sum() * 8000) < 1e-9


@pytest.mark.parametrize('prefix', [0, 1])
@pytest.mark.parametrize('ahead', [1, 3])
def test_speculative_greedy_is_greedy(prefix, ahead):
  model, params, *_ = four()
  made = speculated(1, 2, Options(greedy=True), ahead, prefix).made
  given = jnp.full((2, 4, 1), 2)
  keys = example_keys(jax.random.key(0), jnp.arange(2))
  run = jax.jit(functools.partial(generate, model, greedy=True, prefix=prefix))
  plain = run(params, keys, given, jnp.full(2, prefix), jnp.ones(2, jnp.int32), {})
  np.testing.assert_array_equal(made.emissions[0], plain.emissions)
  np.testing.assert_allclose(made.log_prob[0, :, prefix:], plain.log_prob[:, prefix:], atol=1e-4)


def test_speculation_with_ragged_beginnings_and_stops():
  """Each row is distributed as what the target says of the rest, cut at its first stop."""
  _, _, every, tables = four()
  options = Options(stop=((1,), (0, 0)))
  made = speculated(4000, 3, options, lengths=(0, 1, 4)).made

  def end(tokens, given):
    ends = [i + 1 for i in range(given, 4) if tokens[i] == 1]
    ends += [i + 2 for i in range(given, 3) if tokens[i] == tokens[i + 1] == 0]
    return min(ends, default=4)

  for row, given in enumerate((0, 1, 4)):
    expected = np.zeros(81)
    for tokens, log_probs in zip(every, tables[1], strict=True):
      if (tokens[:given] == 2).all():
        stop = end(tokens, given)
        number = np.where(np.arange(4) < stop, tokens, 0) @ POWERS
        expected[number] += np.exp(np.float64(log_probs[given:].sum()))
    emissions = np.asarray(made.emissions)[:, row, :, 0]
    counts = np.bincount(emissions @ POWERS, minlength=81)
    assert counts[expected == 0].sum() == 0
    likely = expected * 4000 > 5
    if likely.sum() > 1:
      observed = np.append(counts[likely], counts[~likely].sum() + 1e-9)
      chances = np.append(expected[likely], expected[~likely].sum() + 1e-9)
      assert chi_square(observed, chances) > 1e-3
    assert [end(x, given) for x in emissions[:50]] == made.lengths[:50, row].tolist()
    assert (np.asarray(made.log_prob)[:, row, :given] == 0).all()
  assert (made.lengths[:, 0] < 4).any()


def test_a_draft_equal_to_the_model_is_always_accepted():
  model, params, *_ = four()
  made = speculated(1, 3, Options(), ahead=3, small=(model, params))
  assert made.rounds.tolist() == [1]


@pytest.mark.parametrize(
  'levels, settings, message',
  [
    (5, dict(), 'the draft has a vocabulary of 5, the model one of 3'),
    (3, dict(repetition_penalty=2.0), 'no repetition or frequency penalty'),
  ],
)
def test_speculation_refuses(levels, settings, message):
  model, params, *_ = four()
  _, small, small_params = small_model(DataSpec('other', 'image', (1, 4, 1), levels, 2))
  keys = example_keys(jax.random.key(0), jnp.arange(1))
  with pytest.raises(ConfigError, match=message):
    speculate(
      model,
      params,
      small,
      small_params,
      keys,
      jnp.zeros((1, 4, 1), jnp.int32),
      jnp.zeros(1, jnp.int32),
      jnp.zeros(1, jnp.int32),
      Options(**settings).transforms(),
    )
