"""Every sampler against a mixture of Gaussians: orders of convergence and marginals."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import processes
from diffusion.predictions import Pair
from diffusion.sampling import driver, grids, multistep, solvers
from tests.cases import mostly_slow
from tests.diffusion import exact

KEY = jax.random.key(0)
COUNTS = (32, 64, 128)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def uniform(high, low):
  return lambda steps: np.linspace(high, low, steps + 1)


def geometric(high, low):
  return lambda steps: np.geomspace(high, low, steps + 1)


def eased(high, low):
  """Geometric, with a first step so short that its first order has no effect on the total error."""

  def times(steps):
    grid = np.geomspace(high, low, steps)
    return np.insert(grid, 1, high * np.exp(-0.3 * np.log(high / grid[1]) ** 1.5))

  return times


FLOWS = {
  'vp_linear': (processes.VPLinear(), uniform(1.0, 0.05)),
  'edm': (processes.EDM(), geometric(4.0, 0.1)),
  'rectified_flow': (processes.RectifiedFlow(), uniform(0.95, 0.05)),
}
ENDS = {'vp_linear': (1.0, 0.05), 'edm': (4.0, 0.1), 'rectified_flow': (0.95, 0.05)}


@functools.cache
def reference(flow):
  """64 draws at the first time, and their ends under the probability flow, to about 1e-10."""
  process, (high, low) = FLOWS[flow][0], ENDS[flow]
  denoise = exact.MIXTURE.denoiser(process)

  def slope(x, t):
    return solvers.velocity(process, denoise(x, jnp.full((x.shape[0],), t)), t)

  def runge_kutta(x, pair):
    t, h = pair[0], pair[1] - pair[0]
    a = slope(x, t)
    b = slope(x + 0.5 * h * a, t + 0.5 * h)
    c = slope(x + 0.5 * h * b, t + 0.5 * h)
    d = slope(x + h * c, t + h)
    return x + h / 6 * (a + 2 * b + 2 * c + d), None

  x = exact.MIXTURE.noisy(process, high, 64)
  grid = jnp.asarray(np.geomspace(high, low, 2001))
  return x, jax.jit(lambda x: jax.lax.scan(runge_kutta, x, (grid[:-1], grid[1:]))[0])(x)


def order_of(sampler, flow, times_of=None):
  """Slope of log error against log step size, and the errors."""
  process = FLOWS[flow][0]
  times_of = times_of or FLOWS[flow][1]
  denoise = exact.MIXTURE.denoiser(process)
  x, exactly = reference(flow)
  run = jax.jit(
    lambda times, n: driver.sample(sampler, process, denoise, times, x, KEY, num_steps=n)[0]
  )
  pad = lambda times: np.pad(times, (0, COUNTS[-1] + 1 - len(times)), mode='edge')
  errors = [float(jnp.abs(run(pad(times_of(n)), n) - exactly).mean()) for n in COUNTS]
  return -np.polyfit(np.log(COUNTS), np.log(errors), 1)[0], errors


# (sampler, lowest and highest order): tests/test_contracts.py asks for every deterministic sampler.
ORDERS = (
  (solvers.Euler(), 0.85, 1.2),
  (solvers.DDIM(), 0.85, 1.2),
  (solvers.Heun(), 1.85, 2.2),
  (solvers.Heun('ratio'), 1.85, 2.2),
  (solvers.EDMSampler(), 1.85, 2.2),
  (multistep.DPMpp2M(), 1.85, 2.4),
  (multistep.DPMpp2S(), 1.85, 2.2),
  (multistep.UniPC(1), 1.7, 2.2),
  (multistep.UniPC(2), 2.6, 3.3),
  (multistep.UniPC(2, 'bh1'), 2.6, 3.3),
  (multistep.UniPC(3), 3.2, 4.5),
)


@pytest.mark.parametrize('flow', FLOWS)
@pytest.mark.parametrize(('sampler', 'low', 'high'), ORDERS, ids=lambda value: None)
def test_order_of_convergence(flow, sampler, low, high):
  """The corrector lifts UniPC's order above its predictor's."""
  order, errors = order_of(sampler, flow)
  assert low < order < high, (order, errors)


def test_three_steps_of_memory_are_third_order():
  order, errors = order_of(multistep.DPMpp3MSDE(0.0, curvature=1.0), 'edm', eased(4.0, 0.1))
  assert 2.85 < order < 3.5, (order, errors)
  order, errors = order_of(multistep.DPMpp3MSDE(0.0), 'edm', eased(4.0, 0.1))
  assert 1.7 < order < 2.4, (order, errors)


def test_a_step_up_to_pure_noise_with_a_known_clean_image():
  """The image is forgotten, and the noise stays: x_1 = ε on the straight line."""
  process, solver = processes.build({'name': 'rectified_flow'}), multistep.DPMpp2M()
  clean, eps = jnp.asarray([[1.0, -2.0]]), jnp.asarray([[0.3, 0.7]])
  x, known = 0.25 * clean + 0.75 * eps, lambda x, t: Pair(clean, eps)
  times = jnp.asarray(0.75), jnp.asarray(1.0)
  after, _ = solver.step(process, x, *times, known, None, solver.init(x, 1))
  np.testing.assert_allclose(after, eps, rtol=1e-6)


@pytest.mark.parametrize('eta', [0.0, 0.5, 1.0])
def test_3m_integrates_a_parabola_exactly(eta):
  """With x0 = 1 + λ − 2λ², after two steps of history, the mean is an integral in closed form."""
  process = processes.VPLinear()
  polynomial = np.polynomial.Polynomial([1.0, 1.0, -2.0])
  times = np.array([0.9, 0.7, 0.55, 0.3])
  ell = [float(multistep.half_log_snr(process, jnp.asarray(t))) for t in times]
  at = lambda i, f: float(f(jnp.asarray(times[i])))
  sampler = multistep.DPMpp3MSDE(eta, s_noise=0.0, curvature=1.0)
  x = jnp.zeros((1, 1))
  keys = jax.random.split(KEY, 1)
  carry = sampler.init(x, 3)
  estimates = iter([Pair(jnp.full((1, 1), polynomial(value)), x) for value in ell])
  denoise = lambda x, t: next(estimates)
  for t, s in itertools.pairwise(times[:3]):
    x, carry = sampler.step(process, x, jnp.asarray(t), jnp.asarray(s), denoise, keys, carry)
  end, _ = sampler.step(process, x, *jnp.asarray(times[2:]), denoise, keys, carry)
  rate, h = 1 + eta, ell[3] - ell[2]
  u = np.linspace(0, h, 20001)
  integral = np.trapezoid(rate * np.exp(-rate * (h - u)) * polynomial(ell[2] + u), u)
  kept = at(3, process.sigma) / at(2, process.sigma) * np.exp(-eta * h) * float(x[0, 0])
  assert float(end[0, 0]) == pytest.approx(kept + at(3, process.alpha) * integral, rel=1e-7)


def karras(steps, low=0.002, high=80.0, rho=7.0):
  """EDM's grid, its last step to 0 included."""
  ramp = np.linspace(0, 1, steps)
  levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
  return np.append(levels, 0.0)


