"""The VAE: its bound against a known marginal, its loss however a batch is split, its samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from common.baselines import vae
from common.baselines.vae.method import Objective
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import Request
from tests.common.baselines.vae.toy import (
  KEY,
  NUM,
  SPEC,
  B,
  S,
  W,
  batch,
  built,
  config,
  context,
  linear,
)


def true_nats(x, latents=2):
  w = W[:, :latents]
  return -stats.multivariate_normal(B, w @ w.T + S**2 * np.eye(3)).logpdf(x)


def numbers(num):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(num, 2)) @ W.T + B + S * rng.normal(size=(num, 3))
  return x.astype(np.float32)


def test_the_bound_is_above_the_known_marginal_and_closes_with_more_samples():
  x = numbers(500)
  gaps, errors = [], []
  for samples in (2, 16, 256):
    method, params = linear(samples)
    found = jax.jit(method.nll)(params, {'x': jnp.asarray(x)[:, None, None]}, KEY)
    gap = np.asarray(found.nats, np.float64) - true_nats(x)
    gaps.append(gap.mean())
    errors.append(gap.std() / np.sqrt(len(x)))
    # The standard error is that of the estimate: the estimates of 500 examples scatter by it.
    if samples == 256:
      z = gap / np.asarray(found.standard_error)
      assert 0.8 < z.std() < 1.2
  assert gaps[0] > gaps[1] + 3 * errors[1] > 0
  assert abs(gaps[2]) < 4 * errors[2] + 0.02


def test_with_the_true_posterior_every_weight_is_the_marginal():
  x = numbers(50)
  method, params = linear(samples=3, latents=1)
  found = method.nll(params, {'x': jnp.asarray(x)[:, None, None]}, KEY)
  np.testing.assert_allclose(found.nats, true_nats(x, latents=1), rtol=1e-5)
  np.testing.assert_allclose(found.standard_error, 0, atol=2e-3)


def test_the_divergence_is_the_mean_of_the_log_ratio():
  method, params = built()
  features = method.model.features(params, batch()['x'], None) + 0.3
  keys = jax.random.split(KEY, 4000)
  each = jax.jit(jax.vmap(lambda k: method.model.latents.encode(params, features[:1], k[None])))(
    keys
  )
  ratios = jax.vmap(lambda z: method.model.latents.log_ratio(params, features[:1], z))(each.z)[:, 0]
  error = float(ratios.std()) / np.sqrt(len(ratios))
  assert abs(float(-ratios.mean() - each.kl[0].sum())) < 4 * error


@pytest.mark.parametrize('kind', ['gaussian', 'codes'])
def test_loss_is_the_same_however_the_batch_is_split(kind):
  method, params = built(kind)
  loss = jax.jit(lambda data, index: method.loss(params, (), data, KEY, context(params, index)))
  data, index = batch(), jnp.arange(NUM)
  whole, _ = loss(data, index)
  order = jnp.asarray(np.random.default_rng(0).permutation(NUM))
  parts = []
  for chosen in (order[:8], order[8:]):
    parts.append(loss(jax.tree.map(lambda v, c=chosen: v[c], data), chosen)[0])
  assert float(sum(parts)) / 2 == pytest.approx(float(whole), rel=1e-5)


def test_padding_has_no_weight():
  method, params = built()
  data = batch()
  data['weight'] = (jnp.arange(NUM) < 5).astype(jnp.float32)
  other = data | {'x': data['x'].at[5:].set(0)}
  losses = [method.loss(params, (), d, KEY, context(params))[0] for d in (data, other)]
  assert float(losses[0]) == float(losses[1])


def test_the_loss_is_the_bound_in_nats_and_its_terms_add_up():
  method, params = built()
  loss, aux = method.loss(params, (), batch(), KEY, context(params))
  metrics = {k: float(v) for k, v in aux.metrics.items()}
  assert float(loss) == pytest.approx(metrics['bits_per_dim'] * np.log(2), rel=1e-5)
  total = metrics['distortion'] + metrics['rate']
  assert metrics['bits_per_dim'] == pytest.approx(total, rel=1e-5)


def test_free_bits_beta_and_warm_up_weigh_the_divergence():
  data = {'x': jnp.asarray(numbers(NUM))[:, None, None]}

  def loss_of(step=0, training=True, warmup_steps=0, **objective):
    method, params = linear(objective=Objective(**objective), warmup_steps=warmup_steps)
    value, _ = method.loss(params, (), data, KEY, context(params, step=step, training=training))
    return float(value)

  reconstruction, whole = loss_of(beta=0.0), loss_of()
  rate = whole - reconstruction
  assert rate > 0.1
  assert loss_of(beta=2.0) == pytest.approx(reconstruction + 2 * rate, rel=1e-5)
  # Every channel of every example is below 1,000 nats: two channels, three dimensions.
  assert loss_of(free_bits=1000.0) == pytest.approx(reconstruction + 2000 / 3, rel=1e-5)
  for step, share in ((0, 0), (5, 0.5), (10, 1), (20, 1)):
    found = loss_of(step=step, warmup_steps=10)
    assert found == pytest.approx(reconstruction + share * rate, rel=1e-5)
  assert loss_of(step=0, training=False, warmup_steps=10) == pytest.approx(whole, rel=1e-6)


def test_the_warm_up_is_a_length_like_any_other():
  made = config(objective__warmup='25%', train__steps='200')
  assert vae.build(made, SPEC).warmup_steps == 50


@pytest.mark.parametrize('kind', ['gaussian', 'codes'])
def test_the_first_samples_do_not_depend_on_their_number(kind):
  method, params = built(kind)
  few, many = (np.asarray(method.draw(params, KEY, Request(num)).x) for num in (3, 8))
  assert few.shape == (3, 4, 4, 1) and few.dtype == np.uint8
  np.testing.assert_array_equal(few, many[:3])
  drawn = method.draw(params, KEY, Request(8, options={'pixels': 'draw'})).x
  assert (np.asarray(drawn) != many).any()


def test_an_interpolation_begins_and_ends_with_reconstructions():
  method, params = built()
  past = batch()['x'][:6]
  tasks = {
    task: np.asarray(method.draw(params, KEY, Request(6, past=past, options={'task': task})).x)
    for task in ('reconstruct', 'interpolate')
  }
  for end in (0, -1):
    np.testing.assert_array_equal(tasks['interpolate'][end], tasks['reconstruct'][end])
  assert method.draw(params, KEY, Request(2)).evaluations == 1


def test_classes_condition_encoder_and_decoder():
  method, params = built(conditional=True)
  table = params['network']['decoder']['label_embed']
  table['embedding'] = table['embedding'] * 100
  one, other = (
    np.asarray(method.draw(params, KEY, Request(4, jnp.full(4, label))).x) for label in (0, 1)
  )
  assert (one != other).any()
  with pytest.raises(ConfigError, match='needs a class'):
    method.check_request(None, Request(4))


def test_only_whole_numbers_have_a_likelihood():
  assert built()[0].has_likelihood
  assert not linear()[0].has_likelihood


def test_the_bound_of_codes_is_exact():
  method, params = built('codes')
  found = method.nll(params, batch(), KEY)
  assert float(np.abs(found.standard_error).max()) == 0
  _, aux = method.loss(params, (), batch(), KEY, context(params))
  bits = float(found.nats.mean()) / SPEC.num_dims / np.log(2)
  assert bits == pytest.approx(float(aux.metrics['bits_per_dim']), rel=1e-5)
  assert float(aux.metrics['rate']) == pytest.approx(4 * np.log2(128) / 16, rel=1e-5)


@pytest.mark.parametrize(
  'changes, spec, message',
  [
    (dict(network__multipliers=(1, 2, 2, 2)), SPEC, 'multiples of 8, got 4x4'),
    (dict(latent__name='discrete'), SPEC, "unknown latent 'discrete'"),
    (dict(pixels__name='bernoulli'), SPEC, "unknown pixels 'bernoulli'"),
    (dict(), DataSpec('text', 'text', (9,), 12), 'takes images'),
    (dict(latent=dict(name='codes'), objective__beta=0.5), SPEC, 'have no effect on codes'),
  ],
)
def test_refusals(changes, spec, message):
  with pytest.raises(ConfigError, match=message):
    vae.build(config(**changes), spec)


@pytest.mark.parametrize(
  'request_, message',
  [
    (Request(2, options={'steps': 4}), "unknown sampling option 'steps'"),
    (Request(2, options={'temperature': -1.0}), 'option temperature=-1.0'),
    (Request(2, options={'task': 'reconstruct'}), 'needs given images'),
    (Request(2, label=jnp.zeros(2, jnp.int32)), 'knows no classes'),
    (
      Request(2, past=batch()['x'][:2], options={'task': 'reconstruct', 'temperature': 0.5}),
      'has no effect on task',
    ),
  ],
)
def test_requests_that_are_refused(request_, message):
  with pytest.raises(ConfigError, match=message):
    built()[0].check_request(None, request_)


def test_codes_have_no_temperature():
  with pytest.raises(ConfigError, match='no effect on codes'):
    built('codes')[0].check_request(None, Request(2, options={'temperature': 0.5}))
