"""Samplers against closed forms: factors, variances, marginals, orders, counts of evaluations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError, component
from diffusion import processes
from diffusion.predictions import Pair, fold_in_each, normal_like
from diffusion.sampling import driver, multistep, solvers
from tests.cases import mostly_slow
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


def gaussian(variances, process):
  """The denoiser of N(0, v) data, with a variance v for each example."""
  v = np.asarray(variances)[:, None]

  def denoise(x, t):
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    scaled = x / (alpha**2 * v + sigma**2)
    return Pair(alpha * v * scaled, sigma * scaled)

  return denoise


def final_variances(sampler, process, denoise, times, batch):
  """Variances after sampling from variance 1, for a sampler linear in x with one noise per step.

  All steps at once: the factor and the noise of a step follow from its results for 1 and 0.
  """
  keys = jax.random.split(KEY, batch)
  ones, zeros = jnp.ones((batch, 1)), jnp.zeros((batch, 1))

  def step(x, t, s):
    counter = driver.CountingDenoiser(driver.as_denoiser(denoise), batch)
    return sampler.step(process, x, t, s, counter, keys, sampler.init(x, 1))[0]

  each = jax.jit(jax.vmap(step, (None, 0, 0)))
  t, s = jnp.asarray(times[:-1]), jnp.asarray(times[1:])
  shifts = each(zeros, t, s)
  slopes, scales = each(ones, t, s) - shifts, shifts / normal_like(keys, zeros)
  variance = np.ones(batch)
  for slope, scale in zip(np.asarray(slopes)[..., 0], np.asarray(scales)[..., 0], strict=True):
    variance = slope**2 * variance + scale**2
  return variance


def factors(sampler, process, variances, grids):
  """The factor by which each grid multiplies x, and the evaluations; one compiled program."""
  denoise, longest = gaussian(variances, process), max(map(len, grids))
  x = jnp.ones((len(variances), 1))
  run = jax.jit(
    lambda times, n: driver.sample(sampler, process, denoise, times, x, KEY, num_steps=n)
  )
  pad = lambda times: np.pad(times, (0, longest - len(times)), mode='edge')
  results = [run(pad(times), len(times) - 1) for times in grids]
  return np.array([x[:, 0] for x, _ in results]), [int(count) for _, count in results]


EULER = [
  [0.005287892955, 0.01074319281],
  [0.005810634681, 0.01170077997],
  [0.00618056447, 0.01237347628],
]
HEUN = [
  [0.006595307963, 0.0130591105],
  [0.006310960808, 0.01259876387],
  [0.006251192808, 0.01250123583],
]


@pytest.mark.parametrize(
  ('sampler', 'expected'),
  [
    (solvers.Euler(), EULER),
    (solvers.DDIM(), EULER),
    (solvers.Heun(), HEUN),
    (solvers.Heun('ratio'), HEUN),
    (solvers.EDMSampler(), HEUN),
  ],
  ids=['euler', 'ddim', 'heun', 'heun_ratio', 'edm'],
)
def test_edm_contraction(sampler, expected):
  """Data N(0, 0.25) and N(0, 1), EDM's grid of 18, 40 and 256 steps."""
  counts = (18, 40, 256)
  measured, calls = factors(sampler, processes.EDM(), (0.25, 1.0), [karras(n) for n in counts])
  np.testing.assert_allclose(measured, expected, rtol=1e-9)
  error = np.abs(measured - [0.006249877933, 0.01249902355])  # from the flow's exact factors
  assert (np.diff(error, axis=0) < 0).all()
  # Euler's method once per step; Heun's twice, but for the step to clean data.
  assert calls == [n if expected is EULER else 2 * n - 1 for n in counts]


def test_edm_churn_is_capped():
  growth = lambda churn, steps: float(solvers.EDMSampler(churn).init(jnp.ones(1), steps))
  assert growth(40.0, 256) == pytest.approx(0.15625)
  assert growth(80.0, 18) == pytest.approx(0.4142135624)


def test_dpm_solver_contraction():
  counts = (10, 18, 40)
  measured, calls = factors(
    multistep.DPMpp2M(), processes.EDM(), (0.25, 1.0), [karras(n) for n in counts]
  )
  expected = [
    [0.007242333221, 0.01447631677],
    [0.00663925093, 0.01313861926],
    [0.006314905311, 0.01260460003],
  ]
  np.testing.assert_allclose(measured, expected, rtol=1e-9)
  assert calls == list(counts)


