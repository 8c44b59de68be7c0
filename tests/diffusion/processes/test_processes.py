"""Processes against closed forms, published tables and their own inverses, in float64."""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError
from diffusion import processes
from diffusion.likelihood.terms import reverse_step
from diffusion.processes import PROCESSES, build, discrete
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


def test_vp_sde():
  process = build({'name': 'vp_linear'})
  expected = np.array(
    [  # time, α, σ, λ, g²
      (1e-5, 0.9999994995, 0.001000497126, 13.81451555, 0.100199),
      (1e-3, 0.9999450265, 0.01048541634, 9.115429865, 0.1199),
      (0.1, 0.9467217988, 0.3220525355, 2.156581186, 2.09),
      (0.25, 0.7236571851, 0.6901596036, 0.09478979707, 5.075),
      (0.5, 0.2811828808, 0.9596542021, -2.455135469, 10.05),
      (0.75, 0.05866350301, 0.9982778137, -5.668427658, 15.025),
      (1.0, 0.006571586495, 0.9999784069, -10.04995681, 20),
    ]
  )
  times = expected[:, 0]
  for column, name in enumerate(('alpha', 'sigma', 'log_snr', 'squared_diffusion'), 1):
    np.testing.assert_allclose(at(getattr(process, name), *times), expected[:, column], rtol=1e-8)
  np.testing.assert_allclose(
    at(process.drift_coefficient, *times), -0.5 * expected[:, 4], rtol=1e-8
  )
  # As a VE process in x/α: the σ of Karras et al. 2022, table 1, 'VP'.
  ratio = at(lambda t: jnp.exp(-0.5 * process.log_snr(t)), 1e-5, 1e-3, 0.5, 1)
  np.testing.assert_allclose(ratio, [0.001000497627, 0.01048599279, 3.412918309, 152.1669703], 1e-8)


def test_sub_vp_sde():
  process = build({'name': 'sub_vp'})
  expected = np.array(
    [  # time, σ, g²
      (1e-5, 1.000994499e-06, 2.005971952e-07),
      (1e-3, 0.0001099439557, 2.636311127e-05),
      (0.1, 0.1037178356, 0.4110576091),
      (0.25, 0.4763202785, 3.683229713),
      (0.5, 0.9209361875, 9.987176581),
      (0.75, 0.9965585934, 15.02482205),
      (1.0, 0.9999568143, 19.99999996),
    ]
  )
  np.testing.assert_allclose(at(process.sigma, *expected[:, 0]), expected[:, 1], rtol=1e-8)
  np.testing.assert_allclose(
    at(process.squared_diffusion, *expected[:, 0]), expected[:, 2], rtol=1e-8
  )


def test_ve_sde():
  process = build({'name': 've'})
  times = 1e-5, 0.25, 0.5, 1.0
  np.testing.assert_allclose(
    at(process.sigma, *times), [0.01000085176, 0.08408964153, 0.7071067812, 50], 1e-8
  )
  np.testing.assert_allclose(
    np.sqrt(at(process.squared_diffusion, *times)),
    [0.04127625023, 0.3470609475, 2.918423066, 206.363674],
    1e-8,
  )
  assert process.prior_std == pytest.approx(50)


def test_cosine():
  process = build({'name': 'cosine'})
  np.testing.assert_allclose(
    at(process.alpha, 0.25, 0.5, 0.75, 0.99) ** 2,
    [0.8470121613, 0.4938435904, 0.1442721024, 0.0002428572279],
    rtol=1e-8,
  )


def test_shifted_cosine():
  bounded = processes.Shifted(log_snr_max=20.0, log_snr_min=-20.0)
  np.testing.assert_allclose(
    at(bounded.log_snr, 1e-12, 0.25, 0.5, 0.75, 1),
    [20, 1.762618767, 0, -1.762618767, -20],
    atol=1e-5,
  )
  finer = processes.Shifted(log_snr_max=20.0, log_snr_min=-20.0, resolution=256, base_resolution=64)
  np.testing.assert_allclose(
    at(finer.log_snr, 0.2, 0.7), at(bounded.log_snr, 0.2, 0.7) - 2 * math.log(4)
  )


def test_sigmoid_schedule():
  process = processes.Sigmoid(start=-3.0, end=3.0, tau=0.9)
  t = np.linspace(0.05, 0.95, 19)
  logistic = lambda x: 1 / (1 + np.exp(-x))
  level = logistic(3 / 0.9) - logistic((-3 + 6 * t) / 0.9)
  expected = level / (logistic(3 / 0.9) - logistic(-3 / 0.9))
  np.testing.assert_allclose(at(process.alpha, *t) ** 2, expected, rtol=1e-10)


