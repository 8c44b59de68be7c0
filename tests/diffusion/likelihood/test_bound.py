"""The variational bound against published values and against data whose likelihood is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from common.config import ConfigError, component
from diffusion.likelihood import LIKELIHOODS, bound
from diffusion.likelihood.bound import variational_bound as terms_of
from diffusion.predictions import Pair, expand
from diffusion.processes import build

KEY = jax.random.key(0)
LEVELS = 5
CENTRES = np.linspace(-1, 1, LEVELS)
SHARES = np.array([0.4, 0.05, 0.1, 0.25, 0.2])


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def perfect(process, shares=SHARES, variance=None):
  """The posterior mean for data of independent dimensions, each a level with these odds."""

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
  run = jax.jit(lambda x0: terms_of(process, denoise, x0, LEVELS, keys, variance, terms=terms))
  return run(x0)


def entropy(x0):
  """−log P of each example under the true distribution."""
  return np.log(1 / SHARES)[np.searchsorted(CENTRES, np.asarray(x0))].sum(axis=1)


@pytest.mark.parametrize(
  'settings',
  [
    {'name': 'vp_linear'},
    {'name': 'cosine'},
    {'name': 'sub_vp'},
    {'name': 've'},
    {'name': 'edm'},
    {'name': 'rectified_flow'},
    {'name': 'gvp'},
    {'name': 'learned', 'log_snr_min': -9.0, 'width': 16},
  ],
  ids=lambda settings: settings['name'],
)
def test_bound_is_tight_for_the_perfect_model_of_any_process(settings):
  process = build(settings)
  process = process.at(process.init(KEY)) if process.bind else process
  x0, keys = data(600), jax.random.split(KEY, 600)

  def bound_of(shares):
    model = perfect(process, shares)
    return terms_of(process, model, x0, LEVELS, keys, 'fixed_small', terms=512)

  # Compiled once for both models, and optimised: here most of the time is in running.
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
  # Another model pays for it the divergence of its distribution from the true one.
  wrong = bound_of(np.full(LEVELS, 1 / LEVELS))
  cost = np.mean(np.log(LEVELS) * x0.shape[1] - entropy(x0))
  assert float(jnp.mean(wrong.total - parts.total)) == pytest.approx(cost, abs=0.1)


@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large', 'learned'])
@pytest.mark.parametrize('steps', [2, 50])
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


def test_a_sample_of_the_terms_estimates_their_sum():
  process = build({'name': 'ddpm', 'steps': 50})
  x0 = jnp.tile(data(1), (600, 1))
  whole = nats(process, perfect(process), x0, 49)
  some = nats(process, perfect(process), x0, 10)
  error = np.hypot(np.asarray(some.total).std(), np.asarray(whole.total).std()) / np.sqrt(600)
  assert abs(float(some.total.mean() - whole.total.mean())) < 4 * error
  # One example, many times: the stated error is the true spread, or above.
  for parts in (whole, some):
    stated = np.sqrt(np.mean(np.asarray(parts.standard_error) ** 2))
    spread = np.asarray(parts.total).std()
    assert 0.9 * spread < stated < 1.6 * spread


def test_discretized_normal():
  """The published values are by a tanh approximation of the normal's distribution function."""
  value = lambda x, mean, log_std: (
    -float(
      bound.discretized_normal_nats(jnp.asarray([[x]]), jnp.asarray([[mean]]), log_std, 256)[0, 0]
    )
  )
  assert value(0.0, 0.0, -4.0) == pytest.approx(-1.774709034, abs=5e-4)
  assert value(0.0, 0.0, -1.0) == pytest.approx(-4.76707393, abs=5e-4)
  assert value(1.0, 0.9, -2.0) == pytest.approx(-1.431477299, abs=5e-4)
  assert value(-1.0, -0.9, -2.0) == pytest.approx(-1.431477299, abs=5e-4)


def test_discretized_normal_is_a_distribution_and_far_tails_are_finite():
  levels = jnp.linspace(-1, 1, 17)[:, None]
  for mean, log_std in ((0.3, -2.0), (-2.0, 0.5), (0.999, -6.0)):
    nats = bound.discretized_normal_nats(levels, jnp.full((17, 1), mean), log_std, 17)
    assert float(jnp.exp(-nats).sum()) == pytest.approx(1, rel=1e-6)
  far = lambda x: bound.discretized_normal_nats(x, jnp.ones((1, 1), x.dtype), -4.0, 256)[0, 0]
  for x in (jnp.full((1, 1), -0.5), jnp.full((1, 1), -0.5, jnp.float32)):
    # Mills' ratio: −log mass ≈ z²/2 at z = (1.5 − half)/e⁻⁴.
    z = (1.5 - 1 / 255) * np.exp(4)
    assert float(far(x)) == pytest.approx(z**2 / 2 + np.log(z * np.sqrt(2 * np.pi)), rel=1e-3)
    assert bool(
      jnp.isfinite(
        jax.grad(lambda m, x=x: bound.discretized_normal_nats(x, m, -4.0, 256)[0, 0])(
          jnp.ones((1, 1), x.dtype)
        )
      ).all()
    )


