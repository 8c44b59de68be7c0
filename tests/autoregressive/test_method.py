"""The family behind the `Method` interface."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive import method
from autoregressive.method import build
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import Context, Request
from tests.autoregressive.common import DIGITS, images, outputs_of, perturbed, small_config
from tests.autoregressive.texts import WINDOWS, text_config, windows
from tests.cases import slow


def built(spec=DIGITS, num=8, **overrides):
  """(method, a batch, parameters)."""
  made = build(small_config(**overrides), spec)
  batch = images(num, spec)
  params, _ = jax.jit(made.init)(jax.random.key(0), batch)
  return made, batch, params


def loss_of(made, params, batch, key=1, start=0, training=True):
  """(loss, Aux) of a batch whose first example has index `start` in the global batch."""
  index = start + jnp.arange(batch['x'].shape[0])

  @jax.jit
  def run(params, batch, key):
    context = Context(jnp.int32(0), params, training, index, 8)
    return made.loss(params, (), batch, key, context)

  return run(params, batch, jax.random.key(key))


def test_loss_at_the_start_is_that_of_a_uniform_guess():
  made, batch, params = built()
  loss, aux = loss_of(made, params, batch)
  assert float(loss) == pytest.approx(math.log(17), abs=0.05)
  assert float(aux.metrics['bits_per_dim']) == pytest.approx(float(loss) / math.log(2))
  assert float(aux.count) == 8 * 64


@pytest.mark.parametrize('size', [1, 2])
def test_likelihood_is_the_mean_loss_of_the_example(size):
  made, batch, params = built(ordering__size=size)
  params = perturbed(params)
  likelihood = jax.jit(made.nll)(params, batch, jax.random.key(0))
  loss, aux = loss_of(made, params, batch, training=False)
  assert float(likelihood.nats.mean()) / 64 == pytest.approx(float(loss), rel=1e-5)
  assert float(aux.count) == 8 * 64
  assert (likelihood.standard_error == 0).all() and (likelihood.dims == 64).all()


@pytest.mark.parametrize('start', ['none', *slow(['learned'])])
def test_only_counted_positions_count(start):
  spec = dataclasses.replace(WINDOWS, counted=True)
  made = build(text_config(model__start=start), spec)
  counted = jax.random.bernoulli(jax.random.key(3), 0.4, (8, 13))
  batch = windows(8) | {'counted': counted}
  assert spec.batch_struct(8)['counted'].shape == counted.shape
  params = perturbed(jax.jit(made.init)(jax.random.key(0), batch)[0])
  outputs = outputs_of(made.model, params, batch['x'][..., None].astype(jnp.int32))
  given = int(start == 'none')
  kept, x = np.asarray(counted[:, given:]), batch['x'][:, given:, None].astype(jnp.int32)
  nats = -np.asarray(made.model.head.log_prob(outputs, x))
  likelihood = jax.jit(made.nll)(params, batch, jax.random.key(0))
  np.testing.assert_allclose(likelihood.nats, (kept * nats).sum(1), rtol=1e-4)
  np.testing.assert_array_equal(likelihood.dims, kept.sum(1))
  right = np.asarray(made.model.head.logits(outputs)).argmax(-1)[..., 0] == x[..., 0]
  hits = jax.jit(made.hits)(params, batch)
  np.testing.assert_array_equal(hits.right, (kept & right).sum(1))
  np.testing.assert_array_equal(hits.total, kept.sum(1))
  for training in (False, True):
    loss, aux = loss_of(made, params, batch, training=training)
    assert float(loss) == pytest.approx((kept * nats).sum() / kept.sum(), rel=1e-4)
    assert float(aux.count) == kept.sum()


@pytest.mark.parametrize('size', [1, 2, 4])
def test_likelihood_is_the_sum_of_conditionals_with_the_cache(size):
  config = small_config(ordering__size=size)
  ordering, net = method.build_model(config, DIGITS)
  made, batch, params = built(ordering__size=size, num=3)
  params = perturbed(params)
  emissions, label = ordering.encode(batch['x']), batch['label']

  @jax.jit
  def step(inputs, cache, emission):
    hidden, cache = net.apply({'params': params}, inputs, cache, method=net.extend)
    outputs = net.apply({'params': params}, hidden, method=net.project)[:, 0]
    log_prob = net.head.log_prob(outputs, emission)
    return log_prob, cache, net.apply({'params': params}, emission[:, None], method=net.embed)

  inputs = net.apply({'params': params}, 3, label, method=net.embed_start)
  cache, total = net.network.init_cache(3, ordering.length), 0.0
  for i in range(ordering.length):
    log_prob, cache, inputs = step(inputs, cache, emissions[:, i])
    total += log_prob
  np.testing.assert_allclose(
    jax.jit(made.nll)(params, batch, jax.random.key(0)).nats, -total, rtol=1e-5
  )


def test_probabilities_of_all_data_sum_to_one():
  spec = DataSpec('tiny', 'image', (2, 2, 1), 3, 2)
  made, _, params = built(spec, num=2)
  every = jnp.stack(jnp.meshgrid(*[jnp.arange(3)] * 4), -1).reshape(-1, 2, 2, 1)
  batch = {'x': every.astype(jnp.uint8), 'label': jnp.ones(81, jnp.int32)}
  nats = jax.jit(made.nll)(perturbed(params), batch, jax.random.key(0)).nats
  assert float(jnp.exp(-nats).sum()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize('size', [1, *slow([2])])
def test_loss_is_causal_by_gradient(size):
  """The loss of emission t depends on the embeddings of the emissions before t, and on no other."""
  config = small_config(ordering__size=size)
  ordering, net = method.build_model(config, DIGITS)
  batch = images(2)
  emissions = ordering.encode(batch['x'])
  params = perturbed(jax.jit(net.init)(jax.random.key(0), emissions)['params'])

  def losses(nudge):
    def run(net):
      start = net.embed_start(2, batch['label'])
      inputs = jnp.concatenate([start, net.embed(emissions)], 1) + nudge
      return net.project(net.network(inputs[:, :-1])[0])

    outputs = net.apply({'params': params}, method=run)
    return -net.head.log_prob(outputs, emissions).sum(0)

  nudge = jnp.zeros((ordering.length + 1, 32))
  influence = np.asarray(jnp.abs(jax.jit(jax.jacrev(losses))(nudge)).sum(-1))
  seen = np.tril(np.ones(influence.shape, bool))  # input i is the emission before emission i
  assert (influence[~seen] == 0).all()
  assert (influence[seen] > 0).all()


def test_padding_of_a_last_batch_does_not_count():
  made, batch, params = built()
  params = perturbed(params)
  weighted = batch | {'weight': jnp.array([1.0] * 5 + [0.0] * 3)}
  short = jax.tree.map(lambda x: x[:5], batch)
  one, aux = loss_of(made, params, weighted)
  two, _ = loss_of(made, params, short)
  assert float(one) == pytest.approx(float(two), rel=1e-6)
  assert float(aux.count) == 5 * 64


def test_classes_are_dropped_by_example_however_the_batch_is_split():
  made, batch, params = built(model__class_dropout=0.5)
  params = perturbed(params)

  def loss(start, stop):
    part = jax.tree.map(lambda x: x[start:stop], batch)
    return float(loss_of(made, params, part, 3, start)[0])

  assert loss(0, 8) == pytest.approx((loss(0, 4) + loss(4, 8)) / 2, rel=1e-6)
  evaluated = float(loss_of(made, params, batch, 3, training=False)[0])
  assert abs(loss(0, 8) - evaluated) > 1e-4


def test_dropout_acts_only_in_training():
  made, batch, params = built(network__dropout=0.3)
  params = perturbed(params)

  def loss(key, training):
    return float(loss_of(made, params, batch, key, training=training)[0])

  assert loss(0, True) != loss(1, True)
  assert loss(0, False) == loss(1, False)


def test_samples():
  made, _, params = built(ordering__size=2, model__class_dropout=0.1)
  params = perturbed(params, 0.1)
  request = Request(4, jnp.arange(4))
  samples = made.sample(params, jax.random.key(0), request)
  assert samples.x.shape == (4, 8, 8, 1)
  assert samples.x.dtype == jnp.uint8
  assert int(samples.x.max()) < 17
  assert samples.evaluations == 16
  again = made.sample(params, jax.random.key(0), request)
  np.testing.assert_array_equal(samples.x, again.x)
  other = made.sample(params, jax.random.key(1), request)
  assert (np.asarray(other.x) != np.asarray(samples.x)).any()
  guided = made.sample(params, jax.random.key(0), request._replace(options={'guidance': 2.0}))
  assert guided.evaluations == 32
  greedy = made.sample(params, jax.random.key(0), request._replace(options={'greedy': True}))
  cold = made.sample(params, jax.random.key(5), request._replace(options={'temperature': 0.0}))
  tight = made.sample(params, jax.random.key(6), request._replace(options={'top_p': 1e-9}))
  np.testing.assert_array_equal(greedy.x, cold.x)
  np.testing.assert_array_equal(greedy.x, tight.x)


@pytest.mark.parametrize(
  'one, other',
  [
    (
      dict(temperature=0.5, top_k=3, top_p=0.5, min_p=0.1, guidance=2.0),
      dict(temperature=2.0, top_k=5, top_p=0.9, min_p=0.3, guidance=1.5),
    ),
    (
      dict(greedy=True, repetition_penalty=2.0, frequency_penalty=0.5),
      dict(greedy=True, repetition_penalty=1.5, frequency_penalty=2.0),
    ),
    (dict(beams=2, length_penalty=0.0), dict(beams=2, length_penalty=2.0)),
  ],
)
def test_values_of_the_settings_do_not_recompile(one, other, caplog):
  """Nothing is compiled for other values, another key or another prompt."""
  spec = DataSpec('small', 'image', (4, 4, 1), 17, 10)
  made, batch, params = built(spec, num=4, model__class_dropout=0.1)
  mask = np.zeros((4, 4, 1), bool)
  mask[:2] = True

  def compiled(key, options):
    caplog.clear()
    past = batch['x'] if key else batch['x'][::-1]
    request = Request(4, jnp.arange(4), past=past, mask=mask, options=options)
    key = jax.random.key(key)
    with jax.log_compiles():
      made.sample(params, key, request)
    return caplog.text.count('Compiling')

  assert compiled(0, one) > 0
  assert compiled(1, other) == 0


def test_completion_of_the_lower_half():
  made, batch, params = built(num=2)
  mask = np.zeros((2, 8, 8, 1), bool)
  mask[0, :4], mask[1, :3] = True, True
  request = Request(2, batch['label'], past=batch['x'], mask=mask)
  samples = made.sample(params, jax.random.key(0), request)
  np.testing.assert_array_equal(np.asarray(samples.x)[mask], np.asarray(batch['x'])[mask])
  assert (np.asarray(samples.x)[~mask] != np.asarray(batch['x'])[~mask]).any()
  assert samples.evaluations == 64 - 24 + 1
  mask[0, :, :4] = True
  with pytest.raises(ConfigError, match='must be a beginning of the sequence'):
    made.sample(params, jax.random.key(0), request._replace(mask=mask))


@pytest.mark.parametrize(
  'options, message',
  [
    ({'top_q': 0.5}, "unknown sampling option 'top_q'"),
    ({'top_p': 0.0}, 'sampling.top_p'),
    ({'temperature': -0.1}, 'sampling.temperature'),
    ({'guidance': 2.0}, 'trained with model.class_dropout'),
  ],
)
def test_sampling_refuses(options, message):
  made, _, params = built(ordering__size=4)
  with pytest.raises(ConfigError, match=message) as error:
    made.sample(params, jax.random.key(0), Request(2, jnp.arange(2), options=options))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'overrides, message',
  [
    (dict(ordering__size=3), 'ordering.size=3 does not divide images of 8 x 8'),
    (dict(model__start='token'), "'token' carries no class, but the data has 10 classes"),
    (dict(model__tied=True, model__output_bias=True), 'projection of its own'),
    (dict(model__start='first'), "model.start='first' is unknown"),
    (dict(network__name='transfomer'), "did you mean 'transformer'"),
    (dict(head__name='categoric'), "did you mean 'categorical'"),
  ],
)
def test_build_refuses(overrides, message):
  with pytest.raises(ConfigError, match=message) as error:
    build(small_config(**overrides), DIGITS)
  assert '\n' not in str(error.value)


def test_without_classes_and_without_a_start():
  spec = DataSpec('plain', 'image', (4, 4, 1), 5)
  made, batch, params = built(spec, num=2, model__start='none')
  _, aux = loss_of(made, params, batch)
  assert float(aux.count) == 2 * 15
  with pytest.raises(ConfigError, match='needs a past'):
    made.sample(params, jax.random.key(0), Request(2))
  mask = np.zeros((4, 4, 1), bool)
  mask[0] = True
  samples = made.sample(params, jax.random.key(0), Request(2, past=batch['x'], mask=mask))
  np.testing.assert_array_equal(samples.x[:, 0], batch['x'][:, 0])


def test_guidance_needs_classes():
  spec = DataSpec('plain', 'image', (2, 2, 1), 5)
  made, _, params = built(spec, num=2, model__class_dropout=0.1)
  with pytest.raises(ConfigError, match='needs classes and a model trained with'):
    made.sample(params, jax.random.key(0), Request(2, options={'guidance': 2.0}))