squared = lambda steps: np.linspace(1, 0, steps + 1) ** 2
PROCESSES = {
  'vp_linear': (processes.VPLinear(), squared),
  'sub_vp': (processes.SubVP(), squared),
  've': (processes.VE(), lambda steps: np.append(np.linspace(1, 1e-5, steps), 0)),
  'edm': (processes.EDM(), karras),
  'cosine': (processes.Cosine(), lambda steps: np.linspace(0.999, 0, steps + 1)),
  'rectified_flow': (processes.RectifiedFlow(), lambda steps: np.linspace(1, 0, steps + 1)),
}
ALL = tuple(PROCESSES)
SDE = ('vp_linear', 've', 'sub_vp')  # those with a bounded g²
MARGINALS = {
  'ddim': (solvers.DDIM(), ALL, 100),
  'ddim_half': (solvers.DDIM(0.5), ('vp_linear',), 150),
  'ddim_1': (solvers.DDIM(1.0), ('edm', 'rectified_flow'), 200),
  'ancestral': (solvers.Ancestral(), SDE, 200),
  'ancestral_large': (solvers.Ancestral('fixed_large'), ('vp_linear', 've'), 200),
  'euler': (solvers.Euler(), ('cosine', 'rectified_flow'), 150),
  'heun': (solvers.Heun(), ('cosine', 'rectified_flow', 've'), 50),
  'heun_ratio': (solvers.Heun('ratio'), ('vp_linear', 'sub_vp'), 50),
  'euler_maruyama': (solvers.EulerMaruyama(), (*SDE, 'rectified_flow'), 300),
  'reverse_diffusion': (solvers.ReverseDiffusion(), SDE, 300),
  'predictor_corrector': (solvers.PredictorCorrector(), SDE, 150),
  'corrected_ancestral': (solvers.PredictorCorrector(predictor='ancestral'), SDE, 150),
  'corrected_flow': (solvers.PredictorCorrector(predictor='euler'), SDE, 150),
  'edm': (solvers.EDMSampler(), ('edm',), 50),
  'edm_churn': (solvers.EDMSampler(40.0, 0.05, 50.0, 1.0), ('edm', 'vp_linear'), 100),
  'dpmpp_2m': (multistep.DPMpp2M(), ('vp_linear', 'rectified_flow'), 40),
  'dpmpp_2s': (multistep.DPMpp2S(), ('edm', 'rectified_flow'), 40),
  'dpmpp_3m_sde': (multistep.DPMpp3MSDE(), ('vp_linear', 'rectified_flow'), 80),
  'unipc': (multistep.UniPC(), ('edm', 'cosine', 'rectified_flow'), 30),
  'unipc_3': (multistep.UniPC(3), ('vp_linear',), 30),
}
MARGINAL_CASES = [(name, process) for name, row in MARGINALS.items() for process in row[1]]
# A setting of each sampler that adds noise, and two others. The rest are other settings of these,
# or have an order of convergence.
QUICK = ('ddim_half', 'ancestral', 'euler_maruyama', 'reverse_diffusion', 'predictor_corrector')
QUICK += ('edm_churn', 'dpmpp_3m_sde', 'euler', 'unipc')
QUICK_MARGINALS = [(name, MARGINALS[name][1][0]) for name in QUICK]


