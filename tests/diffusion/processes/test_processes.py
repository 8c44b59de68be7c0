"""Processes against closed forms, published tables and their own inverses, in float64."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError
from diffusion.processes import PROCESSES, build
from diffusion.processes.process import rate

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def at(function, *times):
  return np.asarray(function(jnp.asarray(times)))


def interior(process, number=400):
  """Times strictly inside, where everything is finite; table entries of a discrete process."""
  if process.steps:
    return jnp.arange(1, process.steps) / process.steps
  return jnp.linspace(process.t_min, process.t_max, number + 1)[:-1]


def named(name):
  process = build({'name': name})
  return process.at(process.init(KEY)) if name == 'learned' else process


@pytest.mark.parametrize('name', PROCESSES)
def test_one_process_is_consistent(name):
  process = named(name)
  t = interior(process)
  alpha, sigma, log_snr = process.alpha(t), process.sigma(t), process.log_snr(t)
  np.testing.assert_allclose(2 * jnp.log(alpha / sigma), log_snr, atol=1e-9)
  np.testing.assert_allclose(process.time_of(log_snr), t, rtol=1e-9, atol=1e-12)
  assert (jnp.diff(log_snr) < 0).all()
  # dα/dt = f·α and dσ²/dt = 2·f·σ² + g²: the moments of dx = f·x dt + g dw.
  np.testing.assert_allclose(
    rate(process.alpha, t), process.drift_coefficient(t) * alpha, rtol=1e-9, atol=1e-12
  )
  variance_rate = rate(lambda t: process.sigma(t) ** 2, t)
  expected = 2 * process.drift_coefficient(t) * sigma**2 + process.squared_diffusion(t)
  scale = jnp.abs(process.squared_diffusion(t)) + jnp.abs(
    2 * process.drift_coefficient(t) * sigma**2
  )
  assert jnp.max(jnp.abs(variance_rate - expected) / scale) < 1e-9
  assert (process.squared_diffusion(t) > 0).all()


@pytest.mark.parametrize('name', PROCESSES)
def test_time_zero_is_clean_data(name):
  process = named(name)
  assert at(process.alpha, 0.0) == 1
  assert at(process.sigma, 0.0) == 0
  assert at(process.log_snr, 0.0) == np.inf


@pytest.mark.parametrize('name', PROCESSES)
def test_float32_follows_float64(name):
  process = named(name)
  t = np.asarray(interior(process, 97))
  for function in (process.alpha, process.sigma, process.log_snr):
    single = function(jnp.asarray(t, jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, function(jnp.asarray(t)), rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize('name', ['vp_linear', 'cosine', 'sigmoid', 'shifted', 'gvp', 'ddpm'])
def test_variance_is_preserved(name):
  process = named(name)
  t = interior(process)
  np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, rtol=1e-12)


@pytest.mark.parametrize(
  ('settings', 'named'),
  [
    ({'name': 'vp_lineer'}, "did you mean 'vp_linear'"),
    ({'name': 'edm', 'sigma_mx': 1}, 'sigma_max'),
    ({'name': 'edm', 'sigma_min': 90.0}, 't_min < t_max'),
    ({'name': 'cosine', 't_min': 0.0}, 'process.t_min=0.0 must be above 0'),
    ({'name': 'cosine', 't_max': 1.3}, 'must fall'),
    ({'name': 'shifted', 'log_snr_max': -15.0, 'log_snr_min': 15.0}, 'must fall'),
    ({'name': 'ddpm', 'schedule': 'linar'}, 'linear'),
    ({'name': 'ddpm', 'steps': 1}, r'steps=1 must be in \[2, 100000\]'),
    ({'name': 'ddpm', 'steps': 10}, 'reach'),
  ],
)
def test_bad_settings(settings, named):
  with pytest.raises(ConfigError, match=named):
    build(settings)


def test_terminal_snr_is_checked(caplog):
  with caplog.at_level(logging.WARNING):
    for name in set(PROCESSES) - {'learned'}:
      build({'name': name})
  assert not caplog.records
  with caplog.at_level(logging.WARNING):
    short = build({'name': 'ddpm', 'steps': 250, 'scaled': False})
  assert at(short.alpha, 1.0) == pytest.approx(0.2823163905, rel=1e-8)
  assert 'terminal SNR 0.0866' in caplog.text
