"""Samplers against closed forms: factors, variances, marginals, orders, honest counts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import component
from diffusion import multistep, processes, samplers, solvers
from diffusion.bound import normal_like
from diffusion.predictions import Pair
from tests.diffusion import exact

KEY = jax.random.key(0)
X = np.array([[1.0], [-0.3]])


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def karras(steps, low=0.002, high=80.0, rho=7.0):
  """EDM's grid, its last step to 0 included."""
  ramp = np.linspace(0, 1, steps)
  levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
  return np.append(levels, 0.0)


def respaced(steps, total=1000):
  """DDIM's strided entries of a table of `total`, then clean data."""
  return np.append((np.arange(0, total, total // steps)[::-1] + 1) / total, 0.0)


def linear_map(sampler, process, denoise, times):
  """Mean factor and variance of a sampler that is linear in x and draws noise once per step.

  The variance is that of the result when x starts as the process's prior.
  """
  factor, variance = 1.0, process.prior_std**2
  keys = jax.random.split(KEY, 1)
  x = jnp.ones((1, 1))
  z = normal_like(keys, x)

  @jax.jit
  def step(x, t, s):
    counter = samplers.Counter(samplers.as_denoiser(denoise), 1)
    return sampler.step(process, x, t, s, counter, keys, sampler.init(x, 1))[0]

  for t, s in itertools.pairwise(times):
    shift = step(jnp.zeros((1, 1)), t, s)
    slope = float((step(x, t, s) - shift)[0, 0])
    factor, variance = factor * slope, slope**2 * variance + float((shift / z)[0, 0]) ** 2
  return factor, variance


@pytest.mark.parametrize(
  ('std', 'steps', 'euler', 'heun'),
  [
    (0.5, 18, 0.005287892955, 0.006595307963),
    (0.5, 40, 0.005810634681, 0.006310960808),
    (0.5, 256, 0.00618056447, 0.006251192808),
    (1.0, 18, 0.01074319281, 0.0130591105),
    (1.0, 40, 0.01170077997, 0.01259876387),
    (1.0, 256, 0.01237347628, 0.01250123583),
  ],
)
def test_edm_contraction(std, steps, euler, heun):
  process = processes.edm()
  denoise = exact.isotropic(std).denoiser(process)
  for sampler, expected, calls in [
    (solvers.euler(), euler, steps),
    (solvers.ddim(), euler, steps),
    (solvers.heun(), heun, 2 * steps - 1),
    (solvers.heun('ratio'), heun, 2 * steps - 1),
    (solvers.edm(), heun, 2 * steps - 1),
  ]:
    x, count = samplers.sample(sampler, process, denoise, karras(steps), jnp.ones((1, 1)), KEY)
    assert float(x[0, 0]) == pytest.approx(expected, rel=1e-9)
    assert int(count) == calls == sampler.evaluations(steps)


@pytest.mark.parametrize(
  ('v0', 'steps', 'factor', 'variance', 'stochastic'),
  [
    (0.25, 10, 0.3741284938, 0.1399721299, 0.1110643028),
    (0.25, 50, 0.472439113, 0.2231987155, 0.197245113),
    (0.25, 100, 0.4859805673, 0.2361771118, 0.219263565),
    (1.0, 10, 0.8316958768, 0.6917180315, 0.5482073402),
    (1.0, 50, 0.9640792715, 0.9294488416, 0.8574339089),
    (1.0, 100, 0.9818508346, 0.9640310613, 0.9215991648),
  ],
)
def test_ddim_on_the_ddpm_table(v0, steps, factor, variance, stochastic):
  process = processes.ddpm()
  denoise = exact.isotropic(v0**0.5).denoiser(process)
  x, count = samplers.sample(
    solvers.ddim(), process, denoise, respaced(steps), jnp.ones((1, 1)), KEY
  )
  assert float(x[0, 0]) == pytest.approx(factor, rel=1e-9)
  assert float(x[0, 0]) ** 2 == pytest.approx(variance, rel=1e-9)
  assert int(count) == steps
  # The published numbers start from unit variance, the process from 1 - 4e-5.
  unit = lambda result: result[1] + (1 - process.prior_std**2) * result[0] ** 2
  for sampler in (solvers.ddim(1.0), solvers.ancestral('fixed_small')):
    assert unit(linear_map(sampler, process, denoise, respaced(steps))) == pytest.approx(
      stochastic, rel=1e-9
    )


@pytest.mark.parametrize(
  ('v0', 'large', 'small'), [(0.25, 0.250752075, 0.2461252114), (1.0, 0.9999, 0.9910673764)]
)
def test_ancestral_variances(v0, large, small):
  process = processes.ddpm()
  gaussian = exact.isotropic(v0**0.5).denoiser(process)
  unit = lambda result: result[1] + (1 - process.prior_std**2) * result[0] ** 2

  def run(variance, share=None):
    denoise = lambda x, t: gaussian(x, t)._replace(range=None if share is None else share + 0 * x)
    return unit(linear_map(solvers.ancestral(variance), process, denoise, respaced(1000)))

  assert run('fixed_large') == pytest.approx(large, rel=1e-8)
  assert run('fixed_small') == pytest.approx(small, rel=1e-8)
  assert run('learned', 0.0) == pytest.approx(small, rel=1e-8)
  # At the last step the largest variance is never used, so 1 is fixed_large exactly.
  assert run('learned', 1.0) == pytest.approx(large, rel=1e-8)
  assert small < run('learned', 0.5) < large


@pytest.mark.parametrize(
  ('std', 'steps', 'expected'),
  [
    (0.5, 10, 0.007242333221),
    (0.5, 18, 0.00663925093),
    (0.5, 40, 0.006314905311),
    (1.0, 10, 0.01447631677),
    (1.0, 18, 0.01313861926),
    (1.0, 40, 0.01260460003),
  ],
)
def test_dpm_solver_contraction(std, steps, expected):
  process = processes.edm()
  denoise = exact.isotropic(std).denoiser(process)
  x, count = samplers.sample(
    multistep.dpmpp_2m(), process, denoise, karras(steps), jnp.ones((1, 1)), KEY
  )
  assert float(x[0, 0]) == pytest.approx(expected, rel=1e-9)
  assert int(count) == steps


SETTINGS = [
  *({'name': name} for name in samplers.SAMPLERS),
  {'name': 'edm', 's_churn': 3.0},
  {'name': 'predictor_corrector', 'corrections': 2},
  {'name': 'predictor_corrector', 'predict': False},
  {'name': 'predictor_corrector', 'norm': 'measured'},
  {'name': 'unipc', 'order': 3},
]


@pytest.mark.parametrize('settings', SETTINGS, ids=lambda s: '-'.join(map(str, s.values())))
def test_one_program_per_bucket_and_every_call_counted(settings):
  """Other numbers of steps do not compile again, padding calls no network, counts are honest."""
  sampler = component(samplers.SAMPLERS, settings, 'sampler')
  process, calls, traces = processes.edm(), [], []
  exactly = exact.isotropic(0.5).denoiser(process)

  def denoise(x, t):
    jax.debug.callback(lambda t: calls.append(float(t)), t[0])
    return exactly(x, t)

  @jax.jit
  def run(times, steps):
    traces.append(1)
    return samplers.sample(sampler, process, denoise, times, jnp.asarray(X), KEY, num_steps=steps)

  @jax.jit
  def run_alone(times):
    return samplers.sample(sampler, process, exactly, times, jnp.asarray(X), KEY)

  for steps in (3, 11):
    calls.clear()
    x, count = jax.block_until_ready(run(*samplers.padded(karras(steps))))
    jax.effects_barrier()
    assert len(calls) == int(count)
    assert sampler.evaluations is None or int(count) == sampler.evaluations(steps)
  alone, _ = run_alone(karras(11))
  np.testing.assert_allclose(x, alone, rtol=1e-9)
  assert np.isfinite(x).all() and len(traces) == 1


def test_buckets():
  assert [len(samplers.padded(karras(n))[0]) for n in (1, 16, 17, 32, 33)] == [17, 17, 33, 33, 65]


def test_a_sample_does_not_depend_on_the_others():
  process, times = processes.vp_linear(), np.linspace(1, 0, 6)
  denoise = exact.MIXTURE.denoiser(process)
  x = exact.MIXTURE.noisy(process, 1.0, 4)
  for sampler in (solvers.ancestral(), solvers.ddim(0.7)):
    together, _ = samplers.sample(sampler, process, denoise, times, x, KEY)
    alone, _ = samplers.sample(sampler, process, denoise, times, x[:2], KEY)
    np.testing.assert_array_equal(together[:2], alone)
    assert np.abs(together[0] - together[1]).max() > 0


def test_trajectory_and_final_denoise():
  process = processes.edm()
  denoise = exact.isotropic(0.5, dim=3).denoiser(process)
  x, times = jnp.ones((2, 3)), np.array([10.0, 3.0, 1.0])
  path, count = samplers.trajectory(solvers.euler(), process, denoise, times, x, KEY)
  assert path.shape == (3, 2, 3) and int(count) == 2
  np.testing.assert_array_equal(path[0], x)
  end, _ = samplers.sample(solvers.euler(), process, denoise, times, x, KEY)
  np.testing.assert_array_equal(path[-1], end)
  clean, count = samplers.sample(
    solvers.euler(), process, denoise, times, x, KEY, final_denoise=True
  )
  np.testing.assert_allclose(clean, denoise(end, jnp.ones(2)).x0)
  assert int(count) == 3
  to_zero = np.append(times, 0)
  clean, count = samplers.sample(
    solvers.euler(), process, denoise, to_zero, x, KEY, final_denoise=True
  )
  assert int(count) == 3
  np.testing.assert_allclose(clean, denoise(end, jnp.ones(2)).x0, rtol=1e-12)


@pytest.mark.parametrize(
  ('times', 'message'),
  [
    ([1.0], 'at least one step'),
    ([], 'at least one step'),
    ([[1.0, 0.0]], 'at least one step'),
    ([1.0, 0.5, 0.7], 'decrease'),
    ([1.0, 0.5, 0.5], 'decrease'),
    ([0.0, 1.0], 'decrease'),
    ([1.0, -0.1], 'at least 0'),
    ([1.0, np.nan], 'finite'),
  ],
)
def test_wrong_grids(times, message):
  process = processes.edm()
  denoise = exact.isotropic(0.5).denoiser(process)
  with pytest.raises(ValueError, match=message):
    samplers.sample(solvers.ddim(), process, denoise, times, jnp.ones((1, 1)), KEY)
  with pytest.raises(ValueError, match=message):
    samplers.padded(times)


@pytest.mark.parametrize('steps', [0, 3, -1])
def test_wrong_number_of_steps(steps):
  process = processes.edm()
  denoise = exact.isotropic(0.5).denoiser(process)
  with pytest.raises(ValueError, match='num_steps'):
    samplers.sample(
      solvers.ddim(), process, denoise, [2.0, 1.0, 0.0], jnp.ones((1, 1)), KEY, num_steps=steps
    )


@pytest.mark.parametrize(
  ('build', 'message'),
  [
    (lambda: solvers.ddim(eta=-0.1), r'ddim.eta=-0.1 must be in \[0, 1\]'),
    (lambda: solvers.ddim(eta=1.5), r'ddim.eta=1.5 must be in \[0, 1\]'),
    (lambda: solvers.ancestral('large'), 'fixed_small, fixed_large, learned'),
    (lambda: solvers.heun('sigma'), 'time, ratio'),
    (lambda: solvers.edm(s_churn=-1.0), 'edm: needs'),
    (lambda: solvers.predictor_corrector(snr=0.0), 'snr=0.0'),
    (lambda: solvers.predictor_corrector(corrections=0), 'corrections=0'),
    (lambda: solvers.predictor_corrector(norm='batch'), 'expected, measured'),
    (lambda: multistep.dpmpp_3m_sde(eta=2.0), r'dpmpp_3m_sde.eta=2.0 must be in'),
    (lambda: multistep.dpmpp_3m_sde(s_noise=-1.0), 's_noise=-1.0'),
    (lambda: multistep.dpmpp_3m_sde(curvature=2.0), 'curvature=2.0'),
    (lambda: multistep.unipc(order=4), 'unipc.order=4; known: 1, 2, 3'),
    (lambda: multistep.unipc(variant='b2'), 'bh1, bh2'),
    (lambda: multistep.adaptive(rtol=0.0), 'must be positive'),
    (lambda: component(samplers.SAMPLERS, {'name': 'dpm'}, 'sampler'), 'unknown sampler .*unipc'),
    (
      lambda: component(samplers.SAMPLERS, {'name': 'ddim', 'etta': 1.0}, 'sampler'),
      "unknown setting sampler.etta .* did you mean 'eta'",
    ),
  ],
)
def test_wrong_settings(build, message):
  with pytest.raises(ValueError, match=message):
    build()


def test_learned_variance_needs_a_model_that_learns_it():
  process = processes.edm()
  denoise = lambda x, t: Pair(x, x)
  with pytest.raises(ValueError, match='learns none'):
    samplers.sample(
      solvers.ancestral('learned'), process, denoise, [2.0, 1.0], jnp.ones((1, 1)), KEY
    )
