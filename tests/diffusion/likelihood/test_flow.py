"""Likelihood of the probability flow on Gaussian data, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from common.config import ConfigError, component
from diffusion.likelihood import LIKELIHOODS, flow
from diffusion.processes import build
from tests.cases import mostly_slow, slow
from tests.diffusion import exact

KEY = jax.random.key(0)
DIM = 3
ENTROPY = 2.047095585  # bits per dimension of a standard normal


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def log_density(process, data, z, probes=None, **settings):
  settings = {'rtol': 1e-7, 'atol': 1e-7} | settings
  run = jax.jit(
    lambda z: flow.flow_log_density(process, data.denoiser(process), z, probes, **settings)
  )
  return run(z)


@pytest.mark.parametrize(
  'name', [*slow(['vp_linear', 'sub_vp', 've']), 'edm', 'rectified_flow', 'ddpm']
)
def test_exact_trace_gives_the_marginal_at_t_min(name):
  """For N(0, C) data: log N(z; 0, α²·C + σ²) at every z, up to the prior's terminal SNR."""
  process = build({'name': name})
  data = exact.GAUSSIAN._replace(means=np.zeros((1, 2)))
  t = jnp.asarray(process.t_min)
  alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
  z = data.noisy(process, process.t_min, 8)
  covariance = alpha**2 * data.covariance + sigma**2 * np.eye(2)
  truth = scipy.stats.multivariate_normal(np.zeros(2), covariance).logpdf(z)
  got = log_density(process, data, z)
  # The error of the prior is of the order of the terminal SNR: 1/2500 for ve.
  np.testing.assert_allclose(got.values[0], truth, atol=1e-3 if name in ('ve', 'edm') else 1e-4)
  assert 5 < int(got.steps) < 500


@pytest.mark.slow
@pytest.mark.parametrize('name', [*slow(['vp_linear']), 'edm'])
def test_bits_per_dimension_of_a_standard_normal(name):
  """The mean of −log₂ p over N(0, I), from the moments of x: the entropy, to 1e-4."""
  process, data = build({'name': name}), exact.isotropic(1.0, DIM)
  # Points ±√DIM along each axis have the mean square of N(0, I), and log p is quadratic.
  z = np.sqrt(DIM) * jnp.concatenate([jnp.eye(DIM), -jnp.eye(DIM)])
  bits = -log_density(process, data, z).values[0].mean() / DIM / np.log(2)
  assert float(bits) == pytest.approx(ENTROPY, abs=1e-4)
  at_zero = -log_density(process, data, jnp.zeros((1, DIM))).values[0, 0] / DIM / np.log(2)
  # The prior N(0, 80²) is narrower than the marginal, of variance 1 + 80²: hence the tolerance.
  assert float(at_zero) == pytest.approx(1.325748065, abs=2e-4)


def test_prior_has_the_width_of_the_noise_at_the_end():
  """E log p = E log N(x_T; 0, σ_max²) + ½ log of how the flow widens N(0, 1), at σ_max = 100."""
  process, data = build({'name': 'edm', 'sigma_max': 100.0}), exact.isotropic(1.0)
  spread = 1 + process.t_min**2
  z = np.sqrt(spread) * jnp.asarray([[1.0], [-1.0]])  # of the mean square of the marginal
  got = log_density(process, data, z).values[0].mean() - 0.5 * np.log((1 + 1e4) / spread)
  assert float(got) == pytest.approx(-6.024158719, abs=1e-5)


@pytest.mark.parametrize('probe', mostly_slow(flow.PROBES, ['gaussian']))
def test_hutchinson_is_within_its_standard_error(probe):
  process = build({'name': 'vp_linear'})
  z = exact.MIXTURE.noisy(process, process.t_min, 4)
  truth = np.asarray(log_density(process, exact.MIXTURE, z).values[0])
  number = 400
  keys = jax.random.split(KEY, number)
  draw = lambda key: flow.PROBES[probe](jax.random.split(key, 4), z)
  probes = jax.vmap(draw)(keys)
  values = np.asarray(log_density(process, exact.MIXTURE, z, probes, rtol=1e-5, atol=1e-5).values)
  error = values.std(axis=0, ddof=1) / np.sqrt(number)
  assert (error > 1e-3).all()  # the estimate is not exact
  assert (np.abs(values.mean(axis=0) - truth) < 4 * error).all()


@pytest.mark.slow
def test_rademacher_is_exact_where_the_jacobian_is_diagonal():
  process, data = build({'name': 'vp_linear'}), exact.isotropic(0.6, DIM)
  z = jnp.asarray(np.random.default_rng(0).normal(size=(2, DIM)))
  probes = flow.PROBES['rademacher'](jax.random.split(KEY, 2), z)[None]
  np.testing.assert_allclose(
    log_density(process, data, z, probes).values, log_density(process, data, z).values, atol=1e-5
  )


