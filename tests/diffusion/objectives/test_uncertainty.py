"""The learned uncertainty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.objectives.uncertainty import uncertainty, uncertainty_init


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def test_features_follow_the_gaussian_kernel_of_a_quarter_of_log_sigma():
  """E[2·cos(fc + φ)·cos(fc′ + φ)] = exp(−(2π(c − c′))²/2), c = log(σ/α)/4 = −λ/8 (EDM2)."""
  log_snr = jnp.asarray([0.0, 0.3, 0.8, 1.6, 4.0])
  features = jax.jacobian(lambda k: uncertainty({'kernel': k}, log_snr))(jnp.zeros(8192))
  expected = np.exp(-((2 * np.pi * np.asarray(log_snr) / 8) ** 2) / 2)
  np.testing.assert_allclose(features @ features[0], expected, atol=0.05)


@pytest.mark.slow
def test_uncertainty_starts_at_zero_and_finds_the_logarithm_of_the_loss():
  params = uncertainty_init()
  log_snr = jnp.linspace(-8, 8, 64)
  np.testing.assert_array_equal(uncertainty(params, log_snr), 0)
  loss = jnp.exp(0.2 * log_snr)

  def objective(params):
    u = uncertainty(params, log_snr)
    return jnp.mean(loss * jnp.exp(-u) + u)

  step = jax.jit(lambda p: jax.tree.map(lambda v, g: v - 0.3 * g, p, jax.grad(objective)(p)))
  for _ in range(3000):
    params = step(params)
  found = uncertainty(params, log_snr)
  np.testing.assert_allclose(found[4:-4], jnp.log(loss)[4:-4], atol=0.1)