def test_interpolants():
  t = 0.3
  flow, gvp, vp = (build({'name': n}) for n in ('rectified_flow', 'gvp', 'vp_interpolant'))
  assert at(flow.alpha, t) == pytest.approx(0.7)
  assert at(flow.sigma, t) == pytest.approx(0.3)
  assert at(gvp.alpha, t) == pytest.approx(math.cos(0.15 * math.pi))
  assert at(gvp.alpha, 1.0) == 0
  assert at(vp.alpha, t) == pytest.approx(math.sqrt(0.91))


def test_ddpm_linear_table():
  process = build({'name': 'ddpm'})
  entries = np.array([1, 2, 10, 100, 250, 500, 750, 1000])
  signal = at(process.alpha, *(entries / 1000)) ** 2
  expected = [0.9999, 0.9997800921, 0.9981052048, 0.8970181457]
  expected += [0.5240853738, 0.07858724288, 0.003350550439, 4.035829765e-05]
  np.testing.assert_allclose(signal, expected, rtol=1e-8)
  assert at(process.alpha, 1.0) == pytest.approx(0.006352818088, rel=1e-8)
  assert at(process.sigma, 1.0) == pytest.approx(0.9999798206, rel=1e-9)
  betas = discrete.linear_betas(1000)
  np.testing.assert_allclose(
    betas[[0, 1, 500, 999]], [0.0001, 0.0001199199199, 0.01005995996, 0.02], rtol=1e-9
  )
  many = build({'name': 'ddpm', 'steps': 4000})
  assert at(many.alpha, 1.0) ** 2 == pytest.approx(4.246652276e-05, rel=1e-8)


@pytest.mark.parametrize(
  ('steps', 'betas', 'signal', 'posterior'),
  [
    (
      1000,
      [4.128422482e-05, 4.614175274e-05, 0.003155691442, 0.7499993929, 0.999],
      [0.9999587158, 0.8470121613, 0.4938435904, 0.1442721024, 2.428766907e-06, 2.428766907e-09],
      [2.178949615e-05, 0.9989975761],
    ),
    (
      4000,
      [9.865818814e-06, 1.016941488e-05, 0.0007889355535, 0.7499999621, 0.999],
      [0.9999901342, 0.8470121613, 0.4938435904, 0.1442721024, 1.517980469e-07, 1.517980469e-10],
      [5.007683395e-06, 0.9989998485],
    ),
  ],
)
def test_ddpm_cosine_table(steps, betas, signal, posterior):
  table = discrete.cosine_betas(steps)
  np.testing.assert_allclose(table[[0, 1, steps // 2, -2, -1]], betas, rtol=1e-8)
  assert (table == 0.999).sum() == 1
  process = build({'name': 'ddpm', 'schedule': 'cosine', 'steps': steps})
  entries = np.array([1, steps // 4, steps // 2, 3 * steps // 4, steps - 1, steps])
  np.testing.assert_allclose(at(process.alpha, *(entries / steps)) ** 2, signal, rtol=1e-8)
  t = jnp.asarray([2, steps]) / steps
  nothing = jnp.zeros((2, 1))
  _, log_variance = reverse_step(process, nothing, nothing, t, t - 1 / steps)
  np.testing.assert_allclose(jnp.exp(log_variance), posterior, rtol=1e-8)


def test_cosine_table_as_noise_levels():
  """EDM's discretisation of iDDPM (Karras et al. 2022, table 1): u_0, u_8, u_500 and u_999."""
  process = build({'name': 'ddpm', 'schedule': 'cosine'})
  ratio = at(lambda t: jnp.exp(-0.5 * process.log_snr(t)), 1.0, 0.992, 0.5, 0.001)
  np.testing.assert_allclose(ratio, [20291.16961, 80.20370185, 1.012389564, 0.006425412771], 1e-8)


def test_table_entries_are_met_in_float32():
  """k/T is not exact in float32; the last log-SNRs of the cosine table differ by 6.9."""
  for steps in (1000, 4000):
    process = build({'name': 'ddpm', 'schedule': 'cosine', 'steps': steps})
    times = np.arange(1, steps + 1) / steps
    single = process.log_snr(jnp.asarray(times, jnp.float32))
    np.testing.assert_allclose(single, process.log_snr(jnp.asarray(times)), rtol=1e-6, atol=1e-6)


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


@pytest.mark.parametrize(
  ('settings', 'named'),
  [
    ({'name': 'vp_lineer'}, "did you mean 'vp_linear'"),
    ({'name': 'edm', 'sigma_mx': 1}, 'sigma_max'),
    ({'name': 'edm', 'sigma_min': 90.0}, 't_min < t_max'),
    ({'name': 'cosine', 't_min': 0.0}, 't_min < t_max'),
    ({'name': 'cosine', 't_max': 1.3}, 'must fall'),
    ({'name': 'shifted', 'log_snr_max': -15.0, 'log_snr_min': 15.0}, 'must fall'),
    ({'name': 'ddpm', 'schedule': 'linar'}, 'linear'),
    ({'name': 'ddpm', 'steps': 1}, 'at least 2'),
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
