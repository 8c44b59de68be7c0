"""Targets: one linear map, for every process, at any time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError
from diffusion.predictions import (
  TARGETS,
  check_target,
  combine,
  determinant,
  preconditioning,
  split,
  target_pair,
)
from diffusion.processes import PROCESSES, build
from diffusion.processes.discrete import linear_betas


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize('name', PROCESSES)
def test_every_target_converts_to_every_other_and_back(name):
  """At 1,000 random times, uniform in log-SNR."""
  process = build({'name': name})
  u = jnp.asarray(np.random.default_rng(0).uniform(0.02, 0.98, 1000))
  high, low = process.log_snr(jnp.asarray([process.t_min, process.t_max]))
  t = process.time_of(high + (jnp.maximum(low, -12) - high) * u)
  rng = np.random.default_rng(1)
  x0, eps = (jnp.asarray(rng.normal(size=1000)) for _ in range(2))
  alpha, sigma = process.alpha(t), process.sigma(t)
  x = alpha * x0 + sigma * eps
  pairs = {target: target_pair(target, process, t) for target in TARGETS}
  for first in pairs.values():
    y = combine(first, x0, eps)
    through = split(y, x, first, alpha, sigma)
    for second in pairs.values():
      z = combine(second, through.x0, through.eps)
      back = combine(first, *split(z, x, second, alpha, sigma)[:2])
      scale = jnp.abs(first.x0) + jnp.abs(first.eps)
      # A target may contain little of one part: an error in that part barely shows in y.
      assert jnp.max(jnp.abs(back - y) / scale) < 1e-10
      wanted = combine(second, x0, eps)
      size = jnp.abs(second.x0) + jnp.abs(second.eps)
      condition = 1 + jnp.hypot(first.x0, first.eps) / jnp.abs(determinant(first, alpha, sigma))
      assert jnp.max(jnp.abs(z - wanted) / size / condition) < 1e-10


def test_v_is_orthogonal_and_velocity_is_the_line():
  vp, line = build({'name': 'vp_linear'}), build({'name': 'rectified_flow'})
  t = jnp.linspace(0.01, 0.99, 50)
  np.testing.assert_allclose(
    determinant(target_pair('v', vp, t), vp.alpha(t), vp.sigma(t)), 1, rtol=1e-12
  )
  pair = target_pair('velocity', line, t)
  np.testing.assert_allclose(pair.x0, -1)
  np.testing.assert_allclose(pair.eps, 1)


def test_edm_preconditioning():
  process = build({'name': 'edm'})
  sigma = jnp.asarray([0.002, 0.05, 0.5, 1.0, 10.0, 80.0])
  got = preconditioning(process.alpha(sigma), sigma, 0.5)
  skip = [0.9999840003, 0.9900990099, 0.5, 0.2, 0.002493765586, 3.906097418e-05]
  out = [0.001999984, 0.04975185951, 0.3535533906, 0.4472135955, 0.4993761694, 0.4999902347]
  feed = [1.999984, 1.99007438, 1.414213562, 0.894427191, 0.09987523389, 0.01249975587]
  np.testing.assert_allclose(got.c_skip, skip, rtol=1e-9)
  np.testing.assert_allclose(got.c_out, out, rtol=1e-9)
  np.testing.assert_allclose(got.c_in, feed, rtol=1e-9)
  # D = c_skip·x + c_out·F for any F.
  rng = np.random.default_rng(0)
  x, raw = (jnp.asarray(rng.normal(size=6)) for _ in range(2))
  estimate = split(raw, x, target_pair('edm', process, sigma), jnp.ones(6), sigma)
  np.testing.assert_allclose(estimate.x0, got.c_skip * x + got.c_out * raw, rtol=1e-9)


@pytest.mark.parametrize('name', ['vp_linear', 'rectified_flow', 'sub_vp', 've'])
def test_preconditioned_input_and_target_have_unit_variance(name):
  """The principle that EDM's coefficients follow from, for processes with any α."""
  process, std = build({'name': name}), 0.7
  t = jnp.linspace(process.t_min, process.t_max, 50)
  alpha, sigma = process.alpha(t), process.sigma(t)
  c_in = preconditioning(alpha, sigma, std).c_in
  np.testing.assert_allclose(c_in**2 * ((alpha * std) ** 2 + sigma**2), 1, rtol=1e-9)
  pair = target_pair('edm', process, t, std)
  np.testing.assert_allclose((pair.x0 * std) ** 2 + pair.eps**2, 1, rtol=1e-9)


def test_edm_target_of_unit_data_under_vp_is_minus_v():
  process = build({'name': 'cosine'})
  t = jnp.linspace(0.01, 0.99, 50)
  edm, v = target_pair('edm', process, t, 1.0), target_pair('v', process, t)
  np.testing.assert_allclose(edm.x0, -v.x0, rtol=1e-9)
  np.testing.assert_allclose(edm.eps, -v.eps, rtol=1e-9)


def test_the_posterior_mean_is_that_of_the_paper_in_betas():
  """Ho et al. 2020, eq. 7: √ᾱ_s·β/(1 − ᾱ)·x0 + √(1 − β)·(1 − ᾱ_s)/(1 − ᾱ)·x_t; x0 at step 1."""
  process, betas = build({'name': 'ddpm', 'steps': 50}), linear_betas(50)
  product = np.cumprod(1 - betas)
  before = np.append(1, product[:-1])
  x0, eps = jnp.asarray(np.random.default_rng(0).normal(size=(2, 50)))
  x = np.sqrt(product) * x0 + np.sqrt(1 - product) * eps
  expected = np.sqrt(before) * betas * x0 + np.sqrt(1 - betas) * (1 - before) * x
  pair = target_pair('posterior_mean', process, jnp.arange(1, 51) / 50)
  np.testing.assert_allclose(combine(pair, x0, eps), expected / (1 - product), rtol=1e-8)
  assert (float(pair.x0[0]), float(pair.eps[0])) == (1, 0)


def test_singular_targets_are_refused():
  line = build({'name': 'rectified_flow'})
  for target in ('eps', 'score'):
    with pytest.raises(ConfigError, match=r'singular at t = 1 .*rectified_flow.*t_max'):
      check_target(target, line)
    check_target(target, build({'name': 'rectified_flow', 't_max': 0.999}))
  for target in ('x0', 'v', 'velocity', 'edm'):
    check_target(target, line)
  with pytest.raises(ConfigError, match="did you mean 'velocity'"):
    check_target('velosity', line)
