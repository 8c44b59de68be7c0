"""The discrete process against published tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.likelihood.terms import reverse_step
from diffusion.processes import build, discrete
from diffusion.processes.process import rate


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def at(function, *times):
  return np.asarray(function(jnp.asarray(times)))


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


@pytest.mark.slow
def test_table_entries_are_met_in_float32():
  """k/T is not exact in float32; the last log-SNRs of the cosine table differ by 6.9."""
  for steps in (1000, 4000):
    process = build({'name': 'ddpm', 'schedule': 'cosine', 'steps': steps})
    times = np.arange(1, steps + 1) / steps
    single = process.log_snr(jnp.asarray(times, jnp.float32))
    np.testing.assert_allclose(single, process.log_snr(jnp.asarray(times)), rtol=1e-6, atol=1e-6)
    before = jnp.asarray(times[1:], jnp.float32) - jnp.float32(1 / steps)
    np.testing.assert_allclose(
      process.log_snr(before), process.log_snr(jnp.asarray(times[:-1])), rtol=1e-6, atol=1e-6
    )


def test_the_log_snr_has_its_slope_at_the_entries_too():
  process = build({'name': 'ddpm'})
  t = jnp.asarray([200, 500, 900]) / 1000
  slope = (process.log_snr(t + 0.002) - process.log_snr(t - 0.002)) / 0.004
  np.testing.assert_allclose(rate(process.log_snr, t), slope, rtol=0.01)