def test_ddim_on_the_ddpm_table():
  """Data N(0, 0.25) and N(0, 1); 10, 50, 100 and 1000 of the table's 1000 steps."""
  process, counts = processes.DDPM(), (10, 50, 100, 1000)
  measured, calls = factors(solvers.DDIM(), process, (0.25, 1.0), [respaced(n) for n in counts])
  expected = [
    [0.3741284938, 0.8316958768],
    [0.472439113, 0.9640792715],
    [0.4859805673, 0.9818508346],
    [0.498495283, 0.998124294],
  ]
  np.testing.assert_allclose(measured, expected, rtol=1e-9)
  assert calls == list(counts)


@pytest.mark.parametrize(
  ('steps', 'expected'),
  [
    (10, [0.1110643028, 0.5482073402]),
    (50, [0.197245113, 0.8574339089]),
    (100, [0.219263565, 0.9215991648]),
    (1000, [0.2461252114, 0.9910673764]),
  ],
)
def test_stochastic_variances_on_the_ddpm_table(steps, expected):
  """DDIM with eta 1 is ancestral sampling with the smaller variance."""
  process = processes.DDPM()
  denoise = gaussian((0.25, 1.0), process)
  for sampler in (solvers.DDIM(1.0), solvers.Ancestral('fixed_small')):
    measured = final_variances(sampler, process, denoise, respaced(steps), 2)
    np.testing.assert_allclose(measured, expected, rtol=1e-9)


def test_ancestral_variances():
  process = processes.DDPM()
  exactly = gaussian((0.25, 1.0), process)

  def run(variance, share=None):
    denoise = lambda x, t: exactly(x, t)._replace(
      variance_fraction=None if share is None else share + 0 * x
    )
    return final_variances(solvers.Ancestral(variance), process, denoise, respaced(1000), 2)

  large, small = [0.250752075, 0.9999], [0.2461252114, 0.9910673764]
  np.testing.assert_allclose(run('fixed_large'), large, rtol=1e-8)
  np.testing.assert_allclose(run('fixed_small'), small, rtol=1e-8)
  np.testing.assert_allclose(run('learned', 0.0), small, rtol=1e-8)
  np.testing.assert_allclose(run('learned', 1.0), large, rtol=1e-8)
  between = run('learned', 0.5)
  assert (small < between).all() and (between < large).all()


TWO_CALLS = ('edm', 'heun', 'dpmpp_2s')  # a step, except the last one
SETTINGS = [  # and the evaluations of n steps to clean data, where they are known beforehand
  *(
    ({'name': name}, (lambda n: 2 * n - 1) if name in TWO_CALLS else (lambda n: n))
    for name in set(driver.SAMPLERS) - {'adaptive', 'predictor_corrector'}
  ),
  ({'name': 'adaptive'}, None),
  ({'name': 'edm', 's_churn': 3.0}, lambda n: 2 * n - 1),
  ({'name': 'predictor_corrector'}, lambda n: 2 * n),
  ({'name': 'predictor_corrector', 'corrections': 2}, lambda n: 3 * n),
  ({'name': 'predictor_corrector', 'predictor': 'none'}, lambda n: n + 1),
  ({'name': 'predictor_corrector', 'predictor': 'euler'}, lambda n: 2 * n),
  ({'name': 'predictor_corrector', 'norm': 'measured'}, lambda n: 2 * n),
  ({'name': 'unipc', 'order': 3}, lambda n: n),
]
IN_ORDER = sorted(SETTINGS, key=lambda row: str(row[0]))


@pytest.mark.parametrize(
  ('settings', 'evaluations'),
  mostly_slow(IN_ORDER, IN_ORDER[::2]),
  ids=lambda value: '-'.join(map(str, value.values())) if isinstance(value, dict) else '',
)
def test_one_program_per_bucket_and_every_call_counted(settings, evaluations):
  """Other numbers of steps do not compile again; padding calls no network; every call counts."""
  sampler = component(driver.SAMPLERS, settings, 'sampler')
  process, calls, traces = processes.EDM(), [], []
  exactly = exact.isotropic(0.5).denoiser(process)

  def denoise(x, t):
    jax.debug.callback(lambda: calls.append(1))  # no arguments: reading one can deadlock
    return exactly(x, t)

  @jax.jit
  def run(times, steps):
    traces.append(1)
    return driver.sample(sampler, process, denoise, times, jnp.asarray(X), KEY, num_steps=steps)

  @jax.jit
  def run_alone(times):
    return driver.sample(sampler, process, exactly, times, jnp.asarray(X), KEY)

  for steps in (3, 11):
    calls.clear()
    x, count = jax.block_until_ready(run(*driver.padded(karras(steps))))
    jax.effects_barrier()
    assert len(calls) == int(count)
    assert evaluations is None or int(count) == evaluations(steps)
  alone, _ = run_alone(karras(11))
  np.testing.assert_allclose(x, alone, rtol=1e-9)
  assert np.isfinite(x).all() and len(traces) == 1


