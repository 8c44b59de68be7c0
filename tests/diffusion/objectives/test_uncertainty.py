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
