"""Processes in closed form against published values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import processes
from diffusion.processes import build


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def at(function, *times):
  return np.asarray(function(jnp.asarray(times)))


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
  assert build({'name': 've', 't_max': 0.5}).prior_std == pytest.approx(np.sqrt(0.01 * 50))


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
  process = processes.Sigmoid(start=-3.0, end=2.0, tau=0.9)
  t = np.linspace(0.05, 0.95, 19)
  logistic = lambda x: 1 / (1 + np.exp(-x))
  level = logistic(2 / 0.9) - logistic((-3 + 5 * t) / 0.9)
  expected = level / (logistic(2 / 0.9) - logistic(-3 / 0.9))
  np.testing.assert_allclose(at(process.alpha, *t) ** 2, expected, rtol=1e-10)


def test_interpolants():
  t = 0.3
  flow, gvp, vp = (build({'name': n}) for n in ('rectified_flow', 'gvp', 'vp_interpolant'))
  assert at(flow.alpha, t) == pytest.approx(0.7)
  assert at(flow.sigma, t) == pytest.approx(0.3)
  assert at(gvp.alpha, t) == pytest.approx(math.cos(0.15 * math.pi))
  assert at(gvp.alpha, 1.0) == 0
  assert at(vp.alpha, t) == pytest.approx(math.sqrt(0.91))