def test_buckets():
  assert [len(driver.padded(karras(n))[0]) for n in (1, 16, 17, 32, 33)] == [17, 17, 33, 33, 65]


def test_a_sample_does_not_depend_on_the_others():
  process, times = processes.VPLinear(), np.linspace(1, 0, 6)
  denoise = exact.MIXTURE.denoiser(process)
  x = exact.MIXTURE.noisy(process, 1.0, 4)
  for sampler in (solvers.Ancestral(), solvers.DDIM(0.7)):
    together, _ = driver.sample(sampler, process, denoise, times, x, KEY)
    alone, _ = driver.sample(sampler, process, denoise, times, x[:2], KEY)
    np.testing.assert_array_equal(together[:2], alone)
    assert np.abs(together[0] - together[1]).max() > 0


def test_trajectory_and_final_denoise():
  process = processes.EDM()
  denoise = exact.isotropic(0.5, dim=3).denoiser(process)
  x, times = jnp.ones((2, 3)), np.array([10.0, 3.0, 1.0])
  path, count = driver.trajectory(solvers.Euler(), process, denoise, times, x, KEY)
  assert path.shape == (3, 2, 3) and int(count) == 2
  np.testing.assert_array_equal(path[0], x)
  end, _ = driver.sample(solvers.Euler(), process, denoise, times, x, KEY)
  np.testing.assert_array_equal(path[-1], end)
  clean, count = driver.sample(solvers.Euler(), process, denoise, times, x, KEY, final_denoise=True)
  np.testing.assert_allclose(clean, denoise(end, jnp.ones(2)).x0)
  assert int(count) == 3
  to_zero = np.append(times, 0)
  clean, count = driver.sample(
    solvers.Euler(), process, denoise, to_zero, x, KEY, final_denoise=True
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
  process = processes.EDM()
  denoise = exact.isotropic(0.5).denoiser(process)
  with pytest.raises(ValueError, match=message):
    driver.sample(solvers.DDIM(), process, denoise, times, jnp.ones((1, 1)), KEY)
  with pytest.raises(ValueError, match=message):
    driver.padded(times)


@pytest.mark.parametrize('steps', [0, 3, -1])
def test_wrong_number_of_steps(steps):
  process = processes.EDM()
  denoise = exact.isotropic(0.5).denoiser(process)
  with pytest.raises(ValueError, match='num_steps'):
    driver.sample(
      solvers.DDIM(), process, denoise, [2.0, 1.0, 0.0], jnp.ones((1, 1)), KEY, num_steps=steps
    )


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'ddim', 'eta': -0.1}, r'sampler.eta=-0.1 must be in \[0, 1\]'),
    ({'name': 'ddim', 'eta': 1.5}, r'sampler.eta=1.5 must be in \[0, 1\]'),
    ({'name': 'ancestral', 'variance': 'large'}, 'fixed_large, fixed_small, learned, model'),
    ({'name': 'heun', 'space': 'sigma'}, 'ratio, time'),
    ({'name': 'edm', 's_churn': -1.0}, 'sampler.s_churn=-1.0 must be at least 0'),
    ({'name': 'edm', 's_tmin': 2.0, 's_tmax': 1.0}, 's_tmax=1.0 must be at least sampler.s_tmin'),
    ({'name': 'predictor_corrector', 'snr': 0.0}, 'snr=0.0'),
    ({'name': 'predictor_corrector', 'corrections': 0}, 'corrections=0'),
    ({'name': 'predictor_corrector', 'norm': 'batch'}, 'expected, measured'),
    ({'name': 'dpmpp_3m_sde', 'eta': 2.0}, 'eta=2.0 must be in'),
    ({'name': 'dpmpp_3m_sde', 's_noise': -1.0}, 's_noise=-1.0 must be at least 0'),
    ({'name': 'dpmpp_3m_sde', 'curvature': 2.0}, 'curvature=2.0 must be in'),
    ({'name': 'unipc', 'order': 4}, r'sampler.order=4 must be in \[1, 3\]'),
    ({'name': 'unipc', 'variant': 'b2'}, 'bh1, bh2'),
    ({'name': 'adaptive', 'rtol': 0.0}, 'rtol=0.0 must be above 0'),
    ({'name': 'adaptive', 'max_steps': 0}, 'max_steps=0 must be at least 1'),
    ({'name': 'dpm'}, 'unknown sampler .*unipc'),
    ({'name': 'ddim', 'etta': 1.0}, "unknown setting sampler.etta .* did you mean 'eta'"),
  ],
)
def test_wrong_settings(settings, message):
  with pytest.raises(ConfigError, match=message):
    component(driver.SAMPLERS, settings, 'sampler')


