"""Logits transforms, and the distribution of what is decoded."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from autoregressive.decoding import Options, generate, temperature, top_k, top_p, transform
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import example_keys
from tests.autoregressive.common import small_model

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.05, 0.25, 0.2]))
TINY = DataSpec('tiny', 'image', (1, 2, 1), 3, 2)  # two emissions of three values: nine outcomes


def kept(logits):
  return set(np.flatnonzero(np.asarray(jax.nn.softmax(logits)) > 0).tolist())


def number(value):
  return jnp.float32(value)


def test_top_k_keeps_the_most_probable():
  assert kept(top_k(LOGITS, number(2))) == {1, 3}
  assert kept(top_k(LOGITS, number(1))) == {1}


@pytest.mark.parametrize('k', [5, 50])
def test_top_k_of_the_vocabulary_changes_nothing(k):
  np.testing.assert_array_equal(top_k(LOGITS, number(k)), LOGITS)


@pytest.mark.parametrize(
  'p, values', [(1e-6, {1}), (0.39, {1}), (0.41, {1, 3}), (0.7, {1, 3, 4}), (1.0, set(range(5)))]
)
def test_top_p_keeps_the_value_that_crosses(p, values):
  assert kept(top_p(LOGITS, number(p))) == values


def test_temperature_towards_zero_is_greedy():
  for cold in (0.0, 1e-3, 1e-30):
    assert kept(temperature(LOGITS, number(cold))) == {1}
  warm = temperature(LOGITS, number(2.0))
  np.testing.assert_allclose(jax.nn.softmax(warm), jax.nn.softmax(LOGITS / 2), rtol=1e-5)


def test_temperature_comes_before_top_p():
  """At temperature 2 the first value has mass 0.29, so that a p of 0.35 needs two."""
  numbers = Options(temperature=2.0, top_p=0.35).transforms()
  assert kept(transform(LOGITS, numbers)) == {1, 3}
  assert kept(top_p(LOGITS, number(0.35))) == {1}


def test_transforms_act_on_each_row():
  rows = jnp.stack([LOGITS, jnp.roll(LOGITS, 1)])
  numbers = Options(top_k=3, top_p=0.6).transforms()
  together = transform(rows, numbers)
  np.testing.assert_array_equal(together[1], transform(rows[1], numbers))
  assert kept(together[0]) != kept(together[1])


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(top_p=0.0), r'sampling.top_p=0.0 must be in \(0, 1\]'),
    (dict(top_p=1.5), 'sampling.top_p=1.5'),
    (dict(temperature=-1.0), 'sampling.temperature=-1.0'),
    (dict(temperature=float('nan')), 'sampling.temperature=nan'),
    (dict(top_k=-1), 'sampling.top_k=-1'),
  ],
)
def test_options_refuse(settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    Options(**settings)
  assert '\n' not in str(error.value)


@functools.cache
def tiny():
  """A model of nine outcomes, and the exact conditionals of every one of them."""
  _, model, params = small_model(TINY, model__class_dropout=0.5)
  outcomes = jnp.array(list(itertools.product(range(3), repeat=2)))[..., None]

  def logits(label):
    outputs = model.apply({'params': params}, outcomes, jnp.full(9, label))
    return model.head.logits(outputs)[:, :, 0]

  return model, params, outcomes, {label: logits(label) for label in range(3)}


def exact(logits, outcomes):
  """Probability of each outcome under the product of conditionals."""
  table = jnp.take_along_axis(jax.nn.log_softmax(logits), outcomes, -1)[..., 0]
  return np.asarray(jnp.exp(table.sum(-1)))


def frequencies(batch, draws, options, label):
  """Counts of outcomes in `draws` calls with `batch` samples each."""
  model, params, _, _ = tiny()
  labels = jnp.full(batch, label)
  given, lengths = jnp.zeros((batch, 2, 1), jnp.int32), jnp.zeros(batch, jnp.int32)
  guidance = number(options.guidance) if options.guidance != 1 else None

  @jax.jit
  def call(key):
    keys = example_keys(key, jnp.arange(batch))
    made = generate(
      model, params, keys, given, lengths, labels, options.transforms(), guidance, options.greedy
    )
    return made.emissions[..., 0]

  made = jax.jit(lambda keys: jax.lax.map(call, keys))(jax.random.split(jax.random.key(7), draws))
  made = np.asarray(made).reshape(-1, 2)
  return np.bincount(made[:, 0] * 3 + made[:, 1], minlength=9)


def chi_square(counts, expected):
  """The p-value of counts against what was expected of each, scaled to as many in float64."""
  counts, expected = np.asarray(counts), np.asarray(expected, np.float64)
  if len(counts) == 1:
    return 1.0  # the only possible outcome
  return stats.chisquare(counts, expected * (counts.sum() / expected.sum())).pvalue


@pytest.mark.parametrize('batch, draws', [(1, 4000), (16, 250)])
@pytest.mark.parametrize(
  'settings',
  [
    dict(),
    dict(temperature=1.7),
    dict(top_k=2),
    dict(top_p=0.7),
    dict(guidance=2.0),
    dict(temperature=0.8, top_k=2, top_p=0.9, guidance=1.5),
  ],
  ids=str,
)
def test_sampled_frequencies(settings, batch, draws):
  """A chi-square test of all outcomes against the products of transformed conditionals."""
  _, _, outcomes, logits = tiny()
  options = Options(**settings)
  guided = logits[2] + options.guidance * (logits[1] - logits[2])
  expected = exact(transform(guided, options.transforms()), outcomes) * batch * draws
  counts = frequencies(batch, draws, options, 1)
  possible = expected > 0
  assert counts[~possible].sum() == 0
  assert chi_square(counts[possible], expected[possible]) > 1e-3
  if settings:  # and the test can tell: the plain distribution does not fit
    plain = exact(logits[1], outcomes) * batch * draws
    assert chi_square(counts, plain) < 1e-6


def test_greedy_takes_the_greatest():
  *_, logits = tiny()
  counts = frequencies(4, 1, Options(greedy=True), 0)
  first = int(logits[0][0, 0].argmax())
  second = int(logits[0][first * 3, 1].argmax())
  assert counts[first * 3 + second] == 4


DECODERS = {
  'learned': dict(),
  'rotary_grouped': dict(network__positions='rotary', network__kv_heads=2),
  'alibi_window': dict(network__positions='alibi', network__window=3),
  'patches': dict(ordering__size=2),
  'tied': dict(model__tied=True),
}
SMALL = DataSpec('small', 'image', (4, 4, 1), 5, 3)


def draw(model, params, keys, given, lengths, label, prefix=0):
  decode = jax.jit(functools.partial(generate, model), static_argnames=('greedy', 'prefix'))
  return decode(params, keys, given, lengths, label, {}, prefix=prefix)


@pytest.mark.parametrize('variant', DECODERS)
def test_log_probabilities_are_those_of_a_full_pass(variant):
  ordering, model, params = small_model(SMALL, **DECODERS[variant])
  keys = example_keys(jax.random.key(0), jnp.arange(3))
  given = jnp.zeros((3, ordering.length, ordering.values), jnp.int32)
  label = jnp.arange(3)
  made = draw(model, params, keys, given, jnp.zeros(3, jnp.int32), label)
  outputs = model.apply({'params': params}, made.emissions, label)
  np.testing.assert_allclose(made.log_prob, model.head.log_prob(outputs, made.emissions), atol=1e-4)
  assert float(made.log_prob.max()) < 0


@pytest.mark.parametrize('prefix', [0, 1, 3])
def test_ragged_beginnings_are_kept_and_gone_on_from(prefix):
  """However much is taken in at once, the same keys go on in the same way."""
  _, model, params = small_model(SMALL)
  keys = example_keys(jax.random.key(0), jnp.arange(3))
  label = jnp.arange(3)
  given = jax.random.randint(jax.random.key(4), (3, 16, 1), 0, 5)
  lengths = jnp.array([3, 9, 16])
  made = draw(model, params, keys, given, lengths, label, prefix)
  held = np.arange(16)[None] < np.asarray(lengths)[:, None]
  np.testing.assert_array_equal(np.asarray(made.emissions)[held], np.asarray(given)[held])
  np.testing.assert_array_equal(np.asarray(made.log_prob)[held], 0)
  alone = draw(model, params, keys[:1], given[:1], lengths[:1], label[:1])
  np.testing.assert_array_equal(made.emissions[0], alone.emissions[0])


def test_what_a_sample_draws_does_not_depend_on_its_batch():
  _, model, params = small_model(SMALL)
  keys = example_keys(jax.random.key(0), jnp.arange(6))
  given, lengths = jnp.zeros((6, 16, 1), jnp.int32), jnp.zeros(6, jnp.int32)
  label = jnp.arange(6) % 3
  together = draw(model, params, keys, given, lengths, label).emissions
  halves = [
    draw(model, params, keys[h], given[h], lengths[h], label[h]).emissions
    for h in (slice(0, 3), slice(3, 6))
  ]
  np.testing.assert_array_equal(together, jnp.concatenate(halves))
  assert len({tuple(row) for row in np.asarray(together)[..., 0].tolist()}) == 6


def test_options_agree_with_the_config():
  from configs.autoregressive.base import get_base

  defaults = {field.name: field.default for field in dataclasses.fields(Options)}
  assert get_base().sampling.to_dict() == defaults