def test_prior():
  """KL of the ends of DDPM and VDM against a standard normal, as published."""
  at_end = lambda process, x: float(
    bound.prior_nats(process, jnp.full((1, 1), x), jnp.asarray(process.t_max))[0]
  )
  assert at_end(build({'name': 'ddpm'}), 1.0) / np.log(2) == pytest.approx(
    2.911294542e-05, rel=1e-8
  )
  vdm = build({'name': 'learned'})
  assert at_end(vdm, 0.0) == pytest.approx(1.124878242e-05, rel=1e-6)
  assert at_end(vdm, 1.0) == pytest.approx(0.003357674245, rel=1e-8)
  # The exploding process's prior is N(0, σ_max²): its data costs x²/(2·σ_max²).
  assert at_end(build({'name': 'edm'}), 1.0) == pytest.approx(0.5 / 80**2, rel=1e-8)


def test_reverse_step_is_ddpms_posterior():
  process = build({'name': 'ddpm'})
  t = jnp.asarray([2, 3, 501, 1000]) / 1000
  s = t - 1 / 1000
  one, zero = jnp.ones((4, 1)), jnp.zeros((4, 1))
  mean_x0, log_variance = bound.reverse_step(process, zero, one, t, s)
  mean_x, _ = bound.reverse_step(process, one, zero, t, s)
  np.testing.assert_allclose(
    jnp.exp(log_variance), [5.453187661e-05, 8.548911523e-05, 0.01005133578, 0.01999998353], 1e-8
  )
  np.testing.assert_allclose(
    mean_x0[jnp.array([0, 2, 3]), 0], [0.5452914995, 0.003058057076, 0.0001283514872], 1e-7
  )
  np.testing.assert_allclose(
    mean_x[jnp.array([0, 2, 3]), 0], [0.454708499, 0.9941043508, 0.9899486783], 1e-8
  )


def test_reverse_log_variances():
  process = build({'name': 'ddpm'})
  t = jnp.asarray([1, 2, 1000]) / 1000
  s = t - 1 / 1000
  like = jnp.zeros((3, 1))
  spread = lambda variance, share=like: bound.reverse_log_variance(process, t, s, variance, share)
  np.testing.assert_allclose(
    spread('fixed_small')[:, 0], [-9.816725135, -9.816725135, -3.912023829], rtol=1e-8
  )
  large = np.log([5.453187661e-05, 0.0001199199199, 0.02])
  np.testing.assert_allclose(spread('fixed_large')[:, 0], large, rtol=1e-8)
  np.testing.assert_allclose(spread('learned', like), spread('fixed_small'), rtol=1e-8)
  betas = np.log([1e-4, 0.0001199199199, 0.02])
  np.testing.assert_allclose(spread('learned', like + 1)[:, 0], betas, rtol=1e-8)
  halfway = 0.5 * (betas + np.asarray(spread('fixed_small'))[:, 0])
  np.testing.assert_allclose(spread('learned', like + 0.5)[:, 0], halfway, rtol=1e-8)


def test_step_is_the_kl_of_two_gaussians():
  process = build({'name': 'ddpm', 'schedule': 'cosine', 'steps': 20})
  rng = np.random.default_rng(0)
  x0, x, guess = (jnp.asarray(rng.normal(size=(3, 2))) for _ in range(3))
  t = jnp.asarray([0.1, 0.5, 1.0])
  got = bound.step_nats(process, Pair(guess, x), x, x0, t, 256, 'fixed_large')
  true_mean, true = bound.reverse_step(process, x, x0, t, t - 0.05)
  mean, _ = bound.reverse_step(process, x, guess, t, t - 0.05)
  model = bound.reverse_log_variance(process, t, t - 0.05, 'fixed_large', x)
  at = np.linspace(-12, 12, 20_001)[:, None, None] * np.exp(0.5 * np.asarray(true))[:, None]
  logpdf = lambda mean, log_variance: scipy.stats.norm.logpdf(
    at + np.asarray(true_mean), np.asarray(mean), np.exp(0.5 * np.asarray(log_variance))
  )
  true_log = logpdf(true_mean, np.asarray(true)[:, None])
  kl = np.exp(true_log) * (true_log - logpdf(mean, model)) * (at[1] - at[0])
  np.testing.assert_allclose(kl.sum(axis=(0, 2)), got, rtol=1e-6)


def test_categorical_reconstruction():
  process = build({'name': 'rectified_flow'})
  t = jnp.asarray(0.3)
  z = jnp.asarray([[0.2, -1.4, 0.9]])
  x0 = jnp.asarray([[CENTRES[2], CENTRES[0], CENTRES[4]]])
  logits = -0.5 * ((np.asarray(z)[..., None] - 0.7 * CENTRES) / 0.3) ** 2
  expected = scipy.special.logsumexp(logits, axis=-1) - logits[0, [0, 1, 2], [2, 0, 4]]
  got = bound.categorical_nats(process, x0, z, t, LEVELS)
  np.testing.assert_allclose(got, expected.sum(axis=-1), rtol=1e-9)


def test_likelihood_by_name():
  process, x0 = build({'name': 'cosine'}), data(50)
  keys = jax.random.split(KEY, 50)
  estimate = component(LIKELIHOODS, {'name': 'vlb', 'terms': 8}, 'likelihood')
  got = estimate(process, perfect(process), x0, LEVELS, keys, 'fixed_small')
  parts = terms_of(process, perfect(process), x0, LEVELS, keys, 'fixed_small', terms=8)
  np.testing.assert_allclose(got.nats, parts.total)
  assert list(got.parts) == ['prior', 'diffusion', 'reconstruction']
  assert got.parts['diffusion'].shape == (50, 8)
  np.testing.assert_allclose(got.nats, sum(terms.sum(axis=1) for terms in got.parts.values()))
  with pytest.raises(ConfigError, match='at least 2'):
    component(LIKELIHOODS, {'name': 'vlb', 'terms': 1}, 'likelihood')
