"""Speculative decoding against the distribution of the target model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.decoding.runner import Runner
from autoregressive.decoding.sequences import Limits, Prompt
from autoregressive.decoding.settings import DecodingSettings
from autoregressive.decoding.speculative import speculate
from autoregressive.decoding.transforms import transform
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import example_keys
from tests.autoregressive.common import chi_square, outputs_of, small_model
from tests.autoregressive.decoding.four import FOUR, POWERS, RUN, four
from tests.cases import slow


@functools.cache
def draft():
  """Another model than `four`, of the same vocabulary."""
  _, model, params = small_model(FOUR, 0.3, network__width=16, network__heads=2)
  return model, params


def speculated(draws, batch, settings, ahead=2, prefix=0, drafter=None, lengths=None):
  model, params, *_ = four()
  target, small = Runner(model, params), Runner(*(drafter or draft()))
  given, label = jnp.full((batch, 4, 1), 2), jnp.ones(batch, jnp.int32)
  lengths = jnp.full(batch, prefix) if lengths is None else jnp.array(lengths)
  prompt, limits = Prompt(given, lengths, label), Limits(prefix, stop=settings.stop_rows())
  transforms = settings.active_transforms()

  def call(key):
    keys = example_keys(key, jnp.arange(batch))
    return speculate(target, small, keys, prompt, transforms, settings.greedy, ahead, limits)

  return jax.jit(jax.vmap(call))(jax.random.split(jax.random.key(5), draws))


@pytest.mark.parametrize(
  'batch, settings',
  [*slow([(1, {}), (4, {}), (1, dict(temperature=0.6, top_k=2))]), (4, dict(top_p=0.7))],
  ids=str,
)
def test_speculative_frequencies_are_those_of_the_target(batch, settings):
  """A chi-square test over all 81 sequences, which samples of the draft would fail."""
  model, params, every, _ = four()
  chosen = DecodingSettings(**settings)
  expected = {}
  for name, (net, p) in {'target': (model, params), 'draft': draft()}.items():
    outputs = outputs_of(net, p, every[..., None], np.ones(81, int))
    logits = transform(net.head.logits(outputs)[:, :, 0], chosen.active_transforms())
    table = np.asarray(jax.nn.log_softmax(logits), np.float64)
    chances = np.exp(np.take_along_axis(table, every[..., None], -1)[..., 0].sum(1))
    expected[name] = chances / chances.sum()
  made = speculated(8000 // batch, batch, chosen).made
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


@pytest.mark.parametrize(('prefix', 'ahead'), [(1, 1), *slow([(0, 3), (0, 1), (1, 3)])])
def test_speculative_greedy_is_greedy(prefix, ahead):
  model, params, *_ = four()
  made = speculated(1, 2, DecodingSettings(greedy=True), ahead, prefix).made
  given = jnp.full((2, 4, 1), 2)
  keys = example_keys(jax.random.key(0), jnp.arange(2))
  prompt = Prompt(given, jnp.full(2, prefix), jnp.ones(2, jnp.int32))
  plain = RUN(Runner(model, params), keys, prompt, {}, greedy=True, limits=Limits(prefix))
  np.testing.assert_array_equal(made.emissions[0], plain.emissions)
  np.testing.assert_allclose(made.log_prob[0, :, prefix:], plain.log_prob[:, prefix:], atol=1e-4)


@pytest.mark.slow
def test_speculation_with_ragged_prompts_and_stops():
  """Each row has the distribution of the target given its prompt, cut at its first stop."""
  _, _, every, tables = four()
  settings = DecodingSettings(stop=((1,), (0, 0)))
  made = speculated(4000, 3, settings, lengths=(0, 1, 4)).made

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


@pytest.mark.slow
def test_a_draft_equal_to_the_model_is_always_accepted():
  model, params, *_ = four()
  made = speculated(1, 3, DecodingSettings(), ahead=3, drafter=(model, params))
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
      Runner(model, params),
      Runner(small, small_params),
      keys,
      Prompt(jnp.zeros((1, 4, 1), jnp.int32), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32)),
      DecodingSettings(**settings).active_transforms(),
    )