@pytest.mark.parametrize(('name', 'process'), mostly_slow(MARGINAL_CASES, QUICK_MARGINALS))
def test_marginal(name, process):
  sampler, _, steps = MARGINALS[name]
  process, grid = PROCESSES[process]
  check_marginal(sampler, process, grid(steps))


@pytest.mark.parametrize('name', ['vp_linear', 'rectified_flow'])
def test_marginal_of_the_adaptive_flow(name):
  process = PROCESSES[name][0]
  check_marginal(multistep.Adaptive(1e-3, 1e-3), process, np.array([process.t_max, 1e-3, 0]))


def check_marginal(sampler, process, times):
  """Mean and covariance within 4 standard errors and 2 % of the data's, for discretisation."""
  data, num = exact.MIXTURE, 3000
  x = data.noisy(process, times[0], num, seed=1)
  denoise = data.denoiser(process)
  run = jax.jit(lambda x: driver.sample(sampler, process, denoise, times, x, KEY)[0])
  result = np.asarray(run(x))
  std = np.sqrt(np.diag(data.covariance))
  error = 4 / np.sqrt(num) + 0.02
  off_mean = (result.mean(0) - data.mean) / std
  off_covariance = (np.cov(result.T) - data.covariance) / np.outer(std, std)
  assert np.abs(off_mean).max() < error, off_mean
  assert np.abs(off_covariance).max() < 2**0.5 * error, off_covariance


class Eager:
  """A denoiser for steps that are run one by one, outside of any compiled program."""

  def __init__(self, denoise):
    self._denoise = jax.jit(denoise)

  def __call__(self, x, t):
    return self._denoise(x, jnp.full((x.shape[0],), t))

  def when(self, needed, x, t, otherwise):
    return self(x, t) if bool(needed) else otherwise


STEPWISE = {
  name: build() for name, build in driver.SAMPLERS.items() if name not in ('adaptive', 'edm')
} | {'edm': solvers.EDMSampler(s_churn=5.0)}


@pytest.mark.parametrize(
  'process',
  mostly_slow(sorted(set(processes.PROCESSES) - {'learned'}), ('ve', 'edm', 'gvp')),
)
def test_every_sampler_runs_on_every_process_in_float32(process):
  """From t_max, pure noise or not, to clean data in 6 steps: finite, and not far from the data.

  Euler-Maruyama is explicit, and unstable in this few steps: only finite values are asserted.
  """
  with jax.enable_x64(False):
    process = processes.PROCESSES[process]()
    denoise = Eager(exact.MIXTURE.denoiser(process))
    times = jnp.asarray(grids.make_times({'name': 'karras'}, process, 6), jnp.float32)
    start = process.prior_std * jax.random.normal(KEY, (16, 2))
    for name, sampler in STEPWISE.items():
      x, carry = start, sampler.init(start, 6)
      for step, (t, s) in enumerate(itertools.pairwise(times)):
        keys = jax.random.split(jax.random.key(step), 16)
        x, carry = sampler.step(process, x, t, s, denoise, keys, carry)
      assert x.dtype == jnp.float32
      assert np.abs(x).max() < (np.inf if name == 'euler_maruyama' else 15), name