def test_one_evaluation_and_one_pull_back_per_right_hand_side():
  """The right-hand side calls the network once, for any number of probes."""
  process, calls = build({'name': 'vp_linear'}), []
  denoise = exact.isotropic(1.0, DIM).denoiser(process)

  def counted(x, t):
    calls.append(1)
    return denoise(x, t)

  field = flow.FlowField(process, counted, jnp.ones((5, 2, DIM)))
  field(jnp.asarray(0.5), (jnp.ones((2, DIM)), jnp.zeros((5, 2))), None)
  assert len(calls) == 1


def test_running_out_of_steps_is_nan():
  process = build({'name': 'vp_linear'})
  got = log_density(process, exact.GAUSSIAN, jnp.zeros((2, 2)), max_steps=3)
  assert np.isnan(got.values).all()


def estimate(process, data, x0, levels, **settings):
  likelihood = component(LIKELIHOODS, {'name': 'flow', **settings}, 'likelihood')
  keys = jax.random.split(KEY, len(x0))
  run = jax.jit(
    lambda x0: likelihood.estimate(process, data.denoiser(process), x0, levels, keys, 'fixed_small')
  )
  return run(x0)


@pytest.mark.parametrize('dequantization', mostly_slow(flow.DEQUANTIZATIONS, ['variational']))
def test_discrete_likelihood_is_bounded_and_importance_samples_tighten_it(dequantization):
  """The mass that a Gaussian model gives to each of 9 cells is known."""
  process = build({'name': 'rectified_flow', 't_min': 0.1})
  data, levels = exact.isotropic(0.35, 2), 9
  x0 = jnp.repeat(jnp.asarray([[0.0, 0.25], [0.75, -0.5]]), 60, axis=0)
  spread = np.hypot(0.9 * 0.35, 0.1)
  edges = 0.9 * (np.asarray(x0)[::60, :, None] + np.array([-0.125, 0.125]))
  mass = np.diff(scipy.stats.norm(0, spread).cdf(edges), axis=-1)[..., 0].prod(axis=-1)
  truth = -np.log(mass)
  settings = {'trace': 'exact', 'dequantization': dequantization, 'rtol': 1e-4, 'atol': 1e-4}
  plain = estimate(process, data, x0, levels, samples=4, **settings)
  nats = np.asarray(plain.nats).reshape(2, 60)
  stated = np.sqrt(np.mean(np.asarray(plain.standard_error).reshape(2, 60) ** 2, axis=1))
  np.testing.assert_allclose(nats.std(axis=1), stated, rtol=0.35)
  noise = nats.std(axis=1) / np.sqrt(60)
  assert (nats.mean(axis=1) > truth - 3 * noise).all()
  averaged = estimate(process, data, x0, levels, samples=16, importance=True, **settings)
  tight = np.asarray(averaged.nats).reshape(2, 60)
  noise = tight.std(axis=1) / np.sqrt(60)
  assert (np.abs(tight.mean(axis=1) - truth) < 3 * noise + 0.01).all()


def test_unit_of_the_cells():
  """A smooth model on [-1, 1] data in 256 levels: nearly 7 bits/dim above the density."""
  process, data = build({'name': 'vp_linear'}), exact.isotropic(1.0, 1)
  x0 = jnp.full((4, 1), 129 / 255 * 2 - 1)
  nats = estimate(process, data, x0, 256, trace='exact').nats / np.log(2)
  np.testing.assert_allclose(nats, 1.325748065 + np.log2(255 / 2), atol=5e-3)


def test_standard_errors():
  nats = jnp.asarray([[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]])
  plain = flow.plain_mean(nats)
  np.testing.assert_allclose(plain.nats, 2)
  np.testing.assert_allclose(plain.standard_error, [1 / np.sqrt(3), 0])
  inside = flow.importance_mean(nats)
  np.testing.assert_allclose(inside.nats, [-np.log(np.mean(np.exp([-1, -3, -2]))), 2])
  # The delta method: the standard error of the mean weight, over the mean weight.
  weight = np.exp([-1, -3, -2])
  relative = weight.std(ddof=1) / weight.mean() / np.sqrt(3)
  np.testing.assert_allclose(inside.standard_error, [relative, 0])


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'trace': 'exat'}, 'exact, hutchinson'),
    ({'probe': 'normal'}, 'gaussian, rademacher'),
    ({'dequantization': 'none'}, 'uniform, variational'),
    ({'solver': 'rk4'}, 'dopri5'),
    ({'samples': 1}, r'samples=1 must be in \[2, 10000\]'),
    ({'importance': True}, "importance needs trace='exact', not 'hutchinson'"),
    ({'rtol': 0.0}, 'rtol=0.0 must be above 0'),
  ],
)
def test_refusals(settings, message):
  with pytest.raises(ConfigError, match=message):
    component(LIKELIHOODS, {'name': 'flow', **settings}, 'likelihood')