def test_ancestral_sampling_takes_the_models_variance():
  for variance in solvers.VARIANCES:
    assert solvers.Ancestral().of_model(variance) == solvers.Ancestral(variance)
    assert solvers.Ancestral('fixed_large').of_model(variance) == solvers.Ancestral('fixed_large')
  assert solvers.DDIM(0.5).of_model('learned') == solvers.DDIM(0.5)
  with pytest.raises(ValueError, match=r"prediction.variance='learned', got 'fixed_small'"):
    solvers.Ancestral('learned').of_model('fixed_small')


def test_a_predictor_of_the_ancestral_kind_takes_the_models_variance():
  sampler = solvers.PredictorCorrector(predictor='ancestral')
  assert sampler.of_model('fixed_large').variance == 'fixed_large'
  assert dataclasses.replace(sampler, variance='fixed_small').of_model('fixed_large') != sampler


T, S = 0.5, 0.3


def one_step(sampler, process, estimate, use=None):
  """x after one step of ten from T to S at x = 0.4, and the noise that the step draws."""
  keys, x = jax.random.split(KEY, 3), jnp.full((3, 2), 0.4)
  counter = driver.CountingDenoiser(driver.as_denoiser(estimate), 3)
  end, _ = sampler.step(
    process, x, jnp.asarray(T), jnp.asarray(S), counter, keys, sampler.init(x, 10)
  )
  noise = normal_like(keys if use is None else fold_in_each(keys, use), x)
  return np.asarray(end), np.asarray(noise)


def test_churn_by_hand():
  """σ̂ = σ·(1 + γ) and noise S_noise·√(σ̂² − σ²) (Karras et al. 2022, algorithm 2); x0 = 0."""
  only_noise = lambda x, t: Pair(jnp.zeros_like(x), x / t[:, None])
  run = lambda **settings: one_step(
    solvers.EDMSampler(s_churn=2.0, **settings), processes.EDM(), only_noise
  )
  x, z = run(s_tmin=0.4, s_tmax=0.6, s_noise=1.1)
  raised = T * 1.2  # γ = 2/10
  expected = S / raised * (0.4 + 1.1 * np.sqrt(raised**2 - T**2) * z)
  np.testing.assert_allclose(x, expected, rtol=1e-9)
  for outside in ({'s_tmin': 0.55}, {'s_tmax': 0.45}):
    np.testing.assert_allclose(run(**outside)[0], S / T * 0.4)


