"""Decoding draw by draw: distribution, log-probabilities, prompts and stops."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.decoding.generate import generate
from autoregressive.decoding.runner import Runner
from autoregressive.decoding.sequences import Limits, Prompt
from autoregressive.decoding.settings import DecodingSettings
from autoregressive.decoding.transforms import transform
from common.data.spec import DataSpec
from common.method import example_keys
from tests.autoregressive.common import chi_square, outputs_of, small_model
from tests.cases import mostly_slow, slow

TINY = DataSpec('tiny', 'image', (1, 2, 1), 3, 2)  # two emissions of three values: nine outcomes


@functools.cache
def tiny():
  """A model of nine outcomes, and the exact conditionals of every one of them."""
  _, model, params = small_model(TINY, 0.15, model__class_dropout=0.5)
  outcomes = jnp.array(list(itertools.product(range(3), repeat=2)))[..., None]

  def logits(label):
    outputs = outputs_of(model, params, outcomes, np.full(9, label))
    return model.head.logits(outputs)[:, :, 0]

  return model, params, outcomes, {label: logits(label) for label in range(3)}


def exact(logits, outcomes):
  """Probability of each outcome under the product of conditionals."""
  table = jnp.take_along_axis(jax.nn.log_softmax(logits), outcomes, -1)[..., 0]
  made = np.exp(np.asarray(table, np.float64).sum(-1))
  assert made.sum() == pytest.approx(1, abs=1e-5)
  return made / made.sum()


def frequencies(batch, draws, settings, label):
  """Counts of outcomes in `draws` calls with `batch` samples each."""
  model, params, _, _ = tiny()
  labels = jnp.full(batch, label)
  emissions, lengths = jnp.zeros((batch, 2, 1), jnp.int32), jnp.zeros(batch, jnp.int32)
  guidance = jnp.float32(settings.guidance) if settings.guidance != 1 else None
  runner, prompt = Runner(model, params), Prompt(emissions, lengths, labels)
  transforms = settings.active_transforms()

  def call(key):
    keys = example_keys(key, jnp.arange(batch))
    made = generate(runner, keys, prompt, transforms, guidance, settings.greedy)
    return made.emissions[..., 0]

  made = np.asarray(jax.jit(jax.vmap(call))(jax.random.split(jax.random.key(7), draws)))
  return np.bincount(made.reshape(-1, 2) @ [3, 1], minlength=9)


@pytest.mark.parametrize('batch, draws', [*slow([(1, 6000)]), (16, 375)])
@pytest.mark.parametrize(
  'settings',
  [
    *slow([dict(), dict(temperature=1.7), dict(top_k=2), dict(guidance=3.0)]),
    dict(top_p=0.7),
    dict(min_p=0.6),
    dict(temperature=0.6, top_k=2, top_p=0.9, guidance=1.5),
  ],
  ids=str,
)
def test_sampled_frequencies(settings, batch, draws):
  """A chi-square test of all outcomes against the products of transformed conditionals."""
  _, _, outcomes, logits = tiny()
  chosen = DecodingSettings(**settings)
  guided = logits[2] + chosen.guidance * (logits[1] - logits[2])
  expected = exact(transform(guided, chosen.active_transforms()), outcomes) * batch * draws
  counts = frequencies(batch, draws, chosen, 1)
  possible = expected > 0
  assert counts[~possible].sum() == 0
  assert chi_square(counts[possible], expected[possible]) > 1e-3
  if settings:  # the test has power: the plain distribution does not fit
    plain = exact(logits[1], outcomes) * batch * draws
    assert chi_square(counts, plain) < 1e-6


def test_greedy_takes_the_most_probable_value():
  *_, logits = tiny()
  counts = frequencies(4, 1, DecodingSettings(greedy=True), 0)
  first = int(logits[0][0, 0].argmax())
  second = int(logits[0][first * 3, 1].argmax())
  assert counts[first * 3 + second] == 4


DECODERS = {
  'learned': dict(),
  'rotary_grouped': dict(network__positions='rotary', network__kv_heads=2),
  'alibi_window': dict(network__positions='alibi', network__window=3),
  'patches': dict(ordering__size=2),
  'tied': dict(model__tied=True),
  'lstm': dict(network=dict(name='lstm', width=16)),
  'tcn': dict(network=dict(name='tcn', width=16, layers=2)),
  'pixelcnn': dict(network=dict(name='pixelcnn', width=16, layers=1)),
}
SMALL = DataSpec('small', 'image', (4, 4, 1), 5, 3)


RUN = jax.jit(generate, static_argnames=('greedy',))


def draw(model, params, keys, emissions, lengths, label, **limits):
  prompt = Prompt(emissions, lengths, label)
  return RUN(Runner(model, params), keys, prompt, {}, limits=Limits(**limits))


@pytest.mark.parametrize('variant', mostly_slow(DECODERS, ['rotary_grouped', 'alibi_window']))
def test_log_probabilities_are_those_of_a_full_pass(variant):
  ordering, model, params = small_model(SMALL, **DECODERS[variant])
  keys = example_keys(jax.random.key(0), jnp.arange(3))
  given = jnp.zeros((3, ordering.length, ordering.values), jnp.int32)
  label = jnp.arange(3)
  made = draw(model, params, keys, given, jnp.zeros(3, jnp.int32), label)
  outputs = outputs_of(model, params, made.emissions, label)
  np.testing.assert_allclose(made.log_prob, model.head.log_prob(outputs, made.emissions), atol=1e-4)
  assert float(made.log_prob.max()) < 0


@pytest.mark.parametrize('prefix', [0, 1, 3])
def test_ragged_prompts_are_kept_and_continued(prefix):
  """The same keys continue in the same way, whatever the size of the prefix."""
  _, model, params = small_model(SMALL)
  keys = example_keys(jax.random.key(0), jnp.arange(3))
  label = jnp.arange(3)
  given = jax.random.randint(jax.random.key(4), (3, 16, 1), 0, 5)
  lengths = jnp.array([3, 9, 16])
  made = draw(model, params, keys, given, lengths, label, prefix=prefix)
  held = np.arange(16)[None] < np.asarray(lengths)[:, None]
  np.testing.assert_array_equal(np.asarray(made.emissions)[held], np.asarray(given)[held])
  np.testing.assert_array_equal(np.asarray(made.log_prob)[held], 0)
  for row in range(3):
    one = slice(row, row + 1)
    alone = draw(model, params, keys[one], given[one], lengths[one], label[one])
    np.testing.assert_array_equal(made.emissions[row], alone.emissions[0])
    np.testing.assert_allclose(made.log_prob[row], alone.log_prob[0], atol=1e-5)


def test_a_sample_does_not_depend_on_its_batch():
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


def test_repetition_counts_the_prompt_and_what_was_drawn():
  """A huge penalty forbids any value a second time, so the four others follow the one given."""
  _, model, params = small_model(DataSpec('five', 'image', (1, 5, 1), 5))
  given = jnp.full((2, 5, 1), 3)
  keys = example_keys(jax.random.key(0), jnp.arange(2))
  transforms = DecodingSettings(frequency_penalty=1e6).active_transforms()
  runner, prompt = Runner(model, params), Prompt(given, jnp.ones(2, jnp.int32))
  for prefix in (0, 1):
    made = RUN(runner, keys, prompt, transforms, limits=Limits(prefix=prefix))
    for row in np.asarray(made.emissions)[..., 0]:
      assert row[0] == 3
      assert sorted(row.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('chunk', [*slow([1, 5]), 4, 100])
def test_prefill_in_chunks_equals_prefill_at_once(chunk):
  _, model, params = small_model(SMALL, network__positions='rotary')
  given = jax.random.randint(jax.random.key(4), (2, 16, 1), 0, 5)
  lengths, label = jnp.full(2, 14), jnp.arange(2)
  keys = example_keys(jax.random.key(0), jnp.arange(2))
  whole = draw(model, params, keys, given, lengths, label, prefix=14)
  parts = draw(model, params, keys, given, lengths, label, prefix=14, chunk=chunk)
  np.testing.assert_array_equal(whole.emissions, parts.emissions)
  np.testing.assert_allclose(whole.log_prob, parts.log_prob, atol=1e-5)


def test_stops_end_a_sample_where_they_are_drawn():
  """Stops only cut: up to its stop, a sample is the same as without one."""
  _, model, params = small_model(SMALL)
  keys = example_keys(jax.random.key(0), jnp.arange(32))
  given, lengths = jnp.full((32, 16, 1), 2), jnp.full(32, 2)
  label = jnp.arange(32) % 3
  free = draw(model, params, keys, given, lengths, label)
  stop = DecodingSettings(stop=((2,), (1, 4))).stop_rows()
  cut = draw(model, params, keys, given, lengths, label, stop=stop)
  ends = set()
  for row in range(32):
    tokens = np.asarray(free.emissions)[row, :, 0].tolist()
    pairs = list(itertools.pairwise(tokens))
    stops = [i + 1 for i in range(2, 16) if tokens[i] == 2]
    stops += [i + 2 for i in range(2, 15) if pairs[i] == (1, 4)]
    end = min(stops, default=16)
    ends.add(end)
    assert int(cut.lengths[row]) == end
    assert np.asarray(cut.emissions)[row, :, 0].tolist() == tokens[:end] + [0] * (16 - end)
    np.testing.assert_allclose(cut.log_prob[row, :end], free.log_prob[row, :end], atol=1e-5)
    assert not np.asarray(cut.log_prob)[row, end:].any()
  assert len(ends) > 3


def test_stops_end_the_loop():
  """Every sample draws a stop at once, and the steps after it are not run."""
  _, model, params = small_model(SMALL)
  keys = example_keys(jax.random.key(0), jnp.arange(3))
  given = jnp.zeros((3, 16, 1), jnp.int32)
  stop = DecodingSettings(stop=tuple((token,) for token in range(5))).stop_rows()
  made = draw(model, params, keys, given, jnp.zeros(3, jnp.int32), jnp.arange(3), stop=stop)
  assert made.lengths.tolist() == [1, 1, 1]
