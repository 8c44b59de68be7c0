"""Each term of the bound against published values and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion.likelihood import terms
from diffusion.predictions import Pair
from diffusion.processes import build

LEVELS = 5
CENTRES = np.linspace(-1, 1, LEVELS)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def test_discretized_normal():
  """The published values use a tanh approximation of the normal's distribution function."""
  value = lambda x, mean, log_std: (
    -float(
      terms.discretized_normal_nats(jnp.asarray([[x]]), jnp.asarray([[mean]]), log_std, 256)[0, 0]
    )
  )
  assert value(0.0, 0.0, -4.0) == pytest.approx(-1.774709034, abs=5e-4)
  assert value(0.0, 0.0, -1.0) == pytest.approx(-4.76707393, abs=5e-4)
  assert value(1.0, 0.9, -2.0) == pytest.approx(-1.431477299, abs=5e-4)
  assert value(-1.0, -0.9, -2.0) == pytest.approx(-1.431477299, abs=5e-4)


def test_discretized_normal_is_a_distribution_and_far_tails_are_finite():
  levels = jnp.linspace(-1, 1, 17)[:, None]
  for mean, log_std in ((0.3, -2.0), (-2.0, 0.5), (0.999, -6.0)):
    nats = terms.discretized_normal_nats(levels, jnp.full((17, 1), mean), log_std, 17)
    assert float(jnp.exp(-nats).sum()) == pytest.approx(1, rel=1e-6)
  far = lambda x: terms.discretized_normal_nats(x, jnp.ones((1, 1), x.dtype), -4.0, 256)[0, 0]
  for x in (jnp.full((1, 1), -0.5), jnp.full((1, 1), -0.5, jnp.float32)):
    # Mills' ratio: −log mass ≈ z²/2 at z = (1.5 − half)/e⁻⁴.
    z = (1.5 - 1 / 255) * np.exp(4)
    assert float(far(x)) == pytest.approx(z**2 / 2 + np.log(z * np.sqrt(2 * np.pi)), rel=1e-3)
    assert bool(
      jnp.isfinite(
        jax.grad(lambda m, x=x: terms.discretized_normal_nats(x, m, -4.0, 256)[0, 0])(
          jnp.ones((1, 1), x.dtype)
        )
      ).all()
    )


def test_a_cell_too_narrow_for_float32_costs_a_finite_number():
  """Both ends of a cell have the same probability below them."""
  zero = jnp.zeros((1, 1), jnp.float32)
  nats, slope = jax.value_and_grad(
    lambda mean: terms.discretized_normal_nats(zero, mean, 20.0, 256)[0, 0]
  )(zero)
  assert np.isfinite(nats) and np.isfinite(slope).all()


def test_prior():
  """KL of the ends of DDPM and VDM against a standard normal, as published."""
  at_end = lambda process, x: float(
    terms.prior_nats(process, jnp.full((1, 1), x), jnp.asarray(process.t_max))[0]
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
  mean_x0, log_variance = terms.reverse_step(process, zero, one, t, s)
  mean_x, _ = terms.reverse_step(process, one, zero, t, s)
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
  spread = lambda variance, share=like: terms.reverse_log_variance(process, t, s, variance, share)
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
  got = terms.step_nats(process, Pair(guess, x), x, x0, t, 256, 'fixed_large')
  true_mean, true = terms.reverse_step(process, x, x0, t, t - 0.05)
  mean, _ = terms.reverse_step(process, x, guess, t, t - 0.05)
  model = terms.reverse_log_variance(process, t, t - 0.05, 'fixed_large', x)
  at = np.linspace(-12, 12, 20_001)[:, None, None] * np.exp(0.5 * np.asarray(true))[:, None]
  logpdf = lambda mean, log_variance: scipy.stats.norm.logpdf(
    at + np.asarray(true_mean), np.asarray(mean), np.exp(0.5 * np.asarray(log_variance))
  )
  true_log = logpdf(true_mean, np.asarray(true)[:, None])
  kl = np.exp(true_log) * (true_log - logpdf(mean, model)) * (at[1] - at[0])
  np.testing.assert_allclose(kl.sum(axis=(0, 2)), got, rtol=1e-6)


def test_the_last_step_is_the_mass_of_a_cell():
  """L_0 of ten levels: a normal around the estimate, with the small variance of the second step."""
  process = build({'name': 'ddpm', 'schedule': 'cosine', 'steps': 4})
  t = jnp.asarray([1, 2]) / 4
  before, after = np.square(np.asarray(process.alpha(t)))
  std = np.sqrt((1 - before) / (1 - after) * (1 - after / before))
  x0, guess = jnp.full((1, 1), 1 / 9), jnp.full((1, 1), 0.3)
  got = terms.step_nats(process, Pair(guess, guess), x0, x0, t[:1], 10, 'fixed_large')
  mass = np.diff(scipy.stats.norm(0.3, std).cdf([0, 2 / 9]))
  np.testing.assert_allclose(got, -np.log(mass), rtol=1e-7)


def test_categorical_reconstruction():
  process = build({'name': 'rectified_flow'})
  t = jnp.asarray(0.3)
  z = jnp.asarray([[0.2, -1.4, 0.9]])
  x0 = jnp.asarray([[CENTRES[2], CENTRES[0], CENTRES[4]]])
  logits = -0.5 * ((np.asarray(z)[..., None] - 0.7 * CENTRES) / 0.3) ** 2
  expected = scipy.special.logsumexp(logits, axis=-1) - logits[0, [0, 1, 2], [2, 0, 4]]
  got = terms.categorical_nats(process, x0, z, t, LEVELS)
  np.testing.assert_allclose(got, expected.sum(axis=-1), rtol=1e-9)