def test_stochastic_steps_by_hand():
  """One step of VP with x0 = 0.7 and eps = −1.3, in ᾱ and β of the papers."""
  process = processes.VPLinear()
  estimate = lambda x, t: Pair(0.7 + 0 * x, -1.3 + 0 * x)
  (at, a_s), beta = ((float(process.alpha(jnp.asarray(t))) ** 2 for t in (T, S)), 0.1 + 19.9 * T)
  sigma, ratio = np.sqrt(1 - at), at / a_s  # ratio = 1 − β′ of the transition
  # Song et al. 2021, eq. 6: dx = (−½βx − β·score) dt + √β dw, with score = −eps/σ.
  x, z = one_step(solvers.EulerMaruyama(), process, estimate)
  drift = -0.5 * beta * (np.sqrt(at) * 0.7 - sigma * 1.3) - beta * 1.3 / sigma
  np.testing.assert_allclose(x, 0.4 + (S - T) * drift + np.sqrt(beta * (T - S)) * z)
  # Eq. 46: x_s = (2 − √(1 − β′))·x + β′·score + √β′·z.
  x, z = one_step(solvers.ReverseDiffusion(), process, estimate)
  expected = (2 - np.sqrt(ratio)) * 0.4 + (1 - ratio) * 1.3 / sigma + np.sqrt(1 - ratio) * z
  np.testing.assert_allclose(x, expected)
  # Algorithm 5: ε = 2(1 − β′)(r·‖z‖/‖score‖)², x + ε·score + √(2ε)·z; ‖z‖/‖score‖ is σ expected.
  for norm in solvers.NORMS:
    sampler = solvers.PredictorCorrector(snr=0.2, predictor='none', norm=norm)
    x, z = one_step(sampler, process, estimate, use=1)
    norms = np.linalg.norm(z, axis=1, keepdims=True) / np.linalg.norm([1.3, 1.3])
    size = 2 * ratio * (0.2 * sigma * (1 if norm == 'expected' else norms)) ** 2
    np.testing.assert_allclose(x, 0.4 + size * 1.3 / sigma + np.sqrt(2 * size) * z)
  # Ho & Salimans 2022, section 4: σ̃²(s|t)^(1 − v)·σ²(t|s)^v.
  x, z = one_step(solvers.Ancestral('fixed_small', interpolation=0.3), process, estimate)
  mean = np.sqrt(ratio) * (1 - a_s) / (1 - at) * 0.4 + np.sqrt(a_s) * (1 - ratio) / (1 - at) * 0.7
  large, small = 1 - ratio, (1 - ratio) * (1 - a_s) / (1 - at)
  np.testing.assert_allclose(x, mean + large**0.15 * small**0.35 * z)
  # DPM-Solver++ as an SDE: the first step of any order, with h of log(α/σ).
  x, z = one_step(multistep.DPMpp3MSDE(eta=0.6, s_noise=0.9), process, estimate)
  h = 0.5 * np.log(a_s / (1 - a_s) * (1 - at) / at)
  kept = np.sqrt((1 - a_s) / (1 - at)) * np.exp(-0.6 * h)
  expected = kept * 0.4 + np.sqrt(a_s) * (1 - np.exp(-1.6 * h)) * 0.7
  expected = expected + 0.9 * np.sqrt((1 - a_s) * (1 - np.exp(-1.2 * h))) * z
  np.testing.assert_allclose(x, expected)


@pytest.mark.parametrize(
  ('predictor', 'alone'),
  [
    ('reverse_diffusion', solvers.ReverseDiffusion()),
    ('ancestral', solvers.Ancestral('fixed_large')),
    ('euler', solvers.Euler()),
  ],
)
def test_without_corrections_the_step_is_that_of_the_predictor(predictor, alone):
  process = processes.VPLinear()
  estimate = lambda x, t: Pair(0.7 + 0 * x, -1.3 + 0 * x)
  keys, x, times = jax.random.split(KEY, 3), jnp.full((3, 2), 0.4), (jnp.asarray(T), jnp.asarray(S))
  both = solvers.PredictorCorrector(snr=1e-9, predictor=predictor, variance='fixed_large')
  counter = driver.CountingDenoiser(driver.as_denoiser(estimate), 3)
  expected, _ = alone.step(process, x, *times, counter, fold_in_each(keys, 0), ())
  np.testing.assert_allclose(one_step(both, process, estimate)[0], expected, rtol=1e-6)


@pytest.mark.parametrize('eta', [0.3, 0.6, 1.0])
def test_ddims_share_of_noise(eta):
  """σ = η·√((1 − ᾱ_s)/(1 − ᾱ_t))·√(1 − ᾱ_t/ᾱ_s), and eps keeps √(1 − ᾱ_s − σ²) (eq. 12 and 16)."""
  process, keys = processes.VPLinear(), jax.random.split(KEY, 3)
  t, s = jnp.asarray(0.5), jnp.asarray(0.3)
  before, after = (float(process.alpha(time)) ** 2 for time in (t, s))
  spread = eta * np.sqrt((1 - after) / (1 - before)) * np.sqrt(1 - before / after)
  x0, eps = jnp.full((3, 2), 0.7), jnp.full((3, 2), -1.3)
  x, _ = solvers.DDIM(eta).step(process, x0, t, s, lambda x, t: Pair(x0, eps), keys, ())
  mean = np.sqrt(after) * 0.7 - np.sqrt(1 - after - spread**2) * 1.3
  np.testing.assert_allclose(x, mean + spread * np.asarray(normal_like(keys, x0)), rtol=1e-9)
