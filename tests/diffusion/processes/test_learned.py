"""The learned process."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.processes import PROCESSES, build
from diffusion.processes.learned import monotone

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def at(function, *times):
  return np.asarray(function(jnp.asarray(times)))


def test_learned_schedule_is_monotone_and_bounded():
  process = PROCESSES['learned'](width=64)
  params = jax.tree.map(lambda leaf: leaf + 0.5, process.init(KEY))
  bound = process.at(params)
  t = jnp.linspace(bound.t_min, 1, 1001)
  log_snr = bound.log_snr(t)
  assert (jnp.diff(log_snr) < 0).all()
  np.testing.assert_allclose(log_snr[jnp.array([0, -1])], [13.8, -4.5], rtol=1e-6)
  slope = jax.grad(lambda p: process.at(p).log_snr(jnp.asarray([0.4])).sum())(params)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slope))


def test_vdm_ends():
  process = build({'name': 'learned'})
  assert at(process.sigma, process.t_min) ** 2 == pytest.approx(1.674490406e-06, rel=1e-8)
  assert at(process.sigma, 1.0) ** 2 == pytest.approx(0.9933071491, rel=1e-8)
  # c of VDM's sampler, T = 1000, last step.
  low, high = process.t_min, process.t_min + (1 - process.t_min) / 1000
  difference = at(process.log_snr, high) - at(process.log_snr, low)
  assert -math.expm1(difference.item()) == pytest.approx(0.01813357176, rel=1e-6)


def test_weights_of_the_monotone_network_enter_as_their_size():
  shape = {
    'linear': jnp.asarray(-0.5),
    'hidden': jnp.asarray([-2.0, 1.0]),
    'bias': jnp.asarray([0.3, -0.1]),
    'out': jnp.asarray([-1.5, 0.2]),
  }
  t = np.array([0.0, 0.3, 1.0])
  logistic = lambda x: 1 / (1 + np.exp(-x))
  expected = 0.5 * t + 1.5 * logistic(8 * (t - 0.5) + 0.3) + 0.2 * logistic(4 * (t - 0.5) - 0.1)
  np.testing.assert_allclose(monotone(shape, jnp.asarray(t)), expected)


def test_it_starts_almost_linear():
  process = build({'name': 'learned'})
  t = jnp.linspace(0.01, 1, 9)
  start = process.at(process.init(jax.random.key(0))).log_snr(t)
  np.testing.assert_allclose(start, process.log_snr(t), atol=0.2)
