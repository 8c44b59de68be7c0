"""Beam search against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.decoding.runner import Runner
from autoregressive.decoding.search import beam_search
from autoregressive.decoding.sequences import Limits, Prompt
from autoregressive.decoding.settings import DecodingSettings
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import example_keys
from tests.autoregressive.common import small_model
from tests.autoregressive.decoding.four import LABEL, RUN, four

SEARCH = jax.jit(beam_search, static_argnames=('beams',))


def search(beams, lengths=(0, 0), given=None, length_penalty=1.0, **limits):
  model, params, *_ = four()
  given = jnp.zeros((2, 4, 1), jnp.int32) if given is None else given
  prompt = Prompt(given, jnp.array(lengths), LABEL)
  return SEARCH(Runner(model, params), prompt, beams, length_penalty, Limits(**limits))


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
  found = search(beams=81, length_penalty=penalty, stop=DecodingSettings(stop=stop).stop_rows())

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


def narrow(table, every, beams, stop, penalty):
  """The (score, tokens) of beam search by the definition, to the full length, best first."""
  live, finished = [((), 0.0)], []
  for i in range(4):
    rows = [(every[:, :i] == tokens).all(1) for tokens, _ in live]
    extended = [
      ((*tokens, value), score + table[row & (every[:, i] == value)][0, i])
      for (tokens, score), row in zip(live, rows, strict=True)
      for value in range(3)
    ]
    extended.sort(key=lambda candidate: -candidate[1])
    ended = [(t, score) for t, score in extended[:beams] if t[-1] == stop]
    finished += [(score / (i + 1) ** penalty, (*t, *[0] * (3 - i))) for t, score in ended]
    live = [candidate for candidate in extended if candidate[0][-1] != stop][:beams]
  return sorted(finished + [(score / 4**penalty, t) for t, score in live], reverse=True)[:beams]


@pytest.mark.parametrize('beams', [1, 2])
@pytest.mark.parametrize('penalty', [0.0, 1.0, 3.0])
def test_narrow_beams_go_on_as_long_as_a_longer_sequence_may_win(penalty, beams):
  """A high penalty favours long sequences, so the search must not end at the first stop."""
  *_, every, tables = four()
  for stop in range(3):
    rows = DecodingSettings(stop=((stop,),)).stop_rows()
    found = search(beams=beams, length_penalty=penalty, stop=rows)
    for row, table in enumerate(tables):
      expected = narrow(table, every, beams, stop, penalty)
      made = [tuple(tokens) for tokens in np.asarray(found.emissions)[row].tolist()]
      assert made == [tokens for _, tokens in expected]
      np.testing.assert_allclose(found.scores[row], [score for score, _ in expected], atol=1e-5)


def greedy(given, lengths):
  model, params, *_ = four()
  keys = example_keys(jax.random.key(0), jnp.arange(2))
  prompt = Prompt(given, jnp.array(lengths), LABEL)
  return RUN(Runner(model, params), keys, prompt, {}, greedy=True)


def test_one_beam_is_greedy_and_more_are_no_worse():
  given = jnp.zeros((2, 4, 1), jnp.int32)
  made = greedy(given, (0, 0))
  one, three = search(beams=1), search(beams=3)
  np.testing.assert_array_equal(one.emissions[:, 0], made.emissions[..., 0])
  np.testing.assert_allclose(one.scores[:, 0], made.log_prob.sum(1) / 4, atol=1e-5)
  assert (three.scores[:, 0] >= one.scores[:, 0] - 1e-6).all()


@pytest.mark.parametrize('prefix', [0, 1])
def test_beams_continue_ragged_prompts(prefix):
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
    beam_search(Runner(model, params), Prompt(given[..., :1], jnp.zeros(1, jnp.int32)), 2)
