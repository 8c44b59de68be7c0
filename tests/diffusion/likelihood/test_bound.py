"""The variational bound against published values and against data whose likelihood is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError, component
from diffusion.likelihood import LIKELIHOODS
from diffusion.likelihood.bound import variational_bound
from diffusion.predictions import Pair, expand
from diffusion.processes import build
from tests.cases import mostly_slow, slow

KEY = jax.random.key(0)
LEVELS = 5
CENTRES = np.linspace(-1, 1, LEVELS)
SHARES = np.array([0.4, 0.05, 0.1, 0.25, 0.2])


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def perfect(process, shares=SHARES, variance=None):
  """The posterior mean for data of independent dimensions, each a level with these shares."""

  def denoise(x, t):
    alpha, sigma = expand(process.alpha(t), x)[..., None], expand(process.sigma(t), x)[..., None]
    centres = jnp.asarray(CENTRES)
    logits = jnp.log(jnp.asarray(shares)) - 0.5 * ((x[..., None] - alpha * centres) / sigma) ** 2
    clean = jax.nn.softmax(logits) @ centres
    eps = (x - alpha[..., 0] * clean) / sigma[..., 0]
    return Pair(clean, eps, variance if variance is None else jnp.full_like(x, variance))

  return denoise


def data(number, dims=6, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.choice(CENTRES, p=SHARES, size=(number, dims)))


def nats(process, denoise, x0, terms, variance='fixed_small'):
  keys = jax.random.split(KEY, len(x0))
  run = jax.jit(
    lambda x0: variational_bound(process, denoise, x0, LEVELS, keys, variance, terms=terms)
  )
  return run(x0)


def entropy(x0):
  """−log P of each example under the true distribution."""
  return np.log(1 / SHARES)[np.searchsorted(CENTRES, np.asarray(x0))].sum(axis=1)


@pytest.mark.parametrize(
  'settings',
  [
    {'name': 've'},
    {'name': 'rectified_flow'},
    *slow([{'name': 'cosine'}, {'name': 'learned', 'log_snr_min': -9.0, 'width': 16}]),
    *slow([{'name': 'vp_linear'}, {'name': 'sub_vp'}, {'name': 'edm'}, {'name': 'gvp'}]),
  ],
  ids=lambda settings: settings['name'],
)
def test_bound_is_tight_for_the_perfect_model_of_any_process(settings):
  process = build(settings)
  process = process.at(process.init(KEY))
  x0, keys = data(600), jax.random.split(KEY, 600)

  def bound_of(shares):
    model = perfect(process, shares)
    return variational_bound(process, model, x0, LEVELS, keys, 'fixed_small', terms=512)

  # Compiled once for both models, and optimised: running takes longer than compiling.
  bound_of = jax.jit(bound_of, compiler_options={'xla_backend_optimization_level': 1})
  parts = bound_of(SHARES)
  gap = np.asarray(parts.total) - entropy(x0)
  spread = gap.std() / np.sqrt(len(x0))
  assert spread < 0.04  # of 8.5 nats
  assert abs(gap.mean()) < 3.5 * spread
  stated = np.sqrt(np.sum(np.asarray(parts.standard_error) ** 2)) / len(x0)
  assert stated == pytest.approx(spread, rel=0.2)
  assert float(jnp.max(jnp.abs(parts.reconstruction))) < 1e-3
  assert float(jnp.max(jnp.abs(parts.prior))) < 2e-3
  # Another model costs more, by the divergence of its distribution from the true one.
  wrong = bound_of(np.full(LEVELS, 1 / LEVELS))
  cost = np.mean(np.log(LEVELS) * x0.shape[1] - entropy(x0))
  assert float(jnp.mean(wrong.total - parts.total)) == pytest.approx(cost, abs=0.1)


@pytest.mark.parametrize(
  ('steps', 'variance'),
  mostly_slow(
    itertools.product([2, 50], ['fixed_small', 'fixed_large', 'learned']), [(2, 'learned')]
  ),
)
def test_discrete_bound_is_above_the_entropy_and_tightens(steps, variance):
  process = build({'name': 'ddpm', 'schedule': 'cosine', 'steps': steps})
  x0 = data(200)
  denoise = perfect(process, variance=0.3)
  parts = nats(process, denoise, x0, steps, variance)
  gap = np.asarray(parts.total) - entropy(x0)
  spread = gap.std() / np.sqrt(len(x0))
  assert gap.mean() > -3 * spread
  if variance == 'fixed_small' and steps == 50:
    finer = build({'name': 'ddpm', 'schedule': 'cosine', 'steps': 200})
    close = np.asarray(nats(finer, perfect(finer), x0, 200).total) - entropy(x0)
    assert close.mean() < 0.5 * gap.mean()
    assert close.mean() > -3 * close.std() / np.sqrt(len(x0))


@pytest.mark.slow
def test_terms_of_a_constant_estimate():
  """Whatever the noise, L_(t−1) = ½·(SNR_s − SNR_t)·‖x0 − x̂0‖²; the terms stand in order."""
  process = build({'name': 'ddpm', 'schedule': 'cosine', 'steps': 5})
  x0 = data(3)
  constant = lambda x, t: Pair(jnp.full_like(x, 0.3), x)
  parts = variational_bound(
    process, constant, x0, LEVELS, jax.random.split(KEY, 3), 'fixed_small', terms=5
  )
  snr = np.exp(np.asarray(process.log_snr(jnp.arange(1, 6) / 5)))
  square = ((np.asarray(x0) - 0.3) ** 2).sum(axis=1, keepdims=True)
  np.testing.assert_allclose(parts.diffusion, 0.5 * square * -np.diff(snr), rtol=1e-6)


def test_a_table_of_two_steps_has_a_standard_error():
  """One step between the first and the last term, drawn twice."""
  process = build({'name': 'ddpm', 'schedule': 'cosine', 'steps': 2})
  parts = nats(process, perfect(process), jnp.tile(data(1), (400, 1)), 32)
  assert parts.diffusion.shape == (400, 2)
  assert (np.asarray(parts.standard_error) > 0).all()
  stated = np.sqrt(np.mean(np.asarray(parts.standard_error) ** 2))
  assert stated == pytest.approx(np.asarray(parts.total).std(), rel=0.2)


@pytest.mark.slow
def test_a_sample_of_the_terms_estimates_their_sum():
  process = build({'name': 'ddpm', 'steps': 50})
  x0 = jnp.tile(data(1), (600, 1))
  whole = nats(process, perfect(process), x0, 49)
  some = nats(process, perfect(process), x0, 10)
  error = np.hypot(np.asarray(some.total).std(), np.asarray(whole.total).std()) / np.sqrt(600)
  assert abs(float(some.total.mean() - whole.total.mean())) < 4 * error
  # One example, repeated: the stated error is about the true spread, or larger.
  for parts in (whole, some):
    stated = np.sqrt(np.mean(np.asarray(parts.standard_error) ** 2))
    spread = np.asarray(parts.total).std()
    assert 0.9 * spread < stated < 1.6 * spread


def test_likelihood_by_name():
  process, x0 = build({'name': 'cosine'}), data(50)
  keys = jax.random.split(KEY, 50)
  estimator = component(LIKELIHOODS, {'name': 'vlb', 'terms': 8}, 'likelihood')
  got = estimator.estimate(process, perfect(process), x0, LEVELS, keys, 'fixed_small')
  parts = variational_bound(process, perfect(process), x0, LEVELS, keys, 'fixed_small', terms=8)
  np.testing.assert_allclose(got.nats, parts.total)
  assert list(got.parts) == ['prior', 'diffusion', 'reconstruction']
  assert got.parts['diffusion'].shape == (50, 8)
  np.testing.assert_allclose(got.nats, sum(terms.sum(axis=1) for terms in got.parts.values()))
  with pytest.raises(ConfigError, match=r'in \[2, 100000\]'):
    component(LIKELIHOODS, {'name': 'vlb', 'terms': 1}, 'likelihood')
