"""Forecasts of time series: causality, the cache, scales, and learning a wave."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from autoregressive.decoding.generate import generate
from autoregressive.decoding.runner import Runner
from autoregressive.decoding.sequences import Limits, Prompt
from autoregressive.method import build
from autoregressive.orderings import build_ordering
from common.config import ConfigError
from common.domains.forecasts.draws import forecast_request
from common.method import Request
from tests.autoregressive.common import DIGITS, perturbed
from tests.autoregressive.series import (
  CONTEXT,
  HORIZON,
  MASK,
  SPEC,
  loss_context,
  loss_of,
  series_config,
  series_method,
  series_model,
  windows,
)
from tests.cases import slow

LENGTH = CONTEXT + HORIZON


def settings_of(network):
  """Settings of a small transformer, or of another small network."""
  return {} if network == 'transformer' else dict(network=dict(name=network, width=16, layers=1))


@pytest.mark.parametrize('centred', [True, False])
def test_round_trip_and_the_location_and_scale_of_the_context(centred):
  ordering = build_ordering({'name': 'windows'}, SPEC, centred)
  x = windows(5)['x']
  covariates = ordering.covariates(x)
  emissions = ordering.encode(x, covariates)
  np.testing.assert_allclose(ordering.decode(emissions, covariates), x, rtol=1e-6)
  assert (ordering.length, ordering.given, ordering.features, ordering.counts) == (12, 8, 3, True)
  lengths = [CONTEXT, 3, 2, 1, 0]
  hidden = jnp.stack([x[i].at[n:, 0].set(np.nan) for i, n in enumerate(lengths)])
  found = ordering.covariates(hidden, jnp.array(lengths))
  for i, n in enumerate(lengths):
    seen = np.asarray(x[i, :n, 0], np.float64)
    mean = seen.mean() if n else 0.0
    location, scale = mean, (1 + np.abs(seen - mean).sum()) / (1 + n)
    if not centred:
      location, scale = 0.0, 1 + mean
    assert float(found.location[i]) == pytest.approx(location, rel=1e-6)
    assert float(found.scale[i]) == pytest.approx(scale, rel=1e-5)
  still = ordering.covariates(0 * x + 7.0)
  assert np.isfinite(still.scale).all() and (still.scale > 0).all()
  if centred:  # also far from the origin, and where only the last digits differ
    np.testing.assert_array_equal(ordering.encode(0 * x + 0.1, ordering.covariates(0 * x + 0.1)), 0)
    far = ordering.covariates(x + 2.0**16)
    np.testing.assert_allclose(far.scale, covariates.scale, rtol=1e-3)


@pytest.mark.parametrize('network', ['transformer', 'lstm'])
def test_forecasts_are_causal_by_gradient(network):
  """A value at j affects exactly the outputs > j, a covariate at j exactly the outputs >= j."""
  ordering, model, params = series_model(**settings_of(network))
  x = windows(1)['x']
  covariates = ordering.covariates(x)

  def outputs(values, features):
    moved = covariates._replace(features=features)
    return model.apply({'params': params}, values, covariates=moved)[0].sum(-1)

  by_value, by_feature = jax.jit(jax.jacrev(outputs, (0, 1)))(
    ordering.encode(x, covariates), covariates.features
  )
  seen = np.tril(np.ones((LENGTH, LENGTH), bool))
  by_value, by_feature = np.abs(by_value[:, 0]).sum(-1), np.abs(by_feature[:, 0]).sum(-1)
  assert (by_feature[~seen] == 0).all() and (by_feature[seen] > 0).all()
  before = np.tril(seen, -1)
  assert (by_value[~before] == 0).all() and (by_value[before] > 0).all()


def test_the_true_future_does_not_reach_its_own_prediction():
  """The scale depends only on the context: by the gradient of whole log-probabilities."""
  ordering, model, params = series_model()

  def nats(x):
    covariates = ordering.covariates(x)
    emissions = ordering.encode(x, covariates)
    outputs = model.apply({'params': params}, emissions, covariates=covariates)
    fixed = jax.lax.stop_gradient(emissions)  # the point at which densities are taken
    return model.head.log_prob(outputs, fixed, covariates.scale[:, None])[0]

  influence = np.abs(jax.jit(jax.jacrev(nats))(windows(1)['x'])[:, 0, :, 0])
  later = np.triu(np.ones((LENGTH, LENGTH), bool))
  assert (influence[:, CONTEXT:][later[:, CONTEXT:]] == 0).all()
  assert (influence[CONTEXT:, :CONTEXT] > 0).all()


@pytest.mark.parametrize('network', ['transformer', 'lstm'])
def test_decoding_step_by_step_is_one_pass(network):
  """Outputs with the cache, covariates and scale equal those without, teacher-forced."""
  ordering, model, params = series_model(**settings_of(network))
  x = windows(3)['x']
  covariates, label = ordering.covariates(x), jnp.arange(3)
  emissions = ordering.encode(x, covariates)
  whole = jax.jit(model.apply)({'params': params}, emissions, label, covariates=covariates)
  runner = Runner(model, params)
  prompt = Prompt(emissions[:, :CONTEXT], jnp.full(3, CONTEXT), label, covariates)
  inputs, cache = runner.prefill_prompt(prompt, CONTEXT, LENGTH)
  step = jax.jit(runner.extend)
  for i in range(CONTEXT, LENGTH):
    outputs, cache = step(inputs, cache)
    np.testing.assert_allclose(outputs[:, 0], whole[:, i], rtol=2e-4, atol=2e-5)
    inputs = runner.embed_at(emissions[:, i : i + 1], jnp.int32(i), covariates)


@pytest.mark.parametrize('head', ['student_t', *slow(['negative_binomial'])])
def test_log_probabilities_of_draws_are_those_of_one_pass(head):
  ordering, model, params = series_model(head=head)
  x, label = windows(3)['x'], jnp.arange(3)
  covariates = ordering.covariates(x)
  emissions = ordering.encode(x, covariates)
  keys = jax.random.split(jax.random.key(0), 3)

  def run(prefix, chunk=0):
    prompt = Prompt(emissions, jnp.full(3, CONTEXT), label, covariates)
    limits = Limits(prefix, chunk)
    return jax.jit(generate)(Runner(model, params), keys, prompt, {}, limits=limits)

  made = run(CONTEXT)
  outputs = jax.jit(model.apply)({'params': params}, made.emissions, label, covariates=covariates)
  expected = model.head.log_prob(outputs, made.emissions, covariates.scale[:, None])
  np.testing.assert_allclose(
    made.log_prob[:, CONTEXT:], expected[:, CONTEXT:], rtol=1e-3, atol=1e-3
  )
  np.testing.assert_array_equal(made.emissions[:, :CONTEXT], emissions[:, :CONTEXT])
  assert (made.log_prob[:, :CONTEXT] == 0).all()
  stepwise = run(2, chunk=1)  # the rest of the context is fed
  np.testing.assert_allclose(stepwise.emissions, made.emissions, rtol=1e-3, atol=1e-3)


def test_forecasts_do_not_depend_on_the_true_future():
  made, batch, params = series_method()
  hidden = batch['x'].at[:, CONTEXT:, 0].set(np.nan)
  ask = lambda x: made.sample(
    params, jax.random.key(0), Request(6, batch['label'], past=x, mask=MASK)
  )
  one, other = ask(batch['x']), ask(hidden)
  np.testing.assert_array_equal(one.x, other.x)
  assert np.isfinite(one.x).all() and one.evaluations == HORIZON + 1
  np.testing.assert_allclose(np.asarray(one.x)[:, MASK], np.asarray(batch['x'])[:, MASK], rtol=1e-6)


@pytest.mark.parametrize('head', ['gaussian', 'student_t', 'quantiles'])
def test_forecasts_do_not_depend_on_the_level_of_the_context(head):
  """Scales follow the context as soon as it is longer than a value; locations always do."""
  made, batch, params = series_method(head=head)
  moved = batch['x'].at[..., 0].add(1024.0)
  ask = lambda x: made.sample(
    params, jax.random.key(0), Request(6, batch['label'], past=x, mask=MASK)
  )
  one, other = (np.asarray(ask(x).x)[..., 0] for x in (batch['x'], moved))
  np.testing.assert_allclose(other - 1024, one, atol=2e-3)


@pytest.mark.parametrize('head', ['gaussian', 'student_t', 'negative_binomial'])
def test_the_likelihood_covers_only_the_horizon_and_follows_the_scale(head):
  """Nats of the forecast by scipy, from outputs that do not depend on the input."""
  made, batch, params = series_method(head=head)
  params = jax.tree.map(jnp.zeros_like, params)  # every output is 0
  nats, error, dims, *_ = jax.jit(made.nll)(params, batch, jax.random.key(0))
  past, truth = np.split(np.asarray(batch['x'][..., 0], np.float64), [CONTEXT], axis=1)
  mean = past.mean(1, keepdims=True)
  nu = (1 + np.abs(past - mean).sum(1, keepdims=True)) / (1 + CONTEXT)
  half = np.log(2)  # softplus(0)
  alpha = half / np.sqrt(1 + mean)
  expected = {
    'gaussian': lambda: stats.norm(mean, nu * half).logpdf(truth),
    'student_t': lambda: stats.t(2 + half, mean, nu * half).logpdf(truth),
    'negative_binomial': lambda: stats.nbinom(
      1 / alpha, 1 / (1 + alpha * (1 + mean) * half)
    ).logpmf(truth),
  }[head]()
  np.testing.assert_allclose(nats, -expected.sum(1), rtol=1e-4)
  assert (error == 0).all() and (dims == HORIZON).all()
  loss, aux = loss_of(made, params, batch, training=False)
  assert float(loss) == pytest.approx(-expected.mean(), rel=1e-4)
  assert float(aux.count) == 6 * HORIZON
  assert float(loss_of(made, params, batch, training=True)[1].count) == 6 * LENGTH


@pytest.mark.parametrize('head', ['gaussian', 'student_t'])
def test_densities_are_of_raw_values_in_their_own_unit(head):
  """The density of the one value to forecast integrates to 1 over raw values."""
  series = dataclasses.replace(
    SPEC.series, horizon=1, counts=False, origins=(1.7e9, 0.0, 0.0), units=(2.5e-4, 1.0, 1.0)
  )
  made, batch, params = series_method(dataclasses.replace(SPEC, series=series), head=head)
  stored = np.linspace(-300, 300, 6001)
  x = np.repeat(np.asarray(batch['x'][:1]), len(stored), 0)
  x[:, -1, 0] = stored
  label = np.zeros(len(stored), np.int32)
  nats = jax.jit(made.nll)(params, {'x': x, 'label': label}, jax.random.key(0)).nats
  distances = series.raw(stored, label) - series.origins[0]
  total = np.trapezoid(np.exp(-np.asarray(nats, np.float64)), distances)
  assert total == pytest.approx(1, abs=2e-3)


@pytest.mark.slow
def test_negative_binomial_forecasts_are_counts_around_their_mean():
  made, batch, params = series_method(head='negative_binomial')
  params = jax.tree.map(jnp.zeros_like, params)
  many = {k: jnp.repeat(v[:1], 2000, 0) for k, v in batch.items()}
  request = Request(2000, many['label'], past=many['x'], mask=MASK)
  drawn = np.asarray(made.sample(params, jax.random.key(0), request).x)[:, CONTEXT:, 0]
  nu = 1 + float(batch['x'][0, :CONTEXT, 0].mean())
  mean, alpha = nu * np.log(2), np.log(2) / np.sqrt(nu)
  assert (drawn == np.round(drawn)).all() and drawn.min() >= 0
  assert drawn.mean() == pytest.approx(mean, abs=5 * np.sqrt((mean + alpha * mean**2) / drawn.size))
  assert drawn.var() == pytest.approx(mean + alpha * mean**2, rel=0.1)


def test_a_quantile_head_has_no_likelihood_and_a_loss_in_units_of_the_scale():
  made, batch, params = series_method(head='quantiles')
  assert not made.has_likelihood
  moved = batch | {'x': batch['x'].at[..., 0].add(64.0)}
  losses = [float(loss_of(made, params, b, training=True)[0]) for b in (batch, moved)]
  assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def wave(num, seed):
  """Windows of sines of many sizes, with their phase as covariates."""
  rng = np.random.default_rng(seed)
  size, shift = 10 ** rng.uniform(0, 3, (num, 1)), rng.integers(0, 6, (num, 1))
  phase = 2 * np.pi * (np.arange(LENGTH) + shift) / 6
  x = np.stack([size * (2 + np.sin(phase)), np.sin(phase), np.cos(phase)], -1)
  return {'x': jnp.asarray(x, jnp.float32), 'label': jnp.zeros(num, jnp.int32)}


@pytest.mark.slow
def test_forecasts_of_a_wave_are_close_to_it():
  made, _, params = series_method()
  params = perturbed(jax.tree.map(jnp.zeros_like, params), 0.1)
  optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, 500))

  @jax.jit
  def train(params):
    def step(carry, key):
      params, state = carry
      size = 10 ** jax.random.uniform(key, (16, 1), maxval=3)
      shift = jax.random.randint(key, (16, 1), 0, 6)
      phase = 2 * jnp.pi * (jnp.arange(LENGTH) + shift) / 6
      x = jnp.stack([size * (2 + jnp.sin(phase)), jnp.sin(phase), jnp.cos(phase)], -1)
      batch = {'x': x, 'label': jnp.zeros(16, jnp.int32)}
      context = loss_context(params, 16)
      grads = jax.grad(lambda p: made.loss(p, (), batch, key, context)[0])(params)
      updates, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), 500)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

  batch = wave(20, 1)
  request = forecast_request(SPEC, batch, {'greedy': True})
  x = np.asarray(made.sample(train(params), jax.random.key(0), request).x)
  truth = np.asarray(batch['x'])[:, CONTEXT:, 0]
  error = np.abs(x[:, CONTEXT:, 0] - truth).mean() / np.abs(truth).mean()
  assert error < 0.05, error


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(past=None), 'a forecast needs a past'),
    (dict(mask=None), 'a forecast needs a mask'),
    (dict(mask=np.arange(LENGTH)[:, None] < CONTEXT), 'needs its covariates'),
    (dict(mask=MASK[::-1]), 'must be a beginning of the sequence'),
    (dict(options={'top_p': 0.5}), "it takes only 'greedy'"),
    (dict(options={'length': 20}), 'this data has a fixed length'),
    (dict(options={'beams': 2}), 'beam search needs emissions'),
  ],
)
def test_requests_that_are_not_forecasts_are_refused(change, message):
  made, batch, params = series_method()
  request = Request(6, batch['label'], past=batch['x'], mask=MASK)._replace(**change)
  with pytest.raises(ConfigError, match=message) as error:
    made.sample(params, jax.random.key(0), request)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'spec, settings, message',
  [
    (DIGITS, {}, "'windows' is for data of domain 'series', but 'digits' has domain 'image'"),
    (SPEC, dict(head='categorical'), "'categorical' does not suit emissions that are numbers"),
    (
      dataclasses.replace(SPEC, series=dataclasses.replace(SPEC.series, counts=False)),
      dict(head='negative_binomial'),
      'is over whole numbers from 0, but the data has other numbers',
    ),
    (SPEC, dict(model__start='none'), 'carries no class'),
  ],
)
def test_build_refuses(spec, settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    build(series_config(**settings), spec)
  assert '\n' not in str(error.value)
